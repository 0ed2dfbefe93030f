/* SPDX-License-Identifier: MIT */
/*
 * Block status: what a range of a node is made of, alone and with its
 * backing chain.
 *
 * Threads     As all of the data path: any, below an entered root.
 */
#include <errno.h>
#include "block/io-priv.h"

static struct node *backing_node(const struct node *n)
{
    return n->backing ? n->backing->node : NULL;
}

static void set_status(struct block_status *st, unsigned flags, int64_t bytes)
{
    st->flags = flags;
    st->bytes = bytes;
    st->map = 0;
    st->file = NULL;
}

/* The driver's answer for a range aligned to what it takes; [offset, offset +
 * st->bytes) of it. */
static int query_driver(struct node *n, bool want_zero, int64_t offset,
                        int64_t bytes, struct block_status *st)
{
    int64_t align = io_alignment(n);
    int64_t start = offset & -align;
    int64_t end = (offset + bytes + align - 1) & -align;
    int ret = n->driver->block_status(n, want_zero, start, end - start, st);

    if (ret < 0) {
        return ret;
    }
    g_assert(st->bytes > 0);
    end = MIN(start + st->bytes, offset + bytes);
    if (end <= offset) {
        return -EIO;        /* the driver made no progress past the start */
    }
    st->map += offset - start;
    st->bytes = end - offset;
    return 0;
}

static int query(struct node *n, bool want_zero, int64_t offset, int64_t bytes,
                 struct block_status *st)
{
    struct node *filtered;

    if (n->driver->block_status) {
        set_status(st, 0, 0);
        return query_driver(n, want_zero, offset, bytes, st);
    }
    filtered = n->driver->is_filter ? io_filtered(n) : NULL;
    if (filtered) {
        return node_block_status(filtered, want_zero, offset, bytes, st);
    }
    set_status(st, STATUS_DATA | STATUS_ALLOCATED, bytes);
    if (n->driver->is_protocol) {
        st->flags |= STATUS_OFFSET_VALID;
        st->map = offset;
        st->file = n;
    }
    return 0;
}

/* Data of a format may be a hole in its file. */
static int look_into_file(struct node *n, struct block_status *st)
{
    struct block_status below;
    int ret;

    if ((st->flags & (STATUS_DATA | STATUS_OFFSET_VALID | STATUS_ZERO)) !=
        (STATUS_DATA | STATUS_OFFSET_VALID) || !st->file || st->file == n) {
        return 0;
    }
    ret = node_block_status(st->file, true, st->map, st->bytes, &below);
    if (ret < 0) {
        return 0;           /* only a better answer was lost */
    }
    if (below.bytes == 0) { /* behind the end of the file */
        st->flags |= STATUS_ZERO;
    } else {
        st->bytes = MIN(st->bytes, below.bytes);
        st->flags |= below.flags & STATUS_ZERO;
    }
    return 0;
}

/* Unallocated: zero where there is nothing below to read. */
static void look_for_backing(struct node *n, int64_t offset,
                             struct block_status *st)
{
    struct node *backing = backing_node(n);
    int64_t length = backing ? node_length(backing) : 0;

    if (!n->driver->supports_backing) {
        return;
    }
    if (offset >= length) {
        st->flags |= STATUS_ZERO;
    } else {
        st->bytes = MIN(st->bytes, length - offset);
    }
}

int node_block_status(struct node *n, bool want_zero, int64_t offset,
                      int64_t bytes, struct block_status *st)
{
    int64_t length = node_length(n);
    int ret;

    if (offset < 0 || bytes < 0) {
        return -EINVAL;
    }
    if (offset >= length || bytes == 0) {
        set_status(st, offset >= length ? STATUS_EOF : 0, 0);
        return 0;
    }
    bytes = MIN(bytes, length - offset);
    ret = query(n, want_zero, offset, bytes, st);
    if (ret < 0) {
        return ret;
    }
    if (want_zero) {
        ret = look_into_file(n, st);
        if (!(st->flags & STATUS_ALLOCATED)) {
            look_for_backing(n, offset, st);
        }
    }
    st->flags &= ~(unsigned)STATUS_EOF;
    if (offset + st->bytes >= length) {
        st->flags |= STATUS_EOF;
    }
    return ret;
}

int node_block_status_above(struct node *n, struct node *base, bool want_zero,
                            int64_t offset, int64_t bytes,
                            struct block_status *st)
{
    int64_t length = node_length(n), left;
    struct node *p;
    int ret;

    if (offset < 0 || bytes < 0) {
        return -EINVAL;
    }
    if (offset >= length || bytes == 0) {
        set_status(st, offset >= length ? STATUS_EOF : 0, 0);
        return 0;
    }
    left = MIN(bytes, length - offset);
    for (p = n; p && p != base; ) {
        if (p->driver->is_filter && io_filtered(p)) {
            p = io_filtered(p);     /* decides nothing itself */
            continue;
        }
        ret = node_block_status(p, want_zero, offset, left, st);
        if (ret < 0) {
            return ret;
        }
        if (st->bytes == 0) {       /* a short layer reads as zeroes */
            set_status(st, STATUS_ZERO | STATUS_ALLOCATED, left);
        }
        left = MIN(left, st->bytes);
        if (st->flags & STATUS_ALLOCATED) {
            break;
        }
        p = backing_node(p);
    }
    if (!p || p == base) {
        set_status(st, p ? 0 : STATUS_ZERO, left);
    }
    st->flags &= ~(unsigned)STATUS_EOF;
    if (offset + st->bytes >= length) {
        st->flags |= STATUS_EOF;
    }
    return 0;
}
