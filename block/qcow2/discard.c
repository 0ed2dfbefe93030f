/* SPDX-License-Identifier: MIT */
/*
 * Discard and fast zeroes: changes of mapping without data.
 *
 * Discarded clusters read as zeroes (version 3: marked so, version 2 without
 * a backing file: unallocated); the old data never shows again.  Parts of
 * clusters are left alone by a discard.  Zeroes go down to subclusters; less
 * is refused as not fast, and the generic layer then writes zeroes.
 */
#include <errno.h>
#include "block/qcow2/qcow2.h"

enum { MAX_PIECE_CLUSTERS = 8192 };

struct change {
    enum qcow2_l2_op op;
    unsigned free_flags;
    bool keep_unallocated;      /* it reads as wanted already */
    bool punch;                 /* clusters are kept: tell the file at once */
};

/* Has the run the state that OP would give it? */
static bool is_done(const struct change *c, const struct qcow2_map *map)
{
    switch (map->type) {
    case QCOW2_UNALLOCATED:
        return c->op == QCOW2_L2_UNMAP || c->keep_unallocated;
    case QCOW2_UNALLOC_HELD:
        return false;
    case QCOW2_ZERO_PLAIN:
        return c->op != QCOW2_L2_UNMAP;
    case QCOW2_ZERO_ALLOC:
        return c->op == QCOW2_L2_ZERO;
    default:
        return false;
    }
}

/* How much of MAP's run can be changed at once: whole clusters, or a part of
 * one where the request has only that. */
static int64_t unit_of(const struct qcow2 *s, const struct qcow2_map *map,
                       int64_t offset, int64_t bytes)
{
    int64_t in_cluster = offset & (s->cluster_bytes - 1);

    if (in_cluster || bytes < s->cluster_bytes) {
        return MIN(bytes, s->cluster_bytes - in_cluster);
    }
    return MAX(map->bytes & -s->cluster_bytes, s->cluster_bytes);
}

/* From OFFSET, as far as one step goes: *BYTES.  Lock held. */
static int change_run(struct qcow2 *s, const struct change *c, int64_t offset,
                      int64_t *bytes, struct qcow2_map *map)
{
    struct qcow2_l2_change change = {
        .op = c->op, .free_flags = c->free_flags,
    };
    int64_t wanted = *bytes;
    int ret = qcow2_lookup(s, offset, wanted, false, map);

    if (ret < 0) {
        return ret;
    }
    *bytes = unit_of(s, map, offset, wanted);
    if (is_done(c, map) && map->bytes >= *bytes) {
        return 0;
    }
    ret = qcow2_writeback_some(s);
    if (ret == 0) {
        ret = qcow2_lookup_for_write(s, offset, wanted, map);
    }
    if (ret < 0) {
        return ret;
    }
    *bytes = MIN(unit_of(s, map, offset, wanted),
                 (qcow2_l2_slice_left(s, offset) << s->cluster_bits) -
                 (offset & (s->cluster_bytes - 1)));
    return qcow2_l2_set(s, offset, *bytes, &change);
}

/* Whole subclusters; held exclusively, or drained. */
static int change_range(struct qcow2 *s, const struct change *c,
                        int64_t offset, int64_t bytes)
{
    int ret = 0;

    while (bytes > 0 && ret == 0) {
        struct qcow2_map map;
        int64_t part = bytes;
        lock_acquire(&s->lock);
        ret = s->corrupt ? -EIO : change_run(s, c, offset, &part, &map);
        lock_release(&s->lock);
        if (ret == 0 && c->punch && map.copied) {
            node_pdiscard(qcow2_data(s), map.host, MIN(map.bytes, part));
        }
        offset += part;
        bytes -= part;
    }
    return ret;
}

/* In pieces, so that a guest never waits for terabytes. */
static int change_held(struct qcow2 *s, const struct change *c,
                       int64_t offset, int64_t bytes)
{
    int64_t max = (int64_t)MAX_PIECE_CLUSTERS << s->cluster_bits;
    int ret = 0;

    while (bytes > 0 && ret == 0) {
        struct range_hold hold;
        int64_t part = MIN(bytes, max);
        range_lock_acquire(&s->guest, &hold, offset, part, true);
        ret = change_range(s, c, offset, part);
        range_lock_release(&s->guest, &hold);
        offset += part;
        bytes -= part;
    }
    return ret;
}

/* The end of a request, where the disk's end counts as a cluster's end. */
static int64_t request_end(const struct qcow2 *s, int64_t end)
{
    return end == node_length(s->node) ? qcow2_cluster_end(s, end) : end;
}

static bool has_backing(const struct qcow2 *s)
{
    return s->node->backing || s->backing_name;
}

/* Who reads the data file alone must find the zeroes there too. */
static int zero_raw_data(struct qcow2 *s, int64_t offset, int64_t bytes,
                         unsigned flags)
{
    static const struct change c = { .op = QCOW2_L2_ZERO };
    int64_t inside = MIN(bytes, node_length(s->node) - offset);
    struct range_hold hold;
    int ret;

    range_lock_acquire(&s->guest, &hold, offset, bytes, true);
    ret = node_pwrite_zeroes(qcow2_data(s), offset, inside,
                             flags & BLK_MAY_UNMAP);
    if (ret == 0) {
        ret = change_range(s, &c, offset, bytes);
    }
    range_lock_release(&s->guest, &hold);
    return ret;
}

int qcow2_pdiscard(struct node *n, int64_t offset, int64_t bytes)
{
    struct qcow2 *s = n->state;
    int64_t end = qcow2_cluster_start(s, request_end(s, offset + bytes));
    struct change c = {
        .op = QCOW2_L2_ZERO_FREE,
        .free_flags = s->opt.discard_request ? QCOW2_FREE_DISCARD : 0,
        .keep_unallocated = !has_backing(s),
    };

    offset = qcow2_cluster_end(s, offset);
    if (offset >= end) {
        return 0;
    }
    c.punch = s->data && s->opt.discard_request;
    if (s->data_raw) {
        return zero_raw_data(s, offset, end - offset, BLK_MAY_UNMAP);
    }
    if (s->hdr.version < 3) {
        if (has_backing(s)) {
            return 0;           /* no way to hide what is below */
        }
        c.op = QCOW2_L2_UNMAP;
    } else if (s->opt.discard_no_unref) {
        c.op = QCOW2_L2_ZERO;
        c.punch = s->opt.discard_request;
    }
    return change_held(s, &c, offset, end - offset);
}

int qcow2_unmap(struct qcow2 *s, int64_t offset, int64_t bytes)
{
    struct change c = {
        .op = QCOW2_L2_UNMAP,
        .free_flags = s->opt.discard_other ? QCOW2_FREE_DISCARD : 0,
    };

    return change_held(s, &c, offset, bytes);
}

int qcow2_deallocate(struct node *n, int64_t offset, int64_t bytes)
{
    struct qcow2 *s = n->state;
    int64_t end = request_end(s, offset + bytes);
    struct change c = {
        .op = QCOW2_L2_UNMAP,
        .free_flags = s->opt.discard_request || s->opt.discard_other
                      ? QCOW2_FREE_DISCARD : 0,
    };

    if (s->data_raw) {
        return -ENOTSUP;        /* the data file shows all there is */
    }
    if ((offset | end) & (s->cluster_bytes - 1)) {
        return -EINVAL;
    }
    return change_held(s, &c, offset, end - offset);
}

/* 0 if [offset, +bytes) of one subcluster reads as zeroes, else -ENOTSUP. */
static int check_part(struct qcow2 *s, int64_t offset, int64_t bytes)
{
    struct qcow2_map map;
    bool zero;
    int ret;

    if (bytes == 0) {
        return 0;
    }
    lock_acquire(&s->lock);
    ret = qcow2_lookup(s, offset, bytes, false, &map);
    zero = ret == 0 && (map.type == QCOW2_ZERO_PLAIN ||
                        map.type == QCOW2_ZERO_ALLOC ||
                        ((map.type == QCOW2_UNALLOCATED ||
                          map.type == QCOW2_UNALLOC_HELD) &&
                         !has_backing(s)));
    lock_release(&s->lock);
    return ret < 0 ? ret : zero ? 0 : -ENOTSUP;
}

int qcow2_pwrite_zeroes(struct node *n, int64_t offset, int64_t bytes,
                        unsigned flags)
{
    struct qcow2 *s = n->state;
    int64_t end = request_end(s, offset + bytes);
    int64_t start_whole = (offset + s->sub_bytes - 1) & -s->sub_bytes;
    int64_t end_whole = end & -s->sub_bytes;
    struct change c = { .op = QCOW2_L2_ZERO };
    int ret;

    if (flags & BLK_NOWAIT) {
        return -EAGAIN;
    }
    if (start_whole > end_whole) {
        return check_part(s, offset, bytes);    /* inside one subcluster */
    }
    ret = check_part(s, offset, start_whole - offset);
    if (ret == 0) {
        ret = check_part(s, end_whole, end - end_whole);
    }
    if (ret < 0 || start_whole == end_whole) {
        return ret;
    }
    if (s->data_raw) {
        return zero_raw_data(s, start_whole, end_whole - start_whole, flags);
    }
    if (s->hdr.version < 3) {
        if (has_backing(s)) {
            return -ENOTSUP;
        }
        c.op = QCOW2_L2_UNMAP;
    } else if (flags & BLK_MAY_UNMAP) {
        c.op = s->opt.discard_no_unref ? QCOW2_L2_ZERO : QCOW2_L2_ZERO_FREE;
    }
    if (flags & BLK_MAY_UNMAP) {
        c.free_flags = s->opt.discard_request ? QCOW2_FREE_DISCARD : 0;
    }
    return change_held(s, &c, start_whole, end_whole - start_whole);
}
