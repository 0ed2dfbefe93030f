/* SPDX-License-Identifier: MIT */
/*
 * Roots: the gate through which requests enter the graph.  See root.h.
 *
 * Gate        One atomic word, requests in flight and a closed bit.  To enter
 *             is to add a request and look at the bit in what was there; to
 *             leave is to subtract it and look whether it was the last one
 *             behind a closed gate.  The rest is the slow path.
 * Order       A request that entered an open gate sees everything done before
 *             the gate was opened; who saw zero behind a closed gate sees
 *             everything the requests did.  Both by acquire/release on the
 *             word.
 */
#include "block/graph-priv.h"

#include <errno.h>
#include "base/control.h"
#include "base/trace.h"
#include "block/stats.h"

/* ---- the gate ----------------------------------------------------------- */

static void gate_leave(struct root *r)
{
    uint64_t old = atomic_fetch_sub_explicit(&r->gate, GATE_REQUEST,
                                             memory_order_acq_rel);

    g_assert(old >= GATE_REQUEST);
    if (G_UNLIKELY(old == (GATE_REQUEST | GATE_CLOSED))) {
        control_notify();
    }
}

bool root_try_enter(struct root *r)
{
    uint64_t old = atomic_fetch_add_explicit(&r->gate, GATE_REQUEST,
                                             memory_order_acq_rel);

    if (G_LIKELY(!(old & GATE_CLOSED))) {
        return true;
    }
    gate_leave(r);
    return false;
}

void root_enter(struct root *r)
{
    while (G_UNLIKELY(!root_try_enter(r))) {
        LOCK_GUARD(&r->lock);
        while (atomic_load_explicit(&r->gate, memory_order_relaxed) &
               GATE_CLOSED) {
            cond_wait(&r->opened, &r->lock);
        }
    }
}

void root_leave(struct root *r)
{
    gate_leave(r);
}

bool root_is_drained(const struct root *r)
{
    return atomic_load_explicit(&r->n_drains, memory_order_acquire) > 0;
}

static bool gate_has_requests(const struct root *r)
{
    return atomic_load_explicit(&r->gate, memory_order_acquire) >=
           GATE_REQUEST;
}

bool root_is_busy(const struct root *r)
{
    if (r->ops && r->ops->drained_poll && r->ops->drained_poll(r->opaque)) {
        return true;
    }
    return !r->no_gate && gate_has_requests(r);
}

static void gate_close(struct root *r)
{
    atomic_fetch_or_explicit(&r->gate, GATE_CLOSED, memory_order_acq_rel);
}

void root_close_gate(struct root *r)
{
    if (atomic_fetch_add(&r->n_drains, 1) > 0) {
        return;
    }
    if (!r->no_gate) {
        gate_close(r);
    }
    if (r->ops && r->ops->drained_begin) {
        r->ops->drained_begin(r->opaque);
    }
}

void root_open_gate(struct root *r)
{
    int old = atomic_fetch_sub(&r->n_drains, 1);

    g_assert(old > 0);
    if (old > 1) {
        return;
    }
    /* Before the gate opens: who comes in then waits again (limits). */
    if (r->ops && r->ops->drained_end) {
        r->ops->drained_end(r->opaque);
    }
    if (!r->no_gate && !r->freeing) {
        LOCK_GUARD(&r->lock);
        atomic_fetch_and_explicit(&r->gate, ~(uint64_t)GATE_CLOSED,
                                  memory_order_acq_rel);
        cond_broadcast(&r->opened);
    }
}

/* ---- life --------------------------------------------------------------- */

uint64_t root_new_serial(void)
{
    static uint64_t last;

    control_assert();
    return ++last;
}

static struct root *root_alloc(const struct root_options *o)
{
    struct root *r = NULL;

    if (posix_memalign((void **)&r, __alignof__(*r), sizeof(*r)) != 0) {
        g_error("out of memory");
    }
    *r = (struct root){
        .ops = o->ops, .opaque = o->opaque,
        .no_gate = o->no_gate, .stay_on_node = o->stay_on_node,
        .serial = root_new_serial(),
        .perm = o->perm, .shared = o->shared,
        .link = { .name = o->name ? o->name : "root",
                  .perm = o->perm, .shared = o->shared },
    };
    r->link.root = r;
    r->stats = o->ops && o->ops->export_id ? block_stats_new() : NULL;
    lock_init(&r->lock, "root", LOCK_ROOT);
    cond_init(&r->opened);
    return r;
}

static void root_destroy(struct root *r)
{
    block_stats_free(r->stats);
    cond_deinit(&r->opened);
    lock_deinit(&r->lock);
    free(r);
}

/* A job's other roots are on layers whose overlay it is about. */
static bool reads_on_its_own(const struct root_options *o)
{
    return o->no_gate ? g_strcmp0(o->name, "source") == 0
                      : (o->perm & PERM_CONSISTENT_READ) != 0;
}

struct root *root_new(struct node *node, const struct root_options *options,
                      struct error **errp)
{
    struct graph_change *gc;
    struct root *r;

    if (reads_on_its_own(options) && !node_check_invalidated(node, errp)) {
        return NULL;
    }
    r = root_alloc(options);
    gc = graph_change_begin();
    graph_change_link(gc, &r->link, node);
    if (!graph_change_finish(gc, NULL, errp)) {
        root_destroy(r);
        return NULL;
    }
    trace(GRAPH, "root-new name=%s node-name=%s perm=%#x", r->link.name,
          node->name, options->perm);
    return r;
}

void root_free(struct root **root)
{
    g_autoptr(GPtrArray) dropped = g_ptr_array_new();
    struct root *r = *root;
    struct graph_change *gc;

    if (!r) {
        return;
    }
    control_assert();
    r->freeing = true;
    gate_close(r);      /* so that the last request tells */
    if (gate_has_requests(r)) {
        root_hurry(r);
    }
    while (gate_has_requests(r)) {
        control_wait();
    }
    if (r->hurry.root) {
        drain_hurry_end(&r->hurry);
    }
    drain_root_removed(r);
    gc = graph_change_begin();
    graph_change_unlink(gc, &r->link);
    graph_change_finish_nofail(gc, dropped);
    root_destroy(r);
    *root = NULL;
    for (guint i = 0; i < dropped->len; i++) {
        if (control_in_loop_thread()) {
            node_unref_later(dropped->pdata[i]);
        } else {
            node_unref(dropped->pdata[i]);
        }
    }
}

void root_hurry(struct root *r)
{
    control_assert();
    if (!r->hurry.root) {
        r->hurry.root = r;
        drain_hurry_begin(&r->hurry);
    }
}

struct child *root_link(struct root *r)
{
    return &r->link;
}

struct node *root_node(const struct root *r)
{
    return r->link.node;
}

struct block_stats *root_stats(const struct root *r)
{
    return r->stats;
}

bool root_is_jobs(const struct root *r)
{
    return r->no_gate;
}

static bool may_be_inactive(const struct root *r, unsigned perm)
{
    if (r->ops && r->ops->may_be_inactive) {
        return r->ops->may_be_inactive(r->opaque);
    }
    return !r->no_gate && !(perm & ~PERM_CONSISTENT_READ);
}

bool root_may_be_inactive(const struct root *r)
{
    return may_be_inactive(r, atomic_load(&r->perm));
}

void root_perm_on(const struct root *r, const struct node *n, unsigned *perm,
                  unsigned *shared)
{
    bool rests = n->inactive && root_may_be_inactive(r);

    *perm = rests ? 0 : atomic_load(&r->perm);
    *shared = rests ? PERM_ALL : r->shared;
}

bool root_set_perm(struct root *r, unsigned perm, unsigned shared,
                   struct error **errp)
{
    bool rests = r->link.node->inactive && may_be_inactive(r, perm);
    struct graph_change *gc = graph_change_begin();

    graph_change_perm(gc, &r->link, rests ? 0 : perm,
                      rests ? PERM_ALL : shared);
    if (!graph_change_finish(gc, NULL, errp)) {
        return false;
    }
    atomic_store(&r->perm, perm);
    r->shared = shared;
    return true;
}

bool root_set_node(struct root *r, struct node *node, struct error **errp)
{
    struct graph_change *gc = graph_change_begin();

    if (r->link.node != node) {
        graph_change_move(gc, &r->link, node);
    }
    return graph_change_finish(gc, NULL, errp);
}

void node_notify_resized(struct node *n)
{
    for (const struct child *c = n->parents; c; c = c->next_parent) {
        if (c->root && c->root->ops && c->root->ops->resized) {
            c->root->ops->resized(c->root->opaque);
        } else if (c->parent && (c->role & ROLE_FILTERED)) {
            node_notify_resized(c->parent);
        }
    }
}

/* ---- requests ----------------------------------------------------------- */

int64_t root_length(const struct root *r)
{
    return node_length(r->link.node);
}

int root_check_range(const struct root *r, int64_t offset, int64_t bytes)
{
    int64_t length = node_length(r->link.node);

    if (offset < 0 || bytes < 0) {
        return -EINVAL;
    }
    return offset > length || bytes > length - offset ? -EIO : 0;
}

int root_check_write(const struct root *r, int64_t offset, int64_t bytes,
                     unsigned flags)
{
    unsigned needed = flags & BLK_WRITE_UNCHANGED
                      ? PERM_WRITE | PERM_WRITE_UNCHANGED : PERM_WRITE;

    if (!(atomic_load_explicit(&r->perm, memory_order_relaxed) & needed)) {
        return -EPERM;
    }
    return root_check_range(r, offset, bytes);
}

int root_pread(struct root *r, int64_t offset, int64_t bytes, void *buf,
               unsigned flags)
{
    int ret;

    root_enter(r);
    ret = root_check_range(r, offset, bytes);
    if (ret == 0 && bytes > 0) {
        ret = node_pread(r->link.node, offset, bytes, buf, flags);
    }
    root_leave(r);
    return ret;
}

int root_pwrite(struct root *r, int64_t offset, int64_t bytes, const void *buf,
                unsigned flags)
{
    int ret;

    root_enter(r);
    ret = root_check_write(r, offset, bytes, flags);
    if (ret == 0 && bytes > 0) {
        ret = node_pwrite(r->link.node, offset, bytes, buf, flags);
    }
    root_leave(r);
    return ret;
}

int root_pwrite_zeroes(struct root *r, int64_t offset, int64_t bytes,
                       unsigned flags)
{
    int ret;

    root_enter(r);
    ret = root_check_write(r, offset, bytes, flags);
    if (ret == 0 && bytes > 0) {
        ret = node_pwrite_zeroes(r->link.node, offset, bytes, flags);
    }
    root_leave(r);
    return ret;
}

int root_pdiscard(struct root *r, int64_t offset, int64_t bytes)
{
    int ret;

    root_enter(r);
    ret = root_check_write(r, offset, bytes, 0);
    if (ret == 0 && bytes > 0) {
        ret = node_pdiscard(r->link.node, offset, bytes);
    }
    root_leave(r);
    return ret;
}

int root_flush(struct root *r)
{
    int ret;

    root_enter(r);
    ret = node_flush(r->link.node);
    root_leave(r);
    return ret;
}

int root_block_status_above(struct root *r, struct node *base, bool want_zero,
                            int64_t offset, int64_t bytes,
                            struct block_status *st)
{
    int ret;

    root_enter(r);
    ret = root_check_range(r, offset, bytes);
    if (ret == 0) {
        ret = node_block_status_above(r->link.node, base, want_zero, offset,
                                      bytes, st);
    }
    root_leave(r);
    return ret;
}
