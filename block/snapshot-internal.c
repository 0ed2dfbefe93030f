/* SPDX-License-Identifier: MIT */
/*
 * Internal snapshots: what is common to all formats that have them.
 *
 * A filter, and raw, has the snapshots of the node that holds its data.
 * Drivers do the work with the control lock given up; of one node, one
 * thing at a time (node_work_begin()).
 */
#include "block/snapshot.h"

#include <errno.h>
#include "base/control.h"
#include "block/graph-priv.h"
#include "block/inactive.h"

struct node *snapshot_find_root(const char *device, struct error **errp)
{
    struct node *n = node_lookup(device, device, errp);

    for (const struct child *c = n ? n->parents : NULL; c;
         c = c->next_parent) {
        if (c->parent || root_is_jobs(c->root)) {
            error_set(errp, "Need a root block node");
            return NULL;
        }
    }
    return n;
}

/* Where N's snapshots are, or NULL. */
static struct node *storage_of(struct node *n)
{
    while (n && !n->driver->snapshot_create) {
        bool passes_on = n->driver->is_filter ||
                         (n->driver->is_format &&
                          !n->driver->supports_backing);

        n = passes_on && n->file ? n->file->node : NULL;
    }
    return n;
}

static SnapshotInfoList *list_of(struct node *n, struct error **errp)
{
    SnapshotInfoList *list = NULL;

    CONTROL_YIELD {
        list = n->driver->snapshot_list(n);
    }
    if (!list) {
        error_set_errno(errp, ENOTSUP, "Failed to get a snapshot list");
    }
    return list;
}

/* Index in LIST of the one with ID and NAME (NULL: any), or LIST->n. */
static size_t find_snapshot(const SnapshotInfoList *list, const char *id,
                            const char *name)
{
    size_t i;

    for (i = 0; i < list->n; i++) {
        if ((!id || g_str_equal(list->v[i]->id, id)) &&
            (!name || g_str_equal(list->v[i]->name, name))) {
            break;
        }
    }
    return i;
}

/* ---- create ------------------------------------------------------------- */

static bool check_can_create(struct node *n, const char *device,
                             const char *name, struct error **errp)
{
    const struct node *storage = storage_of(n);

    if (!node_op_allowed(n, NODE_OP_SNAPSHOT, errp) ||
        !node_check_active(n, errp)) {
        return false;
    }
    if (n->read_only) {
        error_set(errp, "Device '%s' is read only", device);
    } else if (!storage || storage->read_only) {
        error_set(errp, "Block format '%s' used by device '%s' does not "
                  "support internal snapshots", node_driver_name(n), device);
    } else if (name[0] == '\0') {
        error_set(errp, "Name is empty");
    } else {
        return true;
    }
    return false;
}

/* One of the name is not there yet; then make it. */
static bool create_unique(struct node *storage, const char *device,
                          const char *name, struct error **errp)
{
    g_autoptr(SnapshotInfoList) list = list_of(storage, errp);
    AUTO_ERROR(err);
    bool ok = false;

    if (!list) {
        return false;
    }
    if (find_snapshot(list, NULL, name) < list->n) {
        error_set(errp, "Snapshot with name '%s' already exists on device "
                  "'%s'", name, device);
        return false;
    }
    CONTROL_YIELD {
        ok = storage->driver->snapshot_create(storage, name, &err);
    }
    if (!ok) {
        error_prepend(&err, "Failed to create snapshot '%s' on device '%s': ",
                      name, device);
        error_propagate(errp, g_steal_pointer(&err));
    }
    return ok;
}

bool snapshot_internal_create(struct node *n, const char *device,
                              const char *name, struct error **errp)
{
    struct node *storage;
    bool ok;

    control_assert();
    if (!check_can_create(n, device, name, errp)) {
        return false;
    }
    storage = node_ref(storage_of(n));
    node_work_begin(storage);
    ok = check_can_create(n, device, name, errp) &&
         create_unique(storage, device, name, errp);
    node_work_end(storage);
    node_unref(storage);
    return ok;
}

/* ---- delete ------------------------------------------------------------- */

static SnapshotInfo *delete_found(struct node *storage, const char *device,
                                  const char *id, const char *name,
                                  struct error **errp)
{
    g_autoptr(SnapshotInfoList) list = list_of(storage, errp);
    SnapshotInfo *info = NULL;
    AUTO_ERROR(err);
    bool ok = false;

    if (!list) {
        return NULL;
    }
    if (find_snapshot(list, id, name) == list->n) {
        error_set(errp, "Snapshot with id '%s' and name '%s' does not exist "
                  "on device '%s'", id ? id : "null", name ? name : "null",
                  device);
        return NULL;
    }
    if (storage->read_only) {
        error_set_errno(errp, EPERM, "Failed to remove snapshot from snapshot "
                        "list");
        return NULL;
    }
    CONTROL_YIELD {
        ok = storage->driver->snapshot_delete(storage, id, name, &info, &err);
    }
    if (!ok) {
        error_propagate(errp, g_steal_pointer(&err));
        return NULL;
    }
    return info;
}

SnapshotInfo *snapshot_internal_delete(struct node *n, const char *device,
                                       const char *id, const char *name,
                                       struct error **errp)
{
    struct node *storage = storage_of(n);
    SnapshotInfo *info = NULL;

    control_assert();
    if (!storage) {
        error_set(errp, "Failed to get a snapshot list: Operation not "
                  "supported");
        return NULL;
    }
    node_ref(storage);
    node_work_begin(storage);
    if (node_op_allowed(n, NODE_OP_SNAPSHOT, errp) &&
        node_check_active(storage, errp)) {
        info = delete_found(storage, device, id, name, errp);
    }
    node_work_end(storage);
    node_unref(storage);
    return info;
}
