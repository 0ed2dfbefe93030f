/* SPDX-License-Identifier: MIT */
/*
 * The end of the server.
 *
 * From shutdown_begin() on nothing is read from clients any more.  A worker
 * cancels the jobs, waits for commands that still run, removes the exports,
 * closes the nodes (which stores bitmaps); then every client gets what is
 * left for it, the one that said quit its reply last, and the loop ends.
 */
#pragma once

#include "qapi/qapi-types.h"

/* SHUTDOWN is sent, nobody can connect any more, the rest follows.  A second
 * call does nothing.  Loop's thread, control lock held. */
void shutdown_begin(ShutdownCause cause);
/* Any thread. */
bool shutdown_has_begun(void);

/* SIGTERM, SIGINT and SIGHUP begin it; more of them while it runs do nothing,
 * since what is stored at the end would be lost.  After loop_init(). */
void shutdown_init_signals(void);
/* They are ignored from here on. */
void shutdown_deinit_signals(void);

/* What the worker does: end jobs, exports, nodes.  Control lock held; yields:
 * not in the loop's thread.  Also when start-up fails halfway. */
void shutdown_block_layer(void);
