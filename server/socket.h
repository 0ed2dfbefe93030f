/* SPDX-License-Identifier: MIT */
/*
 * Sockets for monitors: listening and connecting.
 *
 * All return a file descriptor, close-on-exec and not blocking, owned by the
 * caller, or -1 and *ERRP in QEMU's words.
 */
#pragma once

#include "base/error.h"

/* A unix socket at PATH, mode 0600 from its first moment.  What is there is
 * replaced if it is a socket on which nobody listens. */
int socket_listen_unix(const char *path, struct error **errp);
int socket_connect_unix(const char *path, struct error **errp);

/* FAMILY is AF_UNSPEC, AF_INET or AF_INET6.  HOST "" listens everywhere. */
struct socket_inet {
    const char *host, *port;
    int family;
};
int socket_listen_inet(const struct socket_inet *address, struct error **errp);
/* Blocks while it connects. */
int socket_connect_inet(const struct socket_inet *address,
                        struct error **errp);

/* Number TEXT of a socket that was inherited; *LISTENING: it accepts. */
int socket_take_fd(const char *text, bool *listening, struct error **errp);
