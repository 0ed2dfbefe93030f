/* SPDX-License-Identifier: MIT */
/*
 * The client side of one export: connections, and connecting again.
 *
 * Problem     A connection may be lost and come back; calls in flight are to
 *             wait for that, up to a limit; nobody may hang for ever on a
 *             server that does not answer when somebody wants to get rid of
 *             it.
 * Invariants  I1  At most one attempt to connect is under way; it runs in a
 *                 worker, and needs nobody to wait for it.
 *             I2  A call is answered, or is repeated on another connection
 *                 when its own was lost, or fails with -EIO: it never waits
 *                 longer than reconnect_delay in all for a connection, and
 *                 not at all after nbd_client_cancel().
 *             I3  The size and flags of the export are what they were when it
 *                 was first opened; a server that says otherwise later is not
 *                 used.
 *             I4  More than one connection only where the server allows it;
 *                 the others are made when all are busy.
 */
#pragma once

#include "base/error.h"
#include "block/nbd/link.h"
#include "qapi/qapi-types.h"

struct nbd_client;

struct nbd_client_options {
    const SocketAddress *server;    /* borrowed: outlives the client */
    const char *export;             /* copied, as the others */
    const char *context;            /* for block status */
    const char *tls_creds;          /* id of an object, or NULL: no TLS */
    const char *tls_hostname;       /* or NULL: the server's address */
    uint32_t reconnect_delay, open_timeout;     /* seconds */
};

/* Connects: blocks, no lock held.  NULL and errp; *ERR the errno. */
struct nbd_client *nbd_client_new(const struct nbd_client_options *options,
                                  int *err, struct error **errp);
/* No call is in flight.  Nulls *C; does not wait for the server. */
void nbd_client_close(struct nbd_client **c);
/* Constant. */
const struct nbd_info *nbd_client_info(const struct nbd_client *c);

/*
 * Any thread, no lock held.  0 or -errno.  MAX_NS > 0: give the connection
 * up if there is no answer in that time.
 */
int nbd_client_call(struct nbd_client *c, struct nbd_call *call,
                    int64_t max_ns);
/*
 * Any thread: calls that wait for a connection fail; those that the server
 * has are given up unless it answers soon.
 */
void nbd_client_cancel(struct nbd_client *c);
