/* SPDX-License-Identifier: MIT */
/*
 * Depth-first commit: draining one layer.
 *
 * Problem     A cluster may be freed in the layer only when the base has it on
 *             stable storage; and whenever we die, the next run is not to
 *             write again what the base has.
 * Answer      Batches, from the start of the disk on: copy, flush the base,
 *             free in the layer, flush the layer.  So when a run is broken
 *             off, what is in the base but not freed is in the first batch of
 *             the clusters that are left.  These, and clusters of which only
 *             some is to be moved, are compared before they are written
 *             (depth_move()); all the others are copied straight on.
 * Invariants  D1  FIRST_BYTES is no less than a batch ever is.
 *             D2  A cluster of which a part is hidden by a layer above stays
 *                 allocated: the layer is to read as before as long as it is
 *                 in the chain.
 * Threads     The job's.
 */
#include "blockjobs/commit-depth-priv.h"

#include <errno.h>
#include <stdlib.h>
#include "bitmaps/bits.h"
#include "block/copier.h"
#include "block/driver.h"
#include "blockjobs/engine.h"

enum {
    FIRST_BYTES = 64 << 20,
    MIN_BATCH_BYTES = 1 << 20,
    SCAN_BYTES = 1 << 30,               /* between looks for a pause */
    LIMITED_CHUNK_BYTES = 512 * 1024,   /* a step that users see */
    RETRY_NS = 10 * 1000 * 1000,
};

/* ---- errors outside the engine ------------------------------------------ */

/* 0: try again, perhaps after a pause. */
static int handle_error(struct depth_job *dj, const struct depth_layer *l,
                        int ret, bool is_read)
{
    struct job_io_error error = {
        .is_read = is_read, .err = ret, .node = l->node,
    };

    if (job_is_cancelled(&dj->job)) {
        return -ECANCELED;
    }
    switch (job_io_error_action(&dj->job, dj->on_error, &error)) {
    case BLOCK_ERROR_ACTION_REPORT:
        return ret;
    case BLOCK_ERROR_ACTION_IGNORE:
        job_sleep_until(&dj->job, clock_ns() + RETRY_NS);
        return 0;
    default:
        return 0;
    }
}

static int between_steps(struct depth_job *dj)
{
    job_pause_point(&dj->job);
    return job_is_cancelled(&dj->job) ? -ECANCELED : 0;
}

/* ---- scan --------------------------------------------------------------- */

static void note_ours(struct depth_layer *l, int64_t offset, int64_t end)
{
    int64_t unit = l->cluster_bytes;
    int64_t first = (offset + unit - 1) / unit;
    int64_t behind = end == l->length ? bits_size(l->whole) : end / unit;
    bool tail = offset >= node_length(l->node);

    if (offset % unit || tail) {
        bits_set(l->parts, offset / unit, 1);
    }
    if (behind > first) {
        bits_set(tail ? l->parts : l->whole, first, behind - first);
    }
    if (end % unit && behind <= end / unit) {
        bits_set(l->parts, end / unit, 1);
    }
}

static void note_piece(struct depth_layer *l, enum depth_piece what,
                       int64_t offset, int64_t end)
{
    int64_t first = offset / l->cluster_bytes;
    int64_t last = (end - 1) / l->cluster_bytes;

    if (what == DEPTH_OURS) {
        note_ours(l, offset, end);
    } else if (what == DEPTH_HIDDEN) {
        bits_set(l->kept, first, last - first + 1);
    }
}

static int scan_step(struct depth_job *dj, struct depth_layer *l,
                     int64_t *offset, int64_t end)
{
    while (*offset < end) {
        int64_t bytes = end - *offset;
        int ret = depth_look(dj, l, *offset, &bytes);
        if (ret < 0) {
            return ret;
        }
        note_piece(l, ret, *offset, *offset + bytes);
        *offset += bytes;
    }
    return 0;
}

static bool new_bits(struct depth_layer *l)
{
    int64_t n = (l->length + l->cluster_bytes - 1) / l->cluster_bytes;

    l->whole = bits_new(n);
    l->parts = bits_new(n);
    l->kept = bits_new(n);
    return l->whole && l->parts && l->kept;
}

void depth_layer_free_bits(struct depth_layer *l)
{
    bits_free(g_steal_pointer(&l->whole));
    bits_free(g_steal_pointer(&l->parts));
    bits_free(g_steal_pointer(&l->kept));
}

static int scan_layer(struct depth_job *dj, struct depth_layer *l)
{
    int64_t offset = 0;
    int ret;

    if (!new_bits(l)) {
        return -ENOMEM;
    }
    while (offset < l->length) {
        int64_t end = l->length - offset > SCAN_BYTES ? offset + SCAN_BYTES
                                                      : l->length;
        ret = between_steps(dj);
        if (ret == 0) {
            ret = scan_step(dj, l, &offset, end);
            if (ret < 0) {
                ret = handle_error(dj, l, ret, true);
            }
        }
        if (ret < 0) {
            return ret;
        }
    }
    return 0;
}

int depth_scan(struct depth_job *dj)
{
    int64_t todo = 0;

    for (int i = 0; i < dj->n_layers; i++) {
        struct depth_layer *l = &dj->layers[i];
        int ret = scan_layer(dj, l);
        if (ret < 0) {
            return ret;
        }
        todo += (bits_total(l->whole) + bits_total(l->parts)) *
                l->cluster_bytes;
    }
    job_progress_set_remaining(&dj->job, todo);
    return 0;
}

/* ---- one batch ---------------------------------------------------------- */

struct run {
    int64_t first, n;           /* clusters */
};

/* A way to move clusters: with care or not. */
struct mover {
    struct depth_job *dj;
    struct depth_layer *l;
    struct copier *copier;      /* owned */
    struct engine *engine;      /* owned */
    GArray *batch;              /* struct run */
};

/* Tests want to see many batches of little disks. */
static int64_t first_bytes(void)
{
#ifdef BLOCKJOBD_KILL_POINTS
    const char *text = getenv("BLOCKJOBD_COMMIT_BATCH");

    if (text) {
        return MAX(atoll(text), 1);
    }
#endif
    return FIRST_BYTES;
}

static int64_t batch_bytes(const struct depth_job *dj)
{
    int64_t speed = job_speed(&dj->job);

    return speed ? MIN(MAX(speed, MIN_BATCH_BYTES), first_bytes())
                 : first_bytes();
}

/* Out of BITS into what is to be copied now. */
static void take_batch(struct mover *m, struct bits *bits)
{
    int64_t left = MAX(batch_bytes(m->dj) / m->l->cluster_bytes, 1);
    int64_t at = 0, size = bits_size(bits);
    struct run r;

    g_array_set_size(m->batch, 0);
    while (left > 0 &&
           (r.n = bits_next_run(bits, at, size, left, &r.first)) > 0) {
        bits_clear(bits, r.first, r.n);
        bits_set(copier_todo(m->copier), r.first, r.n);
        g_array_append_val(m->batch, r);
        left -= r.n;
        at = r.first + r.n;
    }
}

/* D2.  Clusters [first, behind). */
static int free_clusters(struct depth_layer *l, int64_t first, int64_t behind)
{
    int64_t length = node_length(l->node);
    int ret = 0;

    while (first < behind && ret == 0) {
        int64_t start = bits_next_clear(l->kept, first, behind);
        int64_t stop = bits_next_set(l->kept, start, behind);
        int64_t offset = start * l->cluster_bytes;
        int64_t end = MIN(stop * l->cluster_bytes, length);
        if (start < behind && offset < end) {
            ret = node_deallocate(l->node, offset, end - offset);
        }
        first = stop;
    }
    return ret;
}

static int free_batch(const struct mover *m)
{
    int ret = 0;

    for (guint i = 0; i < m->batch->len && ret == 0; i++) {
        const struct run *r = &g_array_index(m->batch, struct run, i);
        ret = free_clusters(m->l, r->first, r->first + r->n);
    }
    return ret;
}

/* The base has the batch stably. */
static int finish_batch(struct mover *m)
{
    int ret;

    for (;;) {
        ret = free_batch(m);
        if (ret == 0) {
            depth_kill_point(m->dj, "depth-freed");
            ret = node_flush(m->l->node);
        }
        if (ret == 0) {
            depth_kill_point(m->dj, "depth-stable");
            return between_steps(m->dj);
        }
        ret = handle_error(m->dj, m->l, ret, false);
        if (ret == 0) {
            ret = between_steps(m->dj);
        }
        if (ret < 0) {
            return ret;
        }
    }
}

/* All of BITS. */
static int move_all(struct mover *m, struct bits *bits)
{
    int ret = 0;

    while (ret == 0 && !bits_empty(bits)) {
        take_batch(m, bits);
        ret = engine_run(m->engine);
        if (ret == 0) {
            depth_kill_point(m->dj, "depth-copied");
            ret = engine_flush(m->engine);
        }
        if (ret == 0) {
            depth_kill_point(m->dj, "depth-flushed");
            ret = finish_batch(m);
        }
    }
    return ret;
}

/* ---- a layer ------------------------------------------------------------ */

static void progress(void *opaque, int64_t bytes, bool skipped)
{
    job_progress_add(opaque, bytes);
}

static int move_with_care(void *opaque, int64_t offset, int64_t bytes,
                          struct copier_result *result)
{
    const struct mover *m = opaque;

    return depth_move(m->dj, m->l, offset, bytes, &result->is_read);
}

static bool mover_init(struct mover *m, struct depth_job *dj,
                       struct depth_layer *l, bool with_care)
{
    struct copier_options copier = {
        .source = root_link(l->root), .target = root_link(dj->base_root),
        .length = l->length, .cluster_bytes = l->cluster_bytes,
        .move = with_care ? move_with_care : NULL, .move_opaque = m,
    };
    struct engine_options engine = {
        .job = &dj->job,
        .on_source_error = dj->on_error, .on_target_error = dj->on_error,
        .limited_chunk_bytes = LIMITED_CHUNK_BYTES,
    };

    *m = (struct mover){ .dj = dj, .l = l, .copier = copier_new(&copier) };
    if (!m->copier) {
        return false;
    }
    copier_set_progress(m->copier, progress, &dj->job);
    engine.copier = m->copier;
    m->engine = engine_new(&engine);
    m->batch = g_array_new(FALSE, FALSE, sizeof(struct run));
    return true;
}

static void mover_deinit(struct mover *m)
{
    engine_free(&m->engine);
    copier_free(&m->copier);
    if (m->batch) {
        g_array_free(m->batch, TRUE);
    }
}

/* D1. */
static void compare_first(struct depth_layer *l)
{
    int64_t left = MAX(first_bytes() / l->cluster_bytes, 1), first, n;
    int64_t size = bits_size(l->whole);

    while (left > 0 && (n = bits_next_run(l->whole, 0, size, left, &first))) {
        bits_clear(l->whole, first, n);
        bits_set(l->parts, first, n);
        left -= n;
    }
}

static int move_bits(struct depth_job *dj, struct depth_layer *l,
                     struct bits *bits, bool with_care)
{
    struct mover m;
    int ret = mover_init(&m, dj, l, with_care) ? 0 : -ENOMEM;

    if (ret == 0) {
        ret = move_all(&m, bits);
    }
    mover_deinit(&m);
    return ret;
}

int depth_drain_layer(struct depth_job *dj, struct depth_layer *l)
{
    int ret;

    compare_first(l);
    ret = move_bits(dj, l, l->parts, true);
    return ret < 0 ? ret : move_bits(dj, l, l->whole, false);
}
