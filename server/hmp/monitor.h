/* SPDX-License-Identifier: MIT */
/*
 * -monitor: HMP for those who come over a channel.
 *
 * Each has a line editor of its own (readline.h) and runs a line at a time
 * on a worker; what is typed meanwhile waits.
 *
 * Threads  Control lock held; the loop's thread.
 */
#pragma once

#include "base/error.h"

/* Serve whoever comes over the channel, when the loop runs.  False and errp:
 * there is no such channel, or it is in use. */
bool hmp_monitor_add(const char *chardev_id, struct error **errp);
/* The end: send what is left, hang up, give terminals back. */
void hmp_monitor_close_all(void);
