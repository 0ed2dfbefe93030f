/* SPDX-License-Identifier: MIT */
/*
 * Channels: where the clients of a monitor come from.
 *
 * A channel listens (any number of clients, at the same time too), or
 * connects, or is inherited, or is stdin and stdout; each connection is given
 * to the channel's one user.
 *
 * Threads  The command line's thread, then the loop's, control lock held.
 */
#pragma once

#include "server/chardev-options.h"

struct chardev;

struct chardev_user {
    /* A connection, owned by the user from now on: closed by it, except 0
     * and 1.  WRITE_FD is READ_FD for a socket. */
    void (*opened)(void *opaque, int read_fd, int write_fd);
    void *opaque;
};

/*
 * Open what OPTIONS say (borrowed).  Waits for the first client if they do.
 * False and errp: cannot, or the id is taken.
 */
bool chardev_add(const struct chardev_options *options, struct error **errp);
/* NULL if there is none. */
struct chardev *chardev_find(const char *id);
/* In order of creation; NULL starts. */
const struct chardev *chardev_next(const struct chardev *c);
const char *chardev_id(const struct chardev *c);
bool chardev_is_used(const struct chardev *c);
/* Where it leads, in QEMU's words: owned by the caller. */
char *chardev_filename(const struct chardev *c);
/* False and errp: it is in use. */
bool chardev_use(struct chardev *c, const struct chardev_user *user,
                 struct error **errp);
/* The user's connection has ended: connect again if that was asked for. */
void chardev_hung_up(struct chardev *c);

/* The loop begins: give connections to the users, listen on. */
void chardev_start_all(void);
/* Accept nobody any more; sockets are removed from the file system. */
void chardev_close_all(void);
