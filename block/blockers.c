/* SPDX-License-Identifier: MIT */
/*
 * In-use marks: operations that a running job, or being somebody's backing
 * file, forbids on a node.
 */
#include "block/graph-priv.h"

#include "base/control.h"
#include "block/backend.h"

struct op_blocker {
    const void *owner;
    char *reason;               /* owned */
};

void node_block_op(struct node *n, enum node_op op, const void *owner,
                   const char *reason)
{
    struct op_blocker *b = g_new(struct op_blocker, 1);

    control_assert();
    b->owner = owner;
    b->reason = g_strdup(reason);
    n->op_blockers[op] = g_slist_prepend(n->op_blockers[op], b);
}

void node_block_all_ops(struct node *n, const void *owner, const char *reason)
{
    for (int op = 0; op < NODE_OP__MAX; op++) {
        node_block_op(n, op, owner, reason);
    }
}

/* One mark: who marks twice unmarks twice. */
void node_unblock_op(struct node *n, enum node_op op, const void *owner)
{
    control_assert();
    for (GSList *l = n->op_blockers[op]; l; l = l->next) {
        struct op_blocker *b = l->data;

        if (b->owner == owner) {
            n->op_blockers[op] = g_slist_delete_link(n->op_blockers[op], l);
            g_free(b->reason);
            g_free(b);
            return;
        }
    }
}

void node_unblock_all_ops(struct node *n, const void *owner)
{
    for (int op = 0; op < NODE_OP__MAX; op++) {
        node_unblock_op(n, op, owner);
    }
}

/* What may be done with a node though another has it as backing file. */
static bool allowed_on_backing(enum node_op op)
{
    switch (op) {
    case NODE_OP_BACKUP_SOURCE:
    case NODE_OP_BACKUP_TARGET:
    case NODE_OP_COMMIT_TARGET:
    case NODE_OP_STREAM:
    case NODE_OP_CHANGE_BACKING:
        return true;
    default:
        return false;
    }
}

static void describe_blocker(const struct node *n, const struct op_blocker *b,
                             struct error **errp)
{
    error_add_node(errp, node_name(n));
    for (const struct child *c = n->parents; c; c = c->next_parent) {
        const struct root *r = c->parent ? NULL : c->root;

        if (r && r->opaque == b->owner && r->ops && r->ops->job_id) {
            error_add_job(errp, r->ops->job_id(r->opaque));
            error_append_hint(errp, "Wait for the job to end, or cancel it\n");
            return;
        }
    }
}

bool node_op_allowed(const struct node *n, enum node_op op,
                     struct error **errp)
{
    const struct op_blocker *b;

    if (n->op_blockers[op]) {
        b = n->op_blockers[op]->data;
        error_set(errp, "Node '%s' is busy: %s",
                  backend_or_node_name(n), b->reason);
        describe_blocker(n, b, errp);
        return false;
    }
    if (allowed_on_backing(op)) {
        return true;
    }
    for (const struct child *c = n->parents; c; c = c->next_parent) {
        if (c->parent && (c->role & ROLE_COW)) {
            error_set(errp, "Node '%s' is busy: node is used as backing hd "
                      "of '%s'", backend_or_node_name(n),
                      node_name(c->parent));
            error_add_node(errp, node_name(n));
            return false;
        }
    }
    return true;
}
