/* SPDX-License-Identifier: MIT */
/* QMP transaction: blockdev-backup and drive-backup. */
#include "blockjobs/backup.h"
#include "blockjobs/transaction.h"

struct state {
    struct backup *backup;      /* owned; NULL when it runs or is undone */
};

static bool blockdev_begin(struct transaction_action *a, struct error **errp)
{
    struct state *s = a->state;

    s->backup = backup_new_blockdev(a->args->u.blockdev_backup.data, errp);
    return s->backup != NULL;
}

static bool drive_begin(struct transaction_action *a, struct error **errp)
{
    struct state *s = a->state;

    s->backup = backup_new_drive(a->args->u.drive_backup.data, errp);
    return s->backup != NULL;
}

static void nodes(struct transaction_action *a, GPtrArray *list)
{
    struct state *s = a->state;

    g_ptr_array_add(list, backup_source(s->backup));
    g_ptr_array_add(list, backup_target(s->backup));
}

static bool prepare(struct transaction_action *a, struct error **errp)
{
    struct state *s = a->state;

    return backup_prepare(s->backup, a->txn, errp);
}

static void commit(struct transaction_action *a)
{
    struct state *s = a->state;

    backup_start(&s->backup);
}

static void undo(struct transaction_action *a)
{
    struct state *s = a->state;

    backup_undo(&s->backup);
}

const struct transaction_ops transaction_blockdev_backup_ops = {
    .state_size = sizeof(struct state),
    .can_group = true,
    .begin = blockdev_begin,
    .nodes = nodes,
    .prepare = prepare,
    .commit = commit,
    .undo = undo,
    .end = undo,                /* begun only, or prepare failed */
};

const struct transaction_ops transaction_drive_backup_ops = {
    .state_size = sizeof(struct state),
    .can_group = true,
    .begin = drive_begin,
    .nodes = nodes,
    .prepare = prepare,
    .commit = commit,
    .undo = undo,
    .end = undo,
};
