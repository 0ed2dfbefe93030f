/* SPDX-License-Identifier: MIT */
/* block-commit: which layers are meant, and whether they may be committed. */
#include <string.h>
#include "base/control.h"
#include "block/backend.h"
#include "block/driver.h"
#include "block/root.h"
#include "blockjobs/commit-priv.h"
#include "qapi/qapi-commands.h"

/* ---- which layers ------------------------------------------------------- */

/* The node that DEVICE means: nobody may have it as a child, no other job may
 * work on it. */
static struct node *find_device(const char *device, struct error **errp)
{
    struct node *n = node_lookup(device, device, NULL);

    if (!n) {
        error_set_class(errp, ERROR_DEVICE_NOT_FOUND, "Device '%s' not found",
                        device);
        return NULL;
    }
    for (const struct child *c = n->parents; c; c = c->next_parent) {
        if (c->parent || root_is_jobs(c->root)) {
            error_set(errp, "Need a root block node");
            return NULL;
        }
    }
    return n;
}

static struct node *find_in_chain(struct node *top, const char *name,
                                  struct error **errp)
{
    struct node *n = node_lookup(NULL, name, errp);

    if (n && !node_is_in_chain(top, n)) {
        error_set(errp, "'%s' is not in this backing file chain", name);
        return NULL;
    }
    return n;
}

static struct node *find_top(const BlockCommitArgs *args, struct node *active,
                             struct error **errp)
{
    struct node *n = active;

    if (args->top_node && args->top) {
        error_set(errp, "'top-node' and 'top' are mutually exclusive");
        return NULL;
    }
    if (args->top_node) {
        return find_in_chain(active, args->top_node, errp);
    }
    if (args->top && strcmp(args->top, node_filename(active)) != 0) {
        n = node_find_by_filename(active, args->top);
        if (!n) {
            error_set(errp, "Top image file %s not found", args->top);
        }
    }
    return n;
}

static struct node *lowest(struct node *n)
{
    struct node *image = node_skip_filters(n);

    while (node_backing(image)) {
        n = node_backing(image);
        image = node_skip_filters(n);
    }
    return n;
}

static struct node *find_base(const BlockCommitArgs *args, struct node *top,
                              struct error **errp)
{
    struct node *n;

    if (args->base_node && args->base) {
        error_set(errp, "'base-node' and 'base' are mutually exclusive");
        return NULL;
    }
    if (args->base_node) {
        return find_in_chain(top, args->base_node, errp);
    }
    if (!args->base) {
        return lowest(top);
    }
    n = node_find_by_filename(top, args->base);
    if (!n) {
        error_set(errp, "Can't find '%s' in the backing chain", args->base);
    }
    return n;
}

/* ---- whether ------------------------------------------------------------ */

static bool check_chain(const struct commit_options *o, struct error **errp)
{
    if (!node_is_in_chain(o->active, o->top)) {
        error_set(errp, "'%s' is not in this backing file chain",
                  node_name(o->top));
        return false;
    }
    if (!node_is_in_chain(o->top, o->base)) {
        error_set(errp, "'%s' is not in this backing file chain",
                  node_name(o->base));
        return false;
    }
    return true;
}

static bool is_active(const struct commit_options *o)
{
    return node_skip_filters(o->active) == node_skip_filters(o->top);
}

/* In the chain of ACTIVE, which is above TOP: the image whose header will name
 * the base. */
static struct node *overlay_of_top(const struct commit_options *o)
{
    struct node *overlay = NULL;

    for (struct node *n = o->active; n && n != o->top; n = node_chain_next(n)) {
        overlay = n->driver->is_filter ? overlay : n;
    }
    return overlay;
}

bool commit_check(const struct commit_options *o, struct error **errp)
{
    control_assert();
    if (!check_chain(o, errp) ||
        !node_op_allowed(o->active, NODE_OP_COMMIT_SOURCE, errp)) {
        return false;
    }
    for (struct node *n = o->top; n; n = node_chain_next(n)) {
        if (!node_op_allowed(n, NODE_OP_COMMIT_TARGET, errp)) {
            return false;
        }
        if (n == o->base) {
            break;
        }
    }
    if (!is_active(o) &&
        !node_op_allowed(overlay_of_top(o), NODE_OP_COMMIT_TARGET, errp)) {
        return false;
    }
    if (o->top == o->base) {
        error_set(errp, "cannot commit an image into itself");
        return false;
    }
    return true;
}

/* ---- the command -------------------------------------------------------- */

static bool start(const BlockCommitArgs *args, const struct commit_options *o,
                  struct error **errp)
{
    bool depth_first = args->has_commit_order &&
                       args->commit_order == COMMIT_ORDER_DEPTH_FIRST;

    if (!commit_check(o, errp)) {
        return false;
    }
    if (is_active(o)) {
        if (o->backing_file) {
            error_set(errp, "'backing-file' specified, but 'top' is the "
                      "active layer");
            return false;
        }
        if (depth_first) {
            error_set(errp, "'commit-order' depth-first is not for the "
                      "active layer");
            return false;
        }
        return commit_active_start(o, errp);
    }
    if (node_skip_filters(o->top) == node_skip_filters(o->base)) {
        error_set(errp, "Invalid files for merge: top and base are the same");
        return false;
    }
    return depth_first ? commit_depth_start(o, errp) : commit_start(o, errp);
}

bool qmp_block_commit(const BlockCommitArgs *args, struct error **errp)
{
    g_autofree char *id = backend_job_id(args->job_id, args->device);
    struct commit_options o = {
        .job = {
            .id = id,
            .manual_finalize = args->has_auto_finalize &&
                               !args->auto_finalize,
            .manual_dismiss = args->has_auto_dismiss && !args->auto_dismiss,
            .speed = args->has_speed ? args->speed : 0,
        },
        .backing_file = args->backing_file,
        .mask_protocol = args->has_backing_mask_protocol &&
                         args->backing_mask_protocol,
        .on_error = args->has_on_error ? args->on_error
                                       : BLOCKDEV_ON_ERROR_REPORT,
        .filter_node_name = args->filter_node_name,
    };
    bool ok;

    o.active = find_device(args->device, errp);
    if (!o.active ||
        !node_op_allowed(o.active, NODE_OP_COMMIT_SOURCE, errp)) {
        return false;
    }
    o.top = find_top(args, o.active, errp);
    o.base = o.top ? find_base(args, o.top, errp) : NULL;
    if (!o.base) {
        return false;
    }
    node_ref(o.active);
    node_ref(o.top);
    node_ref(o.base);
    ok = start(args, &o, errp);
    node_unref(o.base);
    node_unref(o.top);
    node_unref(o.active);
    return ok;
}
