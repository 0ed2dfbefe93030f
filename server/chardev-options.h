/* SPDX-License-Identifier: MIT */
/* What --chardev and --qmp say about a channel, checked. */
#pragma once

#include <stdint.h>
#include "base/error.h"

enum chardev_kind {
    CHARDEV_SOCKET,             /* one of path, host, fd */
    CHARDEV_STDIO,
    CHARDEV_NULL,               /* nobody is ever there */
    CHARDEV_FILE,               /* path: what is written goes there */
    CHARDEV_PIPE,               /* path.in and path.out, or path: FIFOs */
    CHARDEV_PTY,
};

struct chardev_options {
    char *id;                   /* owned */
    enum chardev_kind kind;
    char *path;                 /* owned, or NULL */
    bool append;                /* to the file */
    char *host, *port;          /* owned, or NULL */
    char *fd;                   /* owned, or NULL: a number */
    int family;                 /* AF_UNSPEC, AF_INET, AF_INET6 */
    bool server;                /* listen */
    bool wait;                  /* for the first client; servers only */
    int64_t reconnect_ms;       /* 0: do not; clients only */
};

/* "socket,id=m,path=...": NULL and errp if something is wrong. */
struct chardev_options *chardev_options_parse(const char *text,
                                              struct error **errp);
/* "unix:PATH,server=on", "tcp:HOST:PORT", "stdio", "file:PATH", "pipe:PATH",
 * "pty": as --qmp has it. */
struct chardev_options *chardev_options_parse_where(const char *text,
                                                    const char *id,
                                                    struct error **errp);
void chardev_options_free(struct chardev_options *o);
