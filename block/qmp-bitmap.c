/* SPDX-License-Identifier: MIT */
/*
 * QMP: block-dirty-bitmap-*.  The changes are made in bitmap.c; here nodes are
 * found, claimed and released.
 */
#include "base/control.h"
#include "bitmaps/dirty-bitmap.h"
#include "block/bitmap.h"
#include "block/driver.h"
#include "qapi/qapi-commands.h"

/* The node of that name, claimed: it stays.  NULL: not found. */
static struct bitmap_claim *claim_node(const char *name, struct node **n,
                                       struct error **errp)
{
    *n = bitmap_find_node(name, errp);
    return *n ? bitmap_claim(n, 1) : NULL;
}

/* The bitmap that ARGS name, in a claimed node. */
static struct dirty_bitmap *claim_bitmap(const BlockDirtyBitmap *args,
                                         struct bitmap_claim **claim,
                                         struct node **n, struct error **errp)
{
    *claim = claim_node(args->node, n, errp);
    return *claim ? bitmap_find(*n, args->name, errp) : NULL;
}

bool qmp_block_dirty_bitmap_add(const BlockDirtyBitmapAdd *args,
                                struct error **errp)
{
    struct node *n = node_lookup(args->node, args->node, errp);
    struct bitmap_claim *claim;
    bool ok;

    if (!n) {
        return false;
    }
    claim = bitmap_claim(&n, 1);
    ok = bitmap_add(n, args, errp) != NULL;
    bitmap_release(&claim);
    return ok;
}

bool qmp_block_dirty_bitmap_remove(const BlockDirtyBitmap *args,
                                   struct error **errp)
{
    struct bitmap_claim *claim;
    struct node *n;
    struct dirty_bitmap *bm = claim_bitmap(args, &claim, &n, errp);
    bool ok = bm && bitmap_remove_prepare(n, bm, errp);

    if (ok) {
        bitmap_remove_commit(bm);
    }
    bitmap_release(&claim);
    return ok;
}

bool qmp_block_dirty_bitmap_clear(const BlockDirtyBitmap *args,
                                  struct error **errp)
{
    struct bitmap_claim *claim;
    struct node *n;
    struct dirty_bitmap *bm = claim_bitmap(args, &claim, &n, errp);
    bool ok = bm && bitmap_clear(bm, NULL, errp);

    bitmap_release(&claim);
    return ok;
}

static bool set_enabled(const BlockDirtyBitmap *args, bool on,
                        struct error **errp)
{
    struct bitmap_claim *claim;
    struct node *n;
    struct dirty_bitmap *bm = claim_bitmap(args, &claim, &n, errp);
    bool ok = bm && bitmap_set_enabled(bm, on, errp);

    bitmap_release(&claim);
    return ok;
}

bool qmp_block_dirty_bitmap_enable(const BlockDirtyBitmap *args,
                                   struct error **errp)
{
    return set_enabled(args, true, errp);
}

bool qmp_block_dirty_bitmap_disable(const BlockDirtyBitmap *args,
                                    struct error **errp)
{
    return set_enabled(args, false, errp);
}

/* The nodes that ARGS name, as far as they exist. */
static GPtrArray *merge_nodes(const BlockDirtyBitmapMerge *args)
{
    GPtrArray *nodes = g_ptr_array_new();
    struct node *n = bitmap_find_node(args->node, NULL);

    if (n) {
        g_ptr_array_add(nodes, n);
    }
    for (size_t i = 0; i < args->bitmaps->n; i++) {
        const BlockDirtyBitmapOrStr *b = args->bitmaps->v[i];

        n = b->type == QAPI_TYPE_OBJECT
            ? bitmap_find_node(b->u.external->node, NULL) : NULL;
        if (n) {
            g_ptr_array_add(nodes, n);
        }
    }
    return nodes;
}

bool qmp_block_dirty_bitmap_merge(const BlockDirtyBitmapMerge *args,
                                  struct error **errp)
{
    g_autoptr(GPtrArray) nodes = merge_nodes(args);
    struct bitmap_claim *claim;
    struct dirty_bitmap *target;
    struct node *n;
    bool ok;

    claim = bitmap_claim((struct node **)nodes->pdata, nodes->len);
    n = bitmap_find_claimed(args->node, errp);
    target = n ? bitmap_find(n, args->target, errp) : NULL;
    ok = target && bitmap_merge(n, target, args->bitmaps, NULL, errp);
    bitmap_release(&claim);
    return ok;
}

/* ---- fingerprint -------------------------------------------------------- */

/* Of the stored form, in whole 64-bit words. */
static char *sha256_of(const struct bits *bits)
{
    enum { CHUNK = 65536 };
    g_autofree uint8_t *buf = g_malloc(CHUNK);
    g_autoptr(GChecksum) sum = g_checksum_new(G_CHECKSUM_SHA256);
    int64_t bytes = (bits_size(bits) + 63) / 64 * 8;

    for (int64_t at = 0; at < bytes; at += CHUNK) {
        int64_t n = MIN(CHUNK, bytes - at);

        bits_store_bytes(bits, at, n, buf);
        g_checksum_update(sum, buf, n);
    }
    return g_strdup(g_checksum_get_string(sum));
}

BlockDirtyBitmapSha256 *qmp_x_debug_block_dirty_bitmap_sha256(
    const BlockDirtyBitmap *args, struct error **errp)
{
    struct bitmap_claim *claim;
    struct node *n;
    struct dirty_bitmap *bm = claim_bitmap(args, &claim, &n, errp);
    BlockDirtyBitmapSha256 *result = NULL;

    if (bm) {
        result = BlockDirtyBitmapSha256_new0();
        result->sha256 = sha256_of(dirty_bitmap_bits(bm));
    }
    bitmap_release(&claim);
    return result;
}
