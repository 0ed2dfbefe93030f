/* SPDX-License-Identifier: MIT */
/*
 * Mirror: what users ask of a running one, and the end.
 *
 * The end     run() has ended with next to nothing left.  While the job waits
 *             to be finalized guests go on, and the filter notes what they
 *             write.  prepare() copies most of that beside them, then drains
 *             both sides, copies the rest, and lets the target take the
 *             source's place; clean() lets guests go on.
 */
#include <errno.h>
#include "base/control.h"
#include "bitmaps/bits.h"
#include "block/copier.h"
#include "block/driver.h"
#include "block/filename.h"
#include "block/filters/mirror-top.h"
#include "block/reopen.h"
#include "block/root.h"
#include "blockjobs/engine.h"
#include "blockjobs/mirror-priv.h"
#include "blockjobs/mirror-replaces.h"

enum {
    REST_BYTES = 4 << 20,       /* so much is copied while guests wait */
    SLICE_BYTES = 32 << 20,     /* between two looks at the control plane */
    MOST_PASSES = 8,            /* beside guests that write faster */
};

/* ---- complete ----------------------------------------------------------- */

/* drive-mirror, mode=existing: what the target's header names is opened only
 * now; it need not have been there before. */
static bool open_new_backing(struct mirror_job *mj, struct error **errp)
{
    struct node *image = node_skip_filters(mj->target);
    g_autofree char *name = NULL, *format = NULL;
    AUTO_ERROR(err);

    if (mj->o.backing != MIRROR_BACKING_OPEN || mj->new_backing ||
        node_backing(image) || !image->header_backing_file) {
        return true;
    }
    name = node_resolved_backing_name(image, errp);
    if (!name) {
        return false;
    }
    format = g_strdup(image->header_backing_format);
    mj->n_completing++;
    mj->new_backing = node_open_filename(name, format, true, NULL, &err);
    mj->n_completing--;
    control_notify();
    if (!mj->new_backing) {
        error_prepend(&err, "Could not open backing file: ");
        error_propagate(errp, g_steal_pointer(&err));
    }
    return mj->new_backing;
}

/* Nobody may touch what is to be replaced from now on. */
static bool pin_replaced(struct mirror_job *mj, struct error **errp)
{
    struct node *n;

    if (!mj->replaces || mj->to_replace) {
        return true;
    }
    n = node_find(mj->replaces);
    if (!n) {
        error_set(errp, "Node name '%s' not found", mj->replaces);
        return false;
    }
    node_block_all_ops(n, mj, "block device is in use by block job: mirror");
    mj->to_replace = node_ref(n);
    return true;
}

bool mirror_complete(struct job *job, struct error **errp)
{
    struct mirror_job *mj = mirror_of(job);

    if (mj->n_completing > 0) {
        error_set(errp, "The active block job '%s' cannot be completed",
                  job->id);
        return false;
    }
    if (!open_new_backing(mj, errp) || !pin_replaced(mj, errp)) {
        return false;
    }
    __atomic_store_n(&mj->complete_asked, true, __ATOMIC_RELEASE);
    job_kick(job);
    return true;
}

/* ---- change, cancel, query ---------------------------------------------- */

bool mirror_change(struct job *job, const BlockJobChangeOptions *options,
                   struct error **errp)
{
    struct mirror_job *mj = mirror_of(job);
    MirrorCopyMode mode = options->u.mirror.copy_mode;

    if (mode == (MirrorCopyMode)__atomic_load_n(&mj->copy_mode,
                                                __ATOMIC_RELAXED)) {
        return true;
    }
    if (mode != MIRROR_COPY_MODE_WRITE_BLOCKING) {
        error_set(errp, "Change to copy mode '%s' is not implemented",
                  MirrorCopyMode_str(mode));
        return false;
    }
    __atomic_store_n(&mj->copy_mode, mode, __ATOMIC_SEQ_CST);
    if (mj->filter_in && __atomic_load_n(&mj->running, __ATOMIC_SEQ_CST)) {
        mirror_top_set_mode(mj->filter, MIRROR_TOP_BLOCKING);
    }
    return true;
}

/* Guests must not wait for a target that hangs, and then nobody else. */
void mirror_cancel(struct job *job, bool force)
{
    struct mirror_job *mj = mirror_of(job);

    if (force && mj->filter_in) {
        mirror_top_set_mode(mj->filter, MIRROR_TOP_BACKGROUND);
        node_cancel_in_flight(mj->target);
    }
    job_kick(job);
}

bool mirror_soft_cancel_is_hard(struct job *job)
{
    return job->status != JOB_STATUS_READY &&
           job->status != JOB_STATUS_STANDBY;
}

/* Time spent in a pause is no reason to hurry. */
void mirror_user_resume(struct job *job)
{
    __atomic_store_n(&mirror_of(job)->end_asked_ns, 0, __ATOMIC_RELAXED);
}

void mirror_query(struct job *job, BlockJobInfo *info)
{
    struct mirror_job *mj = mirror_of(job);

    if (info->type == JOB_TYPE_MIRROR) {
        info->u.mirror.actively_synced =
            mj->filter_in && __atomic_load_n(&mj->running, __ATOMIC_RELAXED) &&
            __atomic_load_n(&mj->ready, __ATOMIC_RELAXED) &&
            __atomic_load_n(&mj->copy_mode, __ATOMIC_RELAXED) ==
            MIRROR_COPY_MODE_WRITE_BLOCKING &&
            bits_empty(copier_todo(mj->copier));
    }
}

/* ---- the rest ----------------------------------------------------------- */

/* No lock; the filter is held in flight, or drained. */
static int copy_slice(struct mirror_job *mj, int64_t *at, int64_t most)
{
    struct copier_result result;
    int64_t start, n;
    int ret = 0;

    for (int64_t done = 0; ret == 0 && done < most; done += n) {
        n = copier_next(mj->copier, *at, COPIER_CHUNK_BYTES, &start);
        if (n == 0) {
            *at = copier_length(mj->copier);
            break;
        }
        ret = copier_copy(mj->copier, start, n, &result);
        *at = start + n;
    }
    return ret;
}

/* A pass beside guests and, between slices, commands. */
static int copy_beside(struct mirror_job *mj)
{
    int64_t at = 0;
    int ret = 0;

    while (ret == 0 && at < copier_length(mj->copier)) {
        while (root_is_drained(mj->target_root)) {
            control_wait();
        }
        node_inc_in_flight(mj->filter);
        CONTROL_YIELD {
            ret = copy_slice(mj, &at, SLICE_BYTES);
        }
        node_dec_in_flight(mj->filter);
    }
    return ret;
}

static int64_t rest_bytes(const struct mirror_job *mj)
{
    return bits_total(copier_todo(mj->copier)) *
           (int64_t)copier_cluster_bytes(mj->copier);
}

static int copy_most(struct mirror_job *mj)
{
    int64_t before = INT64_MAX;
    int ret = 0;

    for (int i = 0; ret == 0 && i < MOST_PASSES; i++) {
        if (rest_bytes(mj) <= REST_BYTES || rest_bytes(mj) >= before) {
            break;
        }
        before = rest_bytes(mj);
        ret = copy_beside(mj);
    }
    return ret;
}

static int copy_rest(struct mirror_job *mj)
{
    int ret = 0;

    CONTROL_YIELD {
        while (ret == 0 && !bits_empty(copier_todo(mj->copier))) {
            int64_t at = 0;
            ret = copy_slice(mj, &at, INT64_MAX);
        }
        if (ret == 0) {
            ret = copier_flush(mj->copier);
        }
    }
    return ret;
}

/* ---- pivot -------------------------------------------------------------- */

/* What the target's new backing node is; NULL: it stays as it is. */
static struct node *backing_to_be(struct mirror_job *mj)
{
    switch (mj->o.backing) {
    case MIRROR_BACKING_OPEN:
        return mj->new_backing;
    case MIRROR_BACKING_OF_SOURCE:
        return mj->o.sync == MIRROR_SYNC_MODE_NONE ? mj->source
               : mj->o.sync == MIRROR_SYNC_MODE_TOP ? mj->base : NULL;
    default:
        return NULL;
    }
}

static bool attach_backing(struct mirror_job *mj, struct child **link,
                           struct error **errp)
{
    struct node *image = node_skip_filters(mj->target);
    struct node *backing = backing_to_be(mj);

    *link = NULL;
    if (!backing || node_backing(image)) {
        return true;
    }
    *link = node_attach_child(image, backing, "backing", ROLE_COW, errp);
    return *link;
}

/* The header says so already. */
static void settle_backing(struct mirror_job *mj)
{
    struct node *image = node_skip_filters(mj->target);
    g_autofree char *file = g_strdup(image->header_backing_file);
    g_autofree char *format = g_strdup(image->header_backing_format);

    if (file) {
        node_set_header_backing(image, file, format);
    }
}

static bool pivot(struct mirror_job *mj, struct error **errp)
{
    struct node *from = mj->to_replace ? mj->to_replace : mj->source;
    struct child *link;

    if (mj->to_replace &&
        !mirror_replaces_check(mj->source, mj->to_replace, mj->target, errp)) {
        return false;
    }
    if (!attach_backing(mj, &link, errp)) {
        return false;
    }
    if (!node_replace(from, mj->target, errp)) {
        if (link) {
            node_detach_child(link->parent, link);
        }
        return false;
    }
    if (link) {
        settle_backing(mj);
    }
    return true;
}

static struct drain *drain_all_sides(struct mirror_job *mj)
{
    struct node *nodes[] = {
        mj->source, mj->target, mj->filter_in ? mj->filter : mj->source,
        mj->to_replace ? mj->to_replace : mj->source,
    };

    return drain_begin(nodes, G_N_ELEMENTS(nodes));
}

int mirror_prepare(struct job *job, struct error **errp)
{
    struct mirror_job *mj = mirror_of(job);
    AUTO_ERROR(err);
    int ret = copy_most(mj);

    if (ret < 0) {
        return ret;
    }
    mj->drain = drain_all_sides(mj);
    ret = copy_rest(mj);
    if (ret < 0 || job_cancel_requested(job)) {
        return ret;             /* cancelled when ready: the copy is kept */
    }
    mirror_take_apart(mj);
    if (!pivot(mj, &err)) {
        error_report(err);
        return -EPERM;
    }
    mj->pivoted = true;
    return 0;
}

/* ---- the end ------------------------------------------------------------ */

void mirror_take_apart(struct mirror_job *mj)
{
    job_drop_roots(&mj->job);
    root_free(&mj->target_root);
    if (mj->filter_in) {
        mirror_top_remove(mj->filter);
        mj->filter_in = false;
        mj->copier = NULL;
    }
    if (mj->chain_frozen) {
        node_unfreeze_chain(mj->source, mj->target);
        mj->chain_frozen = false;
    }
    if (mj->to_replace) {
        node_unblock_all_ops(mj->to_replace, mj);
    }
}

void mirror_drop_nodes(struct mirror_job *mj)
{
    node_unref(g_steal_pointer(&mj->filter));
    node_unref(g_steal_pointer(&mj->to_replace));
    node_unref(g_steal_pointer(&mj->new_backing));
    node_unref(g_steal_pointer(&mj->base));
    node_unref(g_steal_pointer(&mj->target));
    node_unref(g_steal_pointer(&mj->source));
}

/* In the place of a node that is not written the target is not either.  If it
 * cannot be made so it stays writable; queries show it. */
static void match_read_only(struct mirror_job *mj)
{
    struct node *from = mj->to_replace ? mj->to_replace : mj->source;
    struct node *target = mj->target;
    AUTO_ERROR(err);

    if (!from->read_only || target->read_only ||
        !target->driver->reopen_prepare) {
        return;                 /* most filters never change */
    }
    if (!node_set_read_only(target, true, &err)) {
        error_prepend(&err, "Node '%s' stays writable in the place of '%s': ",
                      node_name(target), node_name(from));
        error_report(err);
    }
}

/* After commit or abort alike. */
void mirror_clean(struct job *job)
{
    struct mirror_job *mj = mirror_of(job);
    bool succeeded = job->ret == 0 && mj->pivoted;

    while (mj->n_completing > 0) {
        control_wait();
    }
    if (!mj->drain) {
        mj->drain = drain_all_sides(mj);
    }
    mirror_take_apart(mj);
    if (mj->o.finish) {
        mj->o.finish(mj->o.opaque, succeeded);
    }
    drain_end(&mj->drain);
    if (succeeded && mj->o.type == JOB_TYPE_MIRROR) {
        match_read_only(mj);
    }
    mirror_drop_nodes(mj);
    if (mj->o.released) {
        mj->o.released(mj->o.opaque, succeeded);
    }
}
