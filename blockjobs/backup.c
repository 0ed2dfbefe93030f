/* SPDX-License-Identifier: MIT */
/*
 * Backup: copies what the source holds at the job's start to the target.
 *
 * Design      A copy-before-write filter over the source and the engine share
 *             one todo: the engine copies in the background, the filter what
 *             guests are about to overwrite.
 * Bitmap      From the job's start the named bitmap is frozen and busy, its
 *             successor records; at the end sync_mode_finish() makes of them
 *             and of todo what bitmap-mode says.
 * Threads     run(): the job's thread.  All else: control lock.
 */
#include <errno.h>
#include "base/control.h"
#include "bitmaps/dirty-bitmap.h"
#include "bitmaps/sync-mode.h"
#include "block/backend.h"
#include "block/copier.h"
#include "block/driver.h"
#include "block/filters/copy-before-write.h"
#include "block/root.h"
#include "blockjobs/backup-priv.h"
#include "blockjobs/engine.h"

struct backup_job {
    struct job job;
    /* Set by backup_prepare(), then constant until clean(). */
    MirrorSyncMode sync;
    struct node *source, *target;   /* refs */
    struct node *filter;            /* ref */
    struct copier *copier;          /* borrowed from the filter */
    struct engine *engine;          /* owned */
    struct dirty_bitmap *bitmap;    /* borrowed (busy), or NULL */
    enum sync_mode bitmap_mode;
};

static struct backup_job *backup_of(struct job *job)
{
    return (struct backup_job *)job;
}

/* ---- the job ------------------------------------------------------------ */

static void backup_progress(void *opaque, int64_t bytes, bool skipped)
{
    if (skipped) {
        job_progress_add_remaining(opaque, -bytes);
    } else {
        job_progress_add(opaque, bytes);
    }
}

static int backup_check_snapshot(void *opaque)
{
    struct backup_job *bj = opaque;

    return cbw_snapshot_error(bj->filter);
}

/* sync=none: the guest's writes are all that is copied. */
static int wait_for_cancel(struct backup_job *bj)
{
    while (!job_is_cancelled(&bj->job)) {
        int ret = cbw_snapshot_error(bj->filter);
        if (ret < 0) {
            return ret;
        }
        job_sleep_until(&bj->job, clock_ns() + 1000000000);
    }
    return -ECANCELED;
}

static int backup_run(struct job *job, struct error **errp)
{
    struct backup_job *bj = backup_of(job);
    int ret = 0;

    if (bj->sync == MIRROR_SYNC_MODE_NONE) {
        return wait_for_cancel(bj);
    }
    if (bj->sync == MIRROR_SYNC_MODE_TOP) {
        ret = engine_skip_unallocated(bj->engine);
    }
    if (ret == 0) {
        ret = engine_run(bj->engine);
    }
    if (ret == 0) {
        ret = cbw_snapshot_error(bj->filter);
    }
    /* Who hears that it is done may lose power, or us, at once. */
    return ret < 0 ? ret : engine_flush(bj->engine);
}

/* The target may be a server that is gone. */
static void backup_cancel(struct job *job, bool force)
{
    if (backup_of(job)->target) {   /* not dropped yet, at the end */
        node_cancel_in_flight(backup_of(job)->target);
    }
}

static void backup_set_speed(struct job *job, int64_t speed)
{
    engine_set_speed(backup_of(job)->engine);
}

static void backup_free(struct job *job)
{
    engine_free(&backup_of(job)->engine);
}

/* Everything is drained, and run() is over or never was. */
static void take_apart(struct backup_job *bj, bool succeeded)
{
    job_drop_roots(&bj->job);
    if (bj->bitmap) {
        sync_mode_finish(bj->bitmap, bj->bitmap_mode, succeeded,
                         copier_todo(bj->copier),
                         copier_cluster_bytes(bj->copier));
        bj->bitmap = NULL;
    }
    cbw_remove(bj->filter);
    bj->copier = NULL;
}

static void drop_nodes(struct backup_job *bj)
{
    node_unref(g_steal_pointer(&bj->filter));
    node_unref(g_steal_pointer(&bj->target));
    node_unref(g_steal_pointer(&bj->source));
}

/* After commit or abort alike. */
static void backup_clean(struct job *job)
{
    struct backup_job *bj = backup_of(job);
    struct node *nodes[] = { bj->filter, bj->source, bj->target };
    struct drain *drain = drain_begin(nodes, G_N_ELEMENTS(nodes));

    take_apart(bj, job->ret == 0);
    drain_end(&drain);
    drop_nodes(bj);
}

static bool backup_is_endless(const struct job *job)
{
    return ((const struct backup_job *)job)->sync == MIRROR_SYNC_MODE_NONE;
}

static const struct job_driver backup_driver = {
    .type = JOB_TYPE_BACKUP,
    .job_size = sizeof(struct backup_job),
    .is_block_job = true,
    .run = backup_run,
    .clean = backup_clean,
    .cancel = backup_cancel,
    .set_speed = backup_set_speed,
    .is_endless = backup_is_endless,
    .free = backup_free,
};

/* ---- before the job ----------------------------------------------------- */

struct backup *backup_new(const BackupCommon *common, struct node *source,
                          struct node *target)
{
    struct backup *b = g_new0(struct backup, 1);

    b->common = BackupCommon_clone(common);
    b->source = source;
    b->target = target;
    return b;
}

static void backup_new_undo(struct backup *b)
{
    node_unref(b->target);
    node_unref(b->source);
    BackupCommon_free(b->common);
    g_free(b);
}

struct node *backup_source(const struct backup *b)
{
    return b->source;
}

struct node *backup_target(const struct backup *b)
{
    return b->target;
}

/* ---- prepare ------------------------------------------------------------ */

/* What is to be copied at first. */
static void fill_todo(struct backup *b, struct copier *copier)
{
    struct bits *todo = copier_todo(copier);
    int64_t length = copier_length(copier);
    int64_t unit = copier_cluster_bytes(copier);

    if (!b->use_bitmap_bits) {
        bits_set(todo, 0, bits_size(todo));
        return;
    }
    for (int64_t at = 0, start; at < length; ) {
        int64_t bytes = dirty_bitmap_next_dirty(b->bitmap, at, length, length,
                                                &start);
        if (bytes == 0) {
            break;
        }
        at = MIN(start + bytes, length);
        bits_set(todo, start / unit, (at + unit - 1) / unit - start / unit);
    }
}

static struct node *insert_filter(struct backup *b, struct error **errp)
{
    const BackupCommon *a = b->common;
    struct cbw_options options = {
        .name = a->filter_node_name,
        .cluster_bytes = b->cluster_bytes,
        .break_snapshot = a->has_on_cbw_error &&
                          a->on_cbw_error == ON_CBW_ERROR_BREAK_SNAPSHOT,
        .timeout_ns = a->has_cbw_timeout
                      ? a->cbw_timeout * INT64_C(1000000000) : 0,
        .skip_unallocated = a->sync == MIRROR_SYNC_MODE_TOP,
        .skip_base = node_backing(node_skip_filters(b->source)),
        .compress = a->has_compress && a->compress,
        .use_copy_range = a->x_perf && a->x_perf->has_use_copy_range &&
                          a->x_perf->use_copy_range,
        .discard_source = a->has_discard_source && a->discard_source,
    };
    struct node *filter = cbw_insert(b->source, b->target, &options, errp);

    if (!filter) {
        error_prepend(errp, "Could not create node: ");
    } else {
        fill_todo(b, cbw_copier(filter));
    }
    return filter;
}

static struct backup_job *create_job(const struct backup *b,
                                     struct job_txn *txn, struct error **errp)
{
    const BackupCommon *a = b->common;
    g_autofree char *id = backend_job_id(a->job_id, a->device);
    struct job_options options = {
        .id = id,
        .manual_finalize = a->has_auto_finalize && !a->auto_finalize,
        .manual_dismiss = a->has_auto_dismiss && !a->auto_dismiss,
        .txn = txn,
        .speed = a->has_speed ? a->speed : 0,
    };

    return (struct backup_job *)job_create(&backup_driver, &options, errp);
}

static struct engine *make_engine(struct backup_job *bj,
                                  const BackupCommon *a)
{
    const BackupPerf *perf = a->x_perf;
    struct engine_options options = {
        .job = &bj->job,
        .copier = bj->copier,
        .on_source_error = a->has_on_source_error ? a->on_source_error
                                                  : BLOCKDEV_ON_ERROR_REPORT,
        .on_target_error = a->has_on_target_error ? a->on_target_error
                                                  : BLOCKDEV_ON_ERROR_REPORT,
        .max_workers = perf && perf->has_max_workers ? perf->max_workers : 0,
        /* Guests that write wait for a copy: it is not longer for that. */
        .max_chunk_bytes = perf && perf->has_max_chunk
                           ? MIN(perf->max_chunk, COPIER_CHUNK_BYTES) : 0,
        .check = backup_check_snapshot,
        .opaque = bj,
    };

    return engine_new(&options);
}

static enum sync_mode sync_mode_of(BitmapSyncMode mode)
{
    static const enum sync_mode modes[] = {
        [BITMAP_SYNC_MODE_ON_SUCCESS] = SYNC_MODE_ON_SUCCESS,
        [BITMAP_SYNC_MODE_NEVER] = SYNC_MODE_NEVER,
        [BITMAP_SYNC_MODE_ALWAYS] = SYNC_MODE_ALWAYS,
    };

    return modes[mode];
}

/* The job gets what it works on; its roots are the only step that can fail. */
static bool equip_job(struct backup *b, struct backup_job *bj,
                      struct node *filter, struct error **errp)
{
    bj->sync = b->common->sync;
    bj->source = node_ref(b->source);
    bj->target = node_ref(b->target);
    bj->filter = filter;
    bj->copier = cbw_copier(filter);
    bj->engine = make_engine(bj, b->common);
    copier_set_progress(bj->copier, backup_progress, bj);
    job_progress_set_remaining(&bj->job, copier_remaining(bj->copier));
    return job_add_root(&bj->job, filter, "main node", 0, PERM_ALL, errp) &&
           job_add_root(&bj->job, b->target, "target", 0, PERM_ALL, errp);
}

/* Forget a job that has not been started; END frees it. */
static void drop_job(struct backup_job *bj, void (*end)(struct job *job))
{
    struct node *filter, *target, *source;

    take_apart(bj, false);
    filter = bj->filter;
    target = bj->target;
    source = bj->source;
    end(&bj->job);
    node_unref(filter);
    node_unref(target);
    node_unref(source);
}

bool backup_prepare(struct backup *b, struct job_txn *txn,
                    struct error **errp)
{
    struct backup_job *bj;
    struct node *filter;

    control_assert();
    if (!backup_check(b, errp)) {
        return false;
    }
    filter = insert_filter(b, errp);
    if (!filter) {
        return false;
    }
    bj = create_job(b, txn, errp);
    if (!bj) {
        cbw_remove(filter);
        node_unref(filter);
        return false;
    }
    if (!equip_job(b, bj, filter, errp)) {
        drop_job(bj, job_early_fail);
        return false;
    }
    if (b->bitmap) {
        if (!dirty_bitmap_create_successor(b->bitmap, errp)) {
            drop_job(bj, job_early_fail);
            return false;
        }
        bj->bitmap = b->bitmap;
        bj->bitmap_mode = sync_mode_of(b->bitmap_mode);
    }
    b->job = bj;
    return true;
}

void backup_start(struct backup **bp)
{
    struct backup *b = *bp;

    control_assert();
    *bp = NULL;
    job_start(&b->job->job);
    backup_new_undo(b);
}

void backup_undo(struct backup **bp)
{
    struct backup *b = *bp;

    control_assert();
    *bp = NULL;
    if (!b) {
        return;
    }
    if (b->job) {
        b->job->bitmap_mode = SYNC_MODE_ON_SUCCESS;     /* failed: S u N */
        drop_job(b->job, job_undo);
    }
    backup_new_undo(b);
}
