/* SPDX-License-Identifier: MIT */
/*
 * node_copy_range(): two nodes of one driver copy without a buffer of ours.
 *
 * For the node that is written it is a write like others (block/io.c, I1 to
 * I3); only what needs no padding and no splitting is done.
 */
#include <errno.h>
#include "block/driver.h"
#include "block/io-priv.h"
#include "block/write-threshold.h"

/* Flags that a driver's copy_range() need not know. */
enum { PASSED_FLAGS = BLK_WRITE_UNCHANGED | BLK_FUA };

static bool can_copy(const struct node *src, int64_t src_offset,
                     const struct node *dst, int64_t dst_offset,
                     int64_t bytes, unsigned flags)
{
    int64_t align = MAX(io_alignment(src), io_alignment(dst));

    return src->driver == dst->driver && dst->driver->copy_range &&
           !(flags & ~(unsigned)PASSED_FLAGS) &&
           !((src_offset | dst_offset | bytes) & (align - 1)) &&
           src_offset + bytes <= node_length(src) &&
           (!dst->limits.max_transfer || bytes <= dst->limits.max_transfer);
}

int node_copy_range(struct node *src, int64_t src_offset, struct node *dst,
                    int64_t dst_offset, int64_t bytes, unsigned flags)
{
    struct io_serial serial;
    int ret = io_check_write(dst, dst_offset, bytes);

    if (ret < 0 || bytes == 0) {
        return ret;
    }
    if (!can_copy(src, src_offset, dst, dst_offset, bytes, flags) ||
        dst->detect_zeroes) {
        return -ENOTSUP;
    }
    io_serialise(dst, &serial, dst_offset, bytes, 0);
    write_threshold_check(dst, dst_offset + bytes);
    ret = dst->driver->copy_range(src, src_offset, dst, dst_offset, bytes,
                                  dst->cache_no_flush ? flags & ~BLK_FUA
                                                      : flags);
    ret = io_finish_write(dst, dst_offset, bytes, flags, ret);
    io_serialise_end(dst, &serial);
    return ret;
}
