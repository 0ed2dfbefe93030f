/* SPDX-License-Identifier: MIT */
/*
 * Transmission: receive requests, answer what needs no wait, pass on the rest.
 *
 * The hot path of the server.  See conn.h for its invariants.
 */
#include "nbd/replies.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>
#include <sys/socket.h>
#include "base/pool.h"
#include "base/trace.h"
#include "nbd/block-status.h"

enum {
    /* Fewer zeroes than these are sent as data. */
    ZERO_MIN_BYTES = 64,
    /*
     * A write into the page cache waits after all when the host has too much
     * dirty memory.  Once one took so long, others are given to workers for
     * a while, so that what comes behind them does not wait, too.
     */
    SLOW_WRITE_NS = 5 * 1000 * 1000,
    SLOW_PERIOD_NS = 200 * 1000 * 1000,
};

/* ---- receiving ---------------------------------------------------------- */

/* Have BYTES (at most NBD_RX_BYTES) at c->rx_start.  False: closed. */
static bool rx_fill(struct nbd_conn *c, size_t bytes)
{
    if (c->rx_end - c->rx_start >= bytes) {
        return true;
    }
    if (c->rx_start == c->rx_end || c->rx_start + bytes > NBD_RX_BYTES) {
        memmove(c->rx, c->rx + c->rx_start, c->rx_end - c->rx_start);
        c->rx_end -= c->rx_start;
        c->rx_start = 0;
    }
    while (c->rx_end - c->rx_start < bytes) {
        ssize_t n = nbd_conn_recv_some(c, c->rx + c->rx_end,
                                       NBD_RX_BYTES - c->rx_end,
                                       c->tx_len == 0);

        if (n > 0) {
            c->rx_end += n;
        } else if (n < 0 && errno == EAGAIN) {
            nbd_send_flush(c);                          /* I3 */
        } else if (n == 0 || errno != EINTR) {
            return false;
        }
    }
    return true;
}

/* The next BYTES of payload into BUF, from the socket as far as can be. */
static bool rx_payload(struct nbd_conn *c, uint8_t *buf, size_t bytes)
{
    size_t n = MIN(bytes, c->rx_end - c->rx_start);

    if (bytes == 0) {
        return true;            /* there is no BUF */
    }
    memcpy(buf, c->rx + c->rx_start, n);
    c->rx_start += n;
    if (n == bytes) {
        return true;
    }
    nbd_send_flush(c);                                  /* I3 */
    return nbd_conn_recv(c, buf + n, bytes - n);
}

static bool rx_discard(struct nbd_conn *c, size_t bytes)
{
    size_t n = MIN(bytes, c->rx_end - c->rx_start);

    c->rx_start += n;
    if (n == bytes) {
        return true;
    }
    nbd_send_flush(c);
    return nbd_conn_discard(c, bytes - n);
}

/* False: the magic is wrong. */
static bool parse_compact(struct nbd_request *r, const uint8_t *p)
{
    struct nbd_wire_request wire;

    memcpy(&wire, p, sizeof(wire));
    r->flags = GUINT16_FROM_BE(wire.flags);
    r->cmd = GUINT16_FROM_BE(wire.cmd);
    r->cookie = wire.cookie;
    r->offset = GUINT64_FROM_BE(wire.offset);
    r->length = GUINT32_FROM_BE(wire.length);
    r->payload = r->cmd == NBD_CMD_WRITE ? r->length : 0;
    return GUINT32_FROM_BE(wire.magic) == NBD_REQUEST_MAGIC;
}

/* A write is taken without its flag, too: its payload is no question. */
static bool parse_extended(struct nbd_request *r, const uint8_t *p)
{
    struct nbd_wire_extended_request wire;

    memcpy(&wire, p, sizeof(wire));
    r->flags = GUINT16_FROM_BE(wire.flags);
    r->cmd = GUINT16_FROM_BE(wire.cmd);
    r->cookie = wire.cookie;
    r->offset = GUINT64_FROM_BE(wire.offset);
    r->length = GUINT64_FROM_BE(wire.length);
    r->payload = r->cmd == NBD_CMD_WRITE ||
                 (r->flags & NBD_CMD_FLAG_PAYLOAD_LEN) ? r->length : 0;
    return GUINT32_FROM_BE(wire.magic) == NBD_EXTENDED_REQUEST_MAGIC;
}

static bool rx_request(struct nbd_conn *c, struct nbd_request *r)
{
    size_t bytes = c->extended ? sizeof(struct nbd_wire_extended_request)
                               : sizeof(struct nbd_wire_request);
    bool ok;

    if (!rx_fill(c, bytes)) {
        return false;
    }
    r->extended = c->extended;
    ok = c->extended ? parse_extended(r, c->rx + c->rx_start)
                     : parse_compact(r, c->rx + c->rx_start);
    c->rx_start += bytes;
    if (!ok) {
        trace(NBD, "request-magic-wrong fd=%d", c->fd);
        return false;
    }
    trace(NBD_IO, "request fd=%d cmd=%s flags=%#x offset=%" PRIu64
          " length=%" PRIu64, c->fd, nbd_cmd_name(r->cmd), r->flags,
          r->offset, r->length);
    return true;
}

/* ---- checking ----------------------------------------------------------- */

static const struct command {
    bool known;
    bool writes;            /* needs a writable export */
    bool has_range;         /* offset and length mean something */
    bool has_payload_limit; /* at most NBD_MAX_PAYLOAD_BYTES */
    uint16_t flags;         /* allowed ones */
    int past_end;           /* errno for a range past the end */
} commands[] = {
    [NBD_CMD_READ] = { true, false, true, true,
        NBD_CMD_FLAG_FUA | NBD_CMD_FLAG_DF, EINVAL },
    [NBD_CMD_WRITE] = { true, true, true, true, NBD_CMD_FLAG_FUA, ENOSPC },
    [NBD_CMD_FLUSH] = { true, false, false, false, NBD_CMD_FLAG_FUA, 0 },
    [NBD_CMD_TRIM] = { true, true, true, false, NBD_CMD_FLAG_FUA, EINVAL },
    [NBD_CMD_CACHE] = { true, false, true, true, NBD_CMD_FLAG_FUA, EINVAL },
    [NBD_CMD_WRITE_ZEROES] = { true, true, true, false,
        NBD_CMD_FLAG_FUA | NBD_CMD_FLAG_NO_HOLE | NBD_CMD_FLAG_FAST_ZERO,
        ENOSPC },
    [NBD_CMD_BLOCK_STATUS] = { true, false, true, false,
        NBD_CMD_FLAG_FUA | NBD_CMD_FLAG_REQ_ONE, EINVAL },
};

/* Only extended requests can say that they have a payload. */
static uint16_t payload_flag(const struct nbd_request *r)
{
    return r->extended && (r->cmd == NBD_CMD_WRITE ||
                           r->cmd == NBD_CMD_BLOCK_STATUS)
           ? NBD_CMD_FLAG_PAYLOAD_LEN : 0;
}

/* 0, or the errno (> 0) that the client gets. */
static int request_check(const struct nbd_conn *c, const struct nbd_request *r)
{
    uint64_t end = nbd_export_length(c->export);
    const struct command *command;

    if (r->cmd >= G_N_ELEMENTS(commands) || !commands[r->cmd].known) {
        return EINVAL;
    }
    command = &commands[r->cmd];
    if ((r->flags & ~(command->flags | payload_flag(r))) ||
        ((r->flags & NBD_CMD_FLAG_DF) && !c->structured)) {
        return EINVAL;
    }
    if (command->writes && !c->export->writable) {
        return EPERM;
    }
    if (command->has_payload_limit && r->length > NBD_MAX_PAYLOAD_BYTES) {
        return EINVAL;
    }
    if (command->has_range &&
        (r->offset > end || r->length > end - r->offset)) {
        return command->past_end;
    }
    if (r->cmd == NBD_CMD_BLOCK_STATUS &&
        (c->contexts.n == 0 || r->length == 0)) {
        return EINVAL;
    }
    return 0;
}

static void refuse(struct nbd_conn *c, const struct nbd_request *r, int err)
{
    uint8_t reply[NBD_REPLY_MAX_BYTES];

    nbd_send_small(c, reply, nbd_reply_error(reply, c, r, err));
}

/*
 * A bad request.  A payload that is too large is refused before it has
 * come: a client that waits for the answer first gets it.
 */
static bool refuse_request(struct nbd_conn *c, const struct nbd_request *r,
                           int err)
{
    enum block_stats_op op = nbd_stats_op(r);

    if (op < STATS__MAX) {
        block_stats_invalid(root_stats(c->export->root), op);
        block_stats_invalid(nbd_guest_stats(&c->export->guest), op);
    }
    if (r->payload > 0 && r->payload <= NBD_MAX_PAYLOAD_BYTES) {
        bool ok = rx_discard(c, r->payload);

        refuse(c, r, err);
        return ok;
    }
    refuse(c, r, err);
    return r->payload <= UINT32_MAX && rx_discard(c, r->payload);
}

/* ---- in this thread ----------------------------------------------------- */

/* In flight on the export's root; what is done already is sent before it
 * waits at the gate (I3). */
static struct node *enter(struct nbd_conn *c, const struct nbd_request *r)
{
    struct root *root = c->export->root;
    struct node *n;

    if (!root_try_enter(root)) {
        nbd_send_flush(c);
        root_enter(root);
    }
    n = root_node(root);
    if ((int64_t)(r->offset + r->length) > node_length(n)) {
        root_leave(root);       /* it shrank since the check */
        return NULL;
    }
    return n;
}

static bool is_zero(const uint8_t *data, size_t bytes)
{
    return bytes >= ZERO_MIN_BYTES && data[0] == 0 &&
           memcmp(data, data + 1, bytes - 1) == 0;
}

/* A read's data is at DATA, with room for its head before it at P. */
static size_t finish_read(const struct nbd_conn *c, const struct nbd_request *r,
                          uint8_t *p, const uint8_t *data)
{
    if (c->structured && !(r->flags & NBD_CMD_FLAG_DF) &&
        is_zero(data, r->length)) {
        return nbd_reply_hole_chunk(p, r, r->offset, r->length, true);
    }
    return nbd_reply_data_head(p, c, r) + r->length;
}

/* Straight into the reply buffer.  False: it would block. */
static bool read_inline(struct nbd_conn *c, const struct nbd_request *r)
{
    const struct nbd_guest *guest = &c->export->guest;
    struct block_stats *stats = root_stats(c->export->root);
    int64_t start_ns = block_stats_start(stats);
    size_t head_bytes = nbd_reply_data_head_bytes(c, r);
    uint8_t *reply;
    struct node *n;
    int ret = -EIO;

    if (c->tx_len + head_bytes + r->length > NBD_TX_BYTES) {
        nbd_send_flush(c);
    }
    n = enter(c, r);
    reply = c->tx + c->tx_len;
    if (n) {
        ret = node_pread(n, r->offset, r->length, reply + head_bytes,
                         BLK_NOWAIT);
        root_leave(c->export->root);
    }
    if (ret == -EAGAIN || (ret < 0 && nbd_guest_has_policy(guest))) {
        return false;
    }
    block_stats_done(stats, STATS_READ, r->length, start_ns, ret);
    block_stats_done(nbd_guest_stats(guest), STATS_READ, r->length, start_ns,
                     ret);
    if (ret < 0) {
        refuse(c, r, -ret);
    } else {
        c->tx_len += finish_read(c, r, reply, reply + head_bytes);
    }
    return true;
}

/* Straight from the receive buffer, which has the payload. */
static bool write_inline(struct nbd_conn *c, const struct nbd_request *r)
{
    const struct nbd_guest *guest = &c->export->guest;
    struct block_stats *stats = root_stats(c->export->root);
    int64_t start_ns = block_stats_start(stats);
    uint8_t reply[NBD_REPLY_MAX_BYTES];
    struct node *n = enter(c, r);
    int64_t begin_ns, end_ns;
    int ret = -EIO;

    if (n) {
        begin_ns = clock_ns();
        ret = node_pwrite(n, r->offset, r->length, c->rx + c->rx_start,
                          BLK_NOWAIT);
        end_ns = clock_ns();
        root_leave(c->export->root);
        if (G_UNLIKELY(end_ns - begin_ns > SLOW_WRITE_NS)) {
            c->slow_until_ns = end_ns + SLOW_PERIOD_NS;
        }
    }
    if (ret == -EAGAIN || (ret < 0 && nbd_guest_has_policy(guest))) {
        return false;
    }
    block_stats_done(stats, STATS_WRITE, r->length, start_ns, ret);
    block_stats_done(nbd_guest_stats(guest), STATS_WRITE, r->length, start_ns,
                     ret);
    nbd_send_small(c, reply, ret < 0 ? nbd_reply_error(reply, c, r, -ret)
                                     : nbd_reply_done(reply, r));
    return true;
}

/* ---- serving ------------------------------------------------------------ */

static bool submit(struct nbd_conn *c, const struct nbd_request *r,
                   size_t buf_bytes)
{
    struct nbd_work *w = nbd_work_new(c, r, buf_bytes);

    if (!w) {
        return refuse_request(c, r, ENOMEM);
    }
    if (!rx_payload(c, w->buf, r->payload)) {
        nbd_work_drop(w);
        return false;
    }
    pool_submit(nbd_work_run, w);
    return true;
}

static bool may_read_inline(const struct nbd_conn *c,
                            const struct nbd_request *r)
{
    return r->length <= NBD_INLINE_READ_BYTES &&
           !nbd_guest_is_limited(&c->export->guest);
}

static bool may_write_inline(struct nbd_conn *c, const struct nbd_request *r)
{
    const struct nbd_guest *guest = &c->export->guest;

    if (r->length > NBD_INLINE_WRITE_BYTES ||
        (r->flags & NBD_CMD_FLAG_FUA) || c->export->writethrough ||
        nbd_guest_is_limited(guest) || nbd_guest_writethrough(guest)) {
        return false;
    }
    if (G_UNLIKELY(c->slow_until_ns > 0)) {
        if (clock_ns() < c->slow_until_ns) {
            return false;
        }
        c->slow_until_ns = 0;
    }
    return true;
}

static bool serve_write(struct nbd_conn *c, const struct nbd_request *r)
{
    if (may_write_inline(c, r)) {
        if (!rx_fill(c, r->length)) {
            return false;
        }
        if (write_inline(c, r)) {
            c->rx_start += r->length;
            return true;
        }
    }
    return submit(c, r, r->length);
}

/*
 * A block status for some of the contexts: which, and for how many bytes, is
 * in the payload.  It stays in the work's buffer; R gets the length.
 */
static bool serve_status_payload(struct nbd_conn *c, struct nbd_request *r)
{
    uint8_t *at;
    int err;

    if (r->payload > NBD_RX_BYTES || r->payload < sizeof(uint64_t)) {
        return refuse_request(c, r, EINVAL);
    }
    if (!rx_fill(c, r->payload)) {
        return false;
    }
    at = c->rx + c->rx_start;
    r->length = nbd_get64(at);
    err = request_check(c, r);
    if (!err && !nbd_status_filter_valid(c, at, r->payload)) {
        err = EINVAL;
    }
    return err ? refuse_request(c, r, err) : submit(c, r, r->payload);
}

/* False: the connection ends. */
static bool serve(struct nbd_conn *c, struct nbd_request *r)
{
    int err;

    if (r->cmd == NBD_CMD_DISC) {
        return false;
    }
    if (r->cmd == NBD_CMD_BLOCK_STATUS && r->payload > 0) {
        return serve_status_payload(c, r);
    }
    err = request_check(c, r);
    if (err) {
        return refuse_request(c, r, err);
    }
    switch (r->cmd) {
    case NBD_CMD_READ:
        return (may_read_inline(c, r) && read_inline(c, r)) ||
               submit(c, r, r->length);
    case NBD_CMD_WRITE:
        return serve_write(c, r);
    case NBD_CMD_CACHE:
        return submit(c, r, MIN(r->length, 1 << 20));
    default:
        return submit(c, r, 0);
    }
}

void nbd_transmission(struct nbd_conn *c)
{
    struct nbd_request r;

    c->rx = g_malloc(NBD_RX_BYTES);
    c->tx = g_malloc(NBD_TX_BYTES + NBD_INLINE_READ_BYTES +
                     NBD_REPLY_MAX_BYTES);
    while (rx_request(c, &r) && serve(c, &r)) {
        /* the next one */
    }
    nbd_send_flush(c);
    nbd_send_wait_idle(c);
}
