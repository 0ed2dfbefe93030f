/* SPDX-License-Identifier: MIT */
/* Commands on nodes: blockdev-add, blockdev-del, block_resize, queries. */
#include "base/control.h"
#include "base/error.h"
#include "block/driver.h"
#include "block/query.h"
#include "block/root.h"
#include "qapi/qapi-commands.h"

/* ---- add, delete -------------------------------------------------------- */

bool qmp_blockdev_add(const BlockdevOptions *args, struct error **errp)
{
    struct node *n;

    if (!args->node_name) {
        error_set(errp, "'node-name' must be specified for the root node");
        return false;
    }
    n = node_open(args, errp);
    if (!n) {
        return false;
    }
    n->monitor_owned = true;    /* and the reference with it */
    return true;
}

/* Exports, devices, and what a job writes to; its other roots have a text of
 * their own. */
static bool has_plain_root(const struct node *n)
{
    for (const struct child *c = n->parents; c; c = c->next_parent) {
        if (c->root && (!root_is_jobs(c->root) || (c->perm & PERM_WRITE))) {
            return true;
        }
    }
    return false;
}

/*
 * A drain, or a command that has yielded, may hold N for a moment: who is told
 * that N is gone must find its name free and its file closed.  N cannot go
 * away meanwhile: the monitor's reference is ours.
 */
static void wait_for_references(struct node *n)
{
    n->del_waits = true;
    while (n->n_refs > 1 && !n->parents && !control_in_loop_thread()) {
        control_wait();
    }
    n->del_waits = false;
}

bool qmp_blockdev_del(const BlockdevDelArgs *args, struct error **errp)
{
    struct node *n = node_find(args->node_name);

    if (!n) {
        error_set(errp, "Failed to find node with node-name='%s'",
                  args->node_name);
        error_add_node(errp, args->node_name);
        return false;
    }
    if (has_plain_root(n)) {
        error_set(errp, "Node %s is in use", args->node_name);
        error_add_node(errp, args->node_name);
        return false;
    }
    if (!node_op_allowed(n, NODE_OP_DELETE, errp)) {
        return false;
    }
    if (!n->monitor_owned) {
        error_set(errp, "Node %s is not owned by the monitor",
                  args->node_name);
        return false;
    }
    n->monitor_owned = false;   /* nobody else deletes it while this waits */
    wait_for_references(n);
    if (n->parents) {
        n->monitor_owned = true;
        error_set(errp, "Block device %s is in use", args->node_name);
        error_add_node(errp, args->node_name);
        return false;
    }
    node_unref(n);
    return true;
}

/* ---- resize ------------------------------------------------------------- */

static bool resize_drained(struct node *n, int64_t size, struct error **errp)
{
    struct drain *d = drain_begin(&n, 1);
    /* A job may have begun while the drain waited. */
    bool ok = node_op_allowed(n, NODE_OP_RESIZE, errp) &&
              node_truncate(n, size, PREALLOC_MODE_OFF, errp);

    if (ok) {
        node_notify_resized(n);
    }
    drain_end(&d);
    return ok;
}

bool qmp_block_resize(const BlockResizeArgs *args, struct error **errp)
{
    struct root_options options = {
        .name = "root", .perm = PERM_RESIZE, .shared = PERM_ALL,
    };
    struct node *n = node_lookup(args->device, args->node_name, errp);
    struct root *r;
    bool ok;

    if (!n) {
        return false;
    }
    if (args->size < 0) {
        error_set(errp, "Parameter 'size' expects a >0 size");
        return false;
    }
    if (!node_op_allowed(n, NODE_OP_RESIZE, errp)) {
        return false;
    }
    r = root_new(n, &options, errp);
    if (!r) {
        return false;
    }
    ok = resize_drained(n, args->size, errp);
    root_free(&r);
    return ok;
}

/* ---- queries ------------------------------------------------------------ */

BlockDeviceInfoList *qmp_query_named_block_nodes(
    const QueryNamedBlockNodesArgs *args, struct error **errp)
{
    BlockDeviceInfoList *list = BlockDeviceInfoList_new0();
    bool flat = args->has_flat && args->flat;

    for (struct node *n = node_next(NULL); n; n = node_next(n)) {
        BlockDeviceInfo *info = node_device_info(n, flat);
        if (args->has_detail && args->detail) {
            info->invalidated = node_invalidated_info(n);
        }
        qapi_list_append(list, info);
    }
    return list;
}
