/* SPDX-License-Identifier: MIT */
/* block-stream: the arguments, checked in QEMU's order. */
#include "base/control.h"
#include "block/backend.h"
#include "block/driver.h"
#include "block/reopen.h"
#include "block/root.h"
#include "blockjobs/stream.h"
#include "qapi/qapi-commands.h"

/* ---- the chain that is meant -------------------------------------------- */

static bool check_exclusive(const BlockStreamArgs *args, struct error **errp)
{
    static const char text[] =
        "'%s' and '%s' cannot be specified at the same time";

    if (args->base && args->base_node) {
        error_set(errp, text, "base", "base-node");
        return false;
    }
    if (args->base && args->bottom) {
        error_set(errp, text, "base", "bottom");
        return false;
    }
    if (args->bottom && args->base_node) {
        error_set(errp, text, "bottom", "base-node");
        return false;
    }
    return true;
}

static bool find_base(const BlockStreamArgs *args, struct node *device,
                      struct node **base, struct error **errp)
{
    *base = NULL;
    if (args->base) {
        *base = node_find_by_filename(device, args->base);
        if (!*base) {
            error_set(errp, "Can't find '%s' in the backing chain",
                      args->base);
            return false;
        }
    }
    if (args->base_node) {
        *base = node_lookup(NULL, args->base_node, errp);
        if (!*base) {
            return false;
        }
        if (*base == device || !node_is_in_chain(device, *base)) {
            error_set(errp, "Node '%s' is not a backing image of '%s'",
                      args->base_node, args->device);
            return false;
        }
    }
    return true;
}

static bool find_bottom(const BlockStreamArgs *args, struct node *device,
                        struct node **bottom, struct error **errp)
{
    *bottom = NULL;
    if (!args->bottom) {
        return true;
    }
    *bottom = node_lookup(NULL, args->bottom, errp);
    if (!*bottom) {
        return false;
    }
    if ((*bottom)->driver->is_filter) {
        error_set(errp, "Node '%s' is a filter, use a non-filter node as "
                  "'bottom'", args->bottom);
        return false;
    }
    if (!node_is_in_chain(device, *bottom)) {
        error_set(errp, "Node '%s' is not in a chain starting from '%s'",
                  args->bottom, args->device);
        return false;
    }
    return true;
}

/* Down to above BASE, NULL: to the end. */
static void walk_to_base(struct stream_chain *c, const struct node *base)
{
    c->bottom = c->overlay;
    for (struct node *n = c->device; n && n != base; n = node_chain_next(n)) {
        c->above_base = n;
        c->bottom = n->driver->is_filter ? c->bottom : n;
    }
}

static bool check_free(const struct stream_chain *c, struct error **errp)
{
    struct node *base = node_chain_next(c->above_base);

    for (struct node *n = c->device; n && n != base; n = node_chain_next(n)) {
        if (!node_op_allowed(n, NODE_OP_STREAM, errp)) {
            return false;
        }
    }
    return true;
}

/* Borrowed nodes. */
static bool find_chain(const BlockStreamArgs *args, struct stream_chain *c,
                       struct error **errp)
{
    struct node *base, *bottom;

    if (!check_exclusive(args, errp)) {
        return false;
    }
    c->device = node_lookup(args->device, args->device, errp);
    if (!c->device || !find_base(args, c->device, &base, errp) ||
        !find_bottom(args, c->device, &bottom, errp)) {
        return false;
    }
    c->overlay = node_skip_filters(c->device);
    if (bottom) {
        c->bottom = c->above_base = bottom;
    } else {
        walk_to_base(c, base);
    }
    if (!check_free(c, errp)) {
        return false;
    }
    if (base && node_is_in_chain(base, c->overlay)) {
        error_set(errp, "'%s' is not in the backing chain of '%s'",
                  node_name(base), node_name(c->device));
        return false;
    }
    if (args->backing_file && !args->base && !args->base_node) {
        error_set(errp, "backing file specified, but streaming the entire "
                  "chain");
        return false;
    }
    return true;
}

/* ---- nodes that are read-only ------------------------------------------- */

/* The lowest first; references. */
static GSList *read_only_nodes(const struct stream_chain *c)
{
    GSList *list = NULL;

    for (struct node *n = c->device; n; n = node_filtered(n)) {
        if (n->read_only) {
            list = g_slist_prepend(list, node_ref(n));
        }
        if (n == c->overlay) {
            break;
        }
    }
    return list;
}

/* *MADE_WRITABLE, owned references, the last one first.  Yields. */
static bool make_writable(const struct stream_chain *c,
                          GSList **made_writable, struct error **errp)
{
    GSList *nodes = read_only_nodes(c);
    bool ok = true;

    *made_writable = NULL;
    while (nodes) {
        struct node *n = nodes->data;

        nodes = g_slist_delete_link(nodes, nodes);
        ok = ok && node_set_read_only(n, false, errp);
        if (ok) {
            *made_writable = g_slist_prepend(*made_writable, n);
        } else {
            node_unref(n);
        }
    }
    if (!ok) {
        nodes_make_read_only(made_writable);
    }
    return ok;
}

/* ---- the command -------------------------------------------------------- */

/* DEVICE's overlay, and so all that is above it; its reference in *OVERLAY. */
static struct drain *drain_overlay(struct node *device,
                                   struct node **overlay)
{
    for (;;) {
        struct drain *drain;
        *overlay = node_ref(node_skip_filters(device));
        drain = drain_begin(overlay, 1);
        if (node_skip_filters(device) == *overlay) {
            return drain;
        }
        drain_end(&drain);      /* a filter has got another file meanwhile */
        node_unref(*overlay);
    }
}

/* Drained.  Looks again: until it was, anything may have changed. */
static struct job *make_job(const BlockStreamArgs *args, struct error **errp)
{
    g_autofree char *id = backend_job_id(args->job_id, args->device);
    struct stream_options o = {
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

    return find_chain(args, &o.chain, errp) ? stream_new(&o, errp) : NULL;
}

static bool start(const BlockStreamArgs *args, struct node *device,
                  GSList **made_writable, struct error **errp)
{
    struct node *overlay;
    struct drain *drain = drain_overlay(device, &overlay);
    struct job *job = make_job(args, errp);

    drain_end(&drain);
    node_unref(overlay);
    if (!job) {
        return false;
    }
    stream_restore_read_only(job, g_steal_pointer(made_writable));
    job_start(job);
    return true;
}

bool qmp_block_stream(const BlockStreamArgs *args, struct error **errp)
{
    GSList *made_writable;
    struct stream_chain c;
    struct node *device;
    bool ok;

    if (!find_chain(args, &c, errp)) {
        return false;
    }
    device = node_ref(c.device);
    ok = make_writable(&c, &made_writable, errp);
    if (ok) {
        ok = start(args, device, &made_writable, errp);
        nodes_make_read_only(&made_writable);
    }
    node_unref(device);
    return ok;
}
