/* SPDX-License-Identifier: MIT */
/*
 * The graph's nodes: their list, names, references, end.
 *
 * Life        A node takes its name before it is linked or opened; nobody
 *             finds it while it is opened.  node_publish() puts it into the
 *             list.  With the last reference it leaves list and names at
 *             once and is closed with the control lock given up: parents
 *             first, then the children that nobody else holds.
 * Invariants  I1  A name is in the table from node_take_name() until the
 *                 node starts to close; node_find() sees published nodes only.
 *             I2  serial ascends along the list; 0 means not published.
 *             I3  A closing node has no parents and keeps its children until
 *                 driver->close() has returned.
 * Cost        Finding by name, adding and removing are O(1).
 */
#include "block/graph-priv.h"

#include <string.h>
#include "base/control.h"
#include "base/id.h"
#include "base/pool.h"
#include "base/trace.h"
#include "bitmaps/dirty-bitmap.h"
#include "block/backend.h"
#include "block/debug.h"

enum { MAX_NAME = 31 };

static GHashTable *names;       /* name (the node's) -> node; I1 */
static struct node *newest;
static uint64_t last_serial, last_mark, last_auto_name, last_id;
static int n_closing;

/* ---- names -------------------------------------------------------------- */

bool node_check_name(const char *name, struct error **errp)
{
    if (!id_is_well_formed(name)) {
        error_set(errp, "Invalid node-name: '%s'", name);
        return false;
    }
    if (backend_find(name)) {
        error_set(errp, "node-name=%s is conflicting with a device id", name);
        return false;
    }
    if (g_hash_table_contains(names, name)) {
        error_set(errp, "Duplicate nodes with node-name='%s'", name);
        return false;
    }
    if (strlen(name) > MAX_NAME) {
        error_set(errp, "Node name too long");
        return false;
    }
    return true;
}

static char *make_name(const char *name, struct error **errp)
{
    if (name) {
        return node_check_name(name, errp) ? g_strdup(name) : NULL;
    }
    return g_strdup_printf("#block%03" G_GUINT64_FORMAT, ++last_auto_name);
}

/* ---- making ------------------------------------------------------------- */

struct node *node_new_nameless(const struct driver *drv)
{
    struct node *n = g_new0(struct node, 1);

    control_assert();
    n->driver = drv;
    n->state = g_malloc0(drv->state_size);
    n->n_refs = 1;
    n->id = ++last_id;
    n->shared = n->driver_shared = PERM_ALL;
    n->filename = g_strdup("");
    range_lock_init(&n->serialising, "node-serialising");
    n->bitmaps = dirty_bitmap_list_new();
    drain_hook_add(n);
    return n;
}

bool node_take_name(struct node *n, const char *name, struct error **errp)
{
    g_assert(!n->name);
    if (!names) {
        names = g_hash_table_new(g_str_hash, g_str_equal);
    }
    n->name = make_name(name, errp);
    if (!n->name) {
        return false;
    }
    g_hash_table_insert(names, n->name, n);
    return true;
}

struct node *node_new(const struct driver *drv, const char *name,
                      struct error **errp)
{
    struct node *n = node_new_nameless(drv);

    if (!node_take_name(n, name, errp)) {
        node_unref(n);
        return NULL;
    }
    return n;
}

void node_publish(struct node *n)
{
    g_assert(n->serial == 0);
    n->serial = ++last_serial;
    n->opening = NULL;
    n->older = newest;
    if (newest) {
        newest->newer = n;
    }
    newest = n;
    drain_node_added(n);
    trace(GRAPH, "node-add node-name=%s driver=%s", n->name, n->driver->name);
}

struct node *node_new_filter(const struct driver *drv, const char *name,
                             bool implicit, struct error **errp)
{
    struct node *n = node_new(drv, name, errp);

    if (n) {
        n->implicit = implicit;
        n->opened = true;
        node_refresh_limits(n);
        node_publish(n);
    }
    return n;
}

/* ---- finding ------------------------------------------------------------ */

struct node *node_find(const char *name)
{
    struct node *n;

    control_assert();
    n = names && name ? g_hash_table_lookup(names, name) : NULL;
    return n && n->serial ? n : NULL;
}

struct node *node_find_hidden(const char *name)
{
    struct node *n = names ? g_hash_table_lookup(names, name) : NULL;

    return n && !n->serial ? n : NULL;
}

struct node *node_lookup(const char *device, const char *node_name,
                         struct error **errp)
{
    const struct backend *b = backend_find(device);
    struct node *n = b ? backend_node(b) : node_find(node_name);

    if (b && !n) {
        error_set(errp, "Device '%s' has no medium", device);
    } else if (!n) {
        error_set(errp, "Cannot find device='%s' nor node-name='%s'",
                  device ? device : "", node_name ? node_name : "");
        error_add_node(errp, node_name);
    }
    return n;
}

struct node *node_next(const struct node *n)
{
    control_assert();
    return n ? n->older : newest;
}

/* ---- traversal ---------------------------------------------------------- */

uint64_t graph_new_mark(void)
{
    control_assert();
    return ++last_mark;
}

/* Stops early when UNTIL (may be NULL) was reached: true then. */
static bool walk_below(struct node *n, uint64_t mark, const struct node *until)
{
    struct node *stack = n;

    n->mark = mark;
    n->walk_next = NULL;
    while (stack) {
        struct node *top = stack;

        if (top == until) {
            return true;
        }
        stack = top->walk_next;
        for (struct child *c = top->children; c; c = c->next_sibling) {
            if (c->node->mark != mark) {
                c->node->mark = mark;
                c->node->walk_next = stack;
                stack = c->node;
            }
        }
    }
    return false;
}

void graph_mark_below(struct node *n, uint64_t mark)
{
    walk_below(n, mark, NULL);
}

bool node_reaches(const struct node *n, const struct node *other)
{
    return walk_below((struct node *)n, graph_new_mark(), other);
}

/* ---- references, the end ------------------------------------------------ */

struct node *node_ref(struct node *n)
{
    control_assert();
    g_assert(n->n_refs > 0);
    n->n_refs++;
    return n;
}

/* The last reference is gone: nobody can find it any more (I1). */
static void leave_graph(struct node *n)
{
    g_assert(!n->parents && !n->closing);
    n->closing = true;
    n_closing++;
    if (n->name) {
        g_hash_table_remove(names, n->name);
    }
    if (n->serial) {
        *(n->newer ? &n->newer->older : &newest) = n->older;
        if (n->older) {
            n->older->newer = n->newer;
        }
    }
    n->newer = n->older = NULL;
    trace(GRAPH, "node-close node-name=%s", n->name ? n->name : "");
}

static void node_destroy(struct node *n)
{
    g_assert(!n->children);
    drain_hook_remove(n);
    for (int op = 0; op < NODE_OP__MAX; op++) {
        g_assert(!n->op_blockers[op]);
    }
    dirty_bitmap_list_free(n->bitmaps);
    range_lock_deinit(&n->serialising);
    BlockdevOptions_free(n->options);
    invalidated_free(n->invalidated);
    g_free(n->filename);
    g_free(n->json_filename);
    g_free(n->header_backing_file);
    g_free(n->header_backing_format);
    g_free(n->auto_backing_file);
    g_free(n->state);
    g_free(n->name);
    g_free(n);
}

void node_work_begin(struct node *n)
{
    while (n->n_busy > 0) {
        control_wait();
    }
    n->n_busy++;
}

void node_work_end(struct node *n)
{
    n->n_busy--;
    control_notify();
}

static void close_driver(struct node *n)
{
    struct drain_hurry hurry = { .node = n };

    if (!n->opened) {
        return;
    }
    n->n_busy++;
    drain_hook_remove(n);
    drain_hurry_begin(&hurry);
    CONTROL_YIELD {
        node_debug_pass_begin();
        if (!n->read_only) {
            node_flush(n);
        }
        if (n->driver->close) {
            n->driver->close(n);
        }
        node_debug_pass_end();
    }
    n->n_busy--;
    n->opened = false;
    drain_hurry_end(&hurry);
    control_notify();
}

/* True if that was the last reference. */
static bool drop_ref(struct node *n)
{
    control_assert();
    g_assert(n->n_refs > 0);
    if (--n->n_refs > 0) {
        if (G_UNLIKELY(n->del_waits)) {
            control_notify();
        }
        return false;
    }
    leave_graph(n);
    return true;
}

/* Drop the links down; nodes that only N held leave the graph and are put
 * into QUEUE. */
static void release_children(struct node *n, GQueue *queue)
{
    g_autoptr(GPtrArray) dropped = g_ptr_array_new();
    struct graph_change *gc = graph_change_begin();

    while (n->children) {
        graph_change_unlink(gc, n->children);
    }
    graph_change_finish_nofail(gc, dropped);
    for (guint i = 0; i < dropped->len; i++) {
        struct node *child = dropped->pdata[i];

        if (drop_ref(child)) {
            g_queue_push_tail(queue, child);
        }
    }
}

/* N has left the graph.  Yields.  Not recursive: chains are long. */
static void close_nodes(struct node *n)
{
    GQueue queue = G_QUEUE_INIT;

    do {
        close_driver(n);
        release_children(n, &queue);
        node_destroy(n);
        n_closing--;
        control_notify();
        n = g_queue_pop_head(&queue);
    } while (n);
}

void node_unref(struct node *n)
{
    if (n && drop_ref(n)) {
        close_nodes(n);
    }
}

static void close_task(void *opaque)
{
    CONTROL_GUARD();
    close_nodes(opaque);
}

void node_unref_later(struct node *n)
{
    if (n && drop_ref(n)) {
        pool_submit(close_task, n);
    }
}

void node_wait_closed(void)
{
    while (n_closing > 0) {
        control_wait();
    }
}

/* ---- looking ------------------------------------------------------------ */

const char *node_name(const struct node *n)
{
    return n->name;
}

const char *node_driver_name(const struct node *n)
{
    return n->driver->name;
}

bool node_is_read_only(const struct node *n)
{
    return n->read_only;
}

bool node_is_implicit(const struct node *n)
{
    return n->implicit;
}

int64_t node_length(const struct node *n)
{
    return atomic_load_explicit(&n->length_bytes, memory_order_acquire);
}

struct node *node_backing(const struct node *n)
{
    return n->backing ? n->backing->node : NULL;
}

struct node *node_filtered(const struct node *n)
{
    for (const struct child *c = n->children; c; c = c->next_sibling) {
        if (c->role & ROLE_FILTERED) {
            return c->node;
        }
    }
    return NULL;
}

struct node *node_skip_filters(struct node *n)
{
    while (n && n->driver->is_filter) {
        n = node_filtered(n);
    }
    return n;
}

struct node *node_skip_implicit_filters(struct node *n)
{
    while (n && n->driver->is_filter && n->implicit) {
        n = node_filtered(n);
    }
    return n;
}

int64_t node_cluster_bytes(const struct node *n)
{
    const struct node *below = n;

    while (below && !below->driver->cluster_bytes) {
        below = node_filtered(below);
    }
    return below ? below->driver->cluster_bytes(below) : 0;
}

bool node_reads_zero_when_new(struct node *n)
{
    while (n && !n->driver->reads_zero_when_new) {
        n = node_filtered(n);
    }
    return n && n->driver->reads_zero_when_new(n);
}
