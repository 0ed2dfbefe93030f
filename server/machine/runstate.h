/* SPDX-License-Identifier: MIT */
/*
 * Does the machine run?  There is no CPU that would: the state is kept, told
 * (STOP, RESUME, RESET) and shown, and decides what a guest's device does
 * with an error.  Block jobs, exports and qemu-io go on whatever it is.
 *
 * Threads  Control lock held.
 */
#pragma once

#include "base/error.h"
#include "qapi/qapi-types.h"

RunState runstate_get(void);
bool runstate_is_running(void);
/* Without an event: while the command line is read. */
void runstate_init(RunState state);

/* STOP is sent if it ran.  WHY: paused, io-error, ... */
void machine_stop(RunState why);
/* What the disks were written is on stable storage, or cannot be brought there.
 * Yields. */
void machine_flush(void);
/* RESUME is sent if it did not run; requests that failed are tried again.
 * Inactive nodes are activated first: yields. */
bool machine_cont(struct error **errp);
/* RESET is sent; devices let go what they were asked to (device_del).
 * Yields: requests of the devices are drained. */
void machine_reset(void);
