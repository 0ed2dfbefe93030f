/* SPDX-License-Identifier: MIT */
/*
 * HMP's qemu-io: reads and writes as a guest does, in the words of the tool
 * qemu-io.
 *
 * What a command finds out goes to the process's stdout, as QEMU has it; it
 * is flushed before the reply.  Only what keeps a command from beginning is
 * an error here.
 *
 * Threads  On a worker, control lock held; yields.
 */
#pragma once

#include "base/error.h"

/*
 * Run COMMAND ("write -P 1 0 64k") on the backend DEVICE or, if there is none
 * of that name, the node.  QDEV: DEVICE is a device's id or path instead.
 * False with a text: no such thing, no medium, permissions.
 */
bool qemu_io_run(const char *device, bool qdev, const char *command,
                 struct error **errp);
/* For help and completion: names in order; static. */
const char *const *qemu_io_commands(void);
