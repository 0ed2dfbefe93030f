/* SPDX-License-Identifier: MIT */
/* The socket of test harnesses: clock_step and little more. */
#pragma once

#include "base/error.h"

/* -qtest TEXT ("chardev:ID", "unix:PATH"...): serve it there, once the loop
 * runs.  Start-up, control lock held.  False with QEMU's text. */
bool qtest_add(const char *text, struct error **errp);
/* The loop has ended; control lock held. */
void qtest_close_all(void);
