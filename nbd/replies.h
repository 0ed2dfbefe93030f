/* SPDX-License-Identifier: MIT */
/*
 * Transmission: one request, the work that serves it away from the
 * connection's thread, and how replies are written and sent.
 */
#pragma once

#include "block/stats.h"
#include "nbd/conn.h"

enum {
    /* Longest reply without payload, error text included. */
    NBD_REPLY_MAX_BYTES = 192,
    /* A read's reply has at most so many chunks. */
    NBD_MAX_CHUNKS = 48,
};

/* As received, in the machine's byte order but for the cookie. */
struct nbd_request {
    uint16_t flags, cmd;
    bool extended;              /* and its reply, too */
    uint64_t length;            /* of the effect: what it reads, zeroes... */
    uint64_t payload;           /* bytes that follow the request */
    uint64_t cookie, offset;
};

/* A request on its way through a worker; then its reply in the queue. */
struct nbd_work {
    struct nbd_work *next;          /* in conn->queue */
    struct nbd_conn *conn;          /* borrowed: lives as long (I2) */
    struct nbd_request req;
    int64_t start_ns;               /* for the export's statistics */
    uint8_t *buf;                   /* owned: data of a read or write */
    size_t buf_bytes;
    uint8_t *heads;                 /* owned: chunk heads or block status */
    uint8_t head[NBD_REPLY_MAX_BYTES];
    struct iovec iov[2 * NBD_MAX_CHUNKS];   /* what to send */
    int n_iov;
};

/* ---- works (replies.c) -------------------------------------------------- */

/*
 * A work with BUF_BYTES of buffer, when there is room for it (I4; flushes,
 * then waits).  For the connection's thread.  NULL: no memory.
 */
struct nbd_work *nbd_work_new(struct nbd_conn *c, const struct nbd_request *r,
                              size_t buf_bytes);
/* Drop a work whose reply cannot be or need not be sent. */
void nbd_work_drop(struct nbd_work *w);
/* The pool's function (work.c): serve the request, send the reply. */
void nbd_work_run(void *work);
/* What the export's statistics count R as; STATS__MAX: nothing. */
enum block_stats_op nbd_stats_op(const struct nbd_request *r);

/* ---- writing replies ---------------------------------------------------- */

/* All return how many bytes they wrote at P. */
size_t nbd_reply_done(uint8_t *p, const struct nbd_request *r);
/* ERR > 0: an errno. */
size_t nbd_reply_error(uint8_t *p, const struct nbd_conn *c,
                       const struct nbd_request *r, int err);
size_t nbd_reply_chunk(uint8_t *p, const struct nbd_request *r, uint16_t type,
                       bool last, uint32_t length);
/* How many that will be. */
size_t nbd_reply_chunk_bytes(const struct nbd_request *r);
/* What goes before the data of a read in one piece, and its length. */
size_t nbd_reply_data_head(uint8_t *p, const struct nbd_conn *c,
                           const struct nbd_request *r);
size_t nbd_reply_data_head_bytes(const struct nbd_conn *c,
                                 const struct nbd_request *r);
/* Chunks of a read: what goes before BYTES of data; a hole. */
size_t nbd_reply_data_chunk(uint8_t *p, const struct nbd_request *r,
                            uint64_t offset, uint32_t bytes, bool last);
size_t nbd_reply_hole_chunk(uint8_t *p, const struct nbd_request *r,
                            uint64_t offset, uint32_t bytes, bool last);

/* ---- sending ------------------------------------------------------------ */

/* Send c->tx (I3).  The connection's thread. */
void nbd_send_flush(struct nbd_conn *c);
/* Add to c->tx, flushed first if it is full. */
void nbd_send_small(struct nbd_conn *c, const uint8_t *reply, size_t bytes);
/* W's reply is complete: send it, or leave it to who sends.  W is gone. */
void nbd_send_work(struct nbd_work *w);
/* Wait until no work is left. */
void nbd_send_wait_idle(struct nbd_conn *c);
