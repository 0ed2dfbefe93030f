/* SPDX-License-Identifier: MIT */
/*
 * Attach, detach, replace, filters: what graph_change (links.c) is for.
 *
 * Whoever calls these has drained what is concerned, or works on nodes that
 * nobody uses yet.
 */
#include "block/graph-priv.h"

#include <string.h>
#include "base/control.h"
#include "base/trace.h"

/* ---- attach, detach ----------------------------------------------------- */

static bool would_cycle(struct node *parent, const char *child_name,
                        const struct node *node, struct error **errp)
{
    /* A node that nobody uses is below nobody. */
    if (parent != node && (!parent->parents || !node_reaches(node, parent))) {
        return false;
    }
    error_set(errp, "Making '%s' a %s child of '%s' would create a cycle",
              node_name(node), child_name, node_name(parent));
    return true;
}

struct child *child_new(struct node *parent, const char *name, unsigned role)
{
    struct child *c = g_new0(struct child, 1);

    c->parent = parent;
    c->name = g_intern_string(name);
    c->role = role;
    return c;
}

struct child *child_find(const struct node *n, const char *name)
{
    struct child *c = n->children;

    while (c && strcmp(c->name, name) != 0) {
        c = c->next_sibling;
    }
    return c;
}

struct child *node_attach_child(struct node *parent, struct node *node,
                                const char *child_name, unsigned role,
                                struct error **errp)
{
    struct graph_change *gc;
    struct child *c;

    control_assert();
    if (would_cycle(parent, child_name, node, errp)) {
        return NULL;
    }
    gc = graph_change_begin();
    c = child_new(parent, child_name, role);
    graph_change_link(gc, c, node);
    if (!graph_change_finish(gc, NULL, errp)) {
        g_free(c);
        return NULL;
    }
    trace(GRAPH, "attach parent=%s child=%s node-name=%s", parent->name,
          child_name, node->name);
    return c;
}

void node_detach_child(struct node *parent, struct child *child)
{
    struct graph_change *gc = graph_change_begin();

    g_assert(child->parent == parent);
    trace(GRAPH, "detach parent=%s child=%s node-name=%s", parent->name,
          child->name, child->node->name);
    graph_change_unlink(gc, child);
    graph_change_finish_nofail(gc, NULL);
}

/* ---- replace, filters --------------------------------------------------- */

bool child_stays(const struct child *c, uint64_t mark)
{
    if (c->root) {
        return c->root->stay_on_node;
    }
    return c->parent->mark == mark || c->parent->closing;
}

static void move_parents(struct graph_change *gc, struct node *from,
                         struct node *to)
{
    g_autoptr(GPtrArray) moving = g_ptr_array_new();
    uint64_t mark = graph_new_mark();

    graph_mark_below(to, mark);
    for (struct child *c = from->parents; c; c = c->next_parent) {
        if (!child_stays(c, mark)) {
            g_ptr_array_add(moving, c);
        }
    }
    /* Oldest first: TO's list of parents has the same order then. */
    for (guint i = moving->len; i-- > 0;) {
        graph_change_move(gc, moving->pdata[i], to);
    }
}

bool node_replace(struct node *from, struct node *to, struct error **errp)
{
    struct graph_change *gc = graph_change_begin();

    if (from != to) {
        move_parents(gc, from, to);
    }
    if (!graph_change_finish(gc, NULL, errp)) {
        return false;
    }
    trace(GRAPH, "replace from=%s to=%s", from->name, to->name);
    return true;
}

void node_filter_look_like(struct node *n, const struct node *source)
{
    atomic_store(&n->length_bytes, node_length(source));
    n->limits = source->limits;
    n->read_only = source->read_only;
    n->discard_unmap = true;
    n->cache_direct = source->cache_direct;
    n->cache_no_flush = source->cache_no_flush;
    n->supported_write_flags = source->supported_write_flags & BLK_FUA;
    n->supported_zero_flags = source->supported_zero_flags;
}

bool node_share_backing(struct node *n, bool on, struct error **errp)
{
    struct graph_change *gc;

    control_assert();
    n->backing->shares_all = on;
    gc = graph_change_begin();
    graph_change_touch(gc, n);
    if (!on) {
        graph_change_finish_nofail(gc, NULL);
        return true;
    }
    if (!graph_change_finish(gc, NULL, errp)) {
        n->backing->shares_all = false;
        return false;
    }
    return true;
}

bool node_insert_filter(struct node *filter, struct node *node,
                        struct error **errp)
{
    const char *name = filter->driver->file_child_name
                       ? filter->driver->file_child_name : "file";
    struct graph_change *gc;
    struct child *c;

    if (would_cycle(filter, name, node, errp)) {
        return false;
    }
    gc = graph_change_begin();
    c = child_new(filter, name, ROLE_FILTERED | ROLE_PRIMARY);
    graph_change_link(gc, c, node);
    move_parents(gc, node, filter);
    if (!graph_change_finish(gc, NULL, errp)) {
        g_free(c);
        return false;
    }
    trace(GRAPH, "insert-filter node-name=%s over=%s", filter->name,
          node->name);
    return true;
}

void node_remove_filter(struct node *filter)
{
    struct node *below = node_filtered(filter);
    struct graph_change *gc = graph_change_begin();
    struct child *c = filter->parents;

    trace(GRAPH, "remove-filter node-name=%s", filter->name);
    g_assert(below || !filter->parents);
    while (c && c->next_parent) {
        c = c->next_parent;
    }
    while (c) {
        struct child *newer = c->prev_parent;

        graph_change_move(gc, c, below);
        c = newer;
    }
    while (filter->children) {
        graph_change_unlink(gc, filter->children);
    }
    graph_change_finish_nofail(gc, NULL);
}

/* ---- chains, frozen links ----------------------------------------------- */

/* The link to what N, a filter, reads as or else falls back to, or NULL. */
static struct child *chain_link(const struct node *n)
{
    unsigned role = n->driver->is_filter ? ROLE_FILTERED : ROLE_COW;

    for (struct child *c = n->children; c; c = c->next_sibling) {
        if (c->role & role) {
            return c;
        }
    }
    return NULL;
}

struct node *node_chain_next(const struct node *n)
{
    const struct child *c = chain_link(n);

    return c ? c->node : NULL;
}

static struct node *parent_of_id(const struct node *n, uint64_t id)
{
    for (const struct child *c = n->parents; c; c = c->next_parent) {
        if (c->parent && c->parent->id == id) {
            return c->parent;
        }
    }
    return NULL;
}

bool node_comes_from(const struct node *c, const struct node *n)
{
    while (c && c->inherits_from) {
        if (c->inherits_from == n->id) {
            return true;
        }
        c = parent_of_id(c, c->inherits_from);
    }
    return false;
}

bool node_set_backing(struct node *n, struct node *backing,
                      struct node **old, struct error **errp)
{
    struct graph_change *gc = graph_change_begin();
    bool ours = backing && node_comes_from(backing, n);

    g_assert(n->backing);
    *old = node_ref(n->backing->node);
    if (!backing) {
        graph_change_unlink(gc, n->backing);
    } else if (backing != *old) {
        graph_change_move(gc, n->backing, backing);
    }
    if (!graph_change_finish(gc, NULL, errp)) {
        node_unref(g_steal_pointer(old));
        return false;
    }
    if (ours) {
        backing->inherits_from = n->id;
    }
    trace(GRAPH, "set-backing node-name=%s backing=%s", n->name,
          backing ? backing->name : "");
    return true;
}

bool node_is_in_chain(const struct node *top, const struct node *n)
{
    const struct child *c;

    while (top != n && (c = chain_link(top))) {
        top = c->node;
    }
    return top == n;
}

bool node_freeze_chain(struct node *top, struct node *base,
                       struct error **errp)
{
    struct child *c;

    control_assert();
    for (struct node *n = top; n != base && (c = chain_link(n));
         n = c->node) {
        if (c->frozen) {
            error_set(errp, "Cannot change '%s' link from '%s' to '%s'",
                      c->name, n->name, c->node->name);
            return false;
        }
        if (c->node->driver->never_frozen) {
            error_set(errp, "Cannot freeze '%s' link to '%s'", c->name,
                      c->node->name);
            return false;
        }
    }
    for (struct node *n = top; n != base && (c = chain_link(n));
         n = c->node) {
        c->frozen = true;
    }
    return true;
}

void node_unfreeze_chain(struct node *top, struct node *base)
{
    struct child *c;

    control_assert();
    for (struct node *n = top; n != base && (c = chain_link(n));
         n = c->node) {
        c->frozen = false;
    }
}
