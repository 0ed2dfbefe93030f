/* SPDX-License-Identifier: MIT */
/* HMP's commands for images and snapshots. */
#include "server/hmp/command.h"

#include "block/backend.h"
#include "qapi/qapi-commands.h"

/* Arguments are borrowed; QMP's functions copy what they keep. */
static char *text(const struct hmp_args *a, const char *key)
{
    return (char *)hmp_arg_text(a, key);
}

void hmp_block_resize(struct hmp *m, const struct hmp_args *a)
{
    const BlockResizeArgs args = {
        .device = text(a, "device"), .size = hmp_arg_number(a, "size"),
    };
    struct error *err = NULL;

    qmp_block_resize(&args, &err);
    hmp_error(m, err);
}

void hmp_snapshot_blkdev(struct hmp *m, const struct hmp_args *a)
{
    const BlockdevSnapshotSync args = {
        .device = text(a, "device"),
        .snapshot_file = text(a, "snapshot-file"),
        .format = text(a, "format"), .has_mode = true,
        .mode = hmp_arg_flag(a, "reuse") ? NEW_IMAGE_MODE_EXISTING
                                         : NEW_IMAGE_MODE_ABSOLUTE_PATHS,
    };
    struct error *err = NULL;

    if (!args.snapshot_file) {
        /* QEMU wants to make up a name one day. */
        error_set(&err, "Parameter 'snapshot-file' is missing");
    } else {
        qmp_blockdev_snapshot_sync(&args, &err);
    }
    hmp_error(m, err);
}

void hmp_snapshot_blkdev_internal(struct hmp *m, const struct hmp_args *a)
{
    const BlockdevSnapshotInternal args = {
        .device = text(a, "device"), .name = text(a, "name"),
    };
    struct error *err = NULL;

    qmp_blockdev_snapshot_internal_sync(&args, &err);
    hmp_error(m, err);
}

void hmp_snapshot_delete_blkdev_internal(struct hmp *m,
                                         const struct hmp_args *a)
{
    const BlockdevSnapshotDeleteInternalSyncArgs args = {
        .device = text(a, "device"), .name = text(a, "name"),
        .id = text(a, "id"),
    };
    struct error *err = NULL;

    SnapshotInfo_free(qmp_blockdev_snapshot_delete_internal_sync(&args,
                                                                 &err));
    hmp_error(m, err);
}

void hmp_block_set_io_throttle(struct hmp *m, const struct hmp_args *a)
{
    /* A drive's name or a device's id. */
    bool is_drive = backend_find(hmp_arg_text(a, "device"));
    const BlockIOThrottle args = {
        .device = is_drive ? text(a, "device") : NULL,
        .id = is_drive ? NULL : text(a, "device"),
        .bps = hmp_arg_number(a, "bps"),
        .bps_rd = hmp_arg_number(a, "bps_rd"),
        .bps_wr = hmp_arg_number(a, "bps_wr"),
        .iops = hmp_arg_number(a, "iops"),
        .iops_rd = hmp_arg_number(a, "iops_rd"),
        .iops_wr = hmp_arg_number(a, "iops_wr"),
    };
    struct error *err = NULL;

    qmp_block_set_io_throttle(&args, &err);
    hmp_error(m, err);
}
