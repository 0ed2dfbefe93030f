/* SPDX-License-Identifier: MIT */
/*
 * Block status: see block-status.h.
 *
 * Each context tells its extents from the request's offset on, neighbours
 * with the same flags joined, at most EXTENTS_MAX of them and for at most
 * SECONDS_MAX: a client asks again from where an answer ends.
 */
#include "nbd/block-status.h"

#include <errno.h>
#include <string.h>
#include "bitmaps/dirty-bitmap.h"

enum {
    EXTENTS_MAX = 64 << 10,
    SECONDS_MAX = 1,
};

struct extent {
    uint64_t length;
    uint32_t flags;
};

/* Extents of one context. */
struct extents {
    GArray *array;              /* struct extent */
    guint max;
    int64_t deadline_ns;
};

/* False: it is full, BYTES are not told. */
static bool extents_add(struct extents *x, int64_t bytes, uint32_t flags)
{
    struct extent e = { .length = bytes, .flags = flags };

    if (x->array->len > 0) {
        struct extent *last = &g_array_index(x->array, struct extent,
                                             x->array->len - 1);

        if (last->flags == flags) {
            last->length += bytes;
            return true;
        }
        if (x->array->len >= x->max || clock_ns() > x->deadline_ns) {
            return false;
        }
    }
    g_array_append_val(x->array, e);
    return true;
}

/* ---- the contexts ------------------------------------------------------- */

/* The state at OFFSET: how far it goes, and its flags. */
typedef int state_fn(struct root *root, int64_t offset, int64_t bytes,
                     int64_t *n_bytes, uint32_t *flags);

static int state_allocation(struct root *root, int64_t offset, int64_t bytes,
                            int64_t *n_bytes, uint32_t *flags)
{
    struct block_status st;
    int ret = root_block_status_above(root, NULL, true, offset, bytes, &st);

    if (ret < 0) {
        return ret;
    }
    *n_bytes = st.bytes;
    *flags = (st.flags & STATUS_DATA ? 0 : NBD_STATE_HOLE) |
             (st.flags & STATUS_ZERO ? NBD_STATE_ZERO : 0);
    return 0;
}

/* In which layer, 1 being the top, is it decided?  0: in none.  Entered. */
static int depth_of(struct node *n, int64_t offset, int64_t bytes,
                    int64_t *n_bytes, uint32_t *depth)
{
    *n_bytes = bytes;
    for (*depth = 1; (n = node_skip_filters(n)); (*depth)++) {
        int64_t length = node_length(n);
        struct block_status st;
        int ret;

        if (offset < length) {
            ret = node_block_status(n, false, offset,
                                    MIN(*n_bytes, length - offset), &st);
            if (ret < 0) {
                return ret;
            }
            /* A short layer decides nothing past its end. */
            *n_bytes = st.bytes;
            if (st.flags & STATUS_ALLOCATED) {
                return 0;
            }
        }
        n = node_backing(n);
        if (!n) {
            break;
        }
    }
    *depth = 0;
    return 0;
}

static int state_depth(struct root *root, int64_t offset, int64_t bytes,
                       int64_t *n_bytes, uint32_t *flags)
{
    int ret;

    root_enter(root);
    ret = offset + bytes <= node_length(root_node(root))
          ? depth_of(root_node(root), offset, bytes, n_bytes, flags) : -EIO;
    root_leave(root);
    return ret;
}

static int collect_states(struct extents *x, const struct nbd_request *r,
                          struct root *root, state_fn *state)
{
    int64_t offset = r->offset, end = offset + r->length;

    while (offset < end) {
        int64_t bytes = 0;
        uint32_t flags = 0;
        int ret = state(root, offset, end - offset, &bytes, &flags);

        if (ret < 0) {
            /* What is before can be told; who asks for the rest learns it. */
            return offset > r->offset ? 0 : ret;
        }
        if (bytes <= 0) {
            return -EIO;
        }
        if (!extents_add(x, bytes, flags)) {
            break;
        }
        offset += bytes;
    }
    return 0;
}

/* Its root entered, the bitmap keeps its size; being busy, its content. */
static void collect_bitmap(struct extents *x, const struct nbd_request *r,
                           const struct nbd_bitmap *bitmap)
{
    int64_t offset = r->offset, end = offset + r->length;
    int64_t limit;

    root_enter(bitmap->root);
    limit = MIN(end, dirty_bitmap_length(bitmap->bitmap));
    while (offset < limit) {
        int64_t run = limit;
        int64_t bytes = dirty_bitmap_next_dirty(bitmap->bitmap, offset, limit,
                                                limit - offset, &run);
        if (bytes <= 0) {
            run = limit;
        }
        if (run > offset && !extents_add(x, run - offset, 0)) {
            goto out;
        }
        if (bytes > 0 && !extents_add(x, bytes, NBD_STATE_DIRTY)) {
            goto out;
        }
        offset = run + MAX(bytes, 0);
    }
    if (offset < end) {         /* past the bitmap's end: clean */
        extents_add(x, end - offset, 0);
    }
out:
    root_leave(bitmap->root);
}

/* ---- the reply ---------------------------------------------------------- */

struct reply {
    struct nbd_work *work;
    GByteArray *bytes;
    size_t n_left;              /* contexts still to come */
};

/* Where a chunk's payload of LENGTH bytes goes. */
static uint8_t *add_chunk(struct reply *reply, uint16_t type, size_t length)
{
    const struct nbd_request *r = &reply->work->req;
    guint at = reply->bytes->len;
    uint8_t *p;

    g_byte_array_set_size(reply->bytes,
                          at + nbd_reply_chunk_bytes(r) + length);
    p = reply->bytes->data + at;
    return p + nbd_reply_chunk(p, r, type, --reply->n_left == 0, length);
}

/* The chunk of context ID; the first extent always counts, even when REQ_ONE
 * asks for one only. */
static void add_compact(struct reply *reply, uint32_t id,
                        const struct extent *e, guint n)
{
    uint8_t *p = add_chunk(reply, NBD_CHUNK_BLOCK_STATUS, sizeof(id) +
                           n * sizeof(struct nbd_wire_extent));

    nbd_put32(p, id);
    p += sizeof(id);
    for (; n > 0; n--, e++) {
        nbd_put32(p, e->length);
        nbd_put32(p + sizeof(uint32_t), e->flags);
        p += sizeof(struct nbd_wire_extent);
    }
}

static void add_extended(struct reply *reply, uint32_t id,
                         const struct extent *e, guint n)
{
    uint8_t *p = add_chunk(reply, NBD_CHUNK_BLOCK_STATUS_EXT, 2 * sizeof(id) +
                           n * sizeof(struct nbd_wire_extended_extent));

    nbd_put32(p, id);
    nbd_put32(p + sizeof(id), n);
    p += 2 * sizeof(id);
    for (; n > 0; n--, e++) {
        nbd_put64(p, e->length);
        nbd_put64(p + sizeof(uint64_t), e->flags);
        p += sizeof(struct nbd_wire_extended_extent);
    }
}

static void reply_add(struct reply *reply, uint32_t id, const GArray *extents)
{
    (reply->work->req.extended ? add_extended : add_compact)
        (reply, id, (const struct extent *)extents->data, extents->len);
}

/* ---- which contexts ----------------------------------------------------- */

/* Entry I of the ids behind the length. */
static uint32_t filter_id(const uint8_t *payload, size_t i)
{
    return nbd_get32(payload + sizeof(uint64_t) + i * sizeof(uint32_t));
}

static size_t filter_n(size_t bytes)
{
    return (bytes - sizeof(uint64_t)) / sizeof(uint32_t);
}

static bool is_negotiated(const struct nbd_conn *c, uint32_t id)
{
    const struct nbd_contexts *x = &c->contexts;

    return id == NBD_CONTEXT_BASE ? x->base_allocation
           : id == NBD_CONTEXT_DEPTH ? x->allocation_depth
           : id - NBD_CONTEXT_BITMAP < c->export->n_bitmaps &&
             x->bitmaps && x->bitmaps[id - NBD_CONTEXT_BITMAP];
}

bool nbd_status_filter_valid(const struct nbd_conn *c, const uint8_t *payload,
                             size_t bytes)
{
    size_t n = filter_n(bytes);

    if ((bytes - sizeof(uint64_t)) % sizeof(uint32_t) != 0 || n == 0 ||
        n > c->contexts.n) {
        return false;
    }
    for (size_t i = 0; i < n; i++) {
        if (!is_negotiated(c, filter_id(payload, i))) {
            return false;
        }
        for (size_t k = 0; k < i; k++) {
            if (filter_id(payload, k) == filter_id(payload, i)) {
                return false;
            }
        }
    }
    return true;
}

/* Is ID, which was negotiated, asked for by W? */
static bool is_wanted(const struct nbd_work *w, uint32_t id)
{
    size_t n = w->req.payload > 0 ? filter_n(w->req.payload) : 0;

    for (size_t i = 0; i < n; i++) {
        if (filter_id(w->buf, i) == id) {
            return true;
        }
    }
    return n == 0;
}

static void extents_init(struct extents *x, const struct nbd_request *r)
{
    g_array_set_size(x->array, 0);
    x->max = r->flags & NBD_CMD_FLAG_REQ_ONE ? 1 : EXTENTS_MAX;
    x->deadline_ns = clock_ns() + SECONDS_MAX * INT64_C(1000000000);
}

static int collect_all(struct reply *reply, struct extents *x)
{
    const struct nbd_work *w = reply->work;
    const struct nbd_export *e = w->conn->export;
    const struct nbd_contexts *contexts = &w->conn->contexts;
    const struct nbd_request *r = &w->req;
    int ret;

    if (contexts->base_allocation && is_wanted(w, NBD_CONTEXT_BASE)) {
        extents_init(x, r);
        ret = collect_states(x, r, e->root, state_allocation);
        if (ret < 0) {
            return ret;
        }
        reply_add(reply, NBD_CONTEXT_BASE, x->array);
    }
    if (contexts->allocation_depth && is_wanted(w, NBD_CONTEXT_DEPTH)) {
        extents_init(x, r);
        ret = collect_states(x, r, e->root, state_depth);
        if (ret < 0) {
            return ret;
        }
        reply_add(reply, NBD_CONTEXT_DEPTH, x->array);
    }
    for (size_t i = 0; i < e->n_bitmaps; i++) {
        if (contexts->bitmaps[i] && is_wanted(w, NBD_CONTEXT_BITMAP + i)) {
            extents_init(x, r);
            collect_bitmap(x, r, &e->bitmaps[i]);
            reply_add(reply, NBD_CONTEXT_BITMAP + i, x->array);
        }
    }
    return 0;
}

int nbd_work_block_status(struct nbd_work *w)
{
    g_autoptr(GArray) array =
        g_array_new(false, false, sizeof(struct extent));
    g_autoptr(GByteArray) bytes = g_byte_array_new();
    struct extents x = { .array = array };
    struct reply reply = {
        .work = w, .bytes = bytes,
        .n_left = w->req.payload > 0 ? filter_n(w->req.payload)
                                     : w->conn->contexts.n,
    };
    int ret = collect_all(&reply, &x);

    if (ret == 0) {
        w->iov[0].iov_len = bytes->len;
        w->heads = g_byte_array_free(g_steal_pointer(&bytes), false);
        w->iov[0].iov_base = w->heads;
        w->n_iov = 1;
    }
    return ret;
}
