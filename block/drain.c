/* SPDX-License-Identifier: MIT */
/*
 * Drains: keep every root above some nodes quiet.  See root.h.
 *
 * Problem     The set of roots above a node changes: roots come and go while
 *             a drain waits and while it holds.
 * Answer      A list of active drains, each with its nodes and the roots it
 *             has closed.  Whoever changes the graph lets all drains look
 *             again (drain_graph_changed); a root that is above a drained
 *             node now is closed before anyone can use it.
 * Invariants  I1  A root's n_drains is the number of active drains that have
 *                 it in their set.
 *             I2  A root stays in a drain's set until the drain ends or the
 *                 root is freed, even if it is no longer above its nodes.
 *             I3  Openers and closers of nodes above are requests too
 *                 (node.n_busy): a drain waits for them; openers wait for
 *                 drains before they start (drain_covers), closers do not.
 */
#include "block/graph-priv.h"

#include "base/control.h"
#include "base/trace.h"

struct drain {
    GPtrArray *nodes;           /* owned references */
    GHashTable *roots;          /* set of struct root *; I1, I2 */
    bool all;                   /* of all nodes, those to come as well */
    struct drain *next;
};

static struct drain *active;

/* ---- looking up --------------------------------------------------------- */

static struct node *push_unseen(struct node *stack, struct node *n,
                                uint64_t mark)
{
    if (n->mark == mark) {
        return stack;
    }
    n->mark = mark;
    n->walk_next = stack;
    return n;
}

/* The roots above D's nodes, into ROOTS.  Is an opener or closer there? */
static bool collect_above(struct drain *d, GPtrArray *roots)
{
    uint64_t mark = graph_new_mark();
    struct node *stack = NULL;
    bool busy = false;

    for (guint i = 0; i < d->nodes->len; i++) {
        stack = push_unseen(stack, d->nodes->pdata[i], mark);
    }
    while (stack) {
        struct node *n = stack;

        stack = n->walk_next;
        busy = busy || n->n_busy > 0;
        for (struct child *c = n->parents; c; c = c->next_parent) {
            if (c->root) {
                g_ptr_array_add(roots, c->root);
            } else {
                stack = push_unseen(stack, c->parent, mark);
            }
        }
    }
    return busy;
}

/* Owners are told after the walk: what they do may walk, too. */
static bool close_above(struct drain *d)
{
    g_autoptr(GPtrArray) roots = g_ptr_array_new();
    bool busy = collect_above(d, roots);

    for (guint i = 0; i < roots->len; i++) {
        if (g_hash_table_add(d->roots, roots->pdata[i])) {
            root_close_gate(roots->pdata[i]);
        }
    }
    return busy;
}

static bool drain_is_busy(struct drain *d)
{
    GHashTableIter it;
    gpointer r;

    if (close_above(d)) {
        return true;
    }
    g_hash_table_iter_init(&it, d->roots);
    while (g_hash_table_iter_next(&it, &r, NULL)) {
        if (root_is_busy(r)) {
            return true;
        }
    }
    return false;
}

/* ---- for the rest of the graph ------------------------------------------ */

bool drain_covers(struct node *n)
{
    uint64_t mark;

    if (!active) {
        return false;
    }
    mark = graph_new_mark();
    graph_mark_below(n, mark);
    for (struct drain *d = active; d; d = d->next) {
        for (guint i = 0; i < d->nodes->len; i++) {
            if (((struct node *)d->nodes->pdata[i])->mark == mark) {
                return true;
            }
        }
    }
    return false;
}

static void add_node(struct drain *d, struct node *n)
{
    g_ptr_array_add(d->nodes, node_ref(n));
}

void drain_node_added(struct node *n)
{
    for (struct drain *d = active; d; d = d->next) {
        if (d->all) {
            add_node(d, n);
        }
    }
}

void drain_graph_changed(void)
{
    for (struct drain *d = active; d; d = d->next) {
        close_above(d);
    }
}

void drain_root_removed(struct root *r)
{
    for (struct drain *d = active; d; d = d->next) {
        if (g_hash_table_remove(d->roots, r)) {
            root_open_gate(r);
        }
    }
}

/* ---- begin, end --------------------------------------------------------- */

static struct drain *drain_start(void)
{
    struct drain *d = g_new0(struct drain, 1);

    control_assert();
    d->nodes = g_ptr_array_new();
    d->roots = g_hash_table_new(NULL, NULL);
    return d;
}

static struct drain *drain_wait_quiet(struct drain *d)
{
    d->next = active;
    active = d;
    while (drain_is_busy(d)) {
        control_wait();
    }
    trace(DRAIN, "begin nodes=%u roots=%u", d->nodes->len,
          g_hash_table_size(d->roots));
    return d;
}

struct drain *drain_begin(struct node *const *nodes, size_t n)
{
    struct drain *d = drain_start();

    for (size_t i = 0; i < n; i++) {
        add_node(d, nodes[i]);
    }
    return drain_wait_quiet(d);
}

struct drain *drain_all_begin(void)
{
    struct drain *d = drain_start();

    d->all = true;
    for (struct node *n = node_next(NULL); n; n = node_next(n)) {
        add_node(d, n);
    }
    return drain_wait_quiet(d);
}

void drain_end(struct drain **drain)
{
    struct drain *d = *drain, **p = &active;
    GHashTableIter it;
    gpointer r;

    control_assert();
    if (!d) {
        return;
    }
    while (*p != d) {
        p = &(*p)->next;
    }
    *p = d->next;
    g_hash_table_iter_init(&it, d->roots);
    while (g_hash_table_iter_next(&it, &r, NULL)) {
        root_open_gate(r);
    }
    trace(DRAIN, "end nodes=%u", d->nodes->len);
    for (guint i = 0; i < d->nodes->len; i++) {
        node_unref_later(d->nodes->pdata[i]);
    }
    g_hash_table_destroy(d->roots);
    g_ptr_array_free(d->nodes, TRUE);
    g_free(d);
    *drain = NULL;
    control_notify();   /* openers that wait (I3) */
}
