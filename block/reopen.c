/* SPDX-License-Identifier: MIT */
/*
 * blockdev-reopen: see reopen.h for the steps.
 *
 * Problem     Nodes change together, and each of several drivers, locks of
 *             other programs and users of the nodes may refuse, some only
 *             when part of it is done.
 * Invariants  I1  From the end of the plan to the end the nodes are drained
 *                 and n_busy: who wants to drain them, to change what we look
 *                 at, waits.
 *             I2  Until all have activated, each step has its way back; then
 *                 nothing can fail.
 *             I3  Nodes that go out of use are kept until the end, and closed
 *                 when all is done.
 */
#include "block/reopen-priv.h"

#include <stdlib.h>
#include "base/control.h"
#include "base/error.h"
#include "base/trace.h"
#include "bitmaps/dirty-bitmap.h"
#include "qapi/qapi-commands.h"

bool node_reopen_nothing(struct node_reopen *r, struct error **errp)
{
    return true;
}

/* ---- the plan, and the drain of its nodes ------------------------------- */

/* What is asked for: a list, or one node to be read-only or not. */
struct request {
    const BlockdevOptionsList *list;
    struct node *node;
    bool read_only;
};

static bool make_plan(struct reopen *x, const struct request *q,
                      struct error **errp)
{
    return q->list ? reopen_plan(x, q->list, errp)
                   : reopen_plan_read_only(x, q->node, q->read_only, errp);
}

static bool contains(const GPtrArray *nodes, const struct node *n)
{
    return g_ptr_array_find((GPtrArray *)nodes, n, NULL);
}

static struct drain *drain_plan(const struct reopen *x, GPtrArray *nodes)
{
    g_ptr_array_set_size(nodes, 0);
    for (guint i = 0; i < x->items->len; i++) {
        struct reopen_item *it = x->items->pdata[i];

        g_ptr_array_add(nodes, it->r.node);
    }
    return drain_begin((struct node *const *)nodes->pdata, nodes->len);
}

static bool all_drained(const struct reopen *x, const GPtrArray *nodes)
{
    for (guint i = 0; i < x->items->len; i++) {
        struct reopen_item *it = x->items->pdata[i];

        if (!contains(nodes, it->r.node)) {
            return false;
        }
    }
    return true;
}

/*
 * While the drain waits the graph may change: plan again, and drain again if
 * there are other nodes then.  X must be cleared either way.
 */
static struct drain *plan_drained(struct reopen *x, const struct request *q,
                                  GPtrArray *dropped, struct error **errp)
{
    g_autoptr(GPtrArray) nodes = g_ptr_array_new();
    struct drain *d;

    if (!make_plan(x, q, errp)) {
        return NULL;
    }
    for (;;) {
        d = drain_plan(x, nodes);
        reopen_clear(x, dropped);
        if (!make_plan(x, q, errp)) {
            drain_end(&d);
            return NULL;
        }
        if (all_drained(x, nodes)) {
            return d;
        }
        drain_end(&d);
    }
}

/* ---- drivers ------------------------------------------------------------ */

static bool prepare(struct reopen_item *it, struct error **errp)
{
    struct node *n = it->r.node;
    AUTO_ERROR(err);
    bool ok = true;

    CONTROL_YIELD {
        if (!n->read_only) {
            int ret = node_flush(n);

            ok = ret == 0;
            if (!ok) {
                error_set_errno(&err, -ret, "Error flushing drive");
            }
        }
        ok = ok && n->driver->reopen_prepare(&it->r, &err);
    }
    if (!ok) {
        error_propagate(errp, g_steal_pointer(&err));
    }
    it->prepared = ok;
    return ok;
}

static bool prepare_all(struct reopen *x, struct error **errp)
{
    for (guint i = 0; i < x->items->len; i++) {
        if (!prepare(x->items->pdata[i], errp)) {
            return false;
        }
    }
    return true;
}

static void abort_all(struct reopen *x)
{
    for (guint i = x->items->len; i-- > 0;) {
        struct reopen_item *it = x->items->pdata[i];
        struct node *n = it->r.node;

        if (it->prepared && n->driver->reopen_abort) {
            CONTROL_YIELD {
                n->driver->reopen_abort(&it->r);
            }
        }
    }
}

static gint lower_first(gconstpointer a, gconstpointer b)
{
    const struct reopen_item *ia = *(struct reopen_item *const *)a;
    const struct reopen_item *ib = *(struct reopen_item *const *)b;

    return ia->r.node->height - ib->r.node->height;
}

static bool activate(struct reopen_item *it, struct error **errp)
{
    struct node *n = it->r.node;
    AUTO_ERROR(err);
    bool ok = true;

    if (n->driver->reopen_activate) {
        CONTROL_YIELD {
            ok = n->driver->reopen_activate(&it->r, &err);
        }
    }
    if (!ok) {
        error_propagate(errp, g_steal_pointer(&err));
    }
    return ok;
}

/* Children before parents. */
static bool activate_all(struct reopen *x, struct error **errp)
{
    g_ptr_array_sort(x->items, lower_first);
    for (guint i = 0; i < x->items->len; i++) {
        if (!activate(x->items->pdata[i], errp)) {
            return false;
        }
    }
    return true;
}

/* ---- the end that cannot fail ------------------------------------------- */

/* A child that is one no more has nothing from N any more; one that was
 * further down in N's options has it now. */
static void adopt_children(struct reopen_item *it)
{
    struct node *n = it->r.node;

    for (int i = 0; i < it->n_links; i++) {
        const struct reopen_link *l = &it->links[i];

        if (l->to && node_comes_from(l->to, n)) {
            l->to->inherits_from = n->id;
        }
        if (l->from && l->from != l->to && l->from->inherits_from == n->id) {
            l->from->inherits_from = 0;
        }
    }
}

static void follow_filename(struct node *n)
{
    if (n->file && !n->driver->is_protocol) {
        g_free(n->filename);
        n->filename = g_strdup(n->file->node->filename);
    }
}

static void commit(struct reopen_item *it)
{
    struct node *n = it->r.node;

    if (n->driver->reopen_commit) {
        CONTROL_YIELD {
            n->driver->reopen_commit(&it->r);
        }
    }
    BlockdevOptions_free(n->options);
    n->options = g_steal_pointer(&it->r.options);
    n->inherited = it->inherited;
    adopt_children(it);
    follow_filename(n);
    node_refresh_limits(n);
    trace(GRAPH, "reopen node-name=%s read-only=%d", n->name, n->read_only);
}

/* Lengths are final: what is above follows, and roots are told. */
static void commit_length(struct reopen_item *it)
{
    struct node *n = it->r.node;
    AUTO_ERROR(err);

    if (node_length(n) == it->old_length) {
        return;
    }
    if (!node_length_changed(n, node_length(n), &err)) {
        error_report(err);
    }
    node_notify_resized(n);
}

static void commit_all(struct reopen *x)
{
    for (guint i = 0; i < x->items->len; i++) {
        commit(x->items->pdata[i]);
    }
    node_filenames_changed();
    for (guint i = 0; i < x->items->len; i++) {
        commit_length(x->items->pdata[i]);
    }
}

/* ---- all of it ---------------------------------------------------------- */

static void set_busy(struct reopen *x, bool busy)
{
    for (guint i = 0; i < x->items->len; i++) {
        struct reopen_item *it = x->items->pdata[i];

        it->r.node->n_busy += busy ? 1 : -1;
        it->old_length = node_length(it->r.node);
    }
    control_notify();
}

/* New children are as long as what is below them. */
static bool refresh_lengths(struct reopen *x, struct error **errp)
{
    for (guint i = 0; i < x->items->len; i++) {
        struct reopen_item *it = x->items->pdata[i];

        for (int k = 0; k < it->n_links; k++) {
            struct node *to = it->links[k].to;

            if (to && !node_refresh_length(to, errp)) {
                return false;
            }
        }
    }
    return true;
}

/* The nodes of X are drained. */
static bool run(struct reopen *x, GPtrArray *dropped, struct error **errp)
{
    bool ok;

    set_busy(x, true);
    ok = reopen_check_graph(x, errp) && prepare_all(x, errp) &&
         reopen_change_graph(x, dropped, errp);
    if (ok && !(refresh_lengths(x, errp) && activate_all(x, errp))) {
        ok = false;
        reopen_restore_graph(x, dropped);
    }
    if (ok) {
        commit_all(x);
    } else {
        abort_all(x);
    }
    set_busy(x, false);
    return ok;
}

static bool reopen(const struct request *q, struct error **errp)
{
    g_autoptr(GPtrArray) dropped = g_ptr_array_new();
    struct reopen x = { 0 };
    struct drain *d;
    bool ok = false;

    control_assert();
    d = plan_drained(&x, q, dropped, errp);
    if (d) {
        ok = run(&x, dropped, errp);
    }
    reopen_clear(&x, dropped);
    drain_end(&d);
    for (guint i = 0; i < dropped->len; i++) {
        node_unref(dropped->pdata[i]);
    }
    return ok;
}

bool nodes_reopen(const BlockdevOptionsList *list, struct error **errp)
{
    struct request q = { .list = list };

    return list->n == 0 || reopen(&q, errp);
}

bool node_set_read_only(struct node *n, bool read_only, struct error **errp)
{
    struct request q = { .node = n, .read_only = read_only };

    return n->read_only == read_only || reopen(&q, errp);
}

bool qmp_blockdev_reopen(const BlockdevReopenArgs *args, struct error **errp)
{
    return nodes_reopen(args->options, errp);
}
