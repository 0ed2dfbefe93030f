/* SPDX-License-Identifier: MIT */
/* QMP transaction: block-dirty-bitmap-*. */
#include "bitmaps/dirty-bitmap.h"
#include "block/bitmap.h"
#include "block/node.h"
#include "blockjobs/transaction.h"

struct state {
    struct dirty_bitmap *bm;    /* set by prepare */
    struct bits *backup;        /* owned: its old bits */
    bool was_enabled;
};

static struct dirty_bitmap *find(const char *node, const char *name,
                                 struct node **n, struct error **errp)
{
    *n = bitmap_find_claimed(node, errp);
    return *n ? bitmap_find(*n, name, errp) : NULL;
}

static void add_node(GPtrArray *nodes, const char *name)
{
    struct node *n = bitmap_find_node(name, NULL);

    if (n) {
        g_ptr_array_add(nodes, n);
    }
}

static void end(struct transaction_action *a)
{
    struct state *s = a->state;

    bits_free(s->backup);
}

/* ---- add ---------------------------------------------------------------- */

static const BlockDirtyBitmapAdd *add_args(const struct transaction_action *a)
{
    return a->args->u.block_dirty_bitmap_add.data;
}

static void add_nodes(struct transaction_action *a, GPtrArray *nodes)
{
    add_node(nodes, add_args(a)->node);
}

static bool add_prepare(struct transaction_action *a, struct error **errp)
{
    const char *name = add_args(a)->node;
    struct state *s = a->state;
    struct node *n;

    if (!node_lookup(name, name, errp)) {
        return false;
    }
    n = bitmap_find_claimed(name, errp);
    s->bm = n ? bitmap_add(n, add_args(a), errp) : NULL;
    return s->bm != NULL;
}

static void add_undo(struct transaction_action *a)
{
    struct state *s = a->state;

    /* Somebody's job or export found it meanwhile: it stays. */
    if (!dirty_bitmap_busy(s->bm)) {
        dirty_bitmap_free(s->bm);
    }
}

const struct transaction_ops transaction_bitmap_add_ops = {
    .state_size = sizeof(struct state),
    .nodes = add_nodes,
    .prepare = add_prepare,
    .undo = add_undo,
};

/* ---- clear -------------------------------------------------------------- */

/* remove, clear, enable and disable have the same arguments in the same place
 * of the union. */
static const BlockDirtyBitmap *args_of(const struct transaction_action *a)
{
    switch (a->args->type) {
    case TRANSACTION_ACTION_KIND_BLOCK_DIRTY_BITMAP_REMOVE:
        return a->args->u.block_dirty_bitmap_remove.data;
    case TRANSACTION_ACTION_KIND_BLOCK_DIRTY_BITMAP_CLEAR:
        return a->args->u.block_dirty_bitmap_clear.data;
    case TRANSACTION_ACTION_KIND_BLOCK_DIRTY_BITMAP_ENABLE:
        return a->args->u.block_dirty_bitmap_enable.data;
    case TRANSACTION_ACTION_KIND_BLOCK_DIRTY_BITMAP_DISABLE:
        return a->args->u.block_dirty_bitmap_disable.data;
    default:
        g_assert_not_reached();
    }
}

static void bitmap_nodes(struct transaction_action *a, GPtrArray *nodes)
{
    add_node(nodes, args_of(a)->node);
}

static bool clear_prepare(struct transaction_action *a, struct error **errp)
{
    struct state *s = a->state;
    struct node *n;

    s->bm = find(args_of(a)->node, args_of(a)->name, &n, errp);
    return s->bm && bitmap_clear(s->bm, &s->backup, errp);
}

/* Of merge too. */
static void content_undo(struct transaction_action *a)
{
    struct state *s = a->state;

    bitmap_undo_content(s->bm, g_steal_pointer(&s->backup));
}

const struct transaction_ops transaction_bitmap_clear_ops = {
    .state_size = sizeof(struct state),
    .nodes = bitmap_nodes,
    .prepare = clear_prepare,
    .undo = content_undo,
    .end = end,
};

/* ---- enable, disable ---------------------------------------------------- */

static bool set_enabled(struct transaction_action *a, bool on,
                        struct error **errp)
{
    struct state *s = a->state;
    struct node *n;

    s->bm = find(args_of(a)->node, args_of(a)->name, &n, errp);
    if (!s->bm) {
        return false;
    }
    s->was_enabled = dirty_bitmap_enabled(s->bm);
    return bitmap_set_enabled(s->bm, on, errp);
}

static bool enable_prepare(struct transaction_action *a, struct error **errp)
{
    return set_enabled(a, true, errp);
}

static bool disable_prepare(struct transaction_action *a, struct error **errp)
{
    return set_enabled(a, false, errp);
}

static void enabled_undo(struct transaction_action *a)
{
    struct state *s = a->state;
    struct dirty_bitmap *successor = dirty_bitmap_successor(s->bm);

    /* With a successor, that is the one that records or does not. */
    dirty_bitmap_set_enabled(successor ? successor : s->bm, s->was_enabled);
}

const struct transaction_ops transaction_bitmap_enable_ops = {
    .state_size = sizeof(struct state),
    .nodes = bitmap_nodes,
    .prepare = enable_prepare,
    .undo = enabled_undo,
};

const struct transaction_ops transaction_bitmap_disable_ops = {
    .state_size = sizeof(struct state),
    .nodes = bitmap_nodes,
    .prepare = disable_prepare,
    .undo = enabled_undo,
};

/* ---- remove ------------------------------------------------------------- */

static bool remove_prepare(struct transaction_action *a, struct error **errp)
{
    struct state *s = a->state;
    struct node *n;

    s->bm = find(args_of(a)->node, args_of(a)->name, &n, errp);
    return s->bm && bitmap_remove_prepare(n, s->bm, errp);
}

static void remove_commit(struct transaction_action *a)
{
    struct state *s = a->state;

    bitmap_remove_commit(s->bm);
}

static void remove_undo(struct transaction_action *a)
{
    struct state *s = a->state;

    bitmap_remove_undo(s->bm);
}

const struct transaction_ops transaction_bitmap_remove_ops = {
    .state_size = sizeof(struct state),
    .nodes = bitmap_nodes,
    .prepare = remove_prepare,
    .commit = remove_commit,
    .undo = remove_undo,
};

/* ---- merge -------------------------------------------------------------- */

static const BlockDirtyBitmapMerge *merge_args(
    const struct transaction_action *a)
{
    return a->args->u.block_dirty_bitmap_merge.data;
}

static void merge_nodes(struct transaction_action *a, GPtrArray *nodes)
{
    const BlockDirtyBitmapOrStrList *sources = merge_args(a)->bitmaps;

    add_node(nodes, merge_args(a)->node);
    for (size_t i = 0; i < sources->n; i++) {
        if (sources->v[i]->type == QAPI_TYPE_OBJECT) {
            add_node(nodes, sources->v[i]->u.external->node);
        }
    }
}

static bool merge_prepare(struct transaction_action *a, struct error **errp)
{
    struct state *s = a->state;
    struct node *n;

    s->bm = find(merge_args(a)->node, merge_args(a)->target, &n, errp);
    return s->bm && bitmap_merge(n, s->bm, merge_args(a)->bitmaps, &s->backup,
                                 errp);
}

const struct transaction_ops transaction_bitmap_merge_ops = {
    .state_size = sizeof(struct state),
    .nodes = merge_nodes,
    .prepare = merge_prepare,
    .undo = content_undo,
    .end = end,
};
