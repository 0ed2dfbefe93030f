/* SPDX-License-Identifier: MIT */
/*
 * Backup: one blockdev-backup or drive-backup in steps, for the commands and
 * for QMP transaction.
 *
 *   b = backup_new_blockdev(args) or backup_new_drive(args)
 *   drain_begin() of backup_source(b) and backup_target(b)
 *   backup_prepare(b, txn)     the job exists ("created"), the filter is in
 *   backup_start(&b)           the job runs (pauses until the drain ends)
 *   drain_end()
 * or, instead of backup_start() and after any step: backup_undo(&b).
 *
 * Threads     Control lock; yields where marked.
 */
#pragma once

#include "base/error.h"
#include "qapi/qapi-types.h"

struct backup;
struct job_txn;
struct node;

/* Look nodes up, open or make the target.  Yields.  Owned, or NULL. */
struct backup *backup_new_blockdev(const BlockdevBackup *args,
                                   struct error **errp);
struct backup *backup_new_drive(const DriveBackup *args, struct error **errp);

/* Borrowed; both are to be drained from backup_prepare() to the end. */
struct node *backup_source(const struct backup *b);
struct node *backup_target(const struct backup *b);

/* Check the arguments against what is there now, make the job in TXN (NULL:
 * a transaction of its own), insert the filter, freeze the bitmap.  On failure
 * nothing is left but B. */
bool backup_prepare(struct backup *b, struct job_txn *txn,
                    struct error **errp);
/* "running"; frees and nulls *B.  Cannot fail. */
void backup_start(struct backup **b);
/* As if nothing had been prepared; frees and nulls *B.  NULL is fine.  Yields
 * (a target of drive-backup is closed). */
void backup_undo(struct backup **b);
