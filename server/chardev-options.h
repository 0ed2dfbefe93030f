/* SPDX-License-Identifier: MIT */
/* What --chardev and --qmp say about a channel, checked. */
#pragma once

#include <stdint.h>
#include "base/error.h"

struct chardev_options {
    char *id;                   /* owned */
    bool is_stdio;              /* else a socket: one of path, host, fd */
    char *path;                 /* owned, or NULL */
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
/* "unix:PATH,server=on", "tcp:HOST:PORT", "stdio": as --qmp has it. */
struct chardev_options *chardev_options_parse_where(const char *text,
                                                    const char *id,
                                                    struct error **errp);
void chardev_options_free(struct chardev_options *o);
