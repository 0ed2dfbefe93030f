/* SPDX-License-Identifier: MIT */
/* Nodes that copy on read: see node-cor.h. */
#include "block/node-cor.h"

#include <errno.h>
#include <stdlib.h>
#include "base/control.h"
#include "block/io-hold.h"
#include "block/zeroes.h"

enum {
    CHUNK_BYTES = 1 << 20,      /* of one copy: guests' writes wait for it */
};

void node_set_copy_on_read(struct node *n)
{
    control_assert();
    if (!n->copy_on_read) {
        n->copy_on_read = true;
        io_holds_begin(n);      /* to the node's end */
    }
}

/* Of *BYTES at OFFSET, shortened to one state: is it only below? */
static int look(struct node *n, int64_t offset, int64_t *bytes, bool *below)
{
    struct block_status st;
    int ret = node_block_status(n, false, offset, *bytes, &st);

    *below = false;
    if (ret < 0 || st.bytes == 0) {
        return ret;
    }
    *bytes = st.bytes;
    if (st.flags & STATUS_ALLOCATED) {
        return 0;
    }
    ret = node_block_status_above(n->backing->node, NULL, false, offset,
                                  *bytes, &st);
    if (ret < 0 || st.bytes == 0) {     /* behind the end of what is below */
        return ret;
    }
    *bytes = st.bytes;
    *below = st.flags & STATUS_ALLOCATED;
    return 0;
}

/* What is held by this thread reads as it is: see node_pread(). */
static int copy_data(struct node *n, int64_t offset, int64_t bytes)
{
    void *buf = aligned_alloc(4096, (bytes + 4095) & ~INT64_C(4095));
    int ret;

    if (!buf) {
        return -ENOMEM;
    }
    ret = node_pread(n, offset, bytes, buf, 0);
    if (ret == 0) {
        ret = buffer_is_zero(buf, bytes)
              ? node_pwrite_zeroes(n, offset, bytes, BLK_WRITE_UNCHANGED)
              : node_pwrite(n, offset, bytes, buf, BLK_WRITE_UNCHANGED);
    }
    free(buf);
    return ret;
}

/* [offset, end), whole clusters but for N's end, is held; somebody may have
 * copied or written it before it was. */
static int copy_held(struct node *n, int64_t offset, int64_t end)
{
    bool below;
    int ret = 0;

    while (offset < end && ret == 0) {
        int64_t bytes = MIN(end - offset, CHUNK_BYTES);

        ret = look(n, offset, &bytes, &below);
        if (ret == 0 && below) {
            ret = copy_data(n, offset, bytes);
        }
        offset += bytes;
    }
    return ret;
}

static int copy(struct node *n, int64_t offset, int64_t bytes)
{
    int64_t unit = MAX(node_cluster_bytes(n), 4096);
    int64_t start = offset / unit * unit;
    int64_t end = (offset + bytes + unit - 1) / unit * unit;
    struct io_hold hold;
    int ret;

    io_hold(n, &hold, start, end - start);
    ret = copy_held(n, start, MIN(end, node_length(n)));
    io_release(&hold);
    return ret;
}

int node_copy_before_read(struct node *n, int64_t offset, int64_t bytes)
{
    bool below;
    int ret = 0;

    if (!n->backing || n->read_only || n->inactive ||
        io_is_held(n, offset, offset + bytes)) {
        return 0;               /* I3; a copy, ours or a job's */
    }
    while (bytes > 0 && ret == 0) {
        int64_t part = bytes;

        ret = look(n, offset, &part, &below);
        if (ret == 0 && below) {
            part = MIN(part, CHUNK_BYTES);
            ret = copy(n, offset, part);
        }
        offset += part;
        bytes -= part;
    }
    return ret;
}
