/* SPDX-License-Identifier: MIT */
/*
 * One client's connection.
 *
 * Problem     Many small requests in flight on one socket, some of which
 *             block, and replies that are to leave in few system calls.
 * Answer      The connection's thread reads what there is, answers what can
 *             be answered without waiting straight into its reply buffer
 *             (.tx), and hands the rest to the pool's workers.
 * Invariants  I1  Only who has set .sending writes to the socket after the
 *                 handshake; it sends what is queued before it clears it.
 *             I2  in_flight counts works from their making until their
 *                 reply is sent; the thread ends only when it is zero.
 *             I3  The thread flushes .tx before it waits for anything.
 *             I4  in_flight <= NBD_MAX_IN_FLIGHT, and their buffers are at
 *                 most NBD_MAX_BUFFERED_BYTES unless there is only one.
 */
#pragma once

#include <sys/uio.h>
#include "nbd/export.h"
#include "nbd/protocol.h"

enum {
    NBD_MAX_IN_FLIGHT = 64,
    NBD_MAX_BUFFERED_BYTES = 64 << 20,
    NBD_TX_BYTES = 256 << 10,       /* sent when it has so much */
    /* Larger requests go to workers.  Up to here, one thread that moves a
     * buffer which stays in its cache beats several that hand it around. */
    NBD_INLINE_READ_BYTES = 1 << 20,
    NBD_INLINE_WRITE_BYTES = 256 << 10,
    NBD_RX_BYTES = NBD_INLINE_WRITE_BYTES + (4 << 10),
    /* Reads from here on look for holes before they read. */
    NBD_SPARSE_READ_BYTES = 64 << 10,
};

struct nbd_tls;
struct nbd_work;

/* Ids of contexts on the wire; bitmap I has NBD_CONTEXT_BITMAP + I. */
enum { NBD_CONTEXT_BASE, NBD_CONTEXT_DEPTH, NBD_CONTEXT_BITMAP };

/* Metadata contexts that were negotiated. */
struct nbd_contexts {
    uint64_t export_serial;         /* the export they are of */
    bool base_allocation, allocation_depth;
    bool *bitmaps;                  /* owned; as many as the export has */
    size_t n;                       /* how many are true */
};

struct nbd_conn {
    /* Constant. */
    struct nbd_server *server;      /* borrowed: outlives us */
    int fd;                         /* closed under nbd_lock */

    /* The connection's thread; constant in transmission. */
    int64_t deadline_ns;            /* of socket waits; INT64_MAX: none */
    bool fixed_newstyle, no_zeroes, structured;
    bool extended;                  /* headers; structured, too */
    GByteArray *replies;            /* handshake: to an option */
    struct nbd_export *export;      /* owned ref; set under nbd_lock by
                                       nbd_export_attach() */
    struct nbd_contexts contexts;
    struct nbd_tls *tls;            /* owned; NULL: plain (tls.h) */

    /* The connection's thread. */
    uint8_t *rx;                    /* NBD_RX_BYTES */
    size_t rx_start, rx_end;        /* unread: [start, end) */
    uint8_t *tx;                    /* NBD_TX_BYTES and one more reply */
    size_t tx_len;
    int64_t slow_until_ns;          /* writes go to workers until then */

    /* Protected by lock (rank LOCK_NBD_CONN). */
    struct lock lock;
    struct cond cond;               /* any of these changed */
    bool sending;                   /* I1 */
    struct nbd_work *queue_head, **queue_tail;  /* done, to be sent */
    int in_flight;                  /* I2 */
    int64_t buffered_bytes;         /* I4 */
    bool broken;                    /* sending failed: replies are dropped */

    /* Under nbd_lock. */
    struct nbd_conn *prev, *next;   /* server->conns */
};

/* FD is taken.  For the server's accepting thread. */
struct nbd_conn *nbd_conn_new(struct nbd_server *server, int fd,
                              int64_t deadline_ns);
void nbd_conn_free(struct nbd_conn *c);
/* The whole life of a connection, in its own thread; frees C at its end. */
void *nbd_conn_thread(void *conn);

/* ---- sockets (conn.c) --------------------------------------------------- */

/* As recv(): some bytes, 0 at the end, -1 and errno.  Without WAIT, EAGAIN if
 * there is nothing; with it, waits however long. */
ssize_t nbd_conn_recv_some(struct nbd_conn *c, void *buf, size_t bytes,
                           bool wait);
/* Exactly BYTES, waiting until c->deadline_ns.  False: closed, error, late. */
bool nbd_conn_recv(struct nbd_conn *c, void *buf, size_t bytes);
/* Read and forget. */
bool nbd_conn_discard(struct nbd_conn *c, uint64_t bytes);
/* All of IOV (which it changes), waiting until c->deadline_ns. */
bool nbd_conn_send(struct nbd_conn *c, struct iovec *iov, int n_iov);
/* What TLS is carried by; WAIT is until c->deadline_ns. */
ssize_t nbd_conn_recv_raw(struct nbd_conn *c, void *buf, size_t bytes,
                          bool wait);
bool nbd_conn_send_raw(struct nbd_conn *c, struct iovec *iov, int n_iov);

/* ---- phases ------------------------------------------------------------- */

/* True: c->export and options are set and the client expects transmission. */
bool nbd_handshake(struct nbd_conn *c);
/* LIST_META_CONTEXT and SET_META_CONTEXT (contexts.c). */
void nbd_contexts_reset(struct nbd_contexts *x);
/* Returns when the client has gone or broke the rules. */
void nbd_transmission(struct nbd_conn *c);
