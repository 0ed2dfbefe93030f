/* SPDX-License-Identifier: MIT */
/*
 * Dirty bitmaps of nodes: what the commands and QMP transaction do with them.
 *
 * Problem     A change may have to wait (a bitmap removed from its image, huge
 *             ones merged) and may have to be undone (a transaction fails);
 *             nobody else may change the same bitmaps meanwhile.
 * Answer      Claims.  Whoever changes a node's bitmaps by command claims the
 *             node first; a second one waits its turn.  Jobs and exports do
 *             not claim: they hold a bitmap busy, and busy ones are refused
 *             here.
 * Invariants  I1  A node has one claim at most; a claim has all its nodes or
 *                 none (no deadlock).
 *             I2  A bitmap that is not busy stays what it was, but for new
 *                 writes, while its node is claimed by somebody else.
 * Threads     Control lock held; not in the loop's thread where it yields.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include "base/error.h"
#include "qapi/qapi-types.h"

struct bits;
struct dirty_bitmap;
struct node;

/* For query-block and query-named-block-nodes; NULL if N has none.  Owned. */
BlockDirtyInfoList *dirty_bitmaps_query(struct node *n);

/* ---- claims ------------------------------------------------------------- */

struct bitmap_claim;

/*
 * Claim NODES (N of them, duplicates allowed; a reference is taken of each).
 * Yields until nobody else has one of them.  What was looked up in them
 * before is to be looked up again.
 */
struct bitmap_claim *bitmap_claim(struct node *const *nodes, size_t n);
/* Frees and nulls *C; yields if that closes a node.  NULL is fine. */
void bitmap_release(struct bitmap_claim **c);

/* ---- looking up --------------------------------------------------------- */

/* "Node 'X' not found".  NAME is a device's or a node's. */
struct node *bitmap_find_node(const char *name, struct error **errp);
/* As that, after a claim: fails if the name is that of another node now. */
struct node *bitmap_find_claimed(const char *name, struct error **errp);
/* "Dirty bitmap 'X' not found".  Any state. */
struct dirty_bitmap *bitmap_find(struct node *n, const char *name,
                                 struct error **errp);

/* ---- changes; the nodes are claimed ------------------------------------- */

struct dirty_bitmap *bitmap_add(struct node *n,
                                const BlockDirtyBitmapAdd *args,
                                struct error **errp);
/* The bitmap's old bits in *BACKUP for bitmap_undo_content(), if that is not
 * NULL. */
bool bitmap_clear(struct dirty_bitmap *bm, struct bits **backup,
                  struct error **errp);
bool bitmap_set_enabled(struct dirty_bitmap *bm, bool on,
                        struct error **errp);
/*
 * The nodes of SOURCES (those given by name only are TARGET's) are claimed as
 * well.  All or nothing.  Yields if it takes long.  *BACKUP as above.
 */
bool bitmap_merge(struct node *n, struct dirty_bitmap *target,
                  const BlockDirtyBitmapOrStrList *sources,
                  struct bits **backup, struct error **errp);
/* As if it had not been cleared or merged into; takes BACKUP. */
void bitmap_undo_content(struct dirty_bitmap *bm, struct bits *backup);
/*
 * Remove in two steps.  The first takes it out of the image if it is there
 * and yields meanwhile; then the bitmap is busy.  Either of the others ends
 * it: undo leaves the bitmap as it was, to be stored when the image is closed.
 */
bool bitmap_remove_prepare(struct node *n, struct dirty_bitmap *bm,
                           struct error **errp);
void bitmap_remove_commit(struct dirty_bitmap *bm);
void bitmap_remove_undo(struct dirty_bitmap *bm);
