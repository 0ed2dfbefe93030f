/* SPDX-License-Identifier: MIT */
/*
 * The NBD server of this process, for the command line and the shutdown.
 * Its commands are in qapi-commands.h; `--export` calls
 * qmp_block_export_add().
 *
 * Threads  Control lock held.
 */
#pragma once

#include "base/error.h"
#include "qapi/qapi-types.h"

/* --nbd-server, as nbd-server-start.  Yields. */
bool nbd_start(const NbdServerOptions *options, struct error **errp);

/*
 * Close all exports, with their events, and the server if it runs; wait
 * until the last client has gone.  Yields: not in the loop's thread.
 */
void nbd_stop_all(void);

/*
 * Who knows the file descriptors that clients of the monitor named: gives
 * the descriptor called NAME, to be owned by the caller, or -1 and errp.
 * Without it only numbers are accepted.  Call once, at start.
 */
void nbd_set_fd_lookup(int (*lookup)(const char *name, struct error **errp));
