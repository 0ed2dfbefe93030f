/* SPDX-License-Identifier: MIT */
/*
 * Depth-first commit: layers become writable, leave the chain, and are
 * read-only again.
 *
 * Order       A layer that leaves is marked as invalidated first if what the
 *             next ones write to the base changes it; then the headers of its
 *             overlays name the base, then the graph follows.  At every moment
 *             in between all that is in the chain, in files and in the graph,
 *             reads the same.
 */
#include "blockjobs/commit-depth-priv.h"

#include <errno.h>
#include "base/control.h"
#include "block/driver.h"
#include "block/reopen.h"
#include "blockjobs/commit-mark.h"
#include "blockjobs/job-kill.h"

enum { LOOK_BYTES = 1 << 30 };          /* between looks for a pause */

void depth_kill_point(const struct depth_job *dj, const char *point)
{
    CONTROL_GUARD();
    job_kill_point(&dj->job, point);
}

/* ---- writable, read-only ------------------------------------------------ */

static bool make_writable(struct depth_layer *l, struct error **errp)
{
    struct node *n = l->node;

    if (!n->read_only) {
        return true;
    }
    n->content_kept = true;
    if (node_set_read_only(n, false, errp)) {
        return true;
    }
    n->content_kept = false;
    error_prepend(errp, "Layer '%s' cannot be written, as commit-order "
                  "depth-first must: ", node_name(n));
    return false;
}

static void make_read_only(struct depth_layer *l)
{
    struct node *n = l->node;
    AUTO_ERROR(err);

    if (l->was_read_only && !n->read_only &&
        !node_set_read_only(n, true, &err)) {
        error_prepend(&err, "Node '%s' stays writable: ", node_name(n));
        error_report(err);
    }
    n->content_kept = false;
}

bool depth_try_layer(struct node *n, struct error **errp)
{
    struct depth_layer l = { .node = n, .was_read_only = n->read_only };
    bool ok = make_writable(&l, errp);

    if (ok) {
        make_read_only(&l);
    }
    return ok;
}

static bool open_layer(struct depth_layer *l, struct error **errp)
{
    return make_writable(l, errp) &&
           root_set_perm(l->root, PERM_WRITE_UNCHANGED,
                         PERM_WRITE | PERM_WRITE_UNCHANGED | PERM_RESIZE,
                         errp);
}

bool depth_open_layer(struct depth_job *dj, struct depth_layer *l,
                      struct error **errp)
{
    bool ok;

    job_graph_begin(&dj->job);
    ok = open_layer(l, errp);
    job_graph_end(&dj->job);
    return ok;
}

void depth_close_layer(struct depth_layer *l)
{
    struct node *n = l->node;

    control_assert();
    if (n) {
        make_read_only(l);
        l->node = NULL;
        node_unref(n);
    }
}

/* ---- leaving ------------------------------------------------------------ */

/* What reads N, or a filter over it, as its backing file and is not NEXT. */
static const struct node *other_overlay(const struct node *n,
                                        const struct node *next)
{
    for (const struct child *c = n->parents; c; c = c->next_parent) {
        const struct node *found = NULL;
        if (c->parent && (c->role & ROLE_COW)) {
            found = c->parent == next ? NULL : c->parent;
        } else if (c->parent && (c->role & ROLE_FILTERED)) {
            found = other_overlay(c->parent, next);
        }
        if (found) {
            return found;
        }
    }
    return NULL;
}

bool depth_check_overlays(const struct node *n, const struct node *next,
                          struct error **errp)
{
    const struct node *other = other_overlay(n, next);

    if (other) {
        error_set(errp, "Layer '%s' is the backing file of '%s', too, which "
                  "would read otherwise without it", node_name(n),
                  node_name(other));
    }
    return !other;
}

/* Will the layers above L change it?  0, 1 or -errno. */
static int look_above(struct depth_job *dj, const struct depth_layer *l)
{
    int64_t length = node_length(l->node);
    int ret = 0;

    for (int64_t at = 0; at < length && ret == 0; at += LOOK_BYTES) {
        job_pause_point(&dj->job);
        if (job_is_cancelled(&dj->job)) {
            return -ECANCELED;
        }
        ret = commit_would_change(dj->top, l->node, at,
                                  MIN(length - LOOK_BYTES, at) + LOOK_BYTES);
    }
    return ret;
}

/* Drained; the headers name the base. */
static bool change_graph(struct depth_job *dj, struct depth_layer *l,
                         struct error **errp)
{
    bool ok;

    node_unfreeze_chain(dj->filter, dj->base.node);
    dj->frozen = false;
    ok = commit_end_replace(dj->end, errp) &&
         node_freeze_chain(dj->filter, dj->base.node, errp);
    if (ok) {
        dj->frozen = true;
        job_remove_root(&dj->job, g_steal_pointer(&l->root));
    }
    return ok;
}

static bool leave_drained(struct depth_job *dj, struct depth_layer *l,
                          bool mark, struct error **errp)
{
    AUTO_ERROR(err);
    bool ok;

    if (!depth_check_overlays(l->node, l[1].node, errp)) {
        return false;
    }
    if (mark && !commit_mark_one(l->node, dj->job.id, &err)) {
        error_report(err);      /* it leaves all the same */
    }
    dj->end = commit_end_new(l->node, dj->base.node, NULL, dj->mask_protocol);
    ok = commit_end_rename(dj->end, errp);
    if (ok) {
        job_kill_point(&dj->job, "depth-renamed");
        ok = change_graph(dj, l, errp);
    }
    return ok;
}

static bool leave(struct depth_job *dj, struct depth_layer *l, bool mark,
                  struct error **errp)
{
    struct node *nodes[] = { l->node, dj->base.node };
    struct drain *drain;
    bool ok;

    if (!open_layer(l + 1, errp)) {
        return false;
    }
    drain = drain_begin(nodes, G_N_ELEMENTS(nodes));
    ok = leave_drained(dj, l, mark, errp);
    drain_end(&drain);
    commit_end_free(g_steal_pointer(&dj->end));
    if (ok) {
        depth_layer_free_bits(l);
        dj->current++;
        depth_close_layer(l);
        job_kill_point(&dj->job, "depth-left");
    }
    return ok;
}

int depth_leave(struct depth_job *dj, struct depth_layer *l,
                struct error **errp)
{
    int ret = look_above(dj, l);
    bool ok;

    if (ret < 0) {
        return ret;
    }
    job_graph_begin(&dj->job);
    ok = leave(dj, l, ret > 0, errp);
    job_graph_end(&dj->job);
    return ok ? 0 : -EIO;
}
