/* SPDX-License-Identifier: MIT */
/*
 * TLS on a connection: the handshake, who the client is, bytes both ways.
 *
 * Problem     A connection's thread receives while any worker that has set
 *             .sending sends.  gnutls lets two threads share a session in
 *             that way only as long as nothing happens that concerns both
 *             directions; in TLS 1.3 a client can make it happen at any time
 *             (a key update that asks for one in return).
 * Answer      Every call of gnutls is made with tls->lock held, and none of
 *             them touches the socket: gnutls reads from a buffer (.in) and
 *             writes to one (.out).  The socket is read and written outside
 *             the lock, in large pieces, by the same threads as without TLS.
 * Invariants  I1  .session and .out are touched with .lock held only.
 *             I2  .in is the connection's thread's.  gnutls takes at least a
 *                 record of it at a time, and is asked again until it has
 *                 taken all.
 *             I3  Only who may write to the socket (conn.h: I1) takes what is
 *                 in .out, and sends it before it takes more: records leave
 *                 in the order in which they were made.
 */
#pragma once

#include "nbd/conn.h"

/*
 * After the reply to STARTTLS: handshake, then check who the client is, all
 * until c->deadline_ns.  C->tls is set from then on.  False: hang up.
 */
bool nbd_tls_start(struct nbd_conn *c);
/*
 * As recv(): some bytes, 0 at the end, -1 and errno.  Without WAIT, EAGAIN if
 * there is nothing.  The connection's thread.
 */
ssize_t nbd_tls_recv(struct nbd_conn *c, void *buf, size_t bytes, bool wait);
/* All of IOV.  For who may write to the socket. */
bool nbd_tls_send(struct nbd_conn *c, const struct iovec *iov, int n_iov);
/* Say goodbye if that is possible; free C->tls.  NULL is fine.  No other
 * thread uses C. */
void nbd_tls_end(struct nbd_conn *c);
