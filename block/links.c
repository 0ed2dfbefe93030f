/* SPDX-License-Identifier: MIT */
/*
 * Changes of the graph's links, all or nothing.
 *
 * Problem     A change consists of several steps (attach a filter, move ten
 *             parents to it), each of which changes permissions further
 *             down, and any driver may refuse at the end.  Then nothing may
 *             have happened.
 * Answer      A log.  Steps are done at once and logged with what they
 *             replaced; permissions are computed over the new graph; undo is
 *             the log backwards.
 * Invariants  I1  Between begin and finish nobody yields, so nobody sees a
 *                 half-done change.
 *             I2  After an undo lists have their old order: an unlinked child
 *                 keeps its neighbours' addresses, and steps are undone last
 *                 first.
 *             I3  node.height is the longest way down, at most MAX_DEPTH.
 *             I4  References that a change drops are dropped after it was
 *                 kept: closing a node can yield.
 *             I5  A frozen link is moved or taken away by changes alone that
 *                 cannot fail: what froze it, a filter or a node ends there.
 */
#include "block/graph-priv.h"

#include "base/control.h"
#include "base/trace.h"

/* Requests go down a chain by recursion, on workers' small stacks. */
enum { MAX_DEPTH = 500 };

enum log_kind {
    LOG_LINKED, LOG_UNLINKED, LOG_MOVED, LOG_CHILD_PERM, LOG_NODE_PERM,
    LOG_INACTIVE,
};

struct log_entry {
    enum log_kind kind;
    struct child *child;
    struct node *node;          /* LOG_NODE_PERM, LOG_INACTIVE: whose;
                                   LOG_MOVED: old one */
    struct child *prev, *next;  /* LOG_MOVED: old neighbours at the node */
    unsigned perm, shared;      /* old values */
};

struct graph_change {
    GArray *log;                /* struct log_entry */
    GPtrArray *touched;         /* borrowed nodes: where to compute from */
};

/* ---- lists -------------------------------------------------------------- */

static void parents_insert(struct node *n, struct child *c,
                           struct child *prev, struct child *next)
{
    c->prev_parent = prev;
    c->next_parent = next;
    *(prev ? &prev->next_parent : &n->parents) = c;
    if (next) {
        next->prev_parent = c;
    }
}

static void parents_remove(struct node *n, struct child *c)
{
    *(c->prev_parent ? &c->prev_parent->next_parent : &n->parents) =
        c->next_parent;
    if (c->next_parent) {
        c->next_parent->prev_parent = c->prev_parent;
    }
}

static void siblings_insert(struct child *c, struct child *prev,
                            struct child *next)
{
    struct node *p = c->parent;

    c->prev_sibling = prev;
    c->next_sibling = next;
    *(prev ? &prev->next_sibling : &p->children) = c;
    if (next) {
        next->prev_sibling = c;
    }
    if (c->role & ROLE_PRIMARY) {
        p->file = c;
    }
    if (c->role & ROLE_COW) {
        p->backing = c;
    }
}

static void siblings_remove(struct child *c)
{
    struct node *p = c->parent;

    *(c->prev_sibling ? &c->prev_sibling->next_sibling : &p->children) =
        c->next_sibling;
    if (c->next_sibling) {
        c->next_sibling->prev_sibling = c->prev_sibling;
    }
    if (p->file == c) {
        p->file = NULL;
    }
    if (p->backing == c) {
        p->backing = NULL;
    }
}

static struct child *last_sibling(const struct node *p)
{
    struct child *c = p->children;

    while (c && c->next_sibling) {
        c = c->next_sibling;
    }
    return c;
}

/* ---- steps -------------------------------------------------------------- */

struct graph_change *graph_change_begin(void)
{
    struct graph_change *gc = g_new(struct graph_change, 1);

    control_assert();
    gc->log = g_array_new(FALSE, FALSE, sizeof(struct log_entry));
    gc->touched = g_ptr_array_new();
    return gc;
}

static void log_step(struct graph_change *gc, struct log_entry entry)
{
    g_array_append_val(gc->log, entry);
}

void graph_change_touch(struct graph_change *gc, struct node *n)
{
    if (n) {
        g_ptr_array_add(gc->touched, n);
    }
}

/* C's root holds what it may on the node that it is on. */
static void adapt_root(struct graph_change *gc, struct child *c)
{
    unsigned perm, shared;

    root_perm_on(c->root, c->node, &perm, &shared);
    if (perm != c->perm || shared != c->shared) {
        graph_change_perm(gc, c, perm, shared);
    }
}

void graph_change_link(struct graph_change *gc, struct child *c,
                       struct node *node)
{
    g_assert(!c->node && !c->parent != !c->root);
    c->node = node_ref(node);
    if (c->parent) {
        c->perm = 0;
        c->shared = PERM_ALL;
        /* "file" is the first, whenever it came. */
        if (c->role & ROLE_PRIMARY) {
            siblings_insert(c, NULL, c->parent->children);
        } else {
            siblings_insert(c, last_sibling(c->parent), NULL);
        }
    }
    parents_insert(node, c, NULL, node->parents);
    log_step(gc, (struct log_entry){ .kind = LOG_LINKED, .child = c });
    if (c->root) {
        adapt_root(gc, c);
    }
    graph_change_touch(gc, c->parent);
    graph_change_touch(gc, node);
}

void graph_change_unlink(struct graph_change *gc, struct child *c)
{
    parents_remove(c->node, c);
    if (c->parent) {
        siblings_remove(c);
    }
    log_step(gc, (struct log_entry){ .kind = LOG_UNLINKED, .child = c });
    graph_change_touch(gc, c->parent);
    graph_change_touch(gc, c->node);
}

void graph_change_move(struct graph_change *gc, struct child *c,
                       struct node *to)
{
    log_step(gc, (struct log_entry){ .kind = LOG_MOVED, .child = c,
                                     .node = c->node, .prev = c->prev_parent,
                                     .next = c->next_parent });
    graph_change_touch(gc, c->parent);
    graph_change_touch(gc, c->node);
    graph_change_touch(gc, to);
    parents_remove(c->node, c);
    c->node = node_ref(to);
    parents_insert(to, c, NULL, to->parents);
    if (c->root) {
        adapt_root(gc, c);
    }
}

void graph_change_inactive(struct graph_change *gc, struct node *n, bool on)
{
    g_assert(n->inactive != on);
    n->inactive = on;
    log_step(gc, (struct log_entry){ .kind = LOG_INACTIVE, .node = n });
    for (struct child *c = n->parents; c; c = c->next_parent) {
        if (c->root) {
            adapt_root(gc, c);
        }
    }
    graph_change_touch(gc, n);
}

void graph_change_perm(struct graph_change *gc, struct child *c,
                       unsigned perm, unsigned shared)
{
    graph_change_log_child_perm(gc, c);
    __atomic_store_n(&c->perm, perm, __ATOMIC_RELAXED);
    c->shared = shared;
    graph_change_touch(gc, c->node);
}

void graph_change_log_child_perm(struct graph_change *gc, struct child *c)
{
    log_step(gc, (struct log_entry){ .kind = LOG_CHILD_PERM, .child = c,
                                     .perm = c->perm, .shared = c->shared });
}

void graph_change_log_node_perm(struct graph_change *gc, struct node *n)
{
    log_step(gc, (struct log_entry){ .kind = LOG_NODE_PERM, .node = n,
                                     .perm = n->perm, .shared = n->shared });
}

/* ---- depth -------------------------------------------------------------- */

static int height_of(const struct node *n)
{
    int height = 0;

    for (const struct child *c = n->children; c; c = c->next_sibling) {
        height = MAX(height, c->node->height + 1);
    }
    return height;
}

/* Bring heights up to date from N upwards.  False: too deep (it ends there:
 * the undo comes by here again). */
static bool update_height(struct node *n)
{
    GQueue todo = G_QUEUE_INIT;
    bool ok = true;

    g_queue_push_tail(&todo, n);
    while ((n = g_queue_pop_head(&todo))) {
        int height = height_of(n);

        if (height == n->height) {
            continue;
        }
        n->height = height;
        if (height > MAX_DEPTH) {
            ok = false;
            continue;
        }
        for (struct child *c = n->parents; c; c = c->next_parent) {
            if (c->parent) {
                g_queue_push_tail(&todo, c->parent);
            }
        }
    }
    return ok;
}

static bool update_heights(struct graph_change *gc, struct error **errp)
{
    bool ok = true;

    for (guint i = 0; i < gc->log->len; i++) {
        struct log_entry *e = &g_array_index(gc->log, struct log_entry, i);

        if (e->kind <= LOG_MOVED && e->child->parent) {
            ok = update_height(e->child->parent) && ok;
        }
    }
    if (!ok) {
        error_set(errp, "Block nodes are stacked too deeply (more than %d)",
                  MAX_DEPTH);
    }
    return ok;
}

/* ---- frozen links ------------------------------------------------------- */

/* I5. */
static bool check_frozen(const struct graph_change *gc, struct error **errp)
{
    for (guint i = 0; i < gc->log->len; i++) {
        const struct log_entry *e =
            &g_array_index(gc->log, struct log_entry, i);
        bool moved = e->kind == LOG_MOVED;

        if ((moved || e->kind == LOG_UNLINKED) && e->child->frozen) {
            error_set(errp, "Cannot change '%s' link to '%s'", e->child->name,
                      node_name(moved ? e->node : e->child->node));
            return false;
        }
    }
    return true;
}

/* ---- inactive nodes ----------------------------------------------------- */

/* What is above an active node may write it; what is above an inactive one
 * may not, so it is inactive itself. */
static bool check_inactive(const struct graph_change *gc, struct error **errp)
{
    for (guint i = 0; i < gc->log->len; i++) {
        const struct log_entry *e =
            &g_array_index(gc->log, struct log_entry, i);
        const struct child *c = e->child;

        if ((e->kind == LOG_LINKED || e->kind == LOG_MOVED) && c->parent &&
            c->node->inactive && !c->parent->inactive) {
            error_set(errp, "Inactive '%s' can't be a %s child of active '%s'",
                      node_name(c->node), c->name, node_name(c->parent));
            error_add_node(errp, node_name(c->node));
            return false;
        }
    }
    return true;
}

/* ---- the end of a change ------------------------------------------------ */

/* The step took this reference; it is not the last. */
static void ref_undo(struct node *n)
{
    g_assert(n->n_refs > 1);
    n->n_refs--;
}

static void undo_step(const struct log_entry *e)
{
    struct child *c = e->child;

    switch (e->kind) {
    case LOG_LINKED:
        parents_remove(c->node, c);
        if (c->parent) {
            siblings_remove(c);
        }
        ref_undo(c->node);
        c->node = NULL;
        break;
    case LOG_UNLINKED:
        parents_insert(c->node, c, c->prev_parent, c->next_parent);
        if (c->parent) {
            siblings_insert(c, c->prev_sibling, c->next_sibling);
        }
        break;
    case LOG_MOVED:
        parents_remove(c->node, c);
        ref_undo(c->node);
        c->node = e->node;
        parents_insert(c->node, c, e->prev, e->next);
        break;
    case LOG_CHILD_PERM:
        __atomic_store_n(&c->perm, e->perm, __ATOMIC_RELAXED);
        c->shared = e->shared;
        break;
    case LOG_NODE_PERM:
        e->node->perm = e->perm;
        e->node->shared = e->shared;
        break;
    case LOG_INACTIVE:
        e->node->inactive = !e->node->inactive;
        break;
    }
}

static void drop_ref(struct node *n, GPtrArray *dropped)
{
    if (dropped) {
        g_ptr_array_add(dropped, n);
    } else {
        node_unref_later(n);
    }
}

/* Links are final: limits follow, roots learn of their new node. */
static void keep_step(const struct log_entry *e)
{
    struct child *c = e->child;

    if (e->kind > LOG_MOVED) {
        return;
    }
    if (c->parent && c->parent->opened && !c->parent->closing) {
        if (c->parent->driver->is_filter && (c->role & ROLE_FILTERED) &&
            e->kind != LOG_UNLINKED) {
            atomic_store(&c->parent->length_bytes, node_length(c->node));
        }
        node_refresh_limits(c->parent);
    }
    if (e->kind == LOG_MOVED && c->root && c->root->ops &&
        c->root->ops->resized) {
        c->root->ops->resized(c->root->opaque);
    }
}

static void drop_step(const struct log_entry *e, GPtrArray *dropped)
{
    struct child *c = e->child;
    struct node *old;

    if (e->kind == LOG_MOVED) {
        drop_ref(e->node, dropped);
    } else if (e->kind == LOG_UNLINKED) {
        old = c->node;
        c->node = NULL;
        if (c->parent) {
            g_free(c);
        }
        drop_ref(old, dropped);
    }
}

static void undo_all(struct graph_change *gc)
{
    for (guint i = gc->log->len; i-- > 0;) {
        undo_step(&g_array_index(gc->log, struct log_entry, i));
    }
}

static void change_free(struct graph_change *gc)
{
    g_array_free(gc->log, TRUE);
    g_ptr_array_free(gc->touched, TRUE);
    g_free(gc);
}

void graph_change_cancel(struct graph_change *gc)
{
    undo_all(gc);
    change_free(gc);
}

static bool change_finish(struct graph_change *gc, GPtrArray *dropped,
                          bool force, struct error **errp)
{
    g_autoptr(GPtrArray) seen = g_ptr_array_new();
    struct log_entry *log;
    bool ok = (force || (check_frozen(gc, errp) &&
                         check_inactive(gc, errp))) &&
              (update_heights(gc, force ? NULL : errp) || force) &&
              perm_check(gc, gc->touched, seen, force, errp);

    log = (struct log_entry *)gc->log->data;
    if (ok) {
        perm_commit(seen);
        node_filenames_changed();
        for (guint i = 0; i < gc->log->len; i++) {
            keep_step(&log[i]);
        }
        drain_graph_changed();
        for (guint i = 0; i < gc->log->len; i++) {
            drop_step(&log[i], dropped);
        }
    } else {
        undo_all(gc);
        update_heights(gc, NULL);
    }
    change_free(gc);
    return ok;
}

bool graph_change_check(struct graph_change *gc, struct error **errp)
{
    g_autoptr(GPtrArray) seen = g_ptr_array_new();
    bool ok = check_frozen(gc, errp) && check_inactive(gc, errp) &&
              update_heights(gc, errp) &&
              perm_check(gc, gc->touched, seen, false, errp);

    if (ok) {
        perm_abort(seen);
    }
    undo_all(gc);
    update_heights(gc, NULL);
    change_free(gc);
    return ok;
}

bool graph_change_finish(struct graph_change *gc, GPtrArray *dropped,
                         struct error **errp)
{
    return change_finish(gc, dropped, false, errp);
}

void graph_change_finish_nofail(struct graph_change *gc, GPtrArray *dropped)
{
    change_finish(gc, dropped, true, NULL);
}
