/* SPDX-License-Identifier: MIT */
/*
 * One connection to an NBD server: many calls at once, from many threads.
 *
 * libnbd speaks the protocol; a handle of its own is moved by whoever polls
 * its socket.  Here that is one of the threads that wait for a reply ("the
 * leader"): it moves the handle for all until its own reply is there, then
 * another one that waits takes over.  A lone request is sent and received
 * by its own thread; there is no thread of the connection's.
 */
#pragma once

#include "base/error.h"
#include "block/nbd/wait.h"

struct nbd_link;

/* What the server says of the export. */
struct nbd_info {
    int64_t length;
    uint32_t min_bytes, preferred_bytes, max_bytes;     /* of a request */
    bool read_only, can_flush, can_fua, can_trim, can_zero, can_fast_zero;
    bool can_multi_conn;
    bool can_status;            /* the context that was asked for */
};

struct nbd_link_options {
    const char *export;         /* "": the default one */
    const char *context;        /* for block status */
    struct nbd_client_tls *tls; /* taken: what carries FD; or NULL */
};

enum nbd_call_type {
    NBD_CALL_READ, NBD_CALL_WRITE, NBD_CALL_ZERO, NBD_CALL_TRIM,
    NBD_CALL_FLUSH, NBD_CALL_STATUS,
};

/* One request, and what came of it. */
struct nbd_call {
    enum nbd_call_type type;
    int64_t offset, bytes;
    void *buf;                  /* borrowed; READ, WRITE */
    bool fua, no_hole, fast_zero;
    /* STATUS: the first extent. */
    int64_t extent_bytes;       /* 1 to .bytes */
    uint32_t extent_flags;
};

/*
 * Negotiate on FD (taken, also on failure), until W says no.  NULL and errp,
 * *ERR the errno: -ENOENT: there is no such export.  No lock held.
 */
struct nbd_link *nbd_link_new(int fd, const struct nbd_link_options *options,
                              const struct nbd_wait *w, struct nbd_info *info,
                              int *err, struct error **errp);
/* Says good-bye; no call is in flight.  Nulls *L. */
void nbd_link_free(struct nbd_link **l);

/*
 * Any thread, no lock held.  0; -errno as the server says; -ENOTCONN: the
 * connection is lost and nobody knows what came of it; -ECANCELED: a read or
 * a status whose thread was asked to stop (block/cancel.h).  MAX_NS > 0:
 * without an answer in that time the connection is given up.
 */
int nbd_link_call(struct nbd_link *l, struct nbd_call *c, int64_t max_ns);
/* Any thread: nothing will come of any call any more. */
bool nbd_link_is_dead(const struct nbd_link *l);
/* Any thread: if a call that is in flight now, or begins in a quarter of
 * that time, has no answer after GRACE_NS, the connection is given up. */
void nbd_link_hurry(struct nbd_link *l, int64_t grace_ns);
