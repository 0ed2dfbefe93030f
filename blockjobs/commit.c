/* SPDX-License-Identifier: MIT */
/*
 * Commit of layers below the active one: what the highest of them shows goes
 * down into the base, then all of them leave the chain.
 *
 *   active -> ... -> overlay -> [commit_top] -> top -> ... -> base -> ...
 *
 * Invariants  I1  Nobody writes top or what is between it and the base while
 *                 the job runs: their links are frozen, they are shared for
 *                 no more than being read by what knows better.
 *             I2  What an overlay shows never changes: where a layer decides,
 *                 it goes on deciding until the base has the same; where a
 *                 short layer hid the base's data, the base gets zeroes.
 *             I3  The layers leave when the base has everything on stable
 *                 storage; before that an end of any kind only takes away
 *                 the filter.
 * Threads     run(): the job's thread.  All else: control lock.
 */
#include <errno.h>
#include "base/control.h"
#include "block/copier.h"
#include "block/driver.h"
#include "block/filters/commit-top.h"
#include "block/root.h"
#include "blockjobs/commit-mark.h"
#include "blockjobs/commit-priv.h"
#include "blockjobs/engine.h"

enum {
    MIN_UNIT_BYTES = 4096, MAX_UNIT_BYTES = 65536,
    LIMITED_CHUNK_BYTES = 512 * 1024,   /* a step that users see */
    HIDE_CHUNK_BYTES = 64 << 20,
};

struct commit_job {
    struct job job;
    /* Set by commit_start(), then constant until clean(). */
    struct node *active, *top;          /* refs */
    struct node *filter;                /* ref; NULL: not inserted */
    struct commit_base base;
    struct root *top_root, *base_root;  /* borrowed: the job's */
    bool frozen;
    char *backing_file;                 /* owned, or NULL */
    bool mask_protocol;
    int64_t length;                     /* of top */
    int64_t hidden_end;                 /* I2: up to there the base is to read
                                           as zeroes behind top's end */
    struct copier *copier, *hide_copier;/* owned; the latter may be NULL */
    struct engine *engine, *hide_engine;/* owned; "" */
    struct commit_end *end;             /* owned; while it ends */
    GPtrArray *unmarked;                /* owned, or NULL: commit-mark.h */
    uint64_t unwritten;                 /* the base's write_generation when
                                           nothing was written */

    /* Atomic. */
    int64_t done;                       /* whole clusters, may pass length */
    struct engine *running;             /* the one that obeys the limit */
};

static struct commit_job *commit_of(struct job *job)
{
    return (struct commit_job *)job;
}

/* ---- the job ------------------------------------------------------------ */

/* What a layer has and what none has: both are progress. */
static void commit_progress(void *opaque, int64_t bytes, bool skipped)
{
    struct commit_job *cj = opaque;
    int64_t now = __atomic_add_fetch(&cj->done, bytes, __ATOMIC_RELAXED);

    job_progress_add(&cj->job, MIN(now, cj->length) -
                               MIN(now - bytes, cj->length));
    if (skipped) {
        engine_refund(cj->engine, bytes);
    }
}

/* I2: zeroes behind the end of a short top. */
static int hide_base(void *opaque, int64_t offset, int64_t bytes,
                     struct copier_result *result)
{
    struct commit_job *cj = opaque;
    int64_t start = MAX(offset, cj->length);
    int64_t end = MIN(offset + bytes, cj->hidden_end);

    return start < end
           ? node_pwrite_zeroes(cj->base.node, start, end - start,
                                BLK_MAY_UNMAP)
           : 0;
}

static void run_with(struct commit_job *cj, struct engine *e)
{
    __atomic_store_n(&cj->running, e, __ATOMIC_RELEASE);
}

static struct drain *drain_ends(struct commit_job *cj)
{
    struct node *nodes[] = { cj->filter, cj->top, cj->base.node };

    return drain_begin(nodes, G_N_ELEMENTS(nodes));
}

/* Before the first write: the base is large enough, and it is written down
 * which layers will not read as before. */
static int change_images(struct commit_job *cj, struct error **errp)
{
    AUTO_ERROR(err);
    AUTO_ERROR(mark_err);
    struct drain *drain;
    bool ok;

    job_graph_begin(&cj->job);
    drain = drain_ends(cj);
    cj->unmarked = commit_unmarked(cj->top, cj->base.node);
    ok = commit_base_grow(&cj->base, cj->length, &err);
    cj->unwritten = atomic_load(&cj->base.node->write_generation);
    if (ok && !commit_mark_layers(cj->top, cj->base.node, cj->job.id,
                                  &mark_err)) {
        error_report(mark_err);
    }
    drain_end(&drain);
    job_graph_end(&cj->job);
    if (!ok) {
        int ret = error_get_errno(err) ? -error_get_errno(err) : -EIO;
        error_prepend(&err, "Could not resize base node '%s': ",
                      node_name(cj->base.node));
        error_propagate(errp, g_steal_pointer(&err));
        return ret;
    }
    return 0;
}

static int commit_run(struct job *job, struct error **errp)
{
    struct commit_job *cj = commit_of(job);
    int ret = change_images(cj, errp);

    if (ret < 0) {
        return ret;
    }
    run_with(cj, cj->engine);
    ret = engine_run(cj->engine);
    if (ret == 0 && cj->hide_engine) {
        run_with(cj, cj->hide_engine);
        ret = engine_run(cj->hide_engine);
    }
    if (ret == 0) {
        ret = engine_wait_paid(cj->engine);
    }
    return ret < 0 ? ret : engine_flush(cj->engine);    /* I3 */
}

/* Either may be a server that is gone; or dropped already, at the end. */
static void commit_cancel(struct job *job, bool force)
{
    struct commit_job *cj = commit_of(job);

    if (cj->base.node) {
        node_cancel_in_flight(cj->base.node);
    }
    if (cj->top) {
        node_cancel_in_flight(cj->top);
    }
}

static void commit_set_speed(struct job *job, int64_t speed)
{
    struct engine *e = __atomic_load_n(&commit_of(job)->running,
                                       __ATOMIC_ACQUIRE);

    if (e) {
        engine_set_speed(e);
    }
}

static void commit_free(struct job *job)
{
    struct commit_job *cj = commit_of(job);

    engine_free(&cj->engine);
    engine_free(&cj->hide_engine);
    copier_free(&cj->copier);
    copier_free(&cj->hide_copier);
    g_free(cj->backing_file);
}

/* ---- the end ------------------------------------------------------------ */

static void unfreeze(struct commit_job *cj)
{
    if (cj->frozen) {
        node_unfreeze_chain(cj->filter, cj->base.node);
        cj->frozen = false;
    }
}

/* I3.  Last chance to fail. */
static int commit_prepare(struct job *job, struct error **errp)
{
    struct commit_job *cj = commit_of(job);
    struct drain *drain = drain_ends(cj);
    bool ok;

    cj->end = commit_end_new(cj->filter, cj->base.node, cj->backing_file,
                             cj->mask_protocol);
    ok = commit_end_rename(cj->end, errp);
    if (ok) {
        job_drop_roots(job);    /* ours would be in the way */
        ok = commit_end_replace(cj->end, errp);
    }
    if (ok && !node_skip_filters(cj->top)->invalidated) {
        commit_unmark_base(cj->base.node);
    }
    drain_end(&drain);
    return ok ? 0 : -EIO;
}

/* Everything is drained; the layers below the filter stay as they are, and go
 * if nobody else has them. */
static void take_apart(struct commit_job *cj)
{
    job_drop_roots(&cj->job);
    unfreeze(cj);
    if (cj->filter) {
        node_remove_filter(cj->filter);
    }
}

static void drop_nodes(struct commit_job *cj)
{
    node_unref(g_steal_pointer(&cj->filter));
    node_unref(g_steal_pointer(&cj->top));
    node_unref(g_steal_pointer(&cj->active));
    commit_base_close(&cj->base);
}

static bool was_written(const struct commit_job *cj)
{
    return atomic_load(&cj->base.node->write_generation) != cj->unwritten;
}

static void commit_clean(struct job *job)
{
    struct commit_job *cj = commit_of(job);
    struct drain *drain = drain_ends(cj);

    commit_end_free(g_steal_pointer(&cj->end));
    commit_mark_done(g_steal_pointer(&cj->unmarked), was_written(cj));
    take_apart(cj);
    drain_end(&drain);
    drop_nodes(cj);
}

static const struct job_driver commit_driver = {
    .type = JOB_TYPE_COMMIT,
    .job_size = sizeof(struct commit_job),
    .is_block_job = true,
    .run = commit_run,
    .prepare = commit_prepare,
    .clean = commit_clean,
    .cancel = commit_cancel,
    .set_speed = commit_set_speed,
    .free = commit_free,
};

/* ---- the start ---------------------------------------------------------- */

/* Of the layers that go away the smallest unit in which one decides, so that
 * little more is copied than is theirs. */
static uint32_t unit_bytes(const struct commit_job *cj)
{
    int64_t unit = MAX_UNIT_BYTES;

    for (struct node *n = cj->top; n && n != cj->base.node;
         n = node_chain_next(n)) {
        int64_t cluster = node_cluster_bytes(n);

        unit = cluster > 0 ? MIN(unit, cluster) : unit;
    }
    return MAX(unit, MIN_UNIT_BYTES);
}

int64_t commit_longest_overlay(const struct node *n)
{
    int64_t longest = 0;

    for (const struct child *c = n->parents; c; c = c->next_parent) {
        if (c->parent && (c->role & ROLE_COW)) {
            longest = MAX(longest, node_length(c->parent));
        } else if (c->parent && (c->role & ROLE_FILTERED)) {
            longest = MAX(longest, commit_longest_overlay(c->parent));
        }
    }
    return longest;
}

static bool add_roots(struct commit_job *cj, struct error **errp)
{
    const unsigned layers = PERM_WRITE | PERM_WRITE_UNCHANGED;
    const unsigned base = PERM_WRITE_UNCHANGED | PERM_CONSISTENT_READ;
    bool grows = node_length(cj->top) > cj->base.old_length;
    struct node *image = node_skip_filters(cj->base.node);
    struct job *job = &cj->job;

    if (!job_add_root(job, cj->active, "main node", 0, PERM_ALL, errp)) {
        return false;
    }
    for (struct node *n = cj->top; n != cj->base.node; n = node_chain_next(n)) {
        /* A filter over the base shows it as it is. */
        unsigned shared = node_skip_filters(n) == image
                          ? layers | PERM_CONSISTENT_READ : layers;
        struct root *r = job_add_root(job, n, "intermediate node", 0, shared,
                                      errp);
        if (!r) {
            return false;
        }
        if (n == cj->top) {
            cj->top_root = r;
        }
    }
    cj->base_root = job_add_root(job, cj->base.node, "base",
                                 PERM_CONSISTENT_READ | PERM_WRITE |
                                 (grows ? PERM_RESIZE : 0), base, errp);
    return cj->base_root;
}

static struct copier *make_copier(const struct copier_options *options,
                                  const struct commit_job *cj,
                                  struct error **errp)
{
    struct copier *c = copier_new(options);

    if (!c) {
        error_set(errp, "No memory for the copy bitmap of '%s'",
                  node_name(cj->top));
    }
    return c;
}

static bool make_copiers(struct commit_job *cj, struct error **errp)
{
    struct copier_options options = {
        .source = root_link(cj->top_root), .target = root_link(cj->base_root),
        .length = cj->length, .cluster_bytes = unit_bytes(cj),
        .skip_unallocated = true, .skip_base = cj->base.node,
    };
    struct bits *todo;
    int64_t first;

    cj->copier = make_copier(&options, cj, errp);
    if (!cj->copier) {
        return false;
    }
    copier_set_progress(cj->copier, commit_progress, cj);
    todo = copier_todo(cj->copier);
    bits_set(todo, 0, bits_size(todo));
    if (cj->hidden_end <= cj->length) {
        return true;
    }
    options.length = cj->hidden_end;
    options.skip_unallocated = false;
    options.move = hide_base;
    options.move_opaque = cj;
    cj->hide_copier = make_copier(&options, cj, errp);
    if (!cj->hide_copier) {
        return false;
    }
    todo = copier_todo(cj->hide_copier);
    first = cj->length / options.cluster_bytes;
    bits_set(todo, first, bits_size(todo) - first);
    return true;
}

static void make_engines(struct commit_job *cj, BlockdevOnError on_error)
{
    struct engine_options options = {
        .job = &cj->job, .copier = cj->copier,
        .on_source_error = on_error, .on_target_error = on_error,
        .limited_chunk_bytes = LIMITED_CHUNK_BYTES,
    };

    cj->engine = engine_new(&options);
    if (cj->hide_copier) {
        options.copier = cj->hide_copier;
        options.max_chunk_bytes = HIDE_CHUNK_BYTES;
        cj->hide_engine = engine_new(&options);
    }
}

/* TOP and BASE are drained. */
static bool equip_job(struct commit_job *cj, const struct commit_options *o,
                      struct error **errp)
{
    cj->filter = commit_top_insert(cj->top, o->filter_node_name, errp);
    if (!cj->filter || !node_freeze_chain(cj->filter, o->base, errp)) {
        return false;
    }
    cj->frozen = true;
    if (!add_roots(cj, errp)) {
        return false;
    }
    cj->length = node_length(cj->top);
    cj->hidden_end = MIN(commit_longest_overlay(cj->filter),
                         cj->base.old_length);
    if (!make_copiers(cj, errp)) {
        return false;
    }
    make_engines(cj, o->on_error);
    job_progress_set_remaining(&cj->job, cj->length);
    return true;
}

/* Drained; no yield: a job that has not started must not be cancelled while
 * we are at it.  NULL: nothing is left. */
static struct commit_job *make_job(const struct commit_options *o,
                                   const struct commit_base *base,
                                   struct error **errp)
{
    struct commit_job *cj =
        (struct commit_job *)job_create(&commit_driver, &o->job, errp);
    struct node *filter;

    if (!cj) {
        return NULL;
    }
    cj->active = o->active;
    cj->top = o->top;
    cj->base = *base;
    cj->backing_file = g_strdup(o->backing_file);
    cj->mask_protocol = o->mask_protocol;
    if (equip_job(cj, o, errp)) {
        node_ref(cj->active);
        node_ref(cj->top);
        return cj;
    }
    take_apart(cj);
    filter = cj->filter;
    job_early_fail(&cj->job);
    node_unref(filter);
    return NULL;
}

bool commit_start(const struct commit_options *o, struct error **errp)
{
    struct node *nodes[] = { o->top, o->base };
    struct commit_job *cj = NULL;
    struct commit_base base;
    struct drain *drain;

    control_assert();
    if (!commit_base_open(&base, o->base, errp)) {
        return false;
    }
    drain = drain_begin(nodes, G_N_ELEMENTS(nodes));
    if (commit_check(o, errp)) {    /* the drain has yielded */
        cj = make_job(o, &base, errp);
    }
    drain_end(&drain);
    if (!cj) {
        commit_base_close(&base);
        return false;
    }
    job_start(&cj->job);
    return true;
}
