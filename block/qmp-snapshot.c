/* SPDX-License-Identifier: MIT */
/* Commands: snapshots without a transaction, change-backing-file. */
#include <errno.h>
#include "base/control.h"
#include "block/driver.h"
#include "block/graph-priv.h"
#include "block/inactive.h"
#include "block/reopen.h"
#include "block/root.h"
#include "block/snapshot.h"
#include "qapi/qapi-commands.h"

/* ---- external ----------------------------------------------------------- */

/* Takes S; NULL: errp is set. */
static bool run_alone(struct snapshot *s, struct error **errp)
{
    g_autoptr(GPtrArray) nodes = g_ptr_array_new();
    struct drain *drain;
    bool ok;

    if (!s) {
        return false;
    }
    snapshot_add_nodes(s, nodes);
    drain = drain_begin((struct node **)nodes->pdata, nodes->len);
    ok = snapshot_prepare(s, errp);
    if (ok) {
        snapshot_commit(s);
    }
    drain_end(&drain);
    snapshot_free(s);
    return ok;
}

bool qmp_blockdev_snapshot_sync(const BlockdevSnapshotSync *args,
                                struct error **errp)
{
    return run_alone(snapshot_new_sync(args, errp), errp);
}

bool qmp_blockdev_snapshot(const BlockdevSnapshot *args, struct error **errp)
{
    return run_alone(snapshot_new(args, errp), errp);
}

/* ---- internal ----------------------------------------------------------- */

bool qmp_blockdev_snapshot_internal_sync(const BlockdevSnapshotInternal *args,
                                         struct error **errp)
{
    struct node *n = snapshot_find_root(args->device, errp);
    struct drain *drain;
    bool ok;

    if (!n) {
        return false;
    }
    node_ref(n);
    drain = drain_begin(&n, 1);
    ok = snapshot_internal_create(n, args->device, args->name, errp);
    drain_end(&drain);
    node_unref(n);
    return ok;
}

SnapshotInfo *qmp_blockdev_snapshot_delete_internal_sync(
    const BlockdevSnapshotDeleteInternalSyncArgs *args, struct error **errp)
{
    struct node *n = snapshot_find_root(args->device, errp);
    struct drain *drain;
    SnapshotInfo *info;

    if (!n) {
        return NULL;
    }
    if (!args->id && !args->name) {
        error_set(errp, "Name or id must be provided");
        return NULL;
    }
    node_ref(n);
    drain = drain_begin(&n, 1);
    info = snapshot_internal_delete(n, args->device, args->id, args->name,
                                    errp);
    drain_end(&drain);
    node_unref(n);
    return info;
}

/* ---- change-backing-file ------------------------------------------------ */

/* N's header gets the new name; the graph and its drain are the caller's. */
static bool rewrite_header(struct node *n, const char *file,
                           struct error **errp)
{
    g_autofree char *format = g_strdup(n->header_backing_format);
    bool none = file[0] == '\0';
    AUTO_ERROR(err);
    int ret = 0;

    node_work_begin(n);
    CONTROL_YIELD {
        ret = n->driver->change_backing_file(n, none ? NULL : file,
                                             none ? NULL : format, &err);
    }
    node_work_end(n);
    if (ret < 0) {
        error_free(g_steal_pointer(&err));
        error_set_errno(errp, -ret, "Could not change backing file to '%s'",
                        file);
        return false;
    }
    node_set_header_text(n, none ? NULL : file, none ? NULL : format);
    return true;
}

static bool check_image(struct node *root, struct node *image,
                        const ChangeBackingFileArgs *args,
                        struct error **errp)
{
    if (!image->driver->is_filter && !node_backing(image)) {
        error_set(errp, "not allowing backing file change on an image "
                  "without a backing file");
        return false;
    }
    if (!node_is_in_chain(root, image)) {
        error_set(errp, "'%s' and image file are not in the same chain",
                  args->device);
        return false;
    }
    if (!node_op_allowed(image, NODE_OP_CHANGE_BACKING, errp) ||
        !node_check_active(image, errp)) {
        return false;
    }
    if (!image->driver->change_backing_file) {
        error_set_errno(errp, ENOTSUP, "Could not change backing file to "
                        "'%s'", args->backing_file);
        return false;
    }
    return true;
}

/* Drained and writable; NULL: refused.  *MADE_WRITABLE: it was read-only, and
 * is to be so again. */
static struct drain *drain_writable(struct node *root, struct node *image,
                                    const ChangeBackingFileArgs *args,
                                    bool *made_writable, struct error **errp)
{
    struct drain *drain;

    for (;;) {
        *made_writable = image->read_only;
        if (image->read_only && !node_set_read_only(image, false, errp)) {
            *made_writable = false;
            return NULL;
        }
        drain = drain_begin(&image, 1);
        /* Other commands may have come first while it waited. */
        if (!check_image(root, image, args, errp)) {
            drain_end(&drain);
            return NULL;
        }
        if (!image->read_only) {
            return drain;
        }
        drain_end(&drain);
    }
}

/* A read-only node is writable for that time. */
static bool change_backing(struct node *root, struct node *image,
                           const ChangeBackingFileArgs *args,
                           struct error **errp)
{
    AUTO_ERROR(err);
    bool made_writable;
    struct drain *drain = drain_writable(root, image, args, &made_writable,
                                         errp);
    bool ok = drain && rewrite_header(image, args->backing_file, errp);

    drain_end(&drain);
    if (made_writable && !node_set_read_only(image, true, &err)) {
        error_prepend(&err, "Node '%s' stays writable: ", node_name(image));
        if (ok) {
            error_propagate(errp, g_steal_pointer(&err));
            ok = false;
        }
    }
    return ok;
}

bool qmp_change_backing_file(const ChangeBackingFileArgs *args,
                             struct error **errp)
{
    struct node *root = snapshot_find_root(args->device, errp);
    struct node *image = root ? node_lookup(NULL, args->image_node_name, errp)
                              : NULL;
    bool ok;

    if (!image || !check_image(root, image, args, errp)) {
        return false;
    }
    node_ref(root);
    node_ref(image);
    ok = change_backing(root, image, args, errp);
    node_unref(image);
    node_unref(root);
    return ok;
}
