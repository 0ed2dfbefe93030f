/* SPDX-License-Identifier: MIT */
/*
 * Mirror: see mirror.h.  Here: the start.
 *
 * Design      A filter over the source (mirror_top) notes what guests write in
 *             the copier's todo, which the engine works off; in write-blocking
 *             mode it writes to the target, too.
 * Roots       "main node" on the filter pauses the job when anything at or
 *             below either side is drained; "source" keeps others from
 *             resizing it; an unnamed one holds writing on the target and lets
 *             nobody else read or write it.
 * Threads     run(): the job's thread.  All else: control lock.
 */
#include "base/control.h"
#include "block/copier.h"
#include "block/driver.h"
#include "block/filters/mirror-top.h"
#include "block/root.h"
#include "blockjobs/engine.h"
#include "blockjobs/mirror-priv.h"

enum {
    MIN_DEFAULT_GRANULARITY = 4096,
    MAX_DEFAULT_GRANULARITY = 65536,
    DEFAULT_BUF_BYTES = 16 << 20,
};

/* ---- drivers ------------------------------------------------------------ */

static void mirror_set_speed(struct job *job, int64_t speed)
{
    engine_set_speed(mirror_of(job)->engine);
}

static int64_t mirror_dirty_bytes(const struct job *job)
{
    return __atomic_load_n(&((const struct mirror_job *)job)->dirty_bytes,
                           __ATOMIC_RELAXED);
}

static void mirror_free(struct job *job)
{
    struct mirror_job *mj = mirror_of(job);

    engine_free(&mj->engine);
    g_free(mj->replaces);
}

#define MIRROR_DRIVER(type_, change_) { \
    .type = type_, \
    .job_size = sizeof(struct mirror_job), \
    .is_block_job = true, \
    .run = mirror_run, \
    .prepare = mirror_prepare, \
    .clean = mirror_clean, \
    .complete = mirror_complete, \
    .change = change_, \
    .cancel = mirror_cancel, \
    .soft_cancel_is_hard = mirror_soft_cancel_is_hard, \
    .user_resume = mirror_user_resume, \
    .set_speed = mirror_set_speed, \
    .query = mirror_query, \
    .dirty_bytes = mirror_dirty_bytes, \
    .free = mirror_free, \
}

static const struct job_driver mirror_driver =
    MIRROR_DRIVER(JOB_TYPE_MIRROR, mirror_change);
static const struct job_driver commit_driver =
    MIRROR_DRIVER(JOB_TYPE_COMMIT, NULL);

/* ---- checks ------------------------------------------------------------- */

static bool check(const struct mirror_options *o, struct error **errp)
{
    bool commit = o->type == JOB_TYPE_COMMIT;

    if (o->source == o->target) {
        error_set(errp, "Can't mirror node into itself");
        return false;
    }
    return node_op_allowed(o->source, commit ? NODE_OP_COMMIT_SOURCE
                                             : NODE_OP_MIRROR_SOURCE, errp) &&
           node_op_allowed(o->target, commit ? NODE_OP_COMMIT_TARGET
                                             : NODE_OP_MIRROR_TARGET, errp);
}

/* ---- granules ----------------------------------------------------------- */

/* Will the target show something else where it has nothing?  Then what is
 * written in a part of one of its clusters must not be all that is there. */
static bool target_changes(const struct mirror_options *o)
{
    return o->type == JOB_TYPE_MIRROR &&
           (o->backing != MIRROR_BACKING_AS_IS ||
            (o->sync != MIRROR_SYNC_MODE_FULL &&
             !node_backing(node_skip_filters(o->target))));
}

static uint32_t granularity_for(const struct mirror_options *o)
{
    int64_t cluster = node_cluster_bytes(o->target);
    int64_t unit = o->granularity;

    if (!unit) {
        unit = cluster ? CLAMP(cluster, MIN_DEFAULT_GRANULARITY,
                               MAX_DEFAULT_GRANULARITY)
                       : MAX_DEFAULT_GRANULARITY;
    }
    return target_changes(o) ? MAX(unit, cluster) : unit;
}

/* ---- the job gets what it works on -------------------------------------- */

static struct node *insert_filter(const struct mirror_options *o,
                                  struct error **errp)
{
    struct mirror_top_options options = {
        .name = o->filter_node_name,
        .granularity = granularity_for(o),
        .whole_granules = target_changes(o),
        .unmap = o->unmap,
        .is_commit = o->type == JOB_TYPE_COMMIT,
        .ops = &mirror_guest_ops,
    };

    return mirror_top_insert(o->source, o->target, &options, errp);
}

static struct engine *make_engine(struct mirror_job *mj)
{
    int64_t buf = mj->o.buf_bytes ? mj->o.buf_bytes : DEFAULT_BUF_BYTES;
    int64_t chunk = MIN(buf, COPIER_CHUNK_BYTES);
    struct engine_options options = {
        .job = &mj->job,
        .copier = mj->copier,
        .on_source_error = mj->o.on_source_error,
        .on_target_error = mj->o.on_target_error,
        .max_workers = MAX(MIN(buf / chunk, 16), 1),
        .max_chunk_bytes = chunk,
        .limited_chunk_bytes = buf,
        .check = mirror_check_end,
        .opaque = mj,
    };

    return engine_new(&options);
}

/* Nobody else reads or writes the target; a commit's is read through the
 * source. */
static bool add_target_root(struct mirror_job *mj, struct error **errp)
{
    struct root_options options = {
        .name = "root",
        .perm = PERM_WRITE,
        .shared = mj->o.type == JOB_TYPE_COMMIT
                  ? PERM_CONSISTENT_READ | PERM_WRITE | PERM_WRITE_UNCHANGED
                  : PERM_WRITE_UNCHANGED,
        .no_gate = true,
        .stay_on_node = true,
    };

    mj->target_root = root_new(mj->target, &options, errp);
    return mj->target_root;
}

static struct node *next_layer(struct node *n)
{
    struct node *next = node_filtered(n);

    return next ? next : node_backing(n);
}

/* A commit's layers between stay where they are. */
static bool hold_chain(struct mirror_job *mj, struct error **errp)
{
    if (mj->o.type != JOB_TYPE_COMMIT) {
        return true;
    }
    if (!node_freeze_chain(mj->source, mj->target, errp)) {
        return false;
    }
    mj->chain_frozen = true;
    for (struct node *n = next_layer(mj->source); n && n != mj->target;
         n = next_layer(n)) {
        if (!job_add_root(&mj->job, n, "intermediate node", 0,
                          PERM_WRITE | PERM_WRITE_UNCHANGED, errp)) {
            return false;
        }
    }
    return true;
}

static bool add_roots(struct mirror_job *mj, struct error **errp)
{
    const unsigned no_resize = PERM_ALL & ~PERM_RESIZE;

    return job_add_root(&mj->job, mj->filter, "main node",
                        PERM_CONSISTENT_READ, no_resize, errp) &&
           job_add_root(&mj->job, mj->source, "source", 0, no_resize, errp) &&
           job_add_root(&mj->job, mj->target, "target", 0, PERM_ALL, errp) &&
           add_target_root(mj, errp) && hold_chain(mj, errp);
}

static void take_options(struct mirror_job *mj, const struct mirror_options *o)
{
    mj->o = *o;
    mj->replaces = g_strdup(o->replaces);
    mj->copy_mode = o->copy_mode;
    mj->source = node_ref(o->source);
    mj->target = node_ref(o->target);
    mj->base = o->base ? node_ref(o->base) : NULL;
}

/* Takes the filter.  False: MJ is gone, and so is the filter. */
static bool equip(struct mirror_job *mj, const struct mirror_options *o,
                  struct node *filter, struct error **errp)
{
    struct mirror_job nodes;

    take_options(mj, o);
    mj->filter = filter;
    mj->filter_in = true;
    mj->copier = mirror_top_copier(filter);
    mj->engine = make_engine(mj);
    mirror_top_set_opaque(filter, mj);
    copier_set_progress(mj->copier, mirror_progress, mj);
    if (add_roots(mj, errp)) {
        return true;
    }
    mirror_take_apart(mj);
    nodes = *mj;                /* it is freed before they may be closed */
    job_early_fail(&mj->job);
    mirror_drop_nodes(&nodes);
    return false;
}

/* The filter comes before the job, whose events are seen. */
static struct mirror_job *start_drained(const struct mirror_options *o,
                                        struct error **errp)
{
    const struct job_driver *driver = o->type == JOB_TYPE_COMMIT
                                      ? &commit_driver : &mirror_driver;
    struct mirror_job *mj;
    struct node *filter;

    if (!check(o, errp)) {
        return NULL;
    }
    filter = insert_filter(o, errp);
    if (!filter) {
        return NULL;
    }
    mj = (struct mirror_job *)job_create(driver, &o->job, errp);
    if (!mj) {
        mirror_top_remove(filter);
        node_unref(filter);
        return NULL;
    }
    return equip(mj, o, filter, errp) ? mj : NULL;
}

bool mirror_start(const struct mirror_options *o, struct error **errp)
{
    struct node *nodes[] = { o->source, o->target };
    struct mirror_job *mj;
    struct drain *drain;

    control_assert();
    if (!check(o, errp)) {
        return false;
    }
    drain = drain_begin(nodes, G_N_ELEMENTS(nodes));
    mj = start_drained(o, errp);    /* checks again: the drain has yielded */
    drain_end(&drain);
    if (mj) {
        job_start(&mj->job);
    }
    return mj;
}
