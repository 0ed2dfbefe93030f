/* SPDX-License-Identifier: MIT */
/* Copier: see copier.h.  Here: what is to be copied, and who copies it. */
#include "block/copier-priv.h"

#include <errno.h>


/* What is compressed must be whole clusters of the target. */
static int64_t piece_bytes(const struct copier_options *o)
{
    int64_t bytes = MIN(o->cluster_bytes, COPIER_CHUNK_BYTES);

    return o->write_flags & BLK_COMPRESSED
           ? MAX(bytes, node_cluster_bytes(o->target->node)) : bytes;
}

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
    c->piece_bytes = piece_bytes(options);
    c->buffer_bytes = MAX(c->piece_bytes, COPIER_CHUNK_BYTES);
    c->no_copy_range = !options->use_copy_range ||
                       (options->write_flags & BLK_COMPRESSED);
    c->todo = todo;
    range_lock_init(&c->in_flight, "copier-in-flight");
    pace_init(&c->pace, options->cluster_bytes);
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
    copier_free_buffers(c);
    cond_deinit(&c->worker_done);
    lock_deinit(&c->lock);
    pace_deinit(&c->pace);
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

struct node *copier_node(const struct copier *c, bool source)
{
    const struct child *link = source ? c->o.source : c->o.target;

    return link ? link->node : NULL;
}

int64_t copier_length(const struct copier *c)
{
    return c->o.length;
}

struct pace *copier_pace(struct copier *c)
{
    return &c->pace;
}

/* ---- clusters and bytes ------------------------------------------------- */

/* N of them, the last one too. */
static int64_t count_bytes(const struct copier *c, int64_t n, bool with_last)
{
    int64_t bytes = n * c->o.cluster_bytes;

    return with_last && c->o.exact_progress
           ? bytes - (c->n_clusters * c->o.cluster_bytes - c->o.length)
           : bytes;
}

int64_t copier_remaining(struct copier *c)
{
    return count_bytes(c, bits_count(c->todo, 0, c->n_clusters),
                       c->n_clusters > 0 &&
                       bits_test(c->todo, c->n_clusters - 1));
}

/* The last cluster by itself: whether it changed must be known. */
static int64_t change_todo(struct copier *c, int64_t first, int64_t end,
                           int64_t (*change)(struct bits *, int64_t, int64_t))
{
    bool last = end == c->n_clusters && first < end;
    int64_t n;

    if (first >= end) {
        return 0;
    }
    n = change(c->todo, first, end - first - last);
    return n * c->o.cluster_bytes +
           (last && change(c->todo, end - 1, 1) ? count_bytes(c, 1, true) : 0);
}

int64_t copier_set_dirty(struct copier *c, int64_t offset, int64_t bytes)
{
    return change_todo(c, copier_cluster_at(c, offset),
                       copier_cluster_behind(c, offset + bytes), bits_set);
}

int64_t copier_set_clean(struct copier *c, int64_t offset, int64_t bytes)
{
    int64_t unit = c->o.cluster_bytes, end = offset + bytes;

    return change_todo(c, (offset + unit - 1) / unit,
                       end >= c->o.length ? c->n_clusters : end / unit,
                       bits_clear);
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

/* Whoever copies holds a range before it clears bits and until it has put
 * back those that failed: bits looked at before and behind the holds miss
 * nothing (I1, I2). */
int64_t copier_done_below(struct copier *c, int64_t from)
{
    int64_t low = c->o.length, start;

    for (int i = 0; i < 2; i++) {
        if (copier_next(c, from, 0, &start) > 0) {
            low = MIN(low, start);
        }
        low = MIN(low, range_lock_lowest(&c->in_flight));
    }
    return low;
}

/* ---- one run ------------------------------------------------------------ */

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

/* I1.  What others have made dirty meanwhile they have counted, too. */
static void put_back(struct copier *c, int64_t offset, int64_t bytes)
{
    int64_t first = copier_cluster_at(c, offset);
    int64_t end = copier_cluster_behind(c, offset + bytes);
    int64_t twice = count_bytes(c, end - first, end == c->n_clusters) -
                    copier_set_dirty(c, offset, bytes);

    if (twice > 0 && c->progress) {
        c->progress(c->opaque, twice, true);
    }
}

/* N clusters from FIRST on are on the target, or were skipped. */
static void finish_run(struct copier *c, int64_t first, int64_t n, bool skip)
{
    int64_t offset = first * c->o.cluster_bytes;

    if (c->o.discard_source && !skip) {
        /* If it fails, nothing is lost but room. */
        node_pdiscard(c->o.source->node, offset,
                      copier_end_of(c, first + n) - offset);
    }
    if (c->progress) {
        c->progress(c->opaque,
                    count_bytes(c, n, first + n == c->n_clusters), skip);
    }
}

/* [offset, end) is dirty and held: drop its bits, copy or skip.  What is done,
 * or fails, ends before cluster *BEHIND. */
static int take_run(struct copier *c, int64_t offset, int64_t end,
                    struct copier_result *result, int64_t *behind)
{
    int64_t bytes = end - offset, done = offset;
    int64_t first = copier_cluster_at(c, offset), n;
    bool skip = false;
    int ret = 0;

    if (c->o.skip_unallocated) {
        ret = allocated_run(c, offset, end, &skip, &bytes);
        if (ret < 0) {
            result->is_read = true;
            *behind = copier_cluster_behind(c, end);
            return ret;
        }
    }
    n = copier_cluster_behind(c, offset + bytes) - first;
    *behind = first + n;
    bits_clear(c->todo, first, n);                      /* I1 */
    if (!skip) {
        ret = copier_move_run(c, &done, offset + bytes, result);
    }
    if (ret < 0) {
        /* What came before the error is on the target. */
        n = copier_cluster_at(c, done) - first;
        done = (first + n) * c->o.cluster_bytes;
        put_back(c, done, offset + bytes - done);
        *behind = copier_cluster_behind(c, result->failed_end);
    }
    if (n > 0) {
        finish_run(c, first, n, skip);
    }
    return ret;
}

int copier_copy_held(struct copier *c, int64_t offset, int64_t end,
                     struct copier_result *result)
{
    int64_t last = copier_cluster_behind(c, end), start, n;
    int64_t at = copier_cluster_at(c, offset);
    struct copier_result other;
    int ret = 0, one;

    while (ret == 0 || (c->o.past_errors && ret != -ECANCELED && at < last)) {
        n = bits_next_run(c->todo, at, last, last - at, &start);
        if (n == 0) {
            break;
        }
        one = take_run(c, start * c->o.cluster_bytes,
                       copier_end_of(c, start + n),
                       ret < 0 ? &other : result, &at);
        ret = ret < 0 ? ret : one;
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

int copier_flush(struct copier *c)
{
    int ret = node_flush(c->o.target->node);

    if (ret == 0 && c->o.discard_source) {
        /* For the room, which formats give back late: errors are no harm. */
        node_flush(c->o.source->node);
    }
    return ret;
}

void copier_begin_flush(struct copier *c)
{
    node_begin_flush(c->o.target->node);
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
