/* SPDX-License-Identifier: MIT */
/* x-blockdev-change: children come to a node, or go. */
#include "base/control.h"
#include "base/error.h"
#include "block/backend.h"
#include "block/graph-priv.h"
#include "qapi/qapi-commands.h"

static bool check_remove(struct node *parent, const char *name,
                         struct error **errp)
{
    if (!child_find(parent, name)) {
        error_set(errp, "Node '%s' does not have child '%s'",
                  backend_or_node_name(parent), name);
        return false;
    }
    if (!parent->driver->del_child) {
        error_set(errp, "The node %s does not support removing a child",
                  backend_or_node_name(parent));
        return false;
    }
    return true;
}

static bool remove_child(struct node *parent, const char *name,
                         struct error **errp)
{
    struct drain *d;
    bool ok;

    if (!check_remove(parent, name, errp)) {
        return false;
    }
    d = drain_begin(&parent, 1);
    /* Something else may have happened while the drain waited. */
    ok = check_remove(parent, name, errp) &&
         parent->driver->del_child(parent, child_find(parent, name), errp);
    if (ok) {
        node_refresh_limits(parent);
    }
    drain_end(&d);
    return ok;
}

static bool check_add(struct node *parent, const struct node *child,
                      struct error **errp)
{
    if (!parent->driver->add_child) {
        error_set(errp, "The node %s does not support adding a child",
                  backend_or_node_name(parent));
        return false;
    }
    if (child->parents) {
        error_set(errp, "The node %s already has a parent",
                  backend_or_node_name(child));
        return false;
    }
    return true;
}

static bool add_child(struct node *parent, struct node *child,
                      struct error **errp)
{
    struct node *nodes[] = { parent, child };
    struct drain *d;
    bool ok;

    if (!check_add(parent, child, errp)) {
        return false;
    }
    d = drain_begin(nodes, G_N_ELEMENTS(nodes));
    ok = check_add(parent, child, errp) &&
         parent->driver->add_child(parent, child, errp);
    if (ok) {
        node_refresh_limits(parent);
    }
    drain_end(&d);
    return ok;
}

bool qmp_x_blockdev_change(const XBlockdevChangeArgs *args,
                           struct error **errp)
{
    struct node *parent = node_lookup(args->parent, args->parent, errp);
    struct node *child = NULL;
    bool ok;

    if (!parent) {
        return false;
    }
    if (!args->child == !args->node) {
        error_set(errp, args->child
                  ? "The parameters child and node are in conflict"
                  : "Either child or node must be specified");
        return false;
    }
    if (args->node) {
        child = node_find(args->node);
        if (!child) {
            error_set(errp, "Node '%s' not found", args->node);
            return false;
        }
        node_ref(child);
    }
    node_ref(parent);
    ok = child ? add_child(parent, child, errp)
               : remove_child(parent, args->child, errp);
    node_unref(child);
    node_unref(parent);
    return ok;
}
