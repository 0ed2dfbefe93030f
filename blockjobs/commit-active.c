/* SPDX-License-Identifier: MIT */
/*
 * Commit of the active layer: a mirror into a node below it.  What is special
 * is the base: writable, large enough, and as it was if nothing came of it.
 */
#include "base/control.h"
#include "block/driver.h"
#include "block/root.h"
#include "blockjobs/commit-mark.h"
#include "blockjobs/commit-priv.h"
#include "blockjobs/mirror.h"

struct active {
    struct commit_base base;
    bool source_read_only;
    bool source_marked;
    GPtrArray *unmarked;        /* owned, or NULL: commit-mark.h */
    uint64_t unwritten;         /* the base's write_generation when nothing
                                   was written */
};

/* The layer right above the base. */
static struct node *overlay_of(struct node *source, const struct node *base)
{
    struct node *overlay = NULL;

    for (struct node *n = source; n && n != base; n = node_chain_next(n)) {
        overlay = node_backing(n) ? n : overlay;
    }
    return overlay;
}

/* Drained, and with what resizing needs, whatever the layers above share: they
 * show the same after it. */
static bool resize_base(struct active *a, struct node *source, int64_t length,
                        struct error **errp)
{
    struct root_options options = {
        .name = "base", .perm = PERM_RESIZE, .shared = PERM_ALL,
    };
    struct node *nodes[] = { source, a->base.node };
    struct drain *drain = drain_begin(nodes, G_N_ELEMENTS(nodes));
    struct node *overlay = overlay_of(source, a->base.node);
    struct root *r = NULL;
    bool ok = !overlay || node_share_backing(overlay, true, errp);

    if (ok) {
        r = root_new(a->base.node, &options, errp);
        ok = r && node_truncate(a->base.node, length, PREALLOC_MODE_OFF,
                                errp);
        if (r) {
            root_free(&r);
        }
        if (overlay) {
            node_share_backing(overlay, false, NULL);
        }
    }
    drain_end(&drain);
    return ok;
}

static bool grow_base(struct active *a, struct node *source,
                      struct error **errp)
{
    int64_t length = node_length(source);

    return a->base.old_length >= length ||
           resize_base(a, source, length, errp);
}

/* The job did not start: nothing was written. */
static void shrink_base(struct active *a, struct node *source)
{
    AUTO_ERROR(err);

    if (node_length(a->base.node) > a->base.old_length &&
        !resize_base(a, source, a->base.old_length, &err)) {
        error_prepend(&err, "Base node '%s' keeps its new size: ",
                      node_name(a->base.node));
        error_report(err);
    }
}

static bool was_written(const struct active *a)
{
    return atomic_load(&a->base.node->write_generation) != a->unwritten;
}

/* Drained.  The job is off the layers. */
static void active_finish(void *opaque, bool succeeded)
{
    struct active *a = opaque;

    commit_mark_hold(a->unmarked);
    commit_mark_done(g_steal_pointer(&a->unmarked),
                     succeeded || was_written(a));
    if (succeeded && !a->source_marked) {
        commit_unmark_base(a->base.node);
    }
}

/* The base is the active layer now, or what it was before. */
static void active_released(void *opaque, bool succeeded)
{
    struct active *a = opaque;

    if (succeeded) {
        a->base.was_read_only = a->base.was_read_only && a->source_read_only;
    }
    commit_base_close(&a->base);
    g_free(a);
}

bool commit_active_start(const struct commit_options *o, struct error **errp)
{
    struct active *a = g_new0(struct active, 1);
    struct mirror_options options = {
        .job = o->job, .type = JOB_TYPE_COMMIT,
        .source = o->top, .target = o->base,
        .sync = MIRROR_SYNC_MODE_TOP, .base = o->base,
        .backing = MIRROR_BACKING_AS_IS, .unmap = true,
        .on_source_error = o->on_error, .on_target_error = o->on_error,
        .filter_node_name = o->filter_node_name,
        .finish = active_finish, .released = active_released, .opaque = a,
    };
    bool ok;

    control_assert();
    if (!commit_base_open(&a->base, o->base, errp)) {
        g_free(a);
        return false;
    }
    a->source_read_only = o->top->read_only;
    ok = grow_base(a, o->top, errp) && commit_check(o, errp);
    if (ok) {
        a->source_marked = node_skip_filters(o->top)->invalidated;
        a->unwritten = atomic_load(&o->base->write_generation);
        a->unmarked = commit_mark_active(o->top, o->base, o->job.id);
        ok = mirror_start(&options, errp);
    }
    if (!ok) {
        if (a->unmarked) {
            commit_mark_hold(a->unmarked);
        }
        commit_mark_done(g_steal_pointer(&a->unmarked), false);
        shrink_base(a, o->top);
        active_released(a, false);
    }
    return ok;
}
