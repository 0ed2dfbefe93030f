/* SPDX-License-Identifier: MIT */
/* qcow2 as a driver: the table of functions, and what is too small for a
 * file of its own. */
#include "block/drivers.h"
#include "block/qcow2/qcow2.h"

static int probe(const uint8_t *buf, size_t len, const char *filename)
{
    return len >= 8 && load_be32(buf) == QCOW2_MAGIC && load_be32(buf + 4) >= 2
           ? 100 : 0;
}

static BlockdevRef **file_option(BlockdevOptions *options)
{
    return &options->u.qcow2.file;
}

static BlockdevRefOrNull **backing_option(BlockdevOptions *options)
{
    return &options->u.qcow2.backing;
}

static void refresh_limits(struct node *n)
{
    const struct qcow2 *s = n->state;
    const struct block_limits *file = &qcow2_file(s)->limits;

    n->limits = (struct block_limits) {
        .request_alignment = 1,
        .pwrite_zeroes_alignment = s->sub_bytes,
        .pdiscard_alignment = s->cluster_bytes,
        .min_mem_alignment = file->min_mem_alignment,
        .opt_mem_alignment = file->opt_mem_alignment,
        .opt_transfer = file->opt_transfer,
    };
}

static int64_t cluster_bytes(const struct node *n)
{
    const struct qcow2 *s = n->state;

    return s->cluster_bytes;
}

/* Nothing is allocated and nothing shows from below. */
static bool reads_zero_when_new(struct node *n)
{
    return !n->backing && !n->header_backing_file;
}

static const char *const reopen_options[] = {
    "lazy-refcounts", "pass-discard-request", "pass-discard-snapshot",
    "pass-discard-other", "discard-no-unref", "overlap-check", "cache-size",
    "l2-cache-size", "l2-cache-entry-size", "refcount-cache-size",
    "cache-clean-interval", "allow-invalidated", NULL
};

const struct driver driver_qcow2 = {
    .name = "qcow2",
    .type = BLOCKDEV_DRIVER_QCOW2,
    .state_size = sizeof(struct qcow2),
    .is_format = true,
    .supports_backing = true,
    .supports_bitmaps = true,
    .probe = probe,
    .file_option = file_option,
    .backing_option = backing_option,
    .open_children = qcow2_open_children,
    .open = qcow2_open,
    .close = qcow2_close,
    .refresh_limits = refresh_limits,
    .pread = qcow2_pread,
    .pwrite = qcow2_pwrite,
    .pwrite_zeroes = qcow2_pwrite_zeroes,
    .pdiscard = qcow2_pdiscard,
    .deallocate = qcow2_deallocate,
    .flush_to_os = qcow2_flush_to_os,
    .block_status = qcow2_block_status,
    .truncate = qcow2_truncate,
    .cluster_bytes = cluster_bytes,
    .reads_zero_when_new = reads_zero_when_new,
    .specific_info = qcow2_specific_info,
    .image_info = qcow2_image_info,
    .check = qcow2_check,
    .snapshot_create = qcow2_snapshot_create,
    .snapshot_list = qcow2_snapshot_list,
    .snapshot_delete = qcow2_snapshot_delete,
    .change_backing_file = qcow2_change_backing_file,
    .mark_invalidated = qcow2_mark_invalidated,
    .amend = qcow2_amend,
    .inactivate = qcow2_inactivate,
    .activate = qcow2_activate,
    .reopen_options = reopen_options,
    .reopen_prepare = qcow2_reopen_prepare,
    .reopen_activate = qcow2_reopen_activate,
    .reopen_commit = qcow2_reopen_commit,
    .reopen_abort = qcow2_reopen_abort,
    .create = qcow2_create,
    .bitmap_can_store = qcow2_bitmap_can_store,
    .bitmap_remove_stored = qcow2_bitmap_remove_stored,
};
