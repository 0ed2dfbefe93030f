/* SPDX-License-Identifier: MIT */
/*
 * Depth-first commit: whose a piece of a layer is, and moving it with care.
 *
 * With care: what the base has already is not written again.  So a cluster
 * that reached the base before a run was broken off costs the next run no
 * write.
 */
#include "blockjobs/commit-depth-priv.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include "block/driver.h"
#include "block/zeroes.h"

enum {
    BUFFER_BYTES = 1 << 20,     /* two of them */
    MIN_UNIT_BYTES = 4096,      /* what is compared at once, at least */
};

int depth_look(const struct depth_job *dj, const struct depth_layer *l,
               int64_t offset, int64_t *bytes)
{
    const struct depth_layer *last = &dj->layers[dj->n_layers - 1];
    int64_t own = node_length(l->node) - offset;
    struct node *next = l == last ? NULL : l[1].node;
    struct block_status st;
    int ret;

    if (own > 0) {
        ret = node_block_status(l->node, false, offset, MIN(*bytes, own), &st);
        if (ret < 0) {
            return ret;
        }
        *bytes = st.bytes;
        if (!(st.flags & STATUS_ALLOCATED)) {
            return DEPTH_BELOW;
        }
    }
    if (!next) {
        return DEPTH_OURS;      /* behind its end: zeroes */
    }
    if (offset >= node_length(next)) {
        return DEPTH_HIDDEN;
    }
    ret = node_block_status(next, false, offset, *bytes, &st);
    if (ret < 0) {
        return ret;
    }
    *bytes = st.bytes;
    return st.flags & STATUS_ALLOCATED ? DEPTH_HIDDEN : DEPTH_OURS;
}

/* ---- moving ------------------------------------------------------------- */

/* Does [offset, +*bytes) of N, for *BYTES that get less, read as zeroes for
 * sure? */
static bool is_zero(struct node *n, int64_t offset, int64_t *bytes)
{
    struct block_status st;

    if (offset >= node_length(n)) {
        return true;
    }
    if (node_block_status_above(n, NULL, true, offset, *bytes, &st) < 0 ||
        st.bytes == 0) {
        return false;           /* reading will tell */
    }
    *bytes = st.bytes;
    return st.flags & STATUS_ZERO;
}

static int write_piece(struct node *base, int64_t offset, int64_t bytes,
                       const uint8_t *buf)
{
    return buffer_is_zero(buf, bytes)
           ? node_pwrite_zeroes(base, offset, bytes, BLK_MAY_UNMAP)
           : node_pwrite(base, offset, bytes, buf, BLK_REGISTERED_BUF);
}

/* Of WANTED write what differs from FOUND, in whole units. */
static int write_difference(struct node *base, int64_t unit, int64_t offset,
                            int64_t bytes, const uint8_t *wanted,
                            const uint8_t *found)
{
    int64_t at = 0, from = 0;
    int ret = 0;

    while (at < bytes && ret == 0) {
        int64_t n = MIN(unit - ((offset + at) & (unit - 1)), bytes - at);
        bool same = memcmp(wanted + at, found + at, n) == 0;
        at += n;
        if (same && at - n > from) {
            ret = write_piece(base, offset + from, at - n - from,
                              wanted + from);
        }
        from = same ? at : from;
    }
    if (ret == 0 && bytes > from) {
        ret = write_piece(base, offset + from, bytes - from, wanted + from);
    }
    return ret;
}

static int move_data(const struct depth_job *dj, const struct depth_layer *l,
                     int64_t offset, int64_t bytes, bool *is_read)
{
    struct node *base = dj->base.node;
    int64_t unit = MAX(MIN(l->cluster_bytes, BUFFER_BYTES), MIN_UNIT_BYTES);
    uint8_t *buf = aligned_alloc(4096, 2 * BUFFER_BYTES);
    int ret = buf ? 0 : -ENOMEM;

    while (bytes > 0 && ret == 0) {
        int64_t n = MIN(bytes, BUFFER_BYTES);
        ret = node_pread(l->node, offset, n, buf, BLK_REGISTERED_BUF);
        *is_read = ret < 0;
        if (ret == 0) {
            ret = node_pread(base, offset, n, buf + BUFFER_BYTES,
                             BLK_REGISTERED_BUF);
        }
        if (ret == 0) {
            ret = write_difference(base, unit, offset, n, buf,
                                   buf + BUFFER_BYTES);
        }
        offset += n;
        bytes -= n;
    }
    free(buf);
    return ret;
}

/* All of it is OURS. */
static int move_ours(const struct depth_job *dj, const struct depth_layer *l,
                     int64_t offset, int64_t bytes, bool *is_read)
{
    int ret = 0;

    while (bytes > 0 && ret == 0) {
        int64_t n = bytes;
        bool zero = is_zero(l->node, offset, &n);
        if (!zero || !is_zero(dj->base.node, offset, &n)) {
            ret = move_data(dj, l, offset, n, is_read);
        }
        offset += n;
        bytes -= n;
    }
    return ret;
}

int depth_move(const struct depth_job *dj, const struct depth_layer *l,
               int64_t offset, int64_t bytes, bool *is_read)
{
    int ret = 0;

    *is_read = false;
    while (bytes > 0 && ret >= 0) {
        int64_t n = bytes;
        ret = depth_look(dj, l, offset, &n);
        if (ret < 0) {
            *is_read = true;
            return ret;
        }
        if (ret == DEPTH_OURS) {
            ret = move_ours(dj, l, offset, n, is_read);
        }
        offset += n;
        bytes -= n;
    }
    return MIN(ret, 0);
}
