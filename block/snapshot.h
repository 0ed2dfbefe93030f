/* SPDX-License-Identifier: MIT */
/*
 * Snapshots: what blockdev-snapshot* do, in steps for a transaction.
 *
 * Threads  Control lock held for all; those marked "yields" give it up for a
 *          while.
 */
#pragma once

#include "block/node.h"

/* ---- external: an overlay over a node (block/snapshot.c) ---------------- */

/*
 *   new        finds or makes the overlay; nothing has changed in the graph
 *   prepare    in a drained section: the overlay takes the node's place
 *   commit or undo     of prepare, in the same section
 *   free       behind the section: the node becomes read-only (committed),
 *              or the overlay goes (unless others have it)
 */
struct snapshot;

/* NULL and errp: refused.  Yield. */
struct snapshot *snapshot_new(const BlockdevSnapshot *args,
                              struct error **errp);
struct snapshot *snapshot_new_sync(const BlockdevSnapshotSync *args,
                                   struct error **errp);
/* Those that are to be drained, borrowed; added to NODES. */
void snapshot_add_nodes(struct snapshot *s, GPtrArray *nodes);
/* False: nothing has changed.  Yields. */
bool snapshot_prepare(struct snapshot *s, struct error **errp);
void snapshot_commit(struct snapshot *s);
void snapshot_undo(struct snapshot *s);
/* Yields.  NULL is fine. */
void snapshot_free(struct snapshot *s);

/* ---- internal: inside an image (block/snapshot-internal.c) -------------- */

/*
 * The node that DEVICE names; no other node may use it ("Need a root block
 * node").  Borrowed.
 */
struct node *snapshot_find_root(const char *device, struct error **errp);
/*
 * Make a snapshot called NAME of N, which is drained and called DEVICE in
 * messages.  Yields.
 */
bool snapshot_internal_create(struct node *n, const char *device,
                              const char *name, struct error **errp);
/*
 * Delete the one with ID and NAME (either may be NULL, not both); it is
 * returned, owned.  N is drained.  Yields.
 */
SnapshotInfo *snapshot_internal_delete(struct node *n, const char *device,
                                       const char *id, const char *name,
                                       struct error **errp);
