/* SPDX-License-Identifier: MIT */
/* blockdev-create for qcow2: what may be asked for, and what not together. */
#include <inttypes.h>
#include <string.h>
#include "block/qcow2/create-priv.h"

static bool check_size(uint64_t size, struct error **errp)
{
    if (size & 511) {
        error_set(errp, "Image size must be a multiple of 512 bytes");
        return false;
    }
    if (size > INT64_MAX) {
        error_set(errp, "Could not resize image: Image size cannot be "
                  "negative");
        return false;
    }
    if (size > BLK_MAX_LENGTH_BYTES) {
        error_set(errp, "Could not resize image: offset(%" PRIu64 ") exceeds "
                  "maximum(%" PRId64 ")", size, BLK_MAX_LENGTH_BYTES);
        return false;
    }
    return true;
}

static bool check_cluster_size(uint64_t bytes, struct error **errp)
{
    if (bytes < (1 << QCOW2_MIN_CLUSTER_BITS) ||
        bytes > (1 << QCOW2_MAX_CLUSTER_BITS) || (bytes & (bytes - 1))) {
        error_set(errp, "Cluster size must be a power of two between %d and "
                  "%dk", 1 << QCOW2_MIN_CLUSTER_BITS,
                  1 << (QCOW2_MAX_CLUSTER_BITS - 10));
        return false;
    }
    return true;
}

static bool check_refcount_bits(const BlockdevCreateOptionsQcow2 *o,
                                uint32_t version, struct error **errp)
{
    int64_t bits = o->has_refcount_bits ? o->refcount_bits : 16;

    if (bits < 1 || bits > 64 || (bits & (bits - 1))) {
        error_set(errp, "Refcount width must be a power of two and may not "
                  "exceed 64 bits");
        return false;
    }
    if (version < 3 && bits != 16) {
        error_set(errp, "Different refcount widths than 16 bits require "
                  "compatibility level 1.1 or above (use version=v3 or "
                  "greater)");
        return false;
    }
    return true;
}

static bool check_extended_l2(const BlockdevCreateOptionsQcow2 *o,
                              uint32_t version, uint64_t cluster_bytes,
                              struct error **errp)
{
    if (!o->has_extended_l2 || !o->extended_l2) {
        return true;
    }
    if (version < 3) {
        error_set(errp, "Extended L2 entries are only supported with "
                  "compatibility level 1.1 and above (use version=v3 or "
                  "greater)");
    } else if (cluster_bytes < 1 << QCOW2_MIN_EXTENDED_L2_CLUSTER_BITS) {
        error_set(errp, "Extended L2 entries are only supported with cluster "
                  "sizes of at least %d bytes",
                  1 << QCOW2_MIN_EXTENDED_L2_CLUSTER_BITS);
    } else {
        return true;
    }
    return false;
}

static bool check_data_file(const BlockdevCreateOptionsQcow2 *o,
                            uint32_t version, struct error **errp)
{
    if (!o->data_file) {
        if (o->has_data_file_raw && o->data_file_raw) {
            error_set(errp, "data-file-raw requires data-file");
            return false;
        }
        return true;
    }
    if (version < 3) {
        error_set(errp, "External data files are only supported with "
                  "compatibility level 1.1 and above (use version=v3 or "
                  "greater)");
    } else if (o->has_data_file_raw && o->data_file_raw && o->backing_file) {
        error_set(errp, "Backing file and data-file-raw cannot be used at "
                  "the same time");
    } else {
        return true;
    }
    return false;
}

static bool check_backing(const BlockdevCreateOptionsQcow2 *o,
                          struct error **errp)
{
    if (o->has_preallocation && o->preallocation != PREALLOC_MODE_OFF &&
        o->backing_file && !(o->has_extended_l2 && o->extended_l2)) {
        error_set(errp, "Backing file and preallocation can only be used at "
                  "the same time if extended_l2 is on");
        return false;
    }
    if (o->has_backing_fmt && !o->backing_file) {
        error_set(errp, "Backing format cannot be used without backing file");
        return false;
    }
    if (o->backing_file && strlen(o->backing_file) > QCOW2_MAX_BACKING_NAME) {
        error_set(errp, "Could not assign backing file '%s': Backing file "
                  "name too long", o->backing_file);
        return false;
    }
    return true;
}

static bool check_features(const BlockdevCreateOptionsQcow2 *o,
                           uint32_t version, struct error **errp)
{
    if (version < 3 && o->has_lazy_refcounts && o->lazy_refcounts) {
        error_set(errp, "Lazy refcounts only supported with compatibility "
                  "level 1.1 and above (use version=v3 or greater)");
        return false;
    }
    if (version < 3 && o->has_compression_type &&
        o->compression_type != QCOW2_COMPRESSION_TYPE_ZLIB) {
        error_set(errp, "Non-zlib compression type is only supported with "
                  "compatibility level 1.1 and above (use version=v3 or "
                  "greater)");
        return false;
    }
    return true;
}

bool qcow2_create_check(const BlockdevCreateOptionsQcow2 *o,
                        struct create_layout *l, struct error **errp)
{
    uint64_t cluster_bytes = o->has_cluster_size ? o->cluster_size : 65536;
    uint32_t version = o->has_version &&
                       o->version == BLOCKDEV_QCOW2_VERSION_V2 ? 2 : 3;

    if (!check_size(o->size, errp) ||
        !check_cluster_size(cluster_bytes, errp) ||
        !check_extended_l2(o, version, cluster_bytes, errp) ||
        !check_backing(o, errp) || !check_features(o, version, errp) ||
        !check_refcount_bits(o, version, errp) ||
        !check_data_file(o, version, errp)) {
        return false;
    }
    l->cluster_bytes = cluster_bytes;
    l->h.cluster_bits = __builtin_ctz(cluster_bytes);
    l->h.version = version;
    return true;
}
