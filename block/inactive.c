/* SPDX-License-Identifier: MIT */
/*
 * Activating and inactivating nodes: see inactive.h.
 *
 * Steps       1. The nodes concerned are found, their bitmaps claimed, and
 *                they are drained; found again, until they are the same.
 *             2. Inactivate: parents first, flush and driver->inactivate();
 *                when one fails those done are activated again.  Then all
 *                become inactive in one graph_change, which gives up the
 *                locks.
 *                Activate: children first, a graph_change each, which takes
 *                the locks, then driver->activate(); when one fails those
 *                done are inactivated again.
 *             3. Lengths that have changed meanwhile are told.
 */
#include "block/inactive.h"

#include <errno.h>
#include <string.h>
#include "base/control.h"
#include "base/trace.h"
#include "bitmaps/dirty-bitmap.h"
#include "block/bitmap.h"
#include "block/graph-priv.h"
#include "qapi/qapi-commands.h"

static bool default_inactive, machine_runs;

void inactive_set_running(bool running)
{
    control_assert();
    machine_runs = running;
}

bool inactive_machine_runs(void)
{
    return machine_runs;
}

void inactive_set_default(bool inactive)
{
    control_assert();
    default_inactive = inactive;
}

bool inactive_is_default(void)
{
    return default_inactive;
}

bool node_is_inactive(const struct node *n)
{
    return n->inactive;
}

bool node_check_active(const struct node *n, struct error **errp)
{
    if (n->inactive) {
        error_set(errp, "Permission 'write' unavailable on inactive node");
        error_add_node(errp, node_name(n));
    }
    return !n->inactive;
}

/* ---- which nodes -------------------------------------------------------- */

/* What is asked for: one node, or (NULL) all. */
struct handover {
    struct node *node;
    bool activate;
    guint n_fresh;              /* by plan(): so many at the start are active
                                   already, and only to be read again */
};

static gint lower_first(gconstpointer a, gconstpointer b)
{
    return (*(struct node *const *)a)->height -
           (*(struct node *const *)b)->height;
}

static gint higher_first(gconstpointer a, gconstpointer b)
{
    return lower_first(b, a);
}

/* Published nodes that are meant or below what is meant. */
static GPtrArray *candidates(const struct handover *h)
{
    GPtrArray *nodes = g_ptr_array_new();
    uint64_t mark = graph_new_mark();

    if (h->node) {
        graph_mark_below(h->node, mark);
    }
    for (struct node *n = node_next(NULL); n; n = node_next(n)) {
        if ((!h->node || n->mark == mark) && n->inactive == h->activate) {
            g_ptr_array_add(nodes, n);
        }
    }
    g_ptr_array_sort(nodes, h->activate ? lower_first : higher_first);
    return nodes;
}

/* Files that are active below nodes of SET, which are not: nobody here has
 * written to them, others may have.  To the front of SET; how many. */
static guint add_fresh(GPtrArray *set)
{
    uint64_t mark = graph_new_mark();
    guint n_fresh = 0;

    for (guint i = 0; i < set->len; i++) {
        if (((struct node *)set->pdata[i])->mark != mark) {
            graph_mark_below(set->pdata[i], mark);
        }
    }
    for (struct node *n = set->len ? node_next(NULL) : NULL; n;
         n = node_next(n)) {
        if (n->mark == mark && !n->inactive && n->driver->is_protocol) {
            g_ptr_array_insert(set, 0, n);
            n_fresh++;
        }
    }
    return n_fresh;
}

/* Other than those that have MARK: they will be inactive. */
static bool has_active_parent(const struct node *n, uint64_t mark)
{
    for (const struct child *c = n->parents; c; c = c->next_parent) {
        if (c->parent && !c->parent->inactive && c->parent->mark != mark) {
            return true;
        }
    }
    return false;
}

static bool roots_agree(const struct node *n)
{
    for (const struct child *c = n->parents; c; c = c->next_parent) {
        if (c->root && !root_may_be_inactive(c->root)) {
            return false;
        }
    }
    return true;
}

static bool may_go(const struct handover *h, const struct node *n,
                   struct error **errp)
{
    if (roots_agree(n)) {
        return true;
    }
    error_set_errno(errp, EPERM, h->node ? "Failed to inactivate node"
                                         : "Failed to inactivate all nodes");
    error_add_node(errp, node_name(n));
    return false;
}

/* The nodes to be changed, in order (borrowed); NULL: refused. */
static GPtrArray *plan(struct handover *h, struct error **errp)
{
    GPtrArray *all = candidates(h), *set;
    uint64_t mark;

    if (h->activate) {
        h->n_fresh = add_fresh(all);
        return all;
    }
    set = g_ptr_array_new();
    mark = graph_new_mark();
    for (guint i = 0; i < all->len; i++) {
        struct node *n = all->pdata[i];

        if (!has_active_parent(n, mark)) {
            n->mark = mark;
            g_ptr_array_add(set, n);
        } else if (n == h->node) {
            error_set(errp, "Node has active parent node");
            g_clear_pointer(&set, g_ptr_array_unref);
            break;
        }
    }
    for (guint i = 0; set && i < set->len; i++) {
        if (!may_go(h, set->pdata[i], errp)) {
            g_clear_pointer(&set, g_ptr_array_unref);
        }
    }
    g_ptr_array_unref(all);
    return set;
}

/* ---- one node ----------------------------------------------------------- */

static bool write_all(struct node *n, struct error **errp)
{
    AUTO_ERROR(err);
    bool ok = true;
    int ret = 0;

    CONTROL_YIELD {
        if (!n->read_only) {
            ret = node_flush(n);
        }
        if (ret == 0 && n->driver->inactivate) {
            ok = n->driver->inactivate(n, &err);
        }
    }
    if (ret < 0) {
        error_set_errno(errp, -ret, "Failed to inactivate node");
    } else if (!ok) {
        error_prepend(&err, "Failed to inactivate node: ");
        error_propagate(errp, g_steal_pointer(&err));
    }
    return ret == 0 && ok;
}

static bool read_all(struct node *n, struct error **errp)
{
    AUTO_ERROR(err);
    bool ok = true;

    if (n->driver->activate) {
        CONTROL_YIELD {
            ok = n->driver->activate(n, &err);
        }
    }
    if (!ok) {
        error_propagate(errp, g_steal_pointer(&err));
    }
    return ok;
}

/* Roots, filters and bitmaps follow a length that is another one now. */
static void tell_length(struct node *n)
{
    struct node *file = node_filtered(n);
    AUTO_ERROR(err);

    if (file && !n->driver->activate) {
        atomic_store(&n->length_bytes, node_length(file));
    }
    if (!node_length_changed(n, node_length(n), &err)) {
        error_report(err);
    }
    node_refresh_limits(n);
    node_notify_resized(n);
}

static void set_inactive(GPtrArray *set)
{
    struct graph_change *gc = graph_change_begin();

    for (guint i = 0; i < set->len; i++) {
        graph_change_inactive(gc, set->pdata[i], true);
        trace(GRAPH, "inactivate node-name=%s",
              node_name(set->pdata[i]));
    }
    graph_change_finish_nofail(gc, NULL);
}

/* N is active, and what it knows of its file may be old. */
static bool read_again(struct node *n, struct error **errp)
{
    if (!read_all(n, errp)) {
        return false;
    }
    tell_length(n);
    return true;
}

static bool activate_one(struct node *n, struct error **errp)
{
    struct graph_change *gc = graph_change_begin();

    graph_change_inactive(gc, n, false);
    if (!graph_change_finish(gc, NULL, errp)) {
        return false;
    }
    if (read_again(n, errp)) {
        trace(GRAPH, "activate node-name=%s", node_name(n));
        return true;
    }
    gc = graph_change_begin();
    graph_change_inactive(gc, n, true);
    graph_change_finish_nofail(gc, NULL);
    return false;
}

/* ---- all of them (I5) --------------------------------------------------- */

static bool inactivate_set(GPtrArray *set, struct error **errp)
{
    for (guint i = 0; i < set->len; i++) {
        if (write_all(set->pdata[i], errp)) {
            continue;
        }
        while (i-- > 0) {
            AUTO_ERROR(err);
            if (!read_all(set->pdata[i], &err)) {
                error_report(err);
            }
        }
        return false;
    }
    set_inactive(set);
    return true;
}

/* SET from FIRST to before DONE, children first, is to be inactive again. */
static void take_back(GPtrArray *set, guint first, guint done)
{
    g_autoptr(GPtrArray) back = g_ptr_array_new();

    while (done-- > first) {
        AUTO_ERROR(err);
        if (!write_all(set->pdata[done], &err)) {
            error_report(err);
        }
        g_ptr_array_add(back, set->pdata[done]);
    }
    set_inactive(back);
}

static bool activate_set(GPtrArray *set, guint n_fresh, struct error **errp)
{
    for (guint i = 0; i < set->len; i++) {
        bool ok = i < n_fresh ? read_again(set->pdata[i], errp)
                              : activate_one(set->pdata[i], errp);

        if (!ok) {
            take_back(set, n_fresh, i);
            return false;
        }
    }
    return true;
}

static void set_busy(const GPtrArray *set, bool busy)
{
    for (guint i = 0; i < set->len; i++) {
        ((struct node *)set->pdata[i])->n_busy += busy ? 1 : -1;
    }
    control_notify();
}

static bool same_nodes(const GPtrArray *a, const GPtrArray *b)
{
    return a->len == b->len &&
           memcmp(a->pdata, b->pdata, a->len * sizeof(a->pdata[0])) == 0;
}

/* SET is drained, and its bitmaps are claimed. */
static bool run(const struct handover *h, GPtrArray *set,
                struct error **errp)
{
    bool ok;

    set_busy(set, true);
    ok = h->activate ? activate_set(set, h->n_fresh, errp)
                     : inactivate_set(set, errp);
    set_busy(set, false);
    return ok;
}

/* They stay while the command waits. */
static void hold_all(GPtrArray *set)
{
    for (guint i = 0; i < set->len; i++) {
        node_ref(set->pdata[i]);
    }
}

static void drop_all(GPtrArray *set)
{
    for (guint i = 0; i < set->len; i++) {
        node_unref(set->pdata[i]);
    }
}

/* Of those that have bitmaps: the commands of a transaction may have claimed
 * a new overlay's. */
static struct bitmap_claim *claim_bitmaps(const GPtrArray *set)
{
    g_autoptr(GPtrArray) nodes = g_ptr_array_new();

    for (guint i = 0; i < set->len; i++) {
        struct node *n = set->pdata[i];

        if (dirty_bitmap_next(n->bitmaps, NULL)) {
            g_ptr_array_add(nodes, n);
        }
    }
    return bitmap_claim((struct node **)nodes->pdata, nodes->len);
}

/* One try; *AGAIN: what is concerned has changed while it waited. */
static bool try_handover(struct handover *h, bool *again, struct error **errp)
{
    g_autoptr(GPtrArray) first = plan(h, errp), set = NULL;
    struct node **nodes;
    struct bitmap_claim *claim;
    struct drain *drain;
    bool ok = false;

    *again = false;
    if (!first || first->len == 0) {
        return first != NULL;
    }
    hold_all(first);
    nodes = (struct node **)first->pdata;
    claim = claim_bitmaps(first);
    drain = drain_begin(nodes, first->len);
    set = plan(h, errp);
    if (set && same_nodes(first, set)) {
        ok = run(h, set, errp);
    } else {
        *again = set != NULL;
    }
    drain_end(&drain);
    bitmap_release(&claim);
    drop_all(first);
    return ok;
}

static bool hand_over(struct node *n, bool activate, struct error **errp)
{
    struct handover h = { .node = n, .activate = activate };
    bool again, ok;

    control_assert();
    if (n) {
        node_ref(n);
    }
    do {
        ok = try_handover(&h, &again, errp);
    } while (again);
    node_unref(n);
    return ok;
}

bool node_activate(struct node *n, struct error **errp)
{
    return hand_over(n, true, errp);
}

bool node_inactivate(struct node *n, struct error **errp)
{
    return n->inactive || hand_over(n, false, errp);
}

bool nodes_activate_all(struct error **errp)
{
    return hand_over(NULL, true, errp);
}

bool nodes_inactivate_all(struct error **errp)
{
    return hand_over(NULL, false, errp);
}

/* ---- the command -------------------------------------------------------- */

bool qmp_blockdev_set_active(const BlockdevSetActiveArgs *args,
                             struct error **errp)
{
    struct node *n;

    if (!args->node_name) {
        return args->active ? nodes_activate_all(errp)
                            : nodes_inactivate_all(errp);
    }
    n = node_find(args->node_name);
    if (!n) {
        error_set(errp, "Failed to find node with node-name='%s'",
                  args->node_name);
        error_add_node(errp, args->node_name);
        return false;
    }
    return args->active ? node_activate(n, errp) : node_inactivate(n, errp);
}
