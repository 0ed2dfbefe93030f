/* SPDX-License-Identifier: MIT */
/*
 * Stream: see stream.h.
 *
 * Design      A copy-on-read filter over the device does the copying, for the
 *             job as for guests that read; the copier's todo says what is
 *             left.  It is found out a stretch at a time, ahead of the copies.
 * Invariants  I1  Clusters in todo lie below scanned; what is below it and not
 *                 in todo is done, or need not be.
 *             I2  The links from device to above_base are frozen until the end:
 *                 the base may be another one then, nothing else.
 *             I3  The header names the base only when all that was copied is on
 *                 stable storage.
 * Progress    In order of the disk, as users know it: all below the offset is
 *             done.
 * Threads     run(), scan: the job's thread; copied(): its workers.  All else:
 *             control lock.
 */
#include "blockjobs/stream-priv.h"

#include <errno.h>
#include "base/control.h"
#include "base/error.h"
#include "block/cancel.h"
#include "block/copier.h"
#include "block/driver.h"
#include "block/filters/copy-on-read.h"
#include "block/root.h"
#include "blockjobs/engine.h"

enum {
    CHUNK_BYTES = 512 << 10,        /* the step that users see */
    STRETCH_BYTES = 1 << 30,        /* to be copied, before the scan goes on */
    LOOK_BYTES = 64 << 20,          /* of one look */
};

/* ---- progress ----------------------------------------------------------- */

static void stream_copied(void *opaque)
{
    struct stream_job *sj = opaque;
    int64_t done;

    LOCK_GUARD(&sj->lock);
    done = MIN(copier_done_below(sj->copier, sj->done), sj->scanned);
    job_progress_add(&sj->job, done - sj->done);
    sj->done = done;
}

/* ---- what is to be copied ----------------------------------------------- */

static void set_scanned(struct stream_job *sj, int64_t offset)
{
    LOCK_GUARD(&sj->lock);
    sj->scanned = offset;
}

/* *BYTES from OFFSET on, to be copied or not.  Where that cannot be found out
 * the copy will tell the error. */
static bool is_to_be_copied(struct stream_job *sj, int64_t offset,
                            int64_t *bytes)
{
    int64_t most = MIN(*bytes, CHUNK_BYTES);
    struct cor_run run;

    if (cor_look(sj->filter, offset, bytes, &run) < 0) {
        *bytes = most;
        return true;
    }
    /* Without a backing file it reads as zeroes in any case. */
    return run.copy && !(run.zero && sj->no_base);
}

/* Below may be a server that does not answer. */
static bool cancel_is_asked(void *opaque)
{
    return job_is_cancelled(opaque);
}

/* From scanned on, until there is a stretch to be copied, or all is known. */
static int scan(struct stream_job *sj)
{
    int64_t length = copier_length(sj->copier), offset = sj->scanned;
    int64_t unit = copier_cluster_bytes(sj->copier), found = 0;

    while (offset < length && found < STRETCH_BYTES) {
        int64_t bytes = MIN(length - offset, LOOK_BYTES);
        bool copy;
        cancel_begin(cancel_is_asked, &sj->job);
        copy = is_to_be_copied(sj, offset, &bytes);
        cancel_end();
        if (copy) {
            int64_t first = offset / unit;
            bits_set(copier_todo(sj->copier), first,
                     (offset + bytes + unit - 1) / unit - first);
            found += bytes;
        }
        offset += bytes;
        job_pause_point(&sj->job);
        if (job_is_cancelled(&sj->job)) {
            return -ECANCELED;
        }
    }
    set_scanned(sj, offset);
    return 0;
}

/* ---- the job ------------------------------------------------------------ */

static int stream_move(void *opaque, int64_t offset, int64_t bytes,
                       struct copier_result *result)
{
    struct stream_job *sj = opaque;

    result->is_read = true;     /* which side it was users do not hear */
    return cor_prefetch(sj->filter, offset, bytes);
}

static bool nothing_between(const struct stream_job *sj)
{
    return sj->chain.bottom == sj->chain.overlay;
}

static int stream_run(struct job *job, struct error **errp)
{
    struct stream_job *sj = stream_of(job);
    int64_t length = copier_length(sj->copier);
    int left_out = 0, ret;

    if (nothing_between(sj)) {
        return 0;
    }
    job_progress_set_remaining(job, length);
    while (sj->scanned < length) {
        ret = scan(sj);
        if (ret == 0) {
            ret = engine_run(sj->engine);
            stream_copied(sj);
        }
        if (ret == -ECANCELED ||
            (ret < 0 && sj->on_error != BLOCKDEV_ON_ERROR_IGNORE)) {
            return ret;
        }
        left_out = left_out ? left_out : ret;
    }
    if (left_out) {
        return left_out;
    }
    job_hurry(job);
    return engine_flush(sj->engine);    /* I3 */
}

static void stream_set_speed(struct job *job, int64_t speed)
{
    engine_set_speed(stream_of(job)->engine);
}

static void stream_free(struct job *job)
{
    struct stream_job *sj = stream_of(job);

    engine_free(&sj->engine);
    copier_free(&sj->copier);
    lock_deinit(&sj->lock);
    g_free(sj->backing_file);
}

static const struct job_driver stream_driver = {
    .type = JOB_TYPE_STREAM,
    .job_size = sizeof(struct stream_job),
    .is_block_job = true,
    .run = stream_run,
    .prepare = stream_prepare,
    .clean = stream_clean,
    .set_speed = stream_set_speed,
    .free = stream_free,
};

/* ---- the beginning ------------------------------------------------------ */

/* Clusters of the overlay, as whole ones, but not too many. */
static uint32_t unit_bytes(struct node *overlay)
{
    enum { LEAST = 64 << 10 };

    return MAX(node_cluster_bytes(overlay), LEAST);
}

static void equip(struct stream_job *sj, const struct stream_options *o,
                  struct node *filter)
{
    sj->chain.device = node_ref(o->chain.device);
    sj->chain.overlay = node_ref(o->chain.overlay);
    sj->chain.bottom = node_ref(o->chain.bottom);
    sj->chain.above_base = node_ref(o->chain.above_base);
    sj->filter = filter;
    sj->frozen = true;
    sj->on_error = o->on_error;
    sj->backing_file = g_strdup(o->backing_file);
    sj->mask_protocol = o->mask_protocol;
    sj->no_base = !node_chain_next(o->chain.above_base);
    lock_init(&sj->lock, "stream", LOCK_JOB);
}

static bool make_engine(struct stream_job *sj, struct error **errp)
{
    struct copier_options copier = {
        .source = sj->filter->file,
        .target = sj->filter->file,
        .length = node_length(sj->chain.device),
        .cluster_bytes = unit_bytes(sj->chain.overlay),
        .move = stream_move,
        .move_opaque = sj,
    };
    struct engine_options engine = {
        .job = &sj->job,
        .on_source_error = sj->on_error,
        .on_target_error = sj->on_error,
        .max_chunk_bytes = CHUNK_BYTES,
        .limited_chunk_bytes = CHUNK_BYTES,
        .ignore_skips = true,
        .copied = stream_copied,
        .opaque = sj,
    };

    engine.copier = sj->copier = copier_new(&copier);
    if (!sj->copier) {
        error_set(errp, "No memory for the copy bitmap of '%s'",
                  node_name(sj->chain.device));
        return false;
    }
    sj->engine = engine_new(&engine);
    return true;
}

/* In QEMU's order: layers first, what is streamed last. */
static bool add_roots(struct stream_job *sj, struct error **errp)
{
    const unsigned reads = PERM_CONSISTENT_READ | PERM_WRITE_UNCHANGED;
    const struct stream_chain *c = &sj->chain;
    struct node *base = node_chain_next(c->above_base);
    bool in_overlay = c->device != c->overlay;  /* filters are above it */

    if (!job_add_root(&sj->job, sj->filter, "main node",
                      PERM_CONSISTENT_READ, reads | PERM_WRITE, errp) ||
        !job_add_root(&sj->job, c->device, "active node", 0,
                      reads | PERM_WRITE, errp)) {
        return false;
    }
    for (struct node *n = node_chain_next(c->device); n && n != base;
         n = node_chain_next(n)) {
        if (!job_add_root(&sj->job, n, "intermediate node", 0,
                          in_overlay ? reads | PERM_WRITE : reads, errp)) {
            return false;
        }
        in_overlay = in_overlay && n != c->overlay;
    }
    return true;
}

/* Forget a job that has not been started. */
static void drop_job(struct stream_job *sj)
{
    struct stream_chain c = sj->chain;
    struct node *filter = sj->filter;

    job_drop_roots(&sj->job);
    cor_remove(filter);
    stream_unfreeze(sj);
    job_early_fail(&sj->job);
    node_unref_later(filter);
    node_unref(c.above_base);
    node_unref(c.bottom);
    node_unref(c.overlay);
    node_unref(c.device);
}

static struct node *insert_filter(const struct stream_options *o,
                                  struct error **errp)
{
    struct node *filter = cor_insert(o->chain.device, o->filter_node_name,
                                     o->chain.bottom, errp);

    if (!filter) {
        error_prepend(errp, "Could not create node: ");
    }
    return filter;
}

/* Filters of jobs that come and go by themselves are no part of what we count
 * on (I2). */
static bool can_freeze(const struct stream_chain *c, struct error **errp)
{
    for (struct node *n = c->device; n != c->above_base; ) {
        struct node *next = node_chain_next(n);

        if (next->driver->never_frozen) {
            error_set(errp, "Cannot freeze '%s' link to '%s'",
                      n->driver->is_filter ? "file" : "backing",
                      node_name(next));
            return false;
        }
        n = next;
    }
    return true;
}

struct job *stream_new(const struct stream_options *o, struct error **errp)
{
    const struct stream_chain *c = &o->chain;
    struct stream_job *sj;
    struct node *filter;

    control_assert();
    if (!can_freeze(c, errp)) {
        return NULL;
    }
    if (!node_freeze_chain(c->device, c->above_base, errp)) {
        error_prepend(errp, "Could not create node: ");
        return NULL;
    }
    filter = insert_filter(o, errp);
    sj = filter ? (struct stream_job *)job_create(&stream_driver, &o->job,
                                                  errp) : NULL;
    if (!sj) {
        node_unfreeze_chain(c->device, c->above_base);
        if (filter) {
            cor_remove(filter);
            node_unref_later(filter);
        }
        return NULL;
    }
    equip(sj, o, filter);
    if (!make_engine(sj, errp) || !add_roots(sj, errp)) {
        drop_job(sj);
        return NULL;
    }
    return &sj->job;
}

void stream_restore_read_only(struct job *job, GSList *nodes)
{
    stream_of(job)->read_only_again = nodes;
}
