/* SPDX-License-Identifier: MIT */
/* QMP transaction: blockdev-snapshot, -sync, -internal-sync. */
#include "block/snapshot.h"
#include "blockjobs/transaction.h"

/* ---- external ----------------------------------------------------------- */

struct state {
    struct snapshot *snapshot;  /* owned, from begin to end */
};

static bool snapshot_begin(struct transaction_action *a, struct error **errp)
{
    struct state *s = a->state;

    s->snapshot = snapshot_new(a->args->u.blockdev_snapshot.data, errp);
    return s->snapshot;
}

static bool sync_begin(struct transaction_action *a, struct error **errp)
{
    struct state *s = a->state;

    s->snapshot = snapshot_new_sync(a->args->u.blockdev_snapshot_sync.data,
                                    errp);
    return s->snapshot;
}

static void nodes(struct transaction_action *a, GPtrArray *list)
{
    struct state *s = a->state;

    snapshot_add_nodes(s->snapshot, list);
}

static bool prepare(struct transaction_action *a, struct error **errp)
{
    struct state *s = a->state;

    return snapshot_prepare(s->snapshot, errp);
}

static void commit(struct transaction_action *a)
{
    struct state *s = a->state;

    snapshot_commit(s->snapshot);
}

static void undo(struct transaction_action *a)
{
    struct state *s = a->state;

    snapshot_undo(s->snapshot);
}

static void end(struct transaction_action *a)
{
    struct state *s = a->state;

    snapshot_free(s->snapshot);
}

const struct transaction_ops transaction_blockdev_snapshot_ops = {
    .state_size = sizeof(struct state),
    .begin = snapshot_begin,
    .nodes = nodes,
    .prepare = prepare,
    .commit = commit,
    .undo = undo,
    .end = end,
};

const struct transaction_ops transaction_blockdev_snapshot_sync_ops = {
    .state_size = sizeof(struct state),
    .begin = sync_begin,
    .nodes = nodes,
    .prepare = prepare,
    .commit = commit,
    .undo = undo,
    .end = end,
};

/* ---- internal ----------------------------------------------------------- */

struct internal_state {
    struct node *node;          /* owned reference, from begin to end */
};

static const BlockdevSnapshotInternal *
internal_args(const struct transaction_action *a)
{
    return a->args->u.blockdev_snapshot_internal_sync.data;
}

static bool internal_begin(struct transaction_action *a, struct error **errp)
{
    struct internal_state *s = a->state;
    struct node *n = snapshot_find_root(internal_args(a)->device, errp);

    s->node = n ? node_ref(n) : NULL;
    return n;
}

static void internal_nodes(struct transaction_action *a, GPtrArray *list)
{
    struct internal_state *s = a->state;

    g_ptr_array_add(list, s->node);
}

static bool internal_prepare(struct transaction_action *a,
                             struct error **errp)
{
    struct internal_state *s = a->state;
    const BlockdevSnapshotInternal *args = internal_args(a);

    /* An action before this one may have put an overlay over it. */
    return snapshot_find_root(args->device, errp) &&
           snapshot_internal_create(s->node, args->device, args->name,
                                    errp);
}

static void internal_undo(struct transaction_action *a)
{
    struct internal_state *s = a->state;
    const BlockdevSnapshotInternal *args = internal_args(a);
    AUTO_ERROR(err);
    SnapshotInfo *info = snapshot_internal_delete(s->node, args->device, NULL,
                                                  args->name, &err);

    if (!info) {
        error_prepend(&err, "Failed to delete snapshot '%s' on device '%s': ",
                      args->name, args->device);
        error_report(err);
    }
    SnapshotInfo_free(info);
}

static void internal_end(struct transaction_action *a)
{
    struct internal_state *s = a->state;

    node_unref(s->node);
}

const struct transaction_ops transaction_blockdev_snapshot_internal_sync_ops =
{
    .state_size = sizeof(struct internal_state),
    .begin = internal_begin,
    .nodes = internal_nodes,
    .prepare = internal_prepare,
    .undo = internal_undo,
    .end = internal_end,
};
