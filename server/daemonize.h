/* SPDX-License-Identifier: MIT */
/*
 * --daemonize and --pidfile.
 *
 * Threads  Start-up and the very end: there is one thread.
 */
#pragma once

#include "base/error.h"

/* Go on in a child.  The parent waits, and exits with 0 at daemon_ready(), or
 * with 1 if the child ends before. */
bool daemon_fork(struct error **errp);
/* daemon_fork() was called: standard input and output will be gone. */
bool daemon_forked(void);
/* Everything is set up: leave the terminal and the working directory, let the
 * parent exit.  Nothing happens without daemon_fork(). */
void daemon_ready(void);

/* Write our process id, under a lock that lasts as long as we live. */
bool pidfile_write(const char *path, struct error **errp);
void pidfile_remove(void);
