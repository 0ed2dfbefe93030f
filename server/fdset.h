/* SPDX-License-Identifier: MIT */
/*
 * Descriptors that clients pass: by name (getfd), and in sets (add-fd), one
 * of which opens as /dev/fdset/N with the access mode asked for.
 *
 * Threads  Control lock held, but where it says any.
 */
#pragma once

#include <stdint.h>
#include "base/error.h"

/* Let what opens files and sockets know of descriptors.  Once, at start. */
void fdset_init(void);
/* Close what is left: nobody opens files any more. */
void fdset_deinit(void);

/* -add-fd fd=N,set=M[,opaque=TEXT]. */
bool fdset_add_option(const char *text, struct error **errp);
/* FD taken; SET -1: a new one. Returns the set's number, -1 and errp. */
int64_t fdset_add(int fd, int64_t set, const char *opaque,
                  struct error **errp);
/* A copy of one whose mode is FLAGS' (O_RDONLY, O_RDWR, O_WRONLY); -1 and
 * errno: ENOENT no such set, EACCES none of that mode.  For block/file.c's
 * hook.  Any thread.  The caller closes it with fdset_close(). */
int fdset_open(int64_t set, int flags);
/* close() of what may be such a copy.  Any thread. */
int fdset_close(int fd);

/* By name: the session of the running command.  Owned by the caller from now
 * on; -1 with QEMU's text. */
int named_fd_take(const char *name, struct error **errp);
/* What came along with the running command: owned by the caller; -1 with
 * QEMU's text. */
int passed_fd_take(struct error **errp);
