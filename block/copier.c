/* SPDX-License-Identifier: MIT */
/* Copier: see copier.h.  Here: how the data moves. */
#include "block/copier-priv.h"

#include <errno.h>
#include <stdlib.h>
#include "block/zeroes.h"

struct buffer {
    struct buffer *next;
};

struct copier *copier_new(const struct copier_options *options)
{
    int64_t n_clusters = options->length / options->cluster_bytes +
                         (options->length % options->cluster_bytes != 0);
    struct bits *todo = bits_new(n_clusters);
    struct copier *c;

    if (!todo) {
        return NULL;
    }
    c = g_new0(struct copier, 1);
    c->o = *options;
    c->n_clusters = n_clusters;
    c->piece_bytes = MIN(options->cluster_bytes, COPIER_CHUNK_BYTES);
    c->todo = todo;
    range_lock_init(&c->in_flight, "copier-in-flight");
    lock_init(&c->lock, "copier", LOCK_COPIER);
    cond_init(&c->worker_done);
    return c;
}

void copier_free(struct copier **cp)
{
    struct copier *c = *cp;

    *cp = NULL;
    if (!c) {
        return;
    }
    copier_wait_workers(c);
    while (c->free_buffers) {
        struct buffer *b = c->free_buffers;
        c->free_buffers = b->next;
        free(b);
    }
    cond_deinit(&c->worker_done);
    lock_deinit(&c->lock);
    range_lock_deinit(&c->in_flight);
    bits_free(c->todo);
    g_free(c);
}

void copier_set_progress(struct copier *c, copier_progress_fn *fn,
                         void *opaque)
{
    c->progress = fn;
    c->opaque = opaque;
}

struct bits *copier_todo(struct copier *c)
{
    return c->todo;
}

uint32_t copier_cluster_bytes(const struct copier *c)
{
    return c->o.cluster_bytes;
}

int64_t copier_length(const struct copier *c)
{
    return c->o.length;
}

/* ---- clusters and bytes ------------------------------------------------- */

int64_t copier_remaining(struct copier *c)
{
    return bits_count(c->todo, 0, c->n_clusters) * c->o.cluster_bytes;
}

int64_t copier_next(struct copier *c, int64_t offset, int64_t max_bytes,
                    int64_t *run_offset)
{
    int64_t max = MAX(max_bytes / c->o.cluster_bytes, 1), start, n;

    n = bits_next_run(c->todo, MIN(copier_cluster_at(c, offset), c->n_clusters),
                      c->n_clusters, max, &start);
    if (n == 0) {
        return 0;
    }
    *run_offset = start * c->o.cluster_bytes;
    return copier_end_of(c, start + n) - *run_offset;
}

/* ---- buffers ------------------------------------------------------------ */

/* Kept, not freed: mapping and zeroing them anew costs as much as a copy. */
static void *buffer_get(struct copier *c)
{
    struct buffer *b;

    lock_acquire(&c->lock);
    b = c->free_buffers;
    if (b) {
        c->free_buffers = b->next;
    }
    lock_release(&c->lock);
    return b ? (void *)b : aligned_alloc(4096, COPIER_CHUNK_BYTES);
}

static void buffer_put(struct copier *c, void *buf)
{
    struct buffer *b = buf;

    LOCK_GUARD(&c->lock);
    b->next = c->free_buffers;
    c->free_buffers = b;
}

/* ---- one range ---------------------------------------------------------- */

static int write_zeroes(struct copier *c, int64_t offset, int64_t bytes)
{
    unsigned flags = c->o.write_flags & ~BLK_COMPRESSED;

    return node_pwrite_zeroes(c->o.target->node, offset, bytes,
                              c->o.keep_zeroes ? flags
                                               : flags | BLK_MAY_UNMAP);
}

/* Write BUF, but what is zero in whole pieces as zeroes. */
static int write_run(struct copier *c, int64_t offset, int64_t bytes,
                     const uint8_t *buf)
{
    struct node *target = c->o.target->node;
    int64_t unit = c->piece_bytes, done = 0;
    int ret = 0;

    while (done < bytes && ret == 0) {
        bool zero = buffer_is_zero(buf + done, MIN(unit, bytes - done));
        int64_t n = MIN(unit, bytes - done);
        while (done + n < bytes &&
               buffer_is_zero(buf + done + n,
                              MIN(unit, bytes - done - n)) == zero) {
            n += MIN(unit, bytes - done - n);
        }
        ret = zero ? write_zeroes(c, offset + done, n)
                   : node_pwrite(target, offset + done, n, buf + done,
                                 c->o.write_flags | BLK_REGISTERED_BUF);
        done += n;
    }
    return ret;
}

static int copy_data(struct copier *c, int64_t offset, int64_t bytes,
                     struct copier_result *result)
{
    void *buf = buffer_get(c);
    int ret;

    if (!buf) {
        return -ENOMEM;
    }
    ret = node_pread(c->o.source->node, offset, bytes, buf,
                     BLK_REGISTERED_BUF);
    if (ret < 0) {
        result->is_read = true;
    } else {
        ret = write_run(c, offset, bytes, buf);
    }
    buffer_put(c, buf);
    return ret;
}

/* What was asked last: one answer serves several questions. */
struct probe {
    int64_t start, end;
    bool zero;
};

static bool zero_at(struct copier *c, struct probe *p, int64_t at, int64_t end)
{
    struct block_status st;

    if (at >= p->start && at < p->end) {
        return p->zero;
    }
    p->start = at;
    if (node_block_status_above(c->o.source->node, NULL, true, at, end - at,
                                &st) < 0 || st.bytes == 0) {
        p->end = end;           /* if it is an error, reading will tell */
        p->zero = false;
    } else {
        p->end = at + st.bytes;
        p->zero = st.flags & STATUS_ZERO;
    }
    return p->zero;
}

/* Bytes of whole pieces at OFFSET (aligned) that are zero. */
static int64_t zero_run(struct copier *c, struct probe *p, int64_t offset,
                        int64_t end)
{
    int64_t at = offset;

    while (at < end && zero_at(c, p, at, end)) {
        at = MIN(p->end, end);
    }
    return at >= end ? end - offset : (at - offset) & -c->piece_bytes;
}

/* Bytes of whole pieces at OFFSET that are to be read: zeroes shorter than a
 * piece are. */
static int64_t data_run(struct copier *c, struct probe *p, int64_t offset,
                        int64_t end)
{
    int64_t unit = c->piece_bytes, at = offset + unit;

    while (at < end && zero_run(c, p, at, MIN(end, at + unit)) == 0) {
        /* All that the last answer covers is data. */
        at = p->zero ? at + unit : MAX(at + unit, p->end & -unit);
    }
    return MIN(at, end) - offset;
}

int64_t copier_zero_run(struct copier *c, int64_t offset, int64_t end)
{
    struct probe p = { 0 };

    return c->o.move ? 0 : zero_run(c, &p, offset, MIN(end, c->o.length));
}

/* Copy all of [offset, end), held and cleared. */
static int copy_run(struct copier *c, int64_t offset, int64_t end,
                    struct copier_result *result)
{
    struct probe p = { 0 };
    int ret = 0;

    if (c->o.move) {
        return c->o.move(c->o.move_opaque, offset, end - offset, result);
    }
    while (offset < end && ret == 0) {
        int64_t n = zero_run(c, &p, offset, end);
        if (n > 0) {
            ret = write_zeroes(c, offset, n);
        } else {
            int64_t most = MIN(end, offset + COPIER_CHUNK_BYTES);
            n = data_run(c, &p, offset, most);
            ret = copy_data(c, offset, n, result);
        }
        offset += n;
    }
    return ret;
}

/* Whole clusters from OFFSET on of which no layer above skip_base has
 * anything, or (*SKIP false) of which one has. */
static int allocated_run(struct copier *c, int64_t offset, int64_t end,
                         bool *skip, int64_t *bytes)
{
    int64_t unit = c->o.cluster_bytes, at = offset;
    struct block_status st;
    int ret;

    while (at < end) {
        ret = node_block_status_above(c->o.source->node, c->o.skip_base, false,
                                      at, end - at, &st);
        if (ret < 0) {
            return ret;
        }
        if (st.bytes == 0) {
            break;
        }
        if (st.flags & STATUS_ALLOCATED) {
            if (at - offset >= unit) {
                break;          /* before it are clusters to be skipped */
            }
            *skip = false;
            *bytes = MIN((at + st.bytes - offset + unit - 1) & -unit,
                         end - offset);
            return 0;
        }
        at += st.bytes;
    }
    *skip = at - offset >= unit || at >= end;
    *bytes = at >= end || !*skip ? end - offset : (at - offset) & -unit;
    return 0;
}

/* [offset, end) is dirty and held: drop its bits, copy or skip. */
static int take_run(struct copier *c, int64_t offset, int64_t end,
                    struct copier_result *result)
{
    int64_t bytes = end - offset;
    int64_t first = copier_cluster_at(c, offset), n;
    bool skip = false;
    int ret;

    if (c->o.skip_unallocated) {
        ret = allocated_run(c, offset, end, &skip, &bytes);
        if (ret < 0) {
            result->is_read = true;
            return ret;
        }
    }
    n = copier_cluster_behind(c, offset + bytes) - first;
    bits_clear(c->todo, first, n);                      /* I1 */
    ret = skip ? 0 : copy_run(c, offset, offset + bytes, result);
    if (ret < 0) {
        bits_set(c->todo, first, n);
        return ret;
    }
    if (c->progress) {
        c->progress(c->opaque, n * c->o.cluster_bytes, skip);
    }
    return 0;
}

int copier_copy_held(struct copier *c, int64_t offset, int64_t end,
                     struct copier_result *result)
{
    int64_t last = copier_cluster_behind(c, end), start, n;
    int64_t at = copier_cluster_at(c, offset);
    int ret = 0;

    while (ret == 0) {
        n = bits_next_run(c->todo, at, last, last - at, &start);
        if (n == 0) {
            break;
        }
        ret = take_run(c, start * c->o.cluster_bytes,
                       copier_end_of(c, start + n), result);
        at = start;
    }
    return ret;
}

int copier_copy(struct copier *c, int64_t offset, int64_t bytes,
                struct copier_result *result)
{
    struct range_hold hold;
    int ret;

    result->is_read = false;
    range_lock_acquire(&c->in_flight, &hold, offset, bytes, true);
    ret = copier_copy_held(c, offset, offset + bytes, result);
    range_lock_release(&c->in_flight, &hold);
    return ret;
}

void copier_leave_out(struct copier *c, int64_t offset, int64_t bytes)
{
    int64_t first = copier_cluster_at(c, offset);
    int64_t n = copier_cluster_behind(c, offset + bytes) - first;
    struct range_hold hold;
    int64_t dropped;

    range_lock_acquire(&c->in_flight, &hold, offset, bytes, true);
    dropped = bits_clear(c->todo, first, n);
    if (dropped > 0 && c->progress) {
        c->progress(c->opaque, dropped * c->o.cluster_bytes, true);
    }
    range_lock_release(&c->in_flight, &hold);
}

void copier_settle(struct copier *c)
{
    struct range_hold hold;

    range_lock_acquire(&c->in_flight, &hold, 0, c->o.length, true);
    range_lock_release(&c->in_flight, &hold);
}

int copier_skip_step(struct copier *c, int64_t *offset)
{
    enum { STEP_BYTES = 1 << 30 };
    struct range_hold hold;
    int64_t start, end, bytes = 0;
    bool skip = false;
    int ret;

    bytes = copier_next(c, *offset, STEP_BYTES, &start);
    if (bytes == 0) {
        *offset = c->o.length;
        return 0;
    }
    end = start + bytes;
    range_lock_acquire(&c->in_flight, &hold, start, end - start, true);
    ret = allocated_run(c, start, end, &skip, &bytes);
    if (ret == 0 && skip) {
        int64_t first = copier_cluster_at(c, start);
        int64_t n = copier_cluster_behind(c, start + bytes) - first;
        int64_t skipped = bits_clear(c->todo, first, n);
        if (skipped > 0 && c->progress) {
            c->progress(c->opaque, skipped * c->o.cluster_bytes, true);
        }
    }
    range_lock_release(&c->in_flight, &hold);
    if (ret == 0) {
        *offset = start + bytes;
    }
    return ret;
}
