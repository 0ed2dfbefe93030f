/* SPDX-License-Identifier: MIT */
/*
 * Works: requests that may wait, served in a worker of the pool.
 *
 * A work enters and leaves the export's root for every piece, so that a
 * long request never keeps a drain waiting for longer than one piece.
 */
#include "nbd/replies.h"

#include <errno.h>
#include <string.h>
#include "block/inactive.h"
#include "nbd/block-status.h"

enum {
    ZERO_PIECE_BYTES = 64 << 20,    /* of write-zeroes and trim */
};

static void work_reply(struct nbd_work *w, int ret)
{
    size_t n = ret < 0 ? nbd_reply_error(w->head, w->conn, &w->req, -ret)
                       : nbd_reply_done(w->head, &w->req);

    w->iov[0] = (struct iovec){ w->head, n };
    w->n_iov = 1;
}

/* ---- read --------------------------------------------------------------- */

/* One piece of a read: data or a hole. */
struct piece {
    int64_t offset, bytes;
    bool hole;
};

/*
 * What a read of W's range consists of, in at most NBD_MAX_CHUNKS pieces;
 * what does not fit or is not known is data.
 */
static int find_pieces(struct nbd_work *w, struct piece *pieces)
{
    struct root *root = w->conn->export->root;
    int64_t offset = w->req.offset, end = offset + w->req.length;
    int n = 0;

    while (offset < end) {
        struct block_status st = { .bytes = end - offset };
        bool hole = false;

        if (n + 1 < NBD_MAX_CHUNKS) {
            if (root_block_status_above(root, NULL, true, offset,
                                        end - offset, &st) < 0 ||
                st.bytes <= 0) {
                st = (struct block_status){ .bytes = end - offset };
            }
            hole = st.flags & STATUS_ZERO;
        }
        if (n > 0 && pieces[n - 1].hole == hole) {
            pieces[n - 1].bytes += st.bytes;
        } else {
            pieces[n++] = (struct piece){ offset, st.bytes, hole };
        }
        offset += st.bytes;
    }
    return n;
}

static int read_pieces(struct nbd_work *w, const struct piece *pieces, int n)
{
    struct root *root = w->conn->export->root;

    for (int i = 0; i < n; i++) {
        const struct piece *piece = &pieces[i];

        if (!piece->hole) {
            int ret = root_pread(root, piece->offset, piece->bytes,
                                 w->buf + (piece->offset -
                                           (int64_t)w->req.offset), 0);
            if (ret < 0) {
                return ret;
            }
        }
    }
    return 0;
}

static void reply_pieces(struct nbd_work *w, const struct piece *pieces, int n)
{
    enum { HEAD_BYTES = sizeof(struct nbd_wire_extended_chunk) +
                        sizeof(struct nbd_wire_hole) };
    uint8_t *p = w->heads = g_malloc(n * HEAD_BYTES);

    w->n_iov = 0;
    for (int i = 0; i < n; i++) {
        const struct piece *piece = &pieces[i];
        size_t length = (piece->hole ? nbd_reply_hole_chunk
                                     : nbd_reply_data_chunk)
            (p, &w->req, piece->offset, piece->bytes, i == n - 1);

        w->iov[w->n_iov++] = (struct iovec){ p, length };
        if (!piece->hole) {
            w->iov[w->n_iov++] = (struct iovec){
                w->buf + (piece->offset - (int64_t)w->req.offset),
                piece->bytes,
            };
        }
        p += length;
    }
}

static int work_read(struct nbd_work *w)
{
    const struct nbd_request *r = &w->req;
    struct piece pieces[NBD_MAX_CHUNKS] = {
        { .offset = r->offset, .bytes = r->length },
    };
    bool whole = !w->conn->structured || (r->flags & NBD_CMD_FLAG_DF) ||
                 r->length < NBD_SPARSE_READ_BYTES;
    int n = whole ? 1 : find_pieces(w, pieces);
    int ret = read_pieces(w, pieces, n);

    if (ret < 0) {
        return ret;
    }
    if (whole) {
        size_t length = nbd_reply_data_head(w->head, w->conn, r);

        w->iov[0] = (struct iovec){ w->head, length };
        w->iov[1] = (struct iovec){ w->buf, r->length };
        w->n_iov = 2;
    } else {
        reply_pieces(w, pieces, n);
    }
    return 0;
}

/* ---- the others --------------------------------------------------------- */

static unsigned fua_flag(const struct nbd_work *w)
{
    const struct nbd_export *e = w->conn->export;

    return (w->req.flags & NBD_CMD_FLAG_FUA) || e->writethrough ||
           nbd_guest_writethrough(&e->guest) ? BLK_FUA : 0;
}

static int work_write(struct nbd_work *w)
{
    return root_pwrite(w->conn->export->root, w->req.offset, w->req.length,
                       w->buf, fua_flag(w));
}

static int work_write_zeroes(struct nbd_work *w)
{
    struct root *root = w->conn->export->root;
    int64_t offset = w->req.offset, end = offset + w->req.length;
    unsigned flags = fua_flag(w);
    int ret = 0;

    if (!(w->req.flags & NBD_CMD_FLAG_NO_HOLE)) {
        flags |= BLK_MAY_UNMAP;
    }
    if (w->req.flags & NBD_CMD_FLAG_FAST_ZERO) {
        flags |= BLK_NO_FALLBACK;
    }
    while (offset < end && ret == 0) {
        int64_t bytes = MIN(end - offset, ZERO_PIECE_BYTES);

        ret = root_pwrite_zeroes(root, offset, bytes, flags);
        offset += bytes;
    }
    return ret;
}

static int work_trim(struct nbd_work *w)
{
    struct root *root = w->conn->export->root;
    int64_t offset = w->req.offset, end = offset + w->req.length;
    int ret = 0;

    while (offset < end && ret == 0) {
        int64_t bytes = MIN(end - offset, ZERO_PIECE_BYTES);

        ret = root_pdiscard(root, offset, bytes);
        offset += bytes;
    }
    if (ret == -ENOTSUP) {
        ret = 0;        /* a trim is advice */
    }
    if (ret == 0 && fua_flag(w)) {
        ret = root_flush(root);
    }
    return ret;
}

static int work_cache(struct nbd_work *w)
{
    struct root *root = w->conn->export->root;
    int64_t offset = w->req.offset, end = offset + w->req.length;
    int ret = 0;

    while (offset < end && ret == 0) {
        int64_t bytes = MIN(end - offset, w->buf_bytes);

        ret = root_pread(root, offset, bytes, w->buf, 0);
        offset += bytes;
    }
    return ret;
}

enum block_stats_op nbd_stats_op(const struct nbd_request *r)
{
    switch (r->cmd) {
    case NBD_CMD_READ:
        return STATS_READ;
    case NBD_CMD_WRITE:
    case NBD_CMD_WRITE_ZEROES:
        return STATS_WRITE;
    case NBD_CMD_FLUSH:
        return STATS_FLUSH;
    case NBD_CMD_TRIM:
        return STATS_UNMAP;
    default:
        return STATS__MAX;
    }
}

static void count(const struct nbd_work *w, int ret)
{
    enum block_stats_op op = nbd_stats_op(&w->req);

    if (op < STATS__MAX) {
        const struct nbd_export *e = w->conn->export;

        block_stats_done(root_stats(e->root), op, w->req.length, w->start_ns,
                         ret);
        block_stats_done(nbd_guest_stats(&e->guest), op, w->req.length,
                         w->start_ns, ret);
    }
}

/* A node that is inactive is somebody else's: it can only be looked at. */
static bool is_allowed(const struct nbd_work *w)
{
    struct root *root = w->conn->export->root;
    bool ok = true;

    if (w->conn->export->allow_inactive && w->req.cmd != NBD_CMD_READ) {
        root_enter(root);
        ok = !node_is_inactive(root_node(root));
        root_leave(root);
    }
    return ok;
}

static int serve(struct nbd_work *w)
{
    int ret = -EINVAL;

    switch (w->req.cmd) {
    case NBD_CMD_READ:
        ret = work_read(w);
        break;
    case NBD_CMD_WRITE:
        ret = work_write(w);
        break;
    case NBD_CMD_WRITE_ZEROES:
        ret = work_write_zeroes(w);
        break;
    case NBD_CMD_TRIM:
        ret = work_trim(w);
        break;
    case NBD_CMD_FLUSH:
        ret = root_flush(w->conn->export->root);
        break;
    case NBD_CMD_CACHE:
        ret = work_cache(w);
        break;
    case NBD_CMD_BLOCK_STATUS:
        ret = nbd_work_block_status(w);
        break;
    }
    return ret;
}

void nbd_work_run(void *work)
{
    struct nbd_work *w = work;
    int ret;

    nbd_guest_wait_for_turn(w);
    do {
        ret = is_allowed(w) ? serve(w) : -EPERM;
    } while (ret < 0 && nbd_guest_failed(w, &ret));
    count(w, ret);
    if (ret < 0 || w->n_iov == 0) {
        work_reply(w, ret);
    }
    nbd_send_work(w);
}
