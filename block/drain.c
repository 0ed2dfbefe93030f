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
 *                 (node.n_busy), and so is what a node does on its own
 *                 (node.n_in_flight): a drain waits for them; openers wait for
 *                 drains before they start (drain_covers), closers do not.
 *             I4  A driver with drained_begin is told once while a drain
 *                 waits for something that reaches its node: a closed root,
 *                 a busy node, what drain_hurry_begin() names.
 */
#include "block/graph-priv.h"

#include "base/control.h"
#include "base/trace.h"
#include "block/backend.h"

struct drain {
    GPtrArray *nodes;           /* owned references */
    GHashTable *roots;          /* set of struct root *; I1, I2 */
    bool all;                   /* of all nodes, those to come as well */
    struct drain *next;
};

static struct drain *active;

/* I4.  Nodes whose driver has drained_begin, in no order. */
static struct node *hooked;
static struct drain_hurry *hurries;
static bool hurry_all;

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

/* The roots above D's nodes, into ROOTS; those with an opener or closer into
 * BUSY. */
static void collect_above(struct drain *d, GPtrArray *roots, GPtrArray *busy)
{
    uint64_t mark = graph_new_mark();
    struct node *stack = NULL;

    for (guint i = 0; i < d->nodes->len; i++) {
        stack = push_unseen(stack, d->nodes->pdata[i], mark);
    }
    while (stack) {
        struct node *n = stack;

        stack = n->walk_next;
        if (n->n_busy > 0 || atomic_load(&n->n_in_flight) > 0) {
            g_ptr_array_add(busy, n);
        }
        for (struct child *c = n->parents; c; c = c->next_parent) {
            if (c->root) {
                g_ptr_array_add(roots, c->root);
            } else {
                stack = push_unseen(stack, c->parent, mark);
            }
        }
    }
}

/* Owners are told after the walk: what they do may walk, too.  Is an opener
 * or closer above? */
static bool close_above(struct drain *d)
{
    g_autoptr(GPtrArray) roots = g_ptr_array_new();
    g_autoptr(GPtrArray) busy = g_ptr_array_new();

    collect_above(d, roots, busy);
    for (guint i = 0; i < roots->len; i++) {
        if (g_hash_table_add(d->roots, roots->pdata[i])) {
            root_close_gate(roots->pdata[i]);
        }
    }
    return busy->len > 0;
}

/* ---- drivers that hold requests back (I4) ------------------------------- */

static void mark_drained(struct drain *d, uint64_t mark)
{
    GHashTableIter it;
    gpointer r;

    g_hash_table_iter_init(&it, d->roots);
    while (g_hash_table_iter_next(&it, &r, NULL)) {
        if (((struct root *)r)->link.node) {
            graph_mark_below(((struct root *)r)->link.node, mark);
        }
    }
}

static void tell_one(struct node *n)
{
    n->drain_told = !n->drain_told;
    if (n->drain_told) {
        n->driver->drained_begin(n);
    } else {
        n->driver->drained_end(n);
    }
}

/* A mark for all that a drain waits for. */
static uint64_t mark_all_drained(void)
{
    g_autoptr(GPtrArray) busy = g_ptr_array_new();
    uint64_t mark;

    for (struct drain *d = active; d; d = d->next) {
        g_autoptr(GPtrArray) roots = g_ptr_array_new();

        collect_above(d, roots, busy);
    }
    mark = graph_new_mark();
    for (struct drain *d = active; d; d = d->next) {
        mark_drained(d, mark);
    }
    for (guint i = 0; i < busy->len; i++) {
        graph_mark_below(busy->pdata[i], mark);
    }
    for (struct drain_hurry *h = hurries; h; h = h->next) {
        graph_mark_below(h->root ? h->root->link.node : h->node, mark);
    }
    return mark;
}

/* First look at all, then tell: a driver may walk the graph, too. */
static void tell_drivers(void)
{
    g_autoptr(GPtrArray) changed = NULL;
    uint64_t mark;

    if (G_LIKELY(!hooked)) {
        return;
    }
    changed = g_ptr_array_new();
    mark = mark_all_drained();
    for (struct node *n = hooked; n; n = n->next_hooked) {
        bool told = hurry_all || n->mark == mark;

        if (n->opened && n->drain_told != told) {
            g_ptr_array_add(changed, n);
        }
    }
    for (guint i = 0; i < changed->len; i++) {
        tell_one(changed->pdata[i]);
    }
}

void drain_hook_add(struct node *n)
{
    if (n->driver->drained_begin) {
        n->next_hooked = hooked;
        hooked = n;
    }
}

void drain_hook_remove(struct node *n)
{
    for (struct node **p = &hooked; *p; p = &(*p)->next_hooked) {
        if (*p == n) {
            *p = n->next_hooked;
            return;
        }
    }
}

void drain_hurry_begin(struct drain_hurry *h)
{
    control_assert();
    h->next = hurries;
    hurries = h;
    tell_drivers();
}

void drain_hurry_end(struct drain_hurry *h)
{
    struct drain_hurry **p = &hurries;

    control_assert();
    while (*p != h) {
        p = &(*p)->next;
    }
    *p = h->next;
    tell_drivers();
}

void drain_hurry_all(void)
{
    control_assert();
    hurry_all = true;
    backends_let_go();
    tell_drivers();
}

void node_inc_in_flight(struct node *n)
{
    atomic_fetch_add(&n->n_in_flight, 1);
}

void node_dec_in_flight(struct node *n)
{
    if (atomic_fetch_sub(&n->n_in_flight, 1) == 1) {
        control_notify();
    }
}

void node_cancel_in_flight(struct node *n)
{
    g_autoptr(GPtrArray) found = g_ptr_array_new();
    uint64_t mark = graph_new_mark();

    graph_mark_below(n, mark);
    for (struct node *m = node_next(NULL); m; m = node_next(m)) {
        if (m->mark == mark && m->driver->cancel_in_flight) {
            g_ptr_array_add(found, m);
        }
    }
    for (guint i = 0; i < found->len; i++) {
        n = found->pdata[i];
        n->driver->cancel_in_flight(n);
    }
}

static bool drain_is_busy(struct drain *d)
{
    bool busy = close_above(d);
    GHashTableIter it;
    gpointer r;

    tell_drivers();
    if (busy) {
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
    tell_drivers();
}

void drain_graph_changed(void)
{
    for (struct drain *d = active; d; d = d->next) {
        close_above(d);
    }
    if (active || hurries) {
        tell_drivers();
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
    tell_drivers();     /* before anything new comes in */
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
