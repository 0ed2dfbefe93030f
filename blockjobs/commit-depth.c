/* SPDX-License-Identifier: MIT */
/*
 * Depth-first commit: the layers above the base are drained upwards, one at a
 * time; what the base has safely is freed in the layer, and a layer with
 * nothing left to give leaves the chain at once.
 *
 *   overlay -> [commit_top] -> top -> ... -> lowest -> base
 *
 * Problem     A commit that is broken off (cancel, error, kill) is to leave
 *             images that all read right, and what it did is not to be done
 *             again.
 * Invariants  I1  What the next layer above hides is not moved and stays where
 *                 it is; all else is: the next layer is to read the same
 *                 without this one, whatever a still higher one hides.
 *             I2  The layer that is drained stands on the base.  So its
 *                 cluster, in the base as well, changes nothing that a layer
 *                 in the chain shows, and freed in the layer it shows from
 *                 below.
 *             I3  It is freed when the base has it on stable storage.
 *             I4  A layer leaves (headers first, then the graph) when the base
 *                 has all that I1 lets it have; where it is shorter than the
 *                 base and nothing above hides that, the base reads as zeroes
 *                 then.
 *             I5  One layer at a time is open for writing, and its content
 *                 does not change: persistent bitmaps stay as they are.
 * Threads     run(): the job's thread.  All else: control lock.
 */
#include "blockjobs/commit-depth-priv.h"

#include <errno.h>
#include "base/control.h"
#include "block/driver.h"
#include "block/filters/commit-top.h"
#include "blockjobs/commit-mark.h"

static struct depth_job *depth_of(struct job *job)
{
    return (struct depth_job *)job;
}

/* ---- the job ------------------------------------------------------------ */

static int drain_layers(struct depth_job *dj, struct error **errp)
{
    int ret = 0;

    while (ret == 0) {
        struct depth_layer *l = &dj->layers[dj->current];
        ret = depth_drain_layer(dj, l);
        if (dj->current == dj->n_layers - 1) {
            break;              /* it leaves when the job is finalized */
        }
        if (ret == 0) {
            ret = depth_leave(dj, l, errp);
        }
    }
    return ret;
}

static struct drain *drain_ends(struct depth_job *dj)
{
    struct node *nodes[] = { dj->filter, dj->top, dj->base.node };

    return drain_begin(nodes, G_N_ELEMENTS(nodes));
}

/* What the base must be able to hold: all that the next layer shows of each,
 * which may be more than the highest one shows. */
static int64_t base_length(const struct depth_job *dj)
{
    int64_t length = node_length(dj->top);

    for (int i = 0; i + 1 < dj->n_layers; i++) {
        length = MAX(length, MIN(node_length(dj->layers[i].node),
                                 node_length(dj->layers[i + 1].node)));
    }
    return length;
}

/* How far each layer has something to give: zeroes, too, where it is shorter
 * than the base and what stands on it. */
static void measure_layers(struct depth_job *dj)
{
    int64_t base = node_length(dj->base.node);

    for (int i = 0; i < dj->n_layers; i++) {
        struct depth_layer *l = &dj->layers[i];
        int64_t above = i + 1 < dj->n_layers
                        ? node_length(l[1].node)
                        : commit_longest_overlay(dj->filter);
        l->length = MAX(node_length(l->node), MIN(base, above));
    }
}

static int grow_base(struct depth_job *dj, struct error **errp)
{
    struct drain *drain;
    AUTO_ERROR(err);
    bool ok;

    job_graph_begin(&dj->job);
    drain = drain_ends(dj);
    ok = commit_base_grow(&dj->base, base_length(dj), &err);
    measure_layers(dj);
    drain_end(&drain);
    job_graph_end(&dj->job);
    if (!ok) {
        int ret = error_get_errno(err) ? -error_get_errno(err) : -EIO;
        error_prepend(&err, "Could not resize base node '%s': ",
                      node_name(dj->base.node));
        error_propagate(errp, g_steal_pointer(&err));
        return ret;
    }
    return 0;
}

static int depth_run(struct job *job, struct error **errp)
{
    struct depth_job *dj = depth_of(job);
    int ret = grow_base(dj, errp);

    if (ret == 0) {
        ret = depth_scan(dj);
    }
    if (ret == 0 && !depth_open_layer(dj, &dj->layers[0], errp)) {
        ret = -EIO;
    }
    return ret < 0 ? ret : drain_layers(dj, errp);
}

/* Any of them may be a server that is gone; or dropped already, at the end. */
static void depth_cancel(struct job *job, bool force)
{
    struct depth_job *dj = depth_of(job);

    if (dj->base.node) {
        node_cancel_in_flight(dj->base.node);
    }
    if (dj->top) {
        node_cancel_in_flight(dj->top);
    }
}

static void depth_set_speed(struct job *job, int64_t speed)
{
    job_kick(job);
}

static void depth_free(struct job *job)
{
    struct depth_job *dj = depth_of(job);

    for (int i = 0; i < dj->n_layers; i++) {
        depth_layer_free_bits(&dj->layers[i]);
    }
    g_free(dj->layers);
    g_free(dj->backing_file);
}

/* ---- the end ------------------------------------------------------------ */

/* I4, for the last one.  Last chance to fail. */
static int depth_prepare(struct job *job, struct error **errp)
{
    struct depth_job *dj = depth_of(job);
    struct drain *drain = drain_ends(dj);
    bool ok;

    dj->end = commit_end_new(dj->filter, dj->base.node, dj->backing_file,
                             dj->mask_protocol);
    ok = commit_end_rename(dj->end, errp);
    if (ok) {
        job_drop_roots(job);    /* ours would be in the way */
        ok = commit_end_replace(dj->end, errp);
    }
    if (ok && !dj->top_marked) {
        commit_unmark_base(dj->base.node);
    }
    drain_end(&drain);
    return ok ? 0 : -EIO;
}

/* Everything is drained. */
static void take_apart(struct depth_job *dj)
{
    job_drop_roots(&dj->job);
    if (dj->frozen) {
        node_unfreeze_chain(dj->filter, dj->base.node);
        dj->frozen = false;
    }
    if (dj->filter) {
        node_remove_filter(dj->filter);
    }
}

/* Layers before the base: below a layer that may be written it is followed. */
static void drop_nodes(struct depth_job *dj)
{
    commit_end_free(g_steal_pointer(&dj->end));
    node_unref(g_steal_pointer(&dj->filter));
    for (int i = 0; i < dj->n_layers; i++) {
        depth_close_layer(&dj->layers[i]);
    }
    node_unref(g_steal_pointer(&dj->top));
    node_unref(g_steal_pointer(&dj->active));
    commit_base_close(&dj->base);
}

static void depth_clean(struct job *job)
{
    struct depth_job *dj = depth_of(job);
    struct drain *drain = drain_ends(dj);

    take_apart(dj);
    drain_end(&drain);
    drop_nodes(dj);
}

static const struct job_driver depth_driver = {
    .type = JOB_TYPE_COMMIT,
    .job_size = sizeof(struct depth_job),
    .is_block_job = true,
    .run = depth_run,
    .prepare = depth_prepare,
    .clean = depth_clean,
    .cancel = depth_cancel,
    .set_speed = depth_set_speed,
    .free = depth_free,
};

/* ---- checks ------------------------------------------------------------- */

static bool check_snapshots(struct node *n, struct error **errp)
{
    SnapshotInfoList *list = n->driver->snapshot_list
                             ? n->driver->snapshot_list(n) : NULL;
    bool any = list && list->n > 0;

    if (list) {
        SnapshotInfoList_free(list);
    }
    if (any) {
        error_set(errp, "Layer '%s' has internal snapshots, which would "
                  "change with the base: not with commit-order depth-first",
                  node_name(n));
    }
    return !any;
}

static bool check_layer(struct node *n, struct error **errp)
{
    if (!n->driver->deallocate) {
        error_set(errp, "Block format '%s' used by node '%s' cannot give "
                  "clusters up, as commit-order depth-first does",
                  node_driver_name(n), node_name(n));
        return false;
    }
    return check_snapshots(n, errp);
}

static bool check_layers(const struct commit_options *o, struct error **errp)
{
    const struct node *above = NULL;

    for (struct node *n = o->top; n != o->base; n = node_chain_next(n)) {
        if (n->driver->is_filter) {
            continue;
        }
        if (!check_layer(n, errp) ||
            (above && !depth_check_overlays(n, above, errp))) {
            return false;
        }
        above = n;
    }
    return true;
}

/* ---- the start ---------------------------------------------------------- */

/* References are taken when the job is whole. */
static void note_layers(struct depth_job *dj, struct node *base)
{
    int i;

    for (struct node *n = dj->top; n != base; n = node_chain_next(n)) {
        dj->n_layers += !n->driver->is_filter;
    }
    dj->layers = g_new0(struct depth_layer, dj->n_layers);
    i = dj->n_layers;
    for (struct node *n = dj->top; n != base; n = node_chain_next(n)) {
        if (!n->driver->is_filter) {
            dj->layers[--i] = (struct depth_layer){
                .node = n, .was_read_only = n->read_only,
                .cluster_bytes = node_cluster_bytes(n),
            };
        }
    }
}

/* Now, rather than when the layers below have left.  The chain may change
 * meanwhile: checked again. */
static bool try_layers(const struct commit_options *o, struct error **errp)
{
    g_autoptr(GPtrArray) layers = g_ptr_array_new();
    bool ok = true;

    for (struct node *n = o->top; n != o->base; n = node_chain_next(n)) {
        if (!n->driver->is_filter) {
            g_ptr_array_add(layers, node_ref(n));
        }
    }
    for (guint i = layers->len; i-- > 0; ) {
        ok = ok && depth_try_layer(layers->pdata[i], errp);
        node_unref(layers->pdata[i]);
    }
    return ok;
}

static struct depth_layer *layer_of(struct depth_job *dj, const struct node *n)
{
    for (int i = 0; i < dj->n_layers; i++) {
        if (dj->layers[i].node == n) {
            return &dj->layers[i];
        }
    }
    return NULL;
}

/* A filter among the layers comes to stand on the base: what its root does not
 * share the base's may not have. */
static bool add_roots(struct depth_job *dj, struct error **errp)
{
    const unsigned layers = PERM_WRITE | PERM_WRITE_UNCHANGED | PERM_RESIZE;
    struct job *job = &dj->job;

    if (!job_add_root(job, dj->active, "main node", 0, PERM_ALL, errp)) {
        return false;
    }
    for (struct node *n = dj->top; n != dj->base.node; n = node_chain_next(n)) {
        struct depth_layer *l = layer_of(dj, n);
        struct root *r = job_add_root(job, n, "intermediate node", 0, layers,
                                      errp);
        if (!r) {
            return false;
        }
        if (l) {
            l->root = r;
        }
    }
    dj->base_root = job_add_root(job, dj->base.node, "base",
                                 PERM_WRITE | PERM_RESIZE,
                                 PERM_CONSISTENT_READ | PERM_WRITE_UNCHANGED,
                                 errp);
    return dj->base_root;
}

/* TOP and BASE are drained. */
static bool equip_job(struct depth_job *dj, const struct commit_options *o,
                      struct error **errp)
{
    note_layers(dj, o->base);
    dj->top_marked = node_skip_filters(dj->top)->invalidated;
    dj->filter = commit_top_insert(dj->top, o->filter_node_name, errp);
    if (!dj->filter || !node_freeze_chain(dj->filter, o->base, errp)) {
        return false;
    }
    dj->frozen = true;
    if (!add_roots(dj, errp)) {
        return false;
    }
    job_progress_set_remaining(&dj->job, node_length(dj->top));
    return true;
}

static void take_references(struct depth_job *dj)
{
    node_ref(dj->active);
    node_ref(dj->top);
    for (int i = 0; i < dj->n_layers; i++) {
        node_ref(dj->layers[i].node);
    }
}

/* Drained; no yield: a job that has not started must not be cancelled while
 * we are at it.  NULL: nothing is left. */
static struct depth_job *make_job(const struct commit_options *o,
                                  const struct commit_base *base,
                                  struct error **errp)
{
    struct depth_job *dj =
        (struct depth_job *)job_create(&depth_driver, &o->job, errp);
    struct node *filter;

    if (!dj) {
        return NULL;
    }
    dj->active = o->active;
    dj->top = o->top;
    dj->base = *base;
    dj->backing_file = g_strdup(o->backing_file);
    dj->mask_protocol = o->mask_protocol;
    dj->on_error = o->on_error;
    if (equip_job(dj, o, errp)) {
        take_references(dj);
        return dj;
    }
    take_apart(dj);
    filter = dj->filter;
    job_early_fail(&dj->job);
    node_unref(filter);
    return NULL;
}

bool commit_depth_start(const struct commit_options *o, struct error **errp)
{
    struct node *nodes[] = { o->top, o->base };
    struct depth_job *dj = NULL;
    struct commit_base base;
    struct drain *drain;

    control_assert();
    if (!check_layers(o, errp) || !job_check_options(&o->job, errp) ||
        !try_layers(o, errp) || !commit_base_open(&base, o->base, errp)) {
        return false;
    }
    drain = drain_begin(nodes, G_N_ELEMENTS(nodes));
    if (commit_check(o, errp) && check_layers(o, errp)) {
        dj = make_job(o, &base, errp);  /* it has yielded: checked again */
    }
    drain_end(&drain);
    if (!dj) {
        commit_base_close(&base);
        return false;
    }
    job_start(&dj->job);
    return true;
}
