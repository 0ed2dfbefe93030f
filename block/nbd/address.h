/* SPDX-License-Identifier: MIT */
/* Connecting to a SocketAddress. */
#pragma once

#include "base/error.h"
#include "block/nbd/wait.h"
#include "qapi/qapi-types.h"

/*
 * A connected stream socket, non-blocking and close-on-exec; owned by the
 * caller.  Blocks (names are looked up); no lock held.  -errno and errp
 * otherwise, with QEMU's text.
 */
int nbd_address_connect(const SocketAddress *a, const struct nbd_wait *w,
                        struct error **errp);
/* As messages and traces name it: "host:port", the path.  Owned. */
char *nbd_address_describe(const SocketAddress *a);

/* Who knows the descriptors that a monitor was given by name: as
 * nbd_set_fd_lookup() of the server.  Call once, at start. */
void nbd_address_set_fd_lookup(int (*lookup)(const char *name,
                                             struct error **errp));
