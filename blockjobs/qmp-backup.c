/* SPDX-License-Identifier: MIT */
/* blockdev-backup and drive-backup; the latter makes its target itself. */
#include "base/control.h"
#include "block/driver.h"
#include "block/new-image.h"
#include "block/root.h"
#include "blockjobs/backup-priv.h"
#include "qapi/qapi-commands.h"

/* ---- blockdev-backup ---------------------------------------------------- */

struct backup *backup_new_blockdev(const BlockdevBackup *args,
                                   struct error **errp)
{
    struct node *source = node_lookup(args->device, args->device, errp);
    struct node *target;

    if (!source) {
        return NULL;
    }
    target = node_lookup(args->target, args->target, errp);
    if (!target) {
        return NULL;
    }
    return backup_new(qapi_BlockdevBackup_base(args), node_ref(source),
                      node_ref(target));
}

/* ---- drive-backup: the target ------------------------------------------- */

/*
 * The new image's backing file: sync=top what the source has, sync=none the
 * source itself (everything not yet copied reads from there).
 */
static struct node *backing_for(const DriveBackup *args, struct node *source)
{
    if (args->sync == MIRROR_SYNC_MODE_NONE) {
        return source;
    }
    if (args->sync == MIRROR_SYNC_MODE_TOP) {
        struct node *backing = node_backing(node_skip_filters(source));

        return backing ? node_skip_filters(backing) : NULL;
    }
    return NULL;
}

static struct node *open_target(const DriveBackup *args, const char *format,
                                struct node *source, struct error **errp)
{
    g_autoptr(BlockdevRefOrNull) backing = NULL;

    if (args->sync == MIRROR_SYNC_MODE_NONE) {
        backing = BlockdevRefOrNull_new0();
        backing->type = QAPI_TYPE_STRING;
        backing->u.reference = g_strdup(node_name(source));
    }
    return node_open_filename(args->target, format, false, backing, errp);
}

/* The node is the caller's. */
static struct node *make_target(const DriveBackup *args, struct node *source,
                                struct error **errp)
{
    bool existing = args->has_mode && args->mode == NEW_IMAGE_MODE_EXISTING;
    const char *format = args->format ? args->format
                         : existing ? NULL
                         : node_driver_name(node_skip_filters(source));
    struct new_image image = {
        .filename = args->target, .format = format,
        .length_bytes = node_length(source),
        .backing = backing_for(args, source),
    };

    if (!existing && !new_image_create(&image, errp)) {
        return NULL;
    }
    return open_target(args, format, source, errp);
}

struct backup *backup_new_drive(const DriveBackup *args, struct error **errp)
{
    struct node *source = node_lookup(args->device, args->device, errp);
    g_autoptr(BackupCommon) common = NULL;
    struct node *target;

    if (!source || !node_op_allowed(source, NODE_OP_BACKUP_SOURCE, errp)) {
        return NULL;
    }
    common = BackupCommon_clone(qapi_DriveBackup_base(args));
    if (args->sync == MIRROR_SYNC_MODE_TOP &&
        !node_backing(node_skip_filters(source))) {
        common->sync = MIRROR_SYNC_MODE_FULL;
    }
    node_ref(source);           /* making the target yields */
    target = make_target(args, source, errp);
    if (!target) {
        node_unref(source);
        return NULL;
    }
    return backup_new(common, source, target);
}

/* ---- commands ----------------------------------------------------------- */

static bool run_alone(struct backup *b, struct error **errp)
{
    struct node *nodes[2];
    struct drain *drain;
    bool ok;

    if (!b) {
        return false;
    }
    nodes[0] = backup_source(b);
    nodes[1] = backup_target(b);
    drain = drain_begin(nodes, G_N_ELEMENTS(nodes));
    ok = backup_prepare(b, NULL, errp);
    if (ok) {
        backup_start(&b);
    }
    drain_end(&drain);
    backup_undo(&b);
    return ok;
}

bool qmp_blockdev_backup(const BlockdevBackup *args, struct error **errp)
{
    return run_alone(backup_new_blockdev(args, errp), errp);
}

bool qmp_drive_backup(const DriveBackup *args, struct error **errp)
{
    return run_alone(backup_new_drive(args, errp), errp);
}
