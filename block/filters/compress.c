/* SPDX-License-Identifier: MIT */
/*
 * Filter compress: what is written is stored compressed.
 *
 * Formats compress whole clusters, so this node's requests are of whole
 * clusters: the generic layer reads what is missing at the ends.
 */
#include "block/drivers.h"

#include <errno.h>
#include "block/reopen.h"

static struct node *below(const struct node *n)
{
    return n->file->node;
}

static BlockdevRef **compress_file_option(BlockdevOptions *options)
{
    return &options->u.compress.file;
}

static bool can_compress(const struct node *file, struct error **errp)
{
    if (file->supported_write_flags & BLK_COMPRESSED) {
        return true;
    }
    error_set(errp, "Compression is not supported for underlying format: %s",
              node_driver_name(file));
    return false;
}

static int compress_open(struct node *n, const BlockdevOptions *options,
                         struct error **errp)
{
    if (!can_compress(below(n), errp)) {
        return -ENOTSUP;
    }
    atomic_store(&n->length_bytes, node_length(below(n)));
    return 0;
}

static void compress_refresh_limits(struct node *n)
{
    int64_t cluster = node_cluster_bytes(below(n));

    n->limits.request_alignment = MAX(n->limits.request_alignment, cluster);
}

static int compress_pwrite(struct node *n, int64_t offset, int64_t bytes,
                           const void *buf, unsigned flags)
{
    return node_pwrite(below(n), offset, bytes, buf, flags | BLK_COMPRESSED);
}

static int compress_pwrite_zeroes(struct node *n, int64_t offset,
                                  int64_t bytes, unsigned flags)
{
    return node_pwrite_zeroes(below(n), offset, bytes, flags);
}

/* ---- reopen ------------------------------------------------------------- */

static bool compress_reopen_prepare(struct node_reopen *r,
                                    struct error **errp)
{
    return can_compress(r->file, errp);
}

const struct driver driver_compress = {
    .name = "compress",
    .type = BLOCKDEV_DRIVER_COMPRESS,
    .is_filter = true,
    .file_option = compress_file_option,
    .open = compress_open,
    .refresh_limits = compress_refresh_limits,
    .pwrite = compress_pwrite,
    .pwrite_zeroes = compress_pwrite_zeroes,
    .reopen_prepare = compress_reopen_prepare,
};
