/* SPDX-License-Identifier: MIT */
/*
 * Commit at once: see commit-now.h.
 *
 * Invariants  I1  While it runs N and its backing file are drained, their link
 *                 is frozen, no job begins on them; who else drains them
 *                 waits.
 *             I2  N gives up what it holds when its backing file has that on
 *                 stable storage.
 */
#include "blockjobs/commit-now.h"

#include <errno.h>
#include "base/control.h"
#include "block/copier.h"
#include "block/driver.h"
#include "block/root.h"
#include "blockjobs/commit-priv.h"

enum { MIN_UNIT_BYTES = 4096, MAX_UNIT_BYTES = 65536 };

struct commit_now {
    struct node *node;          /* ref */
    struct commit_base base;
    struct root *root, *base_root;      /* owned */
    struct copier *copier;      /* owned */
    struct drain *drain;        /* owned */
    bool marked, frozen, shares;
    bool at_work;               /* control lock */
};

static const char reason[] = "block device is in use by commit";

/* ---- roots -------------------------------------------------------------- */

static char *describe(void *opaque)
{
    return g_strdup("commit");
}

static bool drained_poll(void *opaque)
{
    const struct commit_now *c = opaque;

    return c->at_work;
}

static struct root *add_root(struct commit_now *c, struct node *node,
                             unsigned perm, struct error **errp)
{
    static const struct root_ops ops = {
        .describe = describe, .drained_poll = drained_poll,
    };
    const struct root_options options = {
        .name = "commit", .ops = &ops, .opaque = c, .perm = perm,
        .shared = PERM_ALL, .no_gate = true, .stay_on_node = true,
    };

    return root_new(node, &options, errp);
}

/* ---- copying: no lock --------------------------------------------------- */

static int copy(struct copier *copier)
{
    int64_t length = copier_length(copier), offset = 0, bytes;
    struct copier_result result = { 0 };
    int ret = 0;

    while (ret == 0 && offset < length) {
        ret = copier_skip_step(copier, &offset);
    }
    offset = 0;
    while (ret == 0 && (bytes = copier_next(copier, offset,
                                            COPIER_CHUNK_BYTES,
                                            &offset)) > 0) {
        ret = copier_copy(copier, offset, bytes, &result);
        offset += bytes;
    }
    return ret < 0 ? ret : copier_flush(copier);
}

/* I2.  A format that cannot give anything up keeps it. */
static int empty(struct node *n)
{
    int ret = node_deallocate(n, 0, node_length(n));

    return ret == -ENOTSUP ? 0 : ret < 0 ? ret : node_flush(n);
}

static bool work(struct commit_now *c, struct error **errp)
{
    int ret = 0;

    c->at_work = true;
    CONTROL_YIELD {
        ret = copy(c->copier);
        if (ret == 0) {
            ret = empty(c->node);
        }
    }
    c->at_work = false;
    control_notify();
    if (ret < 0) {
        error_set_errno(errp, -ret, "Cannot commit '%s'",
                        node_name(c->node));
    }
    return ret == 0;
}

/* ---- before and after --------------------------------------------------- */

static uint32_t unit_bytes(const struct node *n)
{
    int64_t cluster = node_cluster_bytes(n);

    return CLAMP(cluster ? cluster : MAX_UNIT_BYTES, MIN_UNIT_BYTES,
                 MAX_UNIT_BYTES);
}

/* What must be before anything is changed; errno in errp. */
static bool check(struct node *n, struct node *backing, struct error **errp)
{
    AUTO_ERROR(err);

    if (!node_op_allowed(n, NODE_OP_COMMIT_SOURCE, &err) ||
        !node_op_allowed(backing, NODE_OP_COMMIT_TARGET, &err)) {
        error_add_errno(&err, EBUSY);
        error_propagate(errp, g_steal_pointer(&err));
        return false;
    }
    if (n->read_only) {
        error_set(errp, "Block node is read-only");
        error_add_errno(errp, EPERM);
        return false;
    }
    return true;
}

static bool begin(struct commit_now *c, struct error **errp)
{
    struct node *nodes[] = { c->node, c->base.node };
    struct copier_options options = {
        .length = node_length(c->node), .cluster_bytes = unit_bytes(c->node),
        .skip_unallocated = true, .skip_base = c->base.node,
    };

    /* To open it was to yield. */
    if (node_backing(c->node) != c->base.node) {
        error_set(errp, "The backing file of '%s' has changed",
                  node_name(c->node));
        return false;
    }
    if (!check(c->node, c->base.node, errp)) {
        return false;
    }
    node_block_all_ops(c->node, c, reason);
    node_block_all_ops(c->base.node, c, reason);
    c->marked = true;
    c->frozen = node_freeze_chain(c->node, c->base.node, errp);
    if (!c->frozen) {
        return false;
    }
    c->drain = drain_begin(nodes, G_N_ELEMENTS(nodes));
    c->shares = node_share_backing(c->node, true, errp);
    if (!c->shares) {
        return false;
    }
    /* Whoever reads N sees the same after it: its owner shares that. */
    c->root = add_root(c, c->node,
                       PERM_CONSISTENT_READ | PERM_WRITE_UNCHANGED, errp);
    c->base_root = c->root
        ? add_root(c, c->base.node, PERM_WRITE | PERM_RESIZE, errp) : NULL;
    if (!c->base_root ||
        !commit_base_grow(&c->base, options.length, errp)) {
        return false;
    }
    options.source = root_link(c->root);
    options.target = root_link(c->base_root);
    c->copier = copier_new(&options);
    if (!c->copier) {
        error_set(errp, "No memory for the copy bitmap of '%s'",
                  node_name(c->node));
        return false;
    }
    bits_set(copier_todo(c->copier), 0, bits_size(copier_todo(c->copier)));
    return true;
}

static void end(struct commit_now *c)
{
    if (c->copier) {
        copier_free(&c->copier);
    }
    if (c->base_root) {
        root_free(&c->base_root);
    }
    if (c->root) {
        root_free(&c->root);
    }
    if (c->shares) {
        node_share_backing(c->node, false, NULL);
    }
    if (c->drain) {
        drain_end(&c->drain);
    }
    if (c->frozen) {
        node_unfreeze_chain(c->node, c->base.node);
    }
    if (c->marked) {
        node_unblock_all_ops(c->node, c);
        node_unblock_all_ops(c->base.node, c);
    }
    commit_base_close(&c->base);
    node_unref(c->node);
}

bool commit_now(struct node *n, struct error **errp)
{
    struct node *backing = node_backing(n);
    struct commit_now c = { 0 };
    bool ok;

    control_assert();
    if (!backing) {
        error_set(errp, "'%s' has no backing file", node_name(n));
        error_add_errno(errp, ENOTSUP);
        return false;
    }
    if (!check(n, backing, errp)) {
        return false;
    }
    c.node = node_ref(n);
    ok = commit_base_open(&c.base, backing, errp) && begin(&c, errp) &&
        work(&c, errp);
    end(&c);
    return ok;
}
