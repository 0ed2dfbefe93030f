/* SPDX-License-Identifier: MIT */
/* QMP transaction: see transaction.h. */
#include "blockjobs/transaction.h"

#include "base/control.h"
#include "block/bitmap.h"
#include "block/root.h"
#include "blockjobs/job.h"
#include "qapi/qapi-commands.h"

static const struct transaction_ops *const all_ops[] = {
    [TRANSACTION_ACTION_KIND_ABORT] = &transaction_abort_ops,
    [TRANSACTION_ACTION_KIND_BLOCK_DIRTY_BITMAP_ADD] =
        &transaction_bitmap_add_ops,
    [TRANSACTION_ACTION_KIND_BLOCK_DIRTY_BITMAP_REMOVE] =
        &transaction_bitmap_remove_ops,
    [TRANSACTION_ACTION_KIND_BLOCK_DIRTY_BITMAP_CLEAR] =
        &transaction_bitmap_clear_ops,
    [TRANSACTION_ACTION_KIND_BLOCK_DIRTY_BITMAP_ENABLE] =
        &transaction_bitmap_enable_ops,
    [TRANSACTION_ACTION_KIND_BLOCK_DIRTY_BITMAP_DISABLE] =
        &transaction_bitmap_disable_ops,
    [TRANSACTION_ACTION_KIND_BLOCK_DIRTY_BITMAP_MERGE] =
        &transaction_bitmap_merge_ops,
    [TRANSACTION_ACTION_KIND_BLOCKDEV_BACKUP] =
        &transaction_blockdev_backup_ops,
    [TRANSACTION_ACTION_KIND_BLOCKDEV_SNAPSHOT] =
        &transaction_blockdev_snapshot_ops,
    [TRANSACTION_ACTION_KIND_BLOCKDEV_SNAPSHOT_INTERNAL_SYNC] =
        &transaction_blockdev_snapshot_internal_sync_ops,
    [TRANSACTION_ACTION_KIND_BLOCKDEV_SNAPSHOT_SYNC] =
        &transaction_blockdev_snapshot_sync_ops,
    [TRANSACTION_ACTION_KIND_DRIVE_BACKUP] = &transaction_drive_backup_ops,
};

struct transaction {
    struct transaction_action *actions;     /* owned */
    size_t n;
    struct job_txn *txn;                    /* owned reference, or NULL */
};

/* Is a transaction of GROUPED completion possible with that action? */
static bool check_grouped(const TransactionActionList *actions,
                          struct error **errp)
{
    for (size_t i = 0; i < actions->n; i++) {
        TransactionActionKind type = actions->v[i]->type;

        if (!all_ops[type]->can_group) {
            error_set(errp, "Action '%s' does not support Transaction property"
                      " completion-mode = grouped",
                      TransactionActionKind_str(type));
            return false;
        }
    }
    return true;
}

static void transaction_init(struct transaction *t,
                             const TransactionActionList *actions,
                             bool grouped)
{
    t->n = actions->n;
    t->actions = g_new0(struct transaction_action, t->n);
    t->txn = grouped ? job_txn_new() : NULL;
    for (size_t i = 0; i < t->n; i++) {
        struct transaction_action *a = &t->actions[i];

        a->ops = all_ops[actions->v[i]->type];
        a->args = actions->v[i];
        a->txn = t->txn;
        a->state = g_malloc0(a->ops->state_size);
    }
}

static void transaction_end(struct transaction *t)
{
    for (size_t i = t->n; i-- > 0;) {
        struct transaction_action *a = &t->actions[i];

        if (a->ops->end) {
            a->ops->end(a);
        }
        g_free(a->state);
    }
    g_free(t->actions);
    job_txn_unref(t->txn);
}

/* How many have begun; t->n: all of them. */
static size_t begin_all(struct transaction *t, struct error **errp)
{
    size_t i;

    for (i = 0; i < t->n; i++) {
        struct transaction_action *a = &t->actions[i];

        if (a->ops->begin && !a->ops->begin(a, errp)) {
            break;
        }
    }
    return i;
}

/* Undo what was prepared: the first N. */
static void undo_first(struct transaction *t, size_t n)
{
    while (n-- > 0) {
        if (t->actions[n].ops->undo) {
            t->actions[n].ops->undo(&t->actions[n]);
        }
    }
}

/* Prepare the first N; undo them all if one fails. */
static bool prepare_first(struct transaction *t, size_t n,
                          struct error **errp)
{
    for (size_t i = 0; i < n; i++) {
        if (!t->actions[i].ops->prepare(&t->actions[i], errp)) {
            undo_first(t, i);
            return false;
        }
    }
    return true;
}

static void commit_all(struct transaction *t)
{
    for (size_t i = 0; i < t->n; i++) {
        if (t->actions[i].ops->commit) {
            t->actions[i].ops->commit(&t->actions[i]);
        }
    }
}

/*
 * BEGUN of the actions have begun; if that is not all of them, ERR (taken) says
 * why.  Those before the one that failed are still tried: one of them might
 * have failed first (I1).
 */
static bool run_drained(struct transaction *t, size_t begun,
                        struct error *err, struct error **errp)
{
    bool ok = prepare_first(t, begun, errp);

    if (ok && begun < t->n) {
        undo_first(t, begun);
        error_propagate(errp, err);
        return false;
    }
    error_free(err);
    if (ok) {
        commit_all(t);
    }
    return ok;
}

static bool transaction_run(struct transaction *t, struct error **errp)
{
    g_autoptr(GPtrArray) nodes = g_ptr_array_new();
    struct bitmap_claim *claim;
    struct drain *drain;
    struct error *err = NULL;
    size_t begun = begin_all(t, &err);
    bool ok;

    for (size_t i = 0; i < begun; i++) {
        if (t->actions[i].ops->nodes) {
            t->actions[i].ops->nodes(&t->actions[i], nodes);
        }
    }
    /* The claim's references keep them from here on. */
    claim = bitmap_claim((struct node **)nodes->pdata, nodes->len);
    drain = drain_begin((struct node **)nodes->pdata, nodes->len);
    ok = run_drained(t, begun, err, errp);
    drain_end(&drain);
    bitmap_release(&claim);
    return ok;
}

bool qmp_transaction(const TransactionArgs *args, struct error **errp)
{
    bool grouped = args->properties &&
        args->properties->has_completion_mode &&
        args->properties->completion_mode == ACTION_COMPLETION_MODE_GROUPED;
    struct transaction t;
    bool ok;

    if (grouped && !check_grouped(args->actions, errp)) {
        return false;
    }
    transaction_init(&t, args->actions, grouped);
    ok = transaction_run(&t, errp);
    transaction_end(&t);
    return ok;
}

/* ---- abort -------------------------------------------------------------- */

static bool abort_begin(struct transaction_action *a, struct error **errp)
{
    error_set(errp, "Transaction aborted using Abort action");
    return false;
}

static bool abort_prepare(struct transaction_action *a, struct error **errp)
{
    g_assert_not_reached();
}

const struct transaction_ops transaction_abort_ops = {
    .can_group = true,
    .begin = abort_begin,
    .prepare = abort_prepare,
};
