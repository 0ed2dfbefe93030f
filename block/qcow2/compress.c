/* SPDX-License-Identifier: MIT */
/*
 * Compressed clusters, writing: one cluster at a time, packed one behind the
 * other.
 *
 * What does not get smaller is written as a plain cluster.  The packed data's
 * cluster has one reference for each compressed cluster in it.
 */
#include <errno.h>
#include <zlib.h>
#include <zstd.h>
#include "block/qcow2/qcow2.h"

/* The length of the result in OUT (room for ROOM bytes), 0: not smaller. */
static int64_t deflate_zlib(const uint8_t *in, size_t bytes, uint8_t *out,
                            size_t room)
{
    z_stream z = {
        .next_in = (uint8_t *)in, .avail_in = bytes,
        .next_out = out, .avail_out = room,
    };
    int ret;

    /* QEMU reads with a window of 4 KiB: no larger one then. */
    if (deflateInit2(&z, Z_DEFAULT_COMPRESSION, Z_DEFLATED, -12, 9,
                     Z_DEFAULT_STRATEGY) != Z_OK) {
        return -ENOMEM;
    }
    ret = deflate(&z, Z_FINISH);
    deflateEnd(&z);
    return ret == Z_STREAM_END ? (int64_t)(room - z.avail_out) : 0;
}

static int64_t deflate_zstd(const uint8_t *in, size_t bytes, uint8_t *out,
                            size_t room)
{
    size_t n = ZSTD_compress(out, room, in, bytes, ZSTD_CLEVEL_DEFAULT);

    return ZSTD_isError(n) ? 0 : (int64_t)n;
}

static int64_t compress_cluster(const struct qcow2 *s, const uint8_t *in,
                                uint8_t *out)
{
    size_t bytes = s->cluster_bytes, room = bytes - 1;

    return s->hdr.compression_type == QCOW2_COMPRESSION_ZSTD
           ? deflate_zstd(in, bytes, out, room)
           : deflate_zlib(in, bytes, out, room);
}

/* The descriptor for BYTES at PLACE; 0: it cannot say that. */
static uint64_t descriptor(const struct qcow2 *s, int64_t place,
                           int64_t bytes)
{
    unsigned shift = 62 - (s->cluster_bits - 8);
    uint64_t sectors = ((place + bytes - 1) >> 9) - (place >> 9);

    if (place + bytes > QCOW2_MAX_HOST_OFFSET || place >> shift) {
        return 0;
    }
    return QCOW2_COMPRESSED | sectors << shift | place;
}

/* Lock held: a place for BYTES for the cluster at OFFSET. */
static int64_t find_place(struct qcow2 *s, int64_t offset, int64_t bytes)
{
    struct qcow2_map map;
    int ret = qcow2_writeback_some(s);

    if (ret == 0) {
        ret = qcow2_lookup_for_write(s, offset, s->cluster_bytes, &map);
    }
    return ret < 0 ? ret : qcow2_alloc_packed(s, bytes);
}

/* DATA is the compressed cluster of OFFSET, which is held exclusively. */
static int write_packed(struct qcow2 *s, int64_t offset, const uint8_t *data,
                        int64_t bytes)
{
    struct qcow2_l2_change change = {
        .op = QCOW2_L2_COMPRESS,
        .free_flags = s->opt.discard_other ? QCOW2_FREE_DISCARD : 0,
    };
    int64_t place;
    int ret;

    lock_acquire(&s->lock);
    place = find_place(s, offset, bytes);
    lock_release(&s->lock);
    if (place < 0) {
        return place;
    }
    QCOW2_DEBUG(s, WRITE_COMPRESSED);
    ret = qcow2_file_pwrite(s, place, bytes, data, 0);
    QCOW2_DEBUG(s, L2_UPDATE_COMPRESSED);
    lock_acquire(&s->lock);
    if (ret == 0) {
        change.host = descriptor(s, place, bytes);
        ret = change.host ? qcow2_l2_set(s, offset, s->cluster_bytes, &change)
                          : -EFBIG;
    }
    if (ret < 0) {
        qcow2_refcount_release(s, qcow2_cluster_start(s, place), 1);
    }
    lock_release(&s->lock);
    return ret;
}

/* One cluster; IN has all of it. */
static int write_cluster(struct qcow2 *s, int64_t offset, const uint8_t *in,
                         uint8_t *out)
{
    int64_t bytes = compress_cluster(s, in, out);
    struct range_hold hold;
    int ret;

    if (bytes < 0) {
        return bytes;
    }
    if (bytes == 0) {
        return qcow2_pwrite(s->node, offset,
                            MIN(s->cluster_bytes,
                                node_length(s->node) - offset), in, 0);
    }
    range_lock_acquire(&s->guest, &hold, offset, s->cluster_bytes, true);
    ret = write_packed(s, offset, out, bytes);
    range_lock_release(&s->guest, &hold);
    return ret;
}

int qcow2_pwrite_compressed(struct qcow2 *s, int64_t offset, int64_t bytes,
                            const uint8_t *buf)
{
    g_autofree uint8_t *out = g_try_malloc(s->cluster_bytes);
    g_autofree uint8_t *last = NULL;
    int ret = out ? 0 : -ENOMEM;

    if ((offset & (s->cluster_bytes - 1)) ||
        ((bytes & (s->cluster_bytes - 1)) &&
         offset + bytes != node_length(s->node))) {
        return -EINVAL;
    }
    while (bytes > 0 && ret == 0) {
        int64_t part = MIN(bytes, s->cluster_bytes);
        if (part < s->cluster_bytes) {
            /* The disk's end; what is behind it is zero. */
            last = g_try_malloc0(s->cluster_bytes);
            if (!last) {
                return -ENOMEM;
            }
            memcpy(last, buf, part);
        }
        ret = write_cluster(s, offset, last ? last : buf, out);
        offset += part;
        buf += part;
        bytes -= part;
    }
    return ret;
}
