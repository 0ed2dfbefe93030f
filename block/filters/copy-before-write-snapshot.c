/* SPDX-License-Identifier: MIT */
/* Copy-before-write: see copy-before-write.h.  Here: the snapshot's readers. */
#include "block/filters/copy-before-write-priv.h"

#include <errno.h>

enum {
    CHUNK_BYTES = 1 << 20,          /* of one hold: guests wait for it */
    STATUS_BYTES = 64 << 20,
    LOOK_NS = 100 * 1000 * 1000,    /* has the snapshot broken? */
};

struct node *cbw_find_snapshot(struct node *n)
{
    while (n && n->driver->is_filter) {
        struct node *below = NULL;

        if (n->driver == &driver_copy_before_write &&
            ((struct cbw_state *)n->state)->access) {
            return n;
        }
        for (const struct child *c = n->children; c; c = c->next_sibling) {
            below = c->role & ROLE_FILTERED ? c->node : below;
        }
        n = below;
    }
    return NULL;
}

/* Are all clusters of [offset, end) in access? */
static bool accessible(const struct cbw_state *s, int64_t offset, int64_t end)
{
    int64_t unit = copier_cluster_bytes(s->copier);
    int64_t last = (end + unit - 1) / unit;

    return bits_next_clear(s->access, offset / unit, last) >= last;
}

/* As copier_hold_run(); does not wait for a copy that no longer matters.
 * -EACCES: then nothing is held. */
static int hold_run(struct node *n, struct range_hold *hold, int64_t offset,
                    int64_t *bytes, bool *copied)
{
    struct cbw_state *s = n->state;

    if (offset >= copier_length(s->copier)) {
        return -EACCES;         /* the source has grown since */
    }
    do {
        if (cbw_snapshot_error(n)) {
            return -EACCES;
        }
    } while (!copier_hold_run(s->copier, hold, offset, bytes, copied,
                              clock_ns() + LOOK_NS));
    return 0;
}

/* What was done with a run counts only if the snapshot is still whole (I2). */
static int release_run(struct node *n, struct range_hold *hold, int ret)
{
    struct cbw_state *s = n->state;

    copier_release_run(s->copier, hold);
    return cbw_snapshot_error(n) ? -EACCES : ret;
}

int cbw_snapshot_pread(struct node *n, int64_t offset, int64_t bytes,
                       void *buf)
{
    struct cbw_state *s = n->state;
    uint8_t *at = buf;

    while (bytes > 0) {
        int64_t run = MIN(bytes, CHUNK_BYTES);
        struct range_hold hold;
        bool copied;
        int ret = hold_run(n, &hold, offset, &run, &copied);
        if (ret < 0) {
            return ret;
        }
        if (accessible(s, offset, offset + run)) {
            ret = node_pread(copied ? s->target->node : n->file->node, offset,
                             run, at, 0);
        } else {
            ret = -EACCES;
        }
        ret = release_run(n, &hold, ret);
        if (ret < 0) {
            return ret;
        }
        offset += run;
        at += run;
        bytes -= run;
    }
    return 0;
}

int cbw_snapshot_block_status(struct node *n, bool want_zero, int64_t offset,
                              int64_t bytes, struct block_status *st)
{
    struct cbw_state *s = n->state;
    int64_t unit = copier_cluster_bytes(s->copier), first = offset / unit;
    int64_t run = MIN(bytes, STATUS_BYTES), n_clusters;
    struct range_hold hold;
    bool copied;
    int ret = hold_run(n, &hold, offset, &run, &copied);

    if (ret < 0) {
        return ret;
    }
    n_clusters = bits_next_clear(s->access, first,
                                 (offset + run + unit - 1) / unit) - first;
    if (n_clusters == 0) {
        ret = -EACCES;
    } else {
        run = MIN(run, (first + n_clusters) * unit - offset);
        ret = node_block_status_above(copied ? s->target->node
                                             : n->file->node,
                                      NULL, want_zero, offset, run, st);
    }
    ret = release_run(n, &hold, ret);
    if (ret == 0) {
        /* Where it lies is nobody's business: it may move. */
        st->flags = (st->flags & (STATUS_DATA | STATUS_ZERO)) |
                    STATUS_ALLOCATED;
        st->map = 0;
        st->file = NULL;
    }
    return ret;
}

static void drop_access(void *opaque, int64_t first, int64_t n)
{
    struct cbw_state *s = opaque;

    bits_clear(s->access, first, n);
}

int cbw_snapshot_pdiscard(struct node *n, int64_t offset, int64_t bytes)
{
    struct cbw_state *s = n->state;
    int64_t unit = copier_cluster_bytes(s->copier);
    int64_t length = copier_length(s->copier);
    int64_t end = MIN(offset + bytes, length);

    offset = (offset + unit - 1) & -unit;
    end = end == length ? end : end & -unit;
    while (offset < end) {
        int64_t part = MIN(end - offset, MAX(STATUS_BYTES, unit));
        int ret;

        do {
            if (cbw_snapshot_error(n)) {
                return -EACCES;
            }
        } while (!copier_drop(s->copier, offset, part, drop_access, s,
                              clock_ns() + LOOK_NS));
        ret = node_pdiscard(s->target->node, offset, part);
        if (ret < 0) {
            return ret;
        }
        offset += part;
    }
    return 0;
}

int cbw_snapshot_flush(struct node *n)
{
    struct cbw_state *s = n->state;

    return node_flush(s->target->node);
}
