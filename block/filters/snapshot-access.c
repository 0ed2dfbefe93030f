/* SPDX-License-Identifier: MIT */
/*
 * snapshot-access: reads the point in time that a copy-before-write filter
 * below keeps.  A discard says that the reader has done with an area.
 *
 * Not a filter: it does not read as the node below does.
 */
#include "block/drivers.h"

#include <errno.h>
#include "block/filters/copy-before-write.h"

static BlockdevRef **access_file_option(BlockdevOptions *options)
{
    return &options->u.snapshot_access.file;
}

static unsigned access_file_role(const BlockdevOptions *options)
{
    return ROLE_DATA | ROLE_PRIMARY;
}

static bool access_open_children(struct node *n,
                                 const BlockdevOptions *options,
                                 struct error **errp)
{
    if (!cbw_find_snapshot(n->file->node)) {
        error_set(errp, "Node '%s' keeps no snapshot: it must be of driver "
                  "'copy-before-write'", node_name(n->file->node));
        return false;
    }
    return true;
}

static int access_open(struct node *n, const BlockdevOptions *options,
                       struct error **errp)
{
    atomic_store(&n->length_bytes, node_length(n->file->node));
    return 0;
}

/* It needs nothing of the filter's own: what it reads and discards, the filter
 * holds by its links. */
static void access_child_perm(struct node *n, const struct child *c,
                              unsigned perm, unsigned shared,
                              unsigned *child_perm, unsigned *child_shared)
{
    *child_perm = 0;
    *child_shared = PERM_ALL;
}

static int access_pread(struct node *n, int64_t offset, int64_t bytes,
                        void *buf, unsigned flags)
{
    struct node *filter = cbw_find_snapshot(n->file->node);

    if (!filter) {
        return -ENOTSUP;
    }
    /* It may have to wait for a copy. */
    return flags & BLK_NOWAIT ? -EAGAIN
                              : cbw_snapshot_pread(filter, offset, bytes, buf);
}

static int access_pdiscard(struct node *n, int64_t offset, int64_t bytes)
{
    struct node *filter = cbw_find_snapshot(n->file->node);

    return filter ? cbw_snapshot_pdiscard(filter, offset, bytes) : -ENOTSUP;
}

/* After discards: all that is ever written from here. */
static int access_flush_to_disk(struct node *n)
{
    struct node *filter = cbw_find_snapshot(n->file->node);

    return filter ? cbw_snapshot_flush(filter) : 0;
}

static int access_block_status(struct node *n, bool want_zero, int64_t offset,
                               int64_t bytes, struct block_status *st)
{
    struct node *filter = cbw_find_snapshot(n->file->node);

    return filter ? cbw_snapshot_block_status(filter, want_zero, offset,
                                              bytes, st) : -ENOTSUP;
}

const struct driver driver_snapshot_access = {
    .name = "snapshot-access",
    .type = BLOCKDEV_DRIVER_SNAPSHOT_ACCESS,
    .file_option = access_file_option,
    .file_role = access_file_role,
    .open_children = access_open_children,
    .open = access_open,
    .child_perm = access_child_perm,
    .pread = access_pread,
    .pdiscard = access_pdiscard,
    .flush_to_disk = access_flush_to_disk,
    .block_status = access_block_status,
};
