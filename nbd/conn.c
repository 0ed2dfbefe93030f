/* SPDX-License-Identifier: MIT */
/* Connections: life of one, and its socket.  See conn.h. */
#include "nbd/conn.h"

#include <errno.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>
#include "base/trace.h"
#include "nbd/server.h"
#include "nbd/tls.h"

struct nbd_conn *nbd_conn_new(struct nbd_server *server, int fd,
                              int64_t deadline_ns)
{
    struct nbd_conn *c = g_new0(struct nbd_conn, 1);

    c->server = server;
    c->fd = fd;
    c->deadline_ns = deadline_ns;
    c->replies = g_byte_array_new();
    lock_init(&c->lock, "nbd-conn", LOCK_NBD_CONN);
    cond_init(&c->cond);
    c->queue_tail = &c->queue_head;
    return c;
}

void nbd_conn_free(struct nbd_conn *c)
{
    g_assert(c->in_flight == 0 && !c->queue_head && !c->export);
    close(c->fd);
    nbd_contexts_reset(&c->contexts);
    g_byte_array_unref(c->replies);
    g_free(c->rx);
    g_free(c->tx);
    cond_deinit(&c->cond);
    lock_deinit(&c->lock);
    g_free(c);
}

void *nbd_conn_thread(void *conn)
{
    struct nbd_conn *c = conn;
    struct nbd_server *s = c->server;

    if (nbd_handshake(c)) {
        c->deadline_ns = INT64_MAX;
        trace(NBD, "client-ready export=%s fd=%d", c->export->name, c->fd);
        nbd_transmission(c);
    }
    nbd_tls_end(c);
    trace(NBD, "client-gone fd=%d", c->fd);
    if (c->export) {
        nbd_export_detach(c);
    }
    nbd_server_remove_conn(s, c);
    return NULL;
}

/* Wait for EVENTS until the deadline.  True: try again. */
static bool conn_wait(struct nbd_conn *c, short events)
{
    struct pollfd p = { .fd = c->fd, .events = events };
    int timeout_ms = -1;
    int n;

    if (c->deadline_ns != INT64_MAX) {
        int64_t left_ns = c->deadline_ns - clock_ns();

        if (left_ns <= 0) {
            return false;
        }
        timeout_ms = MIN(left_ns / 1000000 + 1, 1000000);
    }
    n = poll(&p, 1, timeout_ms);
    return n > 0 || (n == 0 && timeout_ms == 1000000) ||
           (n < 0 && errno == EINTR);
}

ssize_t nbd_conn_recv_raw(struct nbd_conn *c, void *buf, size_t bytes,
                          bool wait)
{
    bool block = wait && c->deadline_ns == INT64_MAX;

    for (;;) {
        ssize_t n = recv(c->fd, buf, bytes, block ? 0 : MSG_DONTWAIT);

        if (n >= 0) {
            return n;
        }
        if (errno == EAGAIN && wait) {
            if (!conn_wait(c, POLLIN)) {
                errno = ETIMEDOUT;
                return -1;
            }
        } else if (errno != EINTR) {
            return -1;
        }
    }
}

ssize_t nbd_conn_recv_some(struct nbd_conn *c, void *buf, size_t bytes,
                           bool wait)
{
    if (G_UNLIKELY(c->tls)) {
        return nbd_tls_recv(c, buf, bytes, wait);
    }
    return recv(c->fd, buf, bytes, wait ? 0 : MSG_DONTWAIT);
}

static bool recv_tls(struct nbd_conn *c, uint8_t *buf, size_t bytes)
{
    while (bytes > 0) {
        ssize_t n = nbd_tls_recv(c, buf, bytes, true);

        if (n <= 0) {
            return false;
        }
        buf += n;
        bytes -= n;
    }
    return true;
}

bool nbd_conn_recv(struct nbd_conn *c, void *buf, size_t bytes)
{
    uint8_t *p = buf;

    if (G_UNLIKELY(c->tls)) {
        return recv_tls(c, buf, bytes);
    }
    while (bytes > 0) {
        int flags = c->deadline_ns == INT64_MAX ? MSG_WAITALL : MSG_DONTWAIT;
        ssize_t n = recv(c->fd, p, bytes, flags);

        if (n > 0) {
            p += n;
            bytes -= n;
        } else if (n < 0 && errno == EAGAIN) {
            if (!conn_wait(c, POLLIN)) {
                return false;
            }
        } else if (n == 0 || errno != EINTR) {
            return false;
        }
    }
    return true;
}

bool nbd_conn_discard(struct nbd_conn *c, uint64_t bytes)
{
    uint8_t buf[16384];

    while (bytes > 0) {
        size_t n = MIN(bytes, sizeof(buf));

        if (!nbd_conn_recv(c, buf, n)) {
            return false;
        }
        bytes -= n;
    }
    return true;
}

/* Skip BYTES of IOV; returns how many elements are used up. */
static int iov_advance(struct iovec *iov, int n_iov, size_t bytes)
{
    int i = 0;

    while (i < n_iov && bytes >= iov[i].iov_len) {
        bytes -= iov[i++].iov_len;
    }
    if (i < n_iov) {
        iov[i].iov_base = (char *)iov[i].iov_base + bytes;
        iov[i].iov_len -= bytes;
    }
    return i;
}

bool nbd_conn_send(struct nbd_conn *c, struct iovec *iov, int n_iov)
{
    return G_UNLIKELY(c->tls) ? nbd_tls_send(c, iov, n_iov)
                              : nbd_conn_send_raw(c, iov, n_iov);
}

bool nbd_conn_send_raw(struct nbd_conn *c, struct iovec *iov, int n_iov)
{
    int flags = MSG_NOSIGNAL;

    if (c->deadline_ns != INT64_MAX) {
        flags |= MSG_DONTWAIT;
    }
    while (n_iov > 0) {
        struct msghdr msg = {
            .msg_iov = iov,
            .msg_iovlen = MIN(n_iov, 1024),     /* IOV_MAX */
        };
        ssize_t n = sendmsg(c->fd, &msg, flags);

        if (n >= 0) {
            int used = iov_advance(iov, n_iov, n);

            iov += used;
            n_iov -= used;
        } else if (errno == EAGAIN) {
            if (!conn_wait(c, POLLOUT)) {
                return false;
            }
        } else if (errno != EINTR) {
            return false;
        }
    }
    return true;
}
