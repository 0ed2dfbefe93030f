/* SPDX-License-Identifier: MIT */
/*
 * One connection, what its files share.
 *
 * Invariants  I1  While a call is in flight one of the waiting threads is
 *                 the leader, or is about to be: who leaves hands on.
 *             I2  The list of calls is in order of their start.
 *             I3  libnbd is never called with .lock held; its completion
 *                 callback takes .lock, with libnbd's own lock held.
 *             I4  A connection that is given up is shut down: libnbd then
 *                 fails every call in flight with ENOTCONN.
 *             I5  A call whose caller was asked to stop (block/cancel.h) is
 *                 left: nobody waits for it, the connection owns it and what
 *                 its answer is written to until the answer comes, or the
 *                 connection goes.
 */
#pragma once

#include <libnbd.h>
#include <stdatomic.h>
#include "base/lock.h"
#include "block/nbd/link.h"

/* A call in flight, in its caller's stack or in a struct own_call. */
struct pending {
    struct nbd_link *link;
    struct nbd_call *call;
    struct pending *next, *prev;
    struct cond cond;           /* done, or the lead is free */
    int64_t begun_ns;
    bool done;
    bool left;                  /* I5 */
    int error;

    /* A read's chunks: what came so far; libnbd's lock. */
    int64_t read_end;           /* [0, here) of the buffer is there */
    GArray *strays;             /* of struct stray; NULL: all was in order */
};

/* A call that may be left (I5). */
struct own_call {
    struct pending p;           /* first */
    struct nbd_call call;
    void *bounce;               /* owned, malloc(): call.buf, or NULL: the
                                   caller's, lent */
};

struct nbd_link {
    /* Constant. */
    struct nbd_handle *handle;
    int fd;                     /* ours: a duplicate of libnbd's */
    int wake_fd;                /* eventfd: the leader is to look again */
    struct nbd_client_tls *tls; /* owned, or NULL */

    /* Protected by lock (LOCK_LEAF). */
    struct lock lock;
    struct pending *first, *last;   /* I2 */
    struct pending *left;       /* I5: struct own_call, owned; by .next */
    bool led;                   /* somebody is the leader */
    int64_t give_up_ns;         /* I4: when, if a call waits then that
                                   began before the next */
    int64_t give_up_begun_ns;
    bool shut_down;

    /* Atomic. */
    atomic_bool dead;
};

/* A call that was left, or is over. */
void nbd_link_free_call(struct own_call *o);
