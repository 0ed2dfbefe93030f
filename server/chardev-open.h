/* SPDX-License-Identifier: MIT */
/*
 * Channels that are no sockets: files, FIFOs, terminals.
 *
 * Descriptors are close-on-exec and the caller's; -1 was in them before, and
 * whatever was opened is in them also after an error.
 */
#pragma once

#include "base/error.h"

/* To be written; -1 and errp. */
int chardev_open_file(const char *path, bool append, struct error **errp);
/* PATH.in and PATH.out, or PATH for both; does not wait for anybody. */
bool chardev_open_pipe(const char *path, int *read_fd, int *write_fd,
                       struct error **errp);
/* A new terminal.  OTHER_FD is its other end, which must stay open as ours
 * would hang up without.  Its name, owned; NULL and errp. */
char *chardev_open_pty(int *read_fd, int *write_fd, int *other_fd,
                       struct error **errp);
