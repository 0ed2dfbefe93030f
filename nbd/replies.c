/* SPDX-License-Identifier: MIT */
/* Replies: see replies.h, and the invariants in conn.h. */
#include "nbd/replies.h"

#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

enum {
    BUF_ALIGN = 4096,       /* fits O_DIRECT */
    SEND_IOV = 256,         /* elements gathered for one system call */
};

/* ---- works -------------------------------------------------------------- */

static bool has_room(const struct nbd_conn *c, size_t bytes)
{
    return c->in_flight == 0 ||
           (c->in_flight < NBD_MAX_IN_FLIGHT &&
            c->buffered_bytes + (int64_t)bytes <= NBD_MAX_BUFFERED_BYTES);
}

static void reserve_room(struct nbd_conn *c, size_t bytes)
{
    lock_acquire(&c->lock);
    if (!has_room(c, bytes)) {
        lock_release(&c->lock);
        nbd_send_flush(c);
        lock_acquire(&c->lock);
        while (!has_room(c, bytes)) {
            cond_wait(&c->cond, &c->lock);
        }
    }
    c->in_flight++;
    c->buffered_bytes += bytes;
    lock_release(&c->lock);
}

static void work_free(struct nbd_work *w)
{
    free(w->buf);
    g_free(w->heads);
    free(w);
}

/* conn->lock held. */
static void work_account(struct nbd_work *w)
{
    struct nbd_conn *c = w->conn;

    c->in_flight--;
    c->buffered_bytes -= w->buf_bytes;
    cond_broadcast(&c->cond);
}

struct nbd_work *nbd_work_new(struct nbd_conn *c, const struct nbd_request *r,
                              size_t buf_bytes)
{
    struct nbd_work *w = malloc(sizeof(*w));

    if (!w) {
        return NULL;
    }
    w->next = NULL;
    w->conn = c;
    w->req = *r;
    w->start_ns = block_stats_start(root_stats(c->export->root));
    w->buf = w->heads = NULL;
    w->buf_bytes = buf_bytes;
    w->n_iov = 0;
    reserve_room(c, buf_bytes);
    if (buf_bytes > 0 &&
        posix_memalign((void **)&w->buf, BUF_ALIGN, buf_bytes) != 0) {
        w->buf = NULL;
        nbd_work_drop(w);
        return NULL;
    }
    return w;
}

void nbd_work_drop(struct nbd_work *w)
{
    struct nbd_conn *c = w->conn;

    lock_acquire(&c->lock);
    work_account(w);
    lock_release(&c->lock);
    work_free(w);
}

/* ---- writing replies ---------------------------------------------------- */

static size_t reply_simple(uint8_t *p, const struct nbd_request *r,
                           uint32_t error)
{
    struct nbd_wire_simple_reply reply = {
        .magic = GUINT32_TO_BE(NBD_SIMPLE_REPLY_MAGIC),
        .error = GUINT32_TO_BE(error),
        .cookie = r->cookie,
    };

    memcpy(p, &reply, sizeof(reply));
    return sizeof(reply);
}

size_t nbd_reply_chunk_bytes(const struct nbd_request *r)
{
    return r->extended ? sizeof(struct nbd_wire_extended_chunk)
                       : sizeof(struct nbd_wire_chunk);
}

static size_t reply_extended(uint8_t *p, const struct nbd_request *r,
                             uint16_t type, bool last, uint64_t length)
{
    struct nbd_wire_extended_chunk chunk = {
        .magic = GUINT32_TO_BE(NBD_EXTENDED_CHUNK_MAGIC),
        .flags = GUINT16_TO_BE(last ? NBD_CHUNK_FLAG_DONE : 0),
        .type = GUINT16_TO_BE(type),
        .cookie = r->cookie,
        .offset = GUINT64_TO_BE(r->offset),
        .length = GUINT64_TO_BE(length),
    };

    memcpy(p, &chunk, sizeof(chunk));
    return sizeof(chunk);
}

size_t nbd_reply_done(uint8_t *p, const struct nbd_request *r)
{
    return r->extended ? reply_extended(p, r, NBD_CHUNK_NONE, true, 0)
                       : reply_simple(p, r, 0);
}

size_t nbd_reply_chunk(uint8_t *p, const struct nbd_request *r, uint16_t type,
                       bool last, uint32_t length)
{
    struct nbd_wire_chunk chunk = {
        .magic = GUINT32_TO_BE(NBD_CHUNK_MAGIC),
        .flags = GUINT16_TO_BE(last ? NBD_CHUNK_FLAG_DONE : 0),
        .type = GUINT16_TO_BE(type),
        .cookie = r->cookie,
        .length = GUINT32_TO_BE(length),
    };

    if (r->extended) {
        return reply_extended(p, r, type, last, length);
    }
    memcpy(p, &chunk, sizeof(chunk));
    return sizeof(chunk);
}

size_t nbd_reply_error(uint8_t *p, const struct nbd_conn *c,
                       const struct nbd_request *r, int err)
{
    char text[128];
    uint32_t error = nbd_error_from_errno(err);
    struct nbd_wire_error body = { .error = GUINT32_TO_BE(error) };
    size_t n, length;

    if (!c->structured) {
        return reply_simple(p, r, error);
    }
    length = g_snprintf(text, sizeof(text), "%s: %s", nbd_cmd_name(r->cmd),
                        error_errno_text(err));
    length = MIN(length, sizeof(text) - 1);
    body.text_length = GUINT16_TO_BE(length);
    n = nbd_reply_chunk(p, r, NBD_CHUNK_ERROR, true, sizeof(body) + length);
    memcpy(p + n, &body, sizeof(body));
    memcpy(p + n + sizeof(body), text, length);
    return n + sizeof(body) + length;
}

size_t nbd_reply_data_chunk(uint8_t *p, const struct nbd_request *r,
                            uint64_t offset, uint32_t bytes, bool last)
{
    uint64_t offset_be = GUINT64_TO_BE(offset);
    size_t n = nbd_reply_chunk(p, r, NBD_CHUNK_OFFSET_DATA, last,
                               sizeof(offset_be) + bytes);

    memcpy(p + n, &offset_be, sizeof(offset_be));
    return n + sizeof(offset_be);
}

size_t nbd_reply_hole_chunk(uint8_t *p, const struct nbd_request *r,
                            uint64_t offset, uint32_t bytes, bool last)
{
    struct nbd_wire_hole hole = {
        .offset = GUINT64_TO_BE(offset), .length = GUINT32_TO_BE(bytes),
    };
    size_t n = nbd_reply_chunk(p, r, NBD_CHUNK_OFFSET_HOLE, last,
                               sizeof(hole));

    memcpy(p + n, &hole, sizeof(hole));
    return n + sizeof(hole);
}

size_t nbd_reply_data_head_bytes(const struct nbd_conn *c,
                                 const struct nbd_request *r)
{
    return !c->structured ? sizeof(struct nbd_wire_simple_reply)
           : r->length == 0 ? nbd_reply_chunk_bytes(r)
           : nbd_reply_chunk_bytes(r) + sizeof(uint64_t);
}

size_t nbd_reply_data_head(uint8_t *p, const struct nbd_conn *c,
                           const struct nbd_request *r)
{
    if (!c->structured) {
        return reply_simple(p, r, 0);
    }
    if (r->length == 0) {
        return nbd_reply_chunk(p, r, NBD_CHUNK_NONE, true, 0);
    }
    return nbd_reply_data_chunk(p, r, r->offset, r->length, true);
}

/* ---- sending ------------------------------------------------------------ */

/* conn->lock held, sending set: take the queue. */
static struct nbd_work *queue_take(struct nbd_conn *c)
{
    struct nbd_work *list = c->queue_head;

    c->queue_head = NULL;
    c->queue_tail = &c->queue_head;
    return list;
}

static void send_iov(struct nbd_conn *c, struct iovec *iov, int n_iov)
{
    bool ok = false;

    /* Only who has set .sending looks at .broken. */
    if (!c->broken) {
        ok = nbd_conn_send(c, iov, n_iov);
    }
    if (!ok && !c->broken) {
        c->broken = true;
        shutdown(c->fd, SHUT_RDWR);     /* ends the receiving side, too */
    }
}

/* Send c->tx if WITH_TX, then the replies of LIST. */
static void send_batch(struct nbd_conn *c, struct nbd_work *list, bool with_tx)
{
    struct iovec iov[SEND_IOV];
    int n = 0;

    if (with_tx && c->tx_len > 0) {
        iov[n++] = (struct iovec){ c->tx, c->tx_len };
    }
    for (struct nbd_work *w = list; w; w = w->next) {
        if (n + w->n_iov > SEND_IOV) {
            send_iov(c, iov, n);
            n = 0;
        }
        memcpy(iov + n, w->iov, w->n_iov * sizeof(iov[0]));
        n += w->n_iov;
    }
    if (n > 0) {
        send_iov(c, iov, n);
    }
    if (with_tx) {
        c->tx_len = 0;
    }
}

/*
 * Sending is ours: send LIST and what is queued meanwhile.  Lock held;
 * returns with it held and .sending cleared.
 */
static void send_all(struct nbd_conn *c, bool with_tx)
{
    struct nbd_work *list = queue_take(c);

    while (list || with_tx) {
        lock_release(&c->lock);
        send_batch(c, list, with_tx);
        lock_acquire(&c->lock);
        while (list) {
            struct nbd_work *next = list->next;

            work_account(list);
            work_free(list);
            list = next;
        }
        with_tx = false;
        list = queue_take(c);
    }
    c->sending = false;
    cond_broadcast(&c->cond);
}

void nbd_send_flush(struct nbd_conn *c)
{
    if (c->tx_len == 0) {
        return;
    }
    LOCK_GUARD(&c->lock);
    while (c->sending) {
        cond_wait(&c->cond, &c->lock);
    }
    c->sending = true;
    send_all(c, true);
}

void nbd_send_small(struct nbd_conn *c, const uint8_t *reply, size_t bytes)
{
    if (c->tx_len + bytes > NBD_TX_BYTES) {
        nbd_send_flush(c);
    }
    memcpy(c->tx + c->tx_len, reply, bytes);
    c->tx_len += bytes;
}

void nbd_send_work(struct nbd_work *w)
{
    struct nbd_conn *c = w->conn;

    LOCK_GUARD(&c->lock);
    *c->queue_tail = w;
    c->queue_tail = &w->next;
    if (!c->sending) {
        c->sending = true;
        send_all(c, false);
    }
}

void nbd_send_wait_idle(struct nbd_conn *c)
{
    LOCK_GUARD(&c->lock);
    while (c->in_flight > 0 || c->sending) {
        cond_wait(&c->cond, &c->lock);
    }
}
