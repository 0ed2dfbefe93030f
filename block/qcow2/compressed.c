/* SPDX-License-Identifier: MIT */
/*
 * Compressed clusters, reading.
 *
 * The entry says where the data starts and in how many 512-byte sectors it
 * ends; the stream ends when it has given a cluster.  A stream that is
 * damaged, or gives less, is an I/O error for the guest and nothing more.
 */
#include <errno.h>
#include <zlib.h>
#include <zstd.h>
#include "block/qcow2/qcow2.h"

static int inflate_zlib(const uint8_t *in, size_t in_bytes, uint8_t *out,
                        size_t out_bytes)
{
    z_stream z = {
        .next_in = (uint8_t *)in, .avail_in = in_bytes,
        .next_out = out, .avail_out = out_bytes,
    };
    int ret;

    /* Raw deflate; a window up to 32 KiB is taken. */
    if (inflateInit2(&z, -15) != Z_OK) {
        return -ENOMEM;
    }
    ret = inflate(&z, Z_FINISH);
    inflateEnd(&z);
    /* Padding of the last sector may look like more of the stream. */
    return (ret == Z_STREAM_END || ret == Z_BUF_ERROR || ret == Z_OK) &&
           z.avail_out == 0 ? 0 : -EIO;
}

static int inflate_zstd(const uint8_t *in, size_t in_bytes, uint8_t *out,
                        size_t out_bytes)
{
    ZSTD_inBuffer input = { .src = in, .size = in_bytes };
    ZSTD_outBuffer output = { .dst = out, .size = out_bytes };
    ZSTD_DCtx *ctx = ZSTD_createDCtx();
    int ret = 0;

    if (!ctx) {
        return -ENOMEM;
    }
    while (output.pos < output.size && ret == 0) {
        size_t in_before = input.pos, out_before = output.pos;
        size_t left = ZSTD_decompressStream(ctx, &output, &input);
        if (ZSTD_isError(left) ||
            (input.pos == in_before && output.pos == out_before)) {
            ret = -EIO;
        }
    }
    ZSTD_freeDCtx(ctx);
    return ret;
}

int qcow2_read_compressed(struct qcow2 *s, uint64_t entry, int64_t in_cluster,
                          int64_t bytes, uint8_t *buf)
{
    g_autofree uint8_t *in = NULL, *out = NULL;
    int64_t offset, in_bytes;
    int ret;

    qcow2_compressed_extent(s, entry, &offset, &in_bytes);
    in = g_try_malloc(in_bytes);
    if (bytes < s->cluster_bytes) {
        out = g_try_malloc(s->cluster_bytes);
    }
    if (!in || (bytes < s->cluster_bytes && !out)) {
        return -ENOMEM;
    }
    if (offset >= QCOW2_MAX_HOST_OFFSET) {
        return -EIO;
    }
    QCOW2_DEBUG(s, READ_COMPRESSED);
    ret = qcow2_file_pread(s, offset, in_bytes, in, 0);
    if (ret < 0) {
        return ret;
    }
    if (s->hdr.compression_type == QCOW2_COMPRESSION_ZSTD) {
        ret = inflate_zstd(in, in_bytes, out ? out : buf, s->cluster_bytes);
    } else {
        ret = inflate_zlib(in, in_bytes, out ? out : buf, s->cluster_bytes);
    }
    if (ret == 0 && out) {
        memcpy(buf, out + in_cluster, bytes);
    }
    return ret;
}
