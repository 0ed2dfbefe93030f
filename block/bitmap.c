/* SPDX-License-Identifier: MIT */
/* Dirty bitmaps of nodes: see bitmap.h. */
#include "block/bitmap.h"

#include "base/control.h"
#include "bitmaps/dirty-bitmap.h"
#include "block/driver.h"

enum {
    MIN_DEFAULT_GRANULARITY = 4096,
    MAX_DEFAULT_GRANULARITY = 65536,
};
/* Bitmaps of more bits are merged with the control lock given up. */
#define MERGE_YIELD_BITS (INT64_C(1) << 24)

/* ---- claims ------------------------------------------------------------- */

struct bitmap_claim {
    GPtrArray *nodes;           /* owned, with a reference of each */
};

/* struct node *, borrowed from their claims.  Control lock. */
static GHashTable *claimed;

static bool any_claimed(struct node *const *nodes, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        if (g_hash_table_contains(claimed, nodes[i])) {
            return true;
        }
    }
    return false;
}

struct bitmap_claim *bitmap_claim(struct node *const *nodes, size_t n)
{
    struct bitmap_claim *c = g_new0(struct bitmap_claim, 1);

    control_assert();
    if (!claimed) {
        claimed = g_hash_table_new(NULL, NULL);
    }
    c->nodes = g_ptr_array_new();
    for (size_t i = 0; i < n; i++) {
        if (!g_ptr_array_find(c->nodes, nodes[i], NULL)) {
            g_ptr_array_add(c->nodes, node_ref(nodes[i]));
        }
    }
    while (any_claimed((struct node **)c->nodes->pdata, c->nodes->len)) {
        control_wait();
    }
    for (guint i = 0; i < c->nodes->len; i++) {
        g_hash_table_add(claimed, g_ptr_array_index(c->nodes, i));
    }
    return c;
}

void bitmap_release(struct bitmap_claim **c)
{
    struct bitmap_claim *claim = g_steal_pointer(c);

    if (!claim) {
        return;
    }
    control_assert();
    for (guint i = 0; i < claim->nodes->len; i++) {
        g_hash_table_remove(claimed, g_ptr_array_index(claim->nodes, i));
    }
    control_notify();
    for (guint i = 0; i < claim->nodes->len; i++) {
        node_unref(g_ptr_array_index(claim->nodes, i));
    }
    g_ptr_array_unref(claim->nodes);
    g_free(claim);
}

/* ---- looking up --------------------------------------------------------- */

struct node *bitmap_find_node(const char *name, struct error **errp)
{
    struct node *n = node_lookup(name, name, NULL);

    if (!n) {
        error_set(errp, "Node '%s' not found", name);
    }
    return n;
}

struct node *bitmap_find_claimed(const char *name, struct error **errp)
{
    struct node *n = bitmap_find_node(name, errp);

    if (n && !any_claimed(&n, 1)) {
        error_set(errp, "Node '%s' has changed meanwhile", name);
        return NULL;
    }
    return n;
}

struct dirty_bitmap *bitmap_find(struct node *n, const char *name,
                                 struct error **errp)
{
    struct dirty_bitmap *bm = dirty_bitmap_find(n->bitmaps, name);

    if (!bm) {
        error_set(errp, "Dirty bitmap '%s' not found", name);
    }
    return bm;
}

/* ---- add ---------------------------------------------------------------- */

static uint32_t default_granularity(struct node *n)
{
    int64_t cluster_bytes = node_cluster_bytes(n);

    return cluster_bytes ? CLAMP(cluster_bytes, MIN_DEFAULT_GRANULARITY,
                                 MAX_DEFAULT_GRANULARITY)
                         : MAX_DEFAULT_GRANULARITY;
}

static bool can_persist(struct node *n, const char *name,
                        uint32_t granularity, struct error **errp)
{
    if (!n->driver->bitmap_can_store) {
        error_set(errp, "Can't store persistent bitmaps to %s: Operation not"
                  " supported", n->name);
        return false;
    }
    if (node_is_read_only(n)) {
        error_set(errp, "Can't make bitmap '%s' persistent in '%s': the node"
                  " is read-only", name, n->name);
        return false;
    }
    if (n->inactive) {
        error_set(errp, "Can't make bitmap '%s' persistent in '%s': the node"
                  " is inactive", name, n->name);
        return false;
    }
    if (!n->driver->bitmap_can_store(n, name, granularity, errp)) {
        error_prepend(errp, "Can't make bitmap '%s' persistent in '%s': ",
                      name, n->name);
        return false;
    }
    return true;
}

struct dirty_bitmap *bitmap_add(struct node *n,
                                const BlockDirtyBitmapAdd *args,
                                struct error **errp)
{
    uint32_t granularity = args->has_granularity ? args->granularity
                                                 : default_granularity(n);
    bool persistent = args->has_persistent && args->persistent;
    struct dirty_bitmap *bm;

    if (!args->name[0]) {
        error_set(errp, "Bitmap name cannot be empty");
        return NULL;
    }
    if (granularity < 512 || (granularity & (granularity - 1))) {
        error_set(errp, "Granularity must be power of 2 and at least 512");
        return NULL;
    }
    if (persistent && !dirty_bitmap_find(n->bitmaps, args->name) &&
        !can_persist(n, args->name, granularity, errp)) {
        return NULL;
    }
    bm = dirty_bitmap_new(n->bitmaps, args->name, granularity, node_length(n),
                          errp);
    if (!bm) {
        return NULL;
    }
    dirty_bitmap_set_persistent(bm, persistent);
    dirty_bitmap_set_enabled(bm, !(args->has_disabled && args->disabled));
    return bm;
}

/* ---- clear, enable, disable --------------------------------------------- */

bool bitmap_clear(struct dirty_bitmap *bm, struct bits **backup,
                  struct error **errp)
{
    return dirty_bitmap_check(bm, DIRTY_BITMAP_DEFAULT, errp) &&
           dirty_bitmap_clear(bm, backup, errp);
}

bool bitmap_set_enabled(struct dirty_bitmap *bm, bool on, struct error **errp)
{
    if (!dirty_bitmap_check(bm, DIRTY_BITMAP_ALLOW_RO, errp)) {
        return false;
    }
    dirty_bitmap_set_enabled(bm, on);
    return true;
}

/* ---- merge -------------------------------------------------------------- */

static struct dirty_bitmap *find_source(struct node *n,
                                        const BlockDirtyBitmapOrStr *which,
                                        struct error **errp)
{
    if (which->type == QAPI_TYPE_STRING) {
        return bitmap_find(n, which->u.local, errp);
    }
    n = bitmap_find_claimed(which->u.external->node, errp);
    return n ? bitmap_find(n, which->u.external->name, errp) : NULL;
}

/* Merge; both stay as they are, but for writes, while the lock is given up. */
static bool merge_one(struct dirty_bitmap *target, struct dirty_bitmap *src,
                      struct error **errp)
{
    int64_t n_bits = MAX(bits_size(dirty_bitmap_bits(target)),
                         bits_size(dirty_bitmap_bits(src)));
    bool ok = false;

    if (target == src) {
        return true;
    }
    if (n_bits <= MERGE_YIELD_BITS) {
        return dirty_bitmap_merge(target, src, NULL, errp);
    }
    dirty_bitmap_set_busy(target, true);
    dirty_bitmap_set_busy(src, true);
    CONTROL_YIELD {
        ok = dirty_bitmap_merge(target, src, NULL, errp);
    }
    dirty_bitmap_set_busy(src, false);
    dirty_bitmap_set_busy(target, false);
    return ok;
}

/* Nothing has changed if it fails, but for what is in *BACKUP. */
static bool merge_all(struct dirty_bitmap *target, GPtrArray *sources,
                      struct bits **backup, struct error **errp)
{
    if (backup) {
        *backup = bits_clone(dirty_bitmap_bits(target));
        if (!*backup) {
            error_set(errp, "Cannot allocate memory for a copy of bitmap '%s'",
                      dirty_bitmap_name(target));
            return false;
        }
    }
    for (guint i = 0; i < sources->len; i++) {
        if (!merge_one(target, g_ptr_array_index(sources, i), errp)) {
            if (backup) {
                dirty_bitmap_restore(target, g_steal_pointer(backup));
            }
            return false;
        }
    }
    return true;
}

bool bitmap_merge(struct node *n, struct dirty_bitmap *target,
                  const BlockDirtyBitmapOrStrList *sources,
                  struct bits **backup, struct error **errp)
{
    g_autoptr(GPtrArray) found = g_ptr_array_new();

    if (!dirty_bitmap_check(target, DIRTY_BITMAP_DEFAULT, errp)) {
        return false;
    }
    for (size_t i = 0; i < sources->n; i++) {
        struct dirty_bitmap *src = find_source(n, sources->v[i], errp);

        if (!src || !dirty_bitmap_check(src, DIRTY_BITMAP_ALLOW_RO, errp) ||
            !dirty_bitmap_can_merge(target, src, errp)) {
            return false;
        }
        g_ptr_array_add(found, src);
    }
    return merge_all(target, found, backup, errp);
}

void bitmap_undo_content(struct dirty_bitmap *bm, struct bits *backup)
{
    struct dirty_bitmap *to = dirty_bitmap_successor(bm);

    if (!dirty_bitmap_busy(bm)) {
        dirty_bitmap_restore(bm, backup);
        return;
    }
    /* A job that began meanwhile has it: nothing that was dirty gets lost,
     * whatever becomes of the job. */
    dirty_bitmap_mark_bits(to ? to : bm, backup);
    bits_free(backup);
}

/* ---- remove ------------------------------------------------------------- */

bool bitmap_remove_prepare(struct node *n, struct dirty_bitmap *bm,
                           struct error **errp)
{
    g_autofree char *name = g_strdup(dirty_bitmap_name(bm));
    bool ok = true;

    if (!dirty_bitmap_check(bm, DIRTY_BITMAP_NOT_BUSY | DIRTY_BITMAP_NOT_RO,
                            errp)) {
        return false;
    }
    dirty_bitmap_set_busy(bm, true);
    dirty_bitmap_set_skip_store(bm, true);
    if (dirty_bitmap_persistent(bm) && n->driver->bitmap_remove_stored) {
        CONTROL_YIELD {
            ok = n->driver->bitmap_remove_stored(n, name, errp);
        }
    }
    if (!ok) {
        bitmap_remove_undo(bm);
    }
    return ok;
}

void bitmap_remove_commit(struct dirty_bitmap *bm)
{
    dirty_bitmap_free(bm);
}

void bitmap_remove_undo(struct dirty_bitmap *bm)
{
    dirty_bitmap_set_skip_store(bm, false);
    dirty_bitmap_set_busy(bm, false);
}

/* ---- query -------------------------------------------------------------- */

BlockDirtyInfoList *dirty_bitmaps_query(struct node *n)
{
    BlockDirtyInfoList *list = NULL;

    control_assert();
    for (struct dirty_bitmap *bm = dirty_bitmap_next(n->bitmaps, NULL); bm;
         bm = dirty_bitmap_next(n->bitmaps, bm)) {
        BlockDirtyInfo *info = BlockDirtyInfo_new0();

        info->name = g_strdup(dirty_bitmap_name(bm));
        info->count = dirty_bitmap_count(bm);
        info->granularity = dirty_bitmap_granularity(bm);
        info->recording = dirty_bitmap_recording(bm);
        info->busy = dirty_bitmap_busy(bm);
        info->persistent = dirty_bitmap_persistent(bm);
        info->has_inconsistent = dirty_bitmap_inconsistent(bm);
        info->inconsistent = info->has_inconsistent;
        if (!list) {
            list = BlockDirtyInfoList_new0();
        }
        qapi_list_append(list, info);
    }
    if (n->driver->add_bitmaps_info) {
        list = list ? list : BlockDirtyInfoList_new0();
        n->driver->add_bitmaps_info(n, list);
    }
    return list;
}
