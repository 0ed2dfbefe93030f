/* SPDX-License-Identifier: MIT */
/* blockdev-backup and drive-backup; the latter makes its target itself. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include "base/control.h"
#include "block/driver.h"
#include "block/filename.h"
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

struct new_image {
    const char *filename, *format;
    int64_t length;
    struct node *backing;       /* borrowed, or NULL */
    const char *path;           /* what the name means, borrowed */
};

/* "Formatting ..." on stdout, as QEMU prints it; people and tests read it. */
static void print_formatting(const struct new_image *i)
{
    g_autoptr(GString) line = g_string_new(NULL);

    g_string_printf(line, "Formatting '%s', fmt=%s", i->filename, i->format);
    if (strcmp(i->format, "qcow2") == 0) {
        g_string_append(line, " cluster_size=65536 extended_l2=off "
                        "compression_type=zlib");
    }
    g_string_append_printf(line, " size=%" PRId64, i->length);
    if (i->backing) {
        g_string_append_printf(line, " backing_file=%s backing_fmt=%s",
                               node_filename(i->backing),
                               node_driver_name(i->backing));
    }
    if (strcmp(i->format, "qcow2") == 0) {
        g_string_append(line, " lazy_refcounts=off refcount_bits=16");
    }
    printf("%s\n", line->str);
    fflush(stdout);
}

/* An empty file, and over it what the format needs. */
static bool create_file(const char *filename, int64_t length,
                        struct error **errp)
{
    g_autoptr(BlockdevCreateOptions) o = BlockdevCreateOptions_new0();

    o->driver = BLOCKDEV_DRIVER_FILE;
    o->u.file.filename = g_strdup(filename);
    o->u.file.size = length;
    return driver_find("file")->create(o, errp);
}

static struct node *open_file(const char *filename, struct error **errp)
{
    g_autoptr(BlockdevOptions) o = BlockdevOptions_new0();

    o->driver = BLOCKDEV_DRIVER_FILE;
    o->u.file.filename = g_strdup(filename);
    return node_open(o, errp);
}

static bool create_qcow2(const struct new_image *i, struct error **errp)
{
    g_autoptr(BlockdevCreateOptions) o = BlockdevCreateOptions_new0();
    BlockdevCreateOptionsQcow2 *q = &o->u.qcow2;
    struct node *file = open_file(i->path, errp);
    bool ok;

    if (!file) {
        return false;
    }
    o->driver = BLOCKDEV_DRIVER_QCOW2;
    q->file = BlockdevRef_new0();
    q->file->type = QAPI_TYPE_STRING;
    q->file->u.reference = g_strdup(node_name(file));
    q->size = i->length;
    if (i->backing) {
        q->backing_file = g_strdup(node_filename(i->backing));
        q->has_backing_fmt = true;
        q->backing_fmt = i->backing->driver->type;
    }
    ok = driver_find("qcow2")->create(o, errp);
    node_unref(file);
    return ok;
}

/* Is there a protocol for the name, and can it make files?  Sets the path. */
static bool find_path(struct new_image *i, struct error **errp)
{
    g_autoptr(BlockdevOptions) o = filename_protocol_options(i->filename, errp);

    if (!o) {
        return false;
    }
    i->path = filename_local_path(i->filename);
    if (!i->path) {
        error_set(errp, "Protocol driver '%s' does not support image creation",
                  BlockdevDriver_str(o->driver));
        return false;
    }
    return true;
}

static bool create_image(struct new_image *i, struct error **errp)
{
    const struct driver *drv = driver_find(i->format);
    bool is_qcow2;

    if (!drv) {
        error_set(errp, "Unknown file format '%s'", i->format);
        return false;
    }
    if (!drv->create) {
        error_set(errp, "Format driver '%s' does not support image creation",
                  i->format);
        return false;
    }
    if (!find_path(i, errp)) {
        return false;
    }
    is_qcow2 = strcmp(i->format, "qcow2") == 0;
    if (i->backing && !is_qcow2) {
        error_set(errp, "Backing file not supported for file format '%s'",
                  i->format);
        return false;
    }
    print_formatting(i);
    return create_file(i->path, is_qcow2 ? 0 : i->length, errp) &&
           (!is_qcow2 || create_qcow2(i, errp));        /* raw, file */
}

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
        .length = node_length(source), .backing = backing_for(args, source),
    };

    if (!existing && !create_image(&image, errp)) {
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
