/* SPDX-License-Identifier: MIT */
/*
 * Listening sockets: a unix path, a TCP host and port (one socket for each
 * address that the name has), or a file descriptor that we were given.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include "base/error.h"

struct nbd_listener {
    int *fds;           /* owned; close-on-exec, non-blocking */
    size_t n_fds;
    char *unix_path;    /* owned; removed when closed; or NULL */
};

struct nbd_inet_address {
    const char *host, *port;            /* "" or NULL host: any address */
    bool has_ipv4, ipv4, has_ipv6, ipv6;
    int to;                             /* last port to try; 0: only one */
};

struct nbd_unix_address {
    const char *path;
    bool abstract;      /* a name of Linux's abstract namespace */
    bool tight;         /* only its own bytes, not padded with NUL */
};

/*
 * All may block (names are looked up): no lock held.  NULL and errp on
 * failure.  A stale socket at the path is replaced; nothing else is.
 */
struct nbd_listener *nbd_listen_unix(const struct nbd_unix_address *address,
                                     struct error **errp);
struct nbd_listener *nbd_listen_inet(const struct nbd_inet_address *address,
                                     struct error **errp);
/* FD is taken (closed on failure too); must be a listening stream socket. */
struct nbd_listener *nbd_listen_fd(int fd, struct error **errp);

/* Closes its sockets, removes the path, frees and nulls *L. */
void nbd_listener_close(struct nbd_listener **l);
