/* SPDX-License-Identifier: MIT */
/*
 * QMP transaction: several actions at one moment, all of them or none.
 *
 * Steps       1. begin of each action in order: nodes are found, images
 *                opened or made.
 *             2. The bitmaps of all nodes concerned are claimed, then all
 *                nodes are drained as one section: one point in time.
 *             3. prepare of each in order: all that can fail.
 *             4. commit of all in order; or, when one failed in 1 or 3, undo
 *                of what was prepared, last first.
 *             5. The section ends, end of each action.
 * Invariants  I1  The error is that of the first action that fails, as if
 *                 each was begun and prepared before the next.
 *             I2  Undo leaves no trace but events (and, of drive-backup and
 *                 blockdev-snapshot-sync, a file that it had made).
 *             I3  An action looks bitmaps up in prepare, not before: earlier
 *                 actions may make them, and others may change them until
 *                 they are claimed.
 * Threads     Control lock held; all of them may yield but commit.
 *
 * Private to transaction*.c.
 */
#pragma once

#include "base/error.h"
#include "qapi/qapi-types.h"

struct job_txn;
struct transaction_action;

struct transaction_ops {
    size_t state_size;          /* zeroed bytes */
    bool can_group;             /* completion-mode grouped makes sense */
    /* All but prepare may be NULL. */
    bool (*begin)(struct transaction_action *a, struct error **errp);
    /* Add the nodes (borrowed) that are to be drained and claimed; those that
     * are not there make prepare fail. */
    void (*nodes)(struct transaction_action *a, GPtrArray *nodes);
    bool (*prepare)(struct transaction_action *a, struct error **errp);
    void (*commit)(struct transaction_action *a);
    void (*undo)(struct transaction_action *a);     /* of prepare */
    void (*end)(struct transaction_action *a);      /* of begin, always last */
};

struct transaction_action {
    const struct transaction_ops *ops;
    const TransactionAction *args;  /* borrowed */
    struct job_txn *txn;            /* borrowed; NULL: not grouped */
    void *state;                    /* owned: ops->state_size */
};

extern const struct transaction_ops
    transaction_abort_ops, transaction_bitmap_add_ops,
    transaction_bitmap_remove_ops, transaction_bitmap_clear_ops,
    transaction_bitmap_enable_ops, transaction_bitmap_disable_ops,
    transaction_bitmap_merge_ops, transaction_blockdev_backup_ops,
    transaction_blockdev_snapshot_ops,
    transaction_blockdev_snapshot_internal_sync_ops,
    transaction_blockdev_snapshot_sync_ops,
    transaction_drive_backup_ops;
