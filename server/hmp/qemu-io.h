/* SPDX-License-Identifier: MIT */
/*
 * HMP's qemu-io: reads and writes as a guest does, in the words of the tool
 * qemu-io.
 *
 * What a command finds out goes to the process's stdout, as QEMU has it; it
 * is there before the reply.  What keeps a command from beginning, and what
 * QEMU says to the monitor, goes to its caller.
 *
 * Threads  On a worker, control lock held; yields.
 */
#pragma once

#include <glib.h>
#include "base/error.h"

/*
 * Run COMMAND ("write -P 1 0 64k") on the backend DEVICE or, if there is none
 * of that name, the node.  QDEV: DEVICE is a device's id or path instead.
 * False with a text ("Error: " goes before it): no such thing.  All else that
 * the monitor shows is appended to SAID as it is, lines that end with \n:
 * permissions, errors of reopen and truncate, parts of info.
 */
bool qemu_io_run(const char *device, bool qdev, const char *command,
                 GString *said, struct error **errp);
/* For help and completion: names in order; static; NULL at the end. */
const char *const *qemu_io_commands(void);
/* Wait until what aio_* have begun has ended (shutdown, when nothing holds
 * requests back any more).  Control lock; yields. */
void qemu_io_finish(void);
/* How many of those there are.  Control lock. */
int qemu_io_count_requests(void);
