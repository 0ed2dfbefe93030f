/* SPDX-License-Identifier: MIT */
/* `replaces`: see mirror-replaces.h.  Texts are QEMU's. */
#include "blockjobs/mirror-replaces.h"

#include "base/control.h"
#include "block/driver.h"

static bool may_replace(struct node *n, struct node *replaced);

/* Nobody but its one parent sees it. */
static bool is_private(const struct node *n)
{
    return n->parents && !n->parents->next_parent;
}

/* A vote hides what a child of its own becomes. */
static bool may_replace_below_quorum(struct node *quorum,
                                     struct node *replaced)
{
    for (struct child *c = quorum->children; c; c = c->next_sibling) {
        struct node *n = c->node;

        if (!node_reaches(n, replaced)) {
            continue;
        }
        /* Down to it, for what is between would change, too. */
        while (is_private(n) && n != replaced && n->driver->is_filter &&
               node_filtered(n)) {
            n = node_filtered(n);
        }
        if (is_private(n) && may_replace(n, replaced)) {
            return true;
        }
    }
    return false;
}

/* N shows what is copied. */
static bool may_replace(struct node *n, struct node *replaced)
{
    while (n != replaced && n->driver->is_filter && node_filtered(n)) {
        n = node_filtered(n);
    }
    return n == replaced ||
           (n->driver->type == BLOCKDEV_DRIVER_QUORUM &&
            may_replace_below_quorum(n, replaced));
}

bool mirror_replaces_allowed(struct node *source, const char *name,
                             struct error **errp)
{
    struct node *replaced = node_find(name);

    control_assert();
    if (!replaced) {
        error_set(errp, "Failed to find node with node-name='%s'", name);
        return false;
    }
    if (!node_op_allowed(replaced, NODE_OP_REPLACE, errp)) {
        return false;
    }
    if (!may_replace(source, replaced)) {
        error_set(errp, "Cannot replace '%s' by a node mirrored from '%s', "
                  "because it cannot be guaranteed that doing so would not "
                  "lead to an abrupt change of visible data",
                  node_name(replaced), node_name(source));
        return false;
    }
    return true;
}

bool mirror_replaces_check(struct node *source, struct node *replaced,
                           struct node *target, struct error **errp)
{
    control_assert();
    if (may_replace(source, replaced)) {
        return true;
    }
    error_set(errp, "Can no longer replace '%s' by '%s', because it can no "
              "longer be guaranteed that doing so would not lead to an abrupt "
              "change of visible data", node_name(replaced),
              node_name(target));
    return false;
}
