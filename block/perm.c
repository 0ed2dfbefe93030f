/* SPDX-License-Identifier: MIT */
/*
 * Permissions: who may do what with a node, and who tolerates it.
 *
 * Problem     Each link holds permissions on the node below and shares some
 *             with the node's other parents.  What a node needs of its
 *             children follows from what its own parents hold, so a change
 *             runs down the graph, where a driver (file locks) may refuse.
 * Invariants  I1  node.perm is the union, node.shared the intersection, over
 *                 the parents' links; without parents nothing and all.
 *             I2  For two links A != B on a node: A.perm is within B.shared,
 *                 and without PERM_WRITE if B is its sole writer.
 *             I3  driver_perm/driver_shared are what the driver agreed to;
 *                 after a finished change they equal perm/shared.
 * Cost        A change stops where nothing changes: an overlay on a chain of
 *             ten thousand costs what it costs on a chain of one.  Looking
 *             for conflicts is linear in a node's parents.
 */
#include "block/graph-priv.h"

#include "base/control.h"
#include "base/trace.h"

static const char *const perm_names[N_PERMS] = {
    "consistent read", "write", "write unchanged", "resize",
};

/* ---- what a node needs of a child --------------------------------------- */

static void cow_child_perm(unsigned perm, unsigned shared,
                           unsigned *child_perm, unsigned *child_shared)
{
    /* Only ever read; if our own parents live with changing data we do. */
    *child_perm = perm & PERM_CONSISTENT_READ;
    *child_shared = PERM_CONSISTENT_READ | PERM_WRITE_UNCHANGED;
    if (shared & PERM_WRITE) {
        *child_shared |= PERM_WRITE | PERM_RESIZE;
    }
}

static void storage_child_perm(const struct node *n, unsigned role,
                               unsigned perm, unsigned shared,
                               unsigned *child_perm, unsigned *child_shared)
{
    if (role & ROLE_METADATA) {
        /* Tables are read, and written if anything is, at any time; nobody
         * else may change them. */
        if (!n->read_only) {
            perm |= PERM_WRITE | PERM_RESIZE;
        }
        perm |= PERM_CONSISTENT_READ;
        shared &= ~(PERM_WRITE | PERM_RESIZE);
    }
    if (role & ROLE_DATA) {
        /* Where this node's data ends nobody else may decide. */
        shared &= ~PERM_RESIZE;
        if (!(role & ROLE_PRIMARY) && (perm & PERM_WRITE)) {
            perm |= PERM_RESIZE;
        }
    }
    *child_perm = perm;
    *child_shared = shared | PERM_WRITE_UNCHANGED;
}

static void generic_child_perm(struct node *n, const struct child *c,
                               unsigned perm, unsigned shared,
                               unsigned *child_perm, unsigned *child_shared)
{
    if (c->role & ROLE_FILTERED) {
        *child_perm = perm;
        *child_shared = shared;
    } else if (c->role & ROLE_COW) {
        cow_child_perm(perm, shared, child_perm, child_shared);
    } else {
        storage_child_perm(n, c->role, perm, shared, child_perm,
                           child_shared);
    }
}

static void compute_child_perm(struct node *n, const struct child *c,
                               unsigned *perm, unsigned *shared)
{
    if (n->driver->child_perm) {
        n->driver->child_perm(n, c, n->perm, n->shared, perm, shared);
    } else {
        generic_child_perm(n, c, n->perm, n->shared, perm, shared);
    }
    if (n->inactive) {
        /* Whoever is the owner now does as he likes. */
        *perm &= PERM_CONSISTENT_READ;
        *shared = PERM_ALL;
    }
    if (c->node->force_share || c->shares_all) {
        *shared = PERM_ALL;
    }
}

/* ---- computing ---------------------------------------------------------- */

/* Nodes still to be looked at, first come first served. */
struct perm_queue {
    GQueue q;
    GPtrArray *seen;
};

static void queue_node(struct perm_queue *pq, struct node *n)
{
    if (!n->perm_queued) {
        n->perm_queued = true;
        g_queue_push_tail(&pq->q, n);
    }
    if (!n->perm_seen) {
        n->perm_seen = true;
        g_ptr_array_add(pq->seen, n);
    }
}

static void recompute_node(struct graph_change *gc, struct perm_queue *pq,
                           struct node *n)
{
    unsigned perm = 0, shared = PERM_ALL;

    for (const struct child *c = n->parents; c; c = c->next_parent) {
        perm |= c->perm;
        shared &= c->shared;
    }
    if (perm != n->perm || shared != n->shared) {
        graph_change_log_node_perm(gc, n);
        n->perm = perm;
        n->shared = shared;
    }
    for (struct child *c = n->children; c; c = c->next_sibling) {
        compute_child_perm(n, c, &perm, &shared);
        if (perm != c->perm || shared != c->shared) {
            graph_change_log_child_perm(gc, c);
            __atomic_store_n(&c->perm, perm, __ATOMIC_RELAXED);
            c->shared = shared;
            queue_node(pq, c->node);
        }
    }
}

/*
 * Until nothing changes.  A node below several others may be computed more
 * than once, with passing values in between; therefore nothing is checked
 * before the end.
 */
static void recompute(struct graph_change *gc, const GPtrArray *touched,
                      GPtrArray *seen)
{
    struct perm_queue pq = { .q = G_QUEUE_INIT, .seen = seen };
    struct node *n;

    for (guint i = 0; i < touched->len; i++) {
        queue_node(&pq, touched->pdata[i]);
    }
    while ((n = g_queue_pop_head(&pq.q))) {
        n->perm_queued = false;
        recompute_node(gc, &pq, n);
    }
    for (guint i = 0; i < seen->len; i++) {
        ((struct node *)seen->pdata[i])->perm_seen = false;
    }
}

/* ---- conflicts ---------------------------------------------------------- */

char *perm_describe_parent(const struct child *c)
{
    char *text = NULL;

    if (c->parent) {
        return g_strdup_printf("node '%s'", node_name(c->parent));
    }
    if (c->root->ops && c->root->ops->describe) {
        text = c->root->ops->describe(c->root->opaque);
    }
    return text ? text : g_strdup("an unnamed block device");
}

/* Borrowed; NULL: C is no job's. */
static const char *child_job_id(const struct child *c)
{
    const struct root_ops *ops = c->parent ? NULL : c->root->ops;

    return ops && ops->job_id ? ops->job_id(c->root->opaque) : NULL;
}

static char *perm_list(unsigned perms)
{
    GString *text = g_string_new(NULL);

    for (int i = 0; i < N_PERMS; i++) {
        if (perms & (1u << i)) {
            g_string_append_printf(text, "%s%s", text->len ? ", " : "",
                                   perm_names[i]);
        }
    }
    return g_string_free(text, FALSE);
}

/* What C lets others do with the node. */
static unsigned tolerated(const struct child *c)
{
    return c->sole_writer ? c->shared & ~(unsigned)PERM_WRITE : c->shared;
}

static void report_conflict(const struct node *n, const struct child *user,
                            const struct child *other, struct error **errp)
{
    g_autofree char *perms = perm_list(user->perm & ~tolerated(other));
    g_autofree char *required_by = perm_describe_parent(user);
    g_autofree char *unshared_by = perm_describe_parent(other);

    error_set(errp, "Permission conflict on node '%s': permissions '%s' are "
              "both required by %s (uses node '%s' as '%s' child) and "
              "unshared by %s (uses node '%s' as '%s' child).",
              node_name(n), perms, required_by, node_name(n), user->name,
              unshared_by, node_name(n), other->name);
    error_add_node(errp, node_name(n));
    error_add_job(errp, child_job_id(other));
    error_add_job(errp, child_job_id(user));
    if (child_job_id(other)) {
        error_append_hint(errp, "Wait for the job to end, or cancel it\n");
    } else {
        error_append_hint(errp, "Remove what uses the node first: %s\n",
                          unshared_by);
    }
}

/* Bits that one link holds and another does not share (I2). */
static unsigned conflict_bits(const struct node *n)
{
    unsigned once = 0, often = 0, unshared_once = 0, unshared_often = 0;
    unsigned by_itself = 0;

    for (const struct child *c = n->parents; c; c = c->next_parent) {
        unsigned unshared = PERM_ALL & ~tolerated(c);

        often |= once & c->perm;
        once |= c->perm;
        unshared_often |= unshared_once & unshared;
        unshared_once |= unshared;
        by_itself |= c->perm & unshared;
    }
    /* Held and unshared, but not by one and the same link alone. */
    return once & unshared_once & ~(by_itself & ~often & ~unshared_often);
}

static bool check_conflicts(const struct node *n, struct error **errp)
{
    unsigned bits = conflict_bits(n);

    if (!bits) {
        return true;
    }
    for (const struct child *a = n->parents; a; a = a->next_parent) {
        if (!(bits & ~tolerated(a))) {
            continue;
        }
        for (const struct child *b = n->parents; b; b = b->next_parent) {
            if (a != b && (b->perm & ~tolerated(a))) {
                report_conflict(n, b, a, errp);
                return false;
            }
        }
    }
    g_assert_not_reached();
}

/* ---- two phases --------------------------------------------------------- */

static bool check_inactive(const struct node *n, struct error **errp)
{
    unsigned refused = n->inactive ? n->perm & ~PERM_CONSISTENT_READ : 0;

    for (int i = 0; refused && i < N_PERMS; i++) {
        if (refused & (1u << i)) {
            error_set(errp, "Permission '%s' unavailable on inactive node",
                      perm_names[i]);
            error_add_node(errp, node_name(n));
            return false;
        }
    }
    return true;
}

static bool check_node(struct node *n, struct error **errp)
{
    const unsigned writes = PERM_WRITE | PERM_WRITE_UNCHANGED;
    int64_t length = (node_length(n) + 511) & ~INT64_C(511);

    if (!check_conflicts(n, errp)) {
        return false;
    }
    if ((n->perm & writes) && n->read_only && n->turning_read_only) {
        error_set(errp, "Read-only block node '%s' cannot support read-write "
                  "users", node_name(n));
        return false;
    }
    if ((n->perm & writes) && n->read_only) {
        error_set(errp, "Block node is read-only");
        return false;
    }
    if (!check_inactive(n, errp)) {
        return false;
    }
    if ((n->perm & writes) && !(n->perm & PERM_RESIZE) && n->opened &&
        n->limits.request_alignment > 1 &&
        (length & (n->limits.request_alignment - 1))) {
        error_set(errp, "Cannot get 'write' permission without 'resize': "
                  "Image size is not a multiple of request alignment");
        return false;
    }
    return true;
}

static bool ask_driver(struct node *n, bool force, struct error **errp)
{
    AUTO_ERROR(err);

    if (!n->opened || !n->driver->check_perm ||
        (n->perm == n->driver_perm && n->shared == n->driver_shared)) {
        return true;
    }
    if (n->driver->check_perm(n, n->perm, n->shared, &err)) {
        return true;
    }
    if (force) {
        error_prepend(&err, "Node '%s': ", node_name(n));
        error_report(err);
        return true;
    }
    error_propagate(errp, g_steal_pointer(&err));
    return false;
}

static void abort_driver(struct node *n)
{
    if (n->opened && n->driver->abort_perm &&
        (n->perm != n->driver_perm || n->shared != n->driver_shared)) {
        n->driver->abort_perm(n);
    }
}

bool perm_check(struct graph_change *gc, const GPtrArray *touched,
                GPtrArray *seen, bool force, struct error **errp)
{
    guint n_asked = 0;
    bool ok = true;

    recompute(gc, touched, seen);
    for (guint i = 0; ok && !force && i < seen->len; i++) {
        ok = check_node(seen->pdata[i], errp);
    }
    while (ok && n_asked < seen->len) {
        ok = ask_driver(seen->pdata[n_asked], force, errp);
        n_asked += ok;
    }
    if (!ok) {
        while (n_asked-- > 0) {
            abort_driver(seen->pdata[n_asked]);
        }
    }
    return ok;
}

void perm_abort(const GPtrArray *seen)
{
    for (guint i = seen->len; i-- > 0;) {
        abort_driver(seen->pdata[i]);
    }
}

static void commit_node(struct node *n)
{
    if (n->opened && n->driver->set_perm &&
        (n->perm != n->driver_perm || n->shared != n->driver_shared)) {
        n->driver->set_perm(n, n->perm, n->shared);
    }
    trace(PERM, "set-perm node-name=%s perm=%#x shared=%#x", n->name,
          n->perm, n->shared);
    n->driver_perm = n->perm;
    n->driver_shared = n->shared;
}

void perm_commit(const GPtrArray *seen)
{
    for (guint i = 0; i < seen->len; i++) {
        commit_node(seen->pdata[i]);
    }
}
