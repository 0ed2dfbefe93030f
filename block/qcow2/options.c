/* SPDX-License-Identifier: MIT */
/*
 * Options of a qcow2 node, and what they default to.
 *
 * The cache sizes are upper bounds: memory is used as tables are.
 */
#include <inttypes.h>
#include "block/qcow2/qcow2.h"

enum {
    DEFAULT_L2_CACHE_BYTES = 32 << 20,
    DEFAULT_REFCOUNT_CACHE_BYTES = 4 << 20,
    DEFAULT_SLICE_BYTES = 4096,
    MIN_REFCOUNT_CLUSTERS = 4,
    DEFAULT_CLEAN_SECONDS = 600,
};

static bool read_slice(const struct qcow2 *s, const BlockdevOptionsQcow2 *o,
                       struct qcow2_options *opt, struct error **errp)
{
    int64_t bytes = MIN(s->cluster_bytes, DEFAULT_SLICE_BYTES);

    if (o->has_l2_cache_entry_size) {
        bytes = o->l2_cache_entry_size;
    }
    if (bytes < (1 << QCOW2_MIN_CLUSTER_BITS) || bytes > s->cluster_bytes ||
        (bytes & (bytes - 1))) {
        error_set(errp, "L2 cache entry size must be a power of two between "
                  "%d and the cluster size (%" PRId64 ")",
                  1 << QCOW2_MIN_CLUSTER_BITS, s->cluster_bytes);
        return false;
    }
    opt->l2_entry_bytes = bytes;
    return true;
}

/* What is left of a total goes to the L2 tables. */
static bool split_total(const struct qcow2 *s, const BlockdevOptionsQcow2 *o,
                        struct qcow2_options *opt, struct error **errp)
{
    int64_t min_ref = MIN_REFCOUNT_CLUSTERS * s->cluster_bytes;

    if (o->has_l2_cache_size && o->has_refcount_cache_size) {
        error_set(errp, "cache-size, l2-cache-size and refcount-cache-size "
                  "may not be set at the same time");
        return false;
    }
    if (o->has_l2_cache_size && o->l2_cache_size > o->cache_size) {
        error_set(errp, "l2-cache-size may not exceed cache-size");
        return false;
    }
    if (o->has_refcount_cache_size &&
        o->refcount_cache_size > o->cache_size) {
        error_set(errp, "refcount-cache-size may not exceed cache-size");
        return false;
    }
    if (o->has_l2_cache_size) {
        opt->l2_cache_bytes = o->l2_cache_size;
        opt->refcount_cache_bytes = o->cache_size - o->l2_cache_size;
    } else if (o->has_refcount_cache_size) {
        opt->refcount_cache_bytes = o->refcount_cache_size;
        opt->l2_cache_bytes = o->cache_size - o->refcount_cache_size;
    } else {
        opt->refcount_cache_bytes = MIN(min_ref, o->cache_size);
        opt->l2_cache_bytes = o->cache_size - opt->refcount_cache_bytes;
    }
    return true;
}

static bool read_cache_sizes(const struct qcow2 *s,
                             const BlockdevOptionsQcow2 *o,
                             struct qcow2_options *opt, struct error **errp)
{
    opt->l2_cache_bytes = o->has_l2_cache_size ? o->l2_cache_size
                                               : DEFAULT_L2_CACHE_BYTES;
    opt->refcount_cache_bytes = o->has_refcount_cache_size
        ? o->refcount_cache_size : DEFAULT_REFCOUNT_CACHE_BYTES;
    if (o->has_cache_size && !split_total(s, o, opt, errp)) {
        return false;
    }
    /* As numbers of clusters or slices these were an int to QEMU. */
    if (opt->l2_cache_bytes < 0 ||
        opt->l2_cache_bytes / opt->l2_entry_bytes > INT32_MAX) {
        error_set(errp, "L2 cache size too big");
        return false;
    }
    if (opt->refcount_cache_bytes < 0 ||
        opt->refcount_cache_bytes / s->cluster_bytes > INT32_MAX) {
        error_set(errp, "Refcount cache size too big");
        return false;
    }
    opt->cache_clean_seconds = o->has_cache_clean_interval
                             ? o->cache_clean_interval : DEFAULT_CLEAN_SECONDS;
    if (opt->cache_clean_seconds < 0 || opt->cache_clean_seconds > UINT32_MAX) {
        error_set(errp, "Cache clean interval too big");
        return false;
    }
    return true;
}

static unsigned overlap_mode(Qcow2OverlapCheckMode mode)
{
    static const unsigned modes[] = {
        [QCOW2_OVERLAP_CHECK_MODE_NONE] = 0,
        [QCOW2_OVERLAP_CHECK_MODE_CONSTANT] = QCOW2_OL_CONSTANT,
        [QCOW2_OVERLAP_CHECK_MODE_CACHED] = QCOW2_OL_CACHED,
        [QCOW2_OVERLAP_CHECK_MODE_ALL] = QCOW2_OL_ALL,
    };

    return modes[mode];
}

static unsigned overlap_flags(const Qcow2OverlapCheckFlags *f)
{
    unsigned which = overlap_mode(f->has_template
                                  ? f->template
                                  : QCOW2_OVERLAP_CHECK_MODE_CACHED);
    const struct {
        bool has, on;
        unsigned bit;
    } each[] = {
        { f->has_main_header, f->main_header, QCOW2_OL_HEADER },
        { f->has_active_l1, f->active_l1, QCOW2_OL_ACTIVE_L1 },
        { f->has_active_l2, f->active_l2, QCOW2_OL_ACTIVE_L2 },
        { f->has_refcount_table, f->refcount_table, QCOW2_OL_REFTABLE },
        { f->has_refcount_block, f->refcount_block, QCOW2_OL_REFBLOCK },
        { f->has_snapshot_table, f->snapshot_table, QCOW2_OL_SNAPSHOTS },
        { f->has_inactive_l1, f->inactive_l1, QCOW2_OL_INACTIVE_L1 },
        { f->has_inactive_l2, f->inactive_l2, QCOW2_OL_INACTIVE_L2 },
        { f->has_bitmap_directory, f->bitmap_directory, QCOW2_OL_BITMAPS },
    };

    for (size_t i = 0; i < G_N_ELEMENTS(each); i++) {
        if (each[i].has) {
            which = each[i].on ? which | each[i].bit : which & ~each[i].bit;
        }
    }
    return which;
}

static unsigned read_overlap(const Qcow2OverlapChecks *o)
{
    if (!o) {
        return QCOW2_OL_CACHED;
    }
    return o->type == QAPI_TYPE_STRING ? overlap_mode(o->u.mode)
                                       : overlap_flags(o->u.flags);
}

static bool refuse_encryption(const struct qcow2 *s,
                              const BlockdevOptionsQcow2 *o,
                              struct error **errp)
{
    if (s->hdr.crypt_method == QCOW2_CRYPT_AES) {
        error_set(errp, "Use of AES-CBC encrypted qcow2 images is no longer "
                  "supported in system emulators");
        return false;
    }
    if (s->hdr.crypt_method == QCOW2_CRYPT_LUKS) {
        error_set(errp, "LUKS encryption of qcow2 images is not supported");
        return false;
    }
    if (o->encrypt) {
        error_set(errp, "No encryption in image header, but options "
                  "specified format '%s'",
                  BlockdevQcow2EncryptionFormat_str(o->encrypt->format));
        return false;
    }
    return true;
}

bool qcow2_options_read(const struct qcow2 *s, const BlockdevOptions *options,
                        struct qcow2_options *opt, struct error **errp)
{
    const BlockdevOptionsQcow2 *o = &options->u.qcow2;

    if (!refuse_encryption(s, o, errp) || !read_slice(s, o, opt, errp) ||
        !read_cache_sizes(s, o, opt, errp)) {
        return false;
    }
    if (o->data_file && !s->data) {
        error_set(errp, "'data-file' can only be set for images with an "
                  "external data file");
        return false;
    }
    opt->lazy_refcounts = o->has_lazy_refcounts ? o->lazy_refcounts
        : s->hdr.compatible & QCOW2_COMPAT_LAZY_REFCOUNTS;
    if (opt->lazy_refcounts && s->hdr.version < 3) {
        error_set(errp, "Lazy refcounts require a qcow2 image with at least "
                  "qemu 1.1 compatibility level");
        return false;
    }
    opt->discard_request = o->has_pass_discard_request
                         ? o->pass_discard_request
        : options->discard == BLOCKDEV_DISCARD_OPTIONS_UNMAP;
    opt->discard_snapshot = o->has_pass_discard_snapshot
                          ? o->pass_discard_snapshot : true;
    opt->discard_other = o->has_pass_discard_other && o->pass_discard_other;
    opt->discard_no_unref = o->has_discard_no_unref && o->discard_no_unref;
    if (opt->discard_no_unref && s->hdr.version < 3) {
        error_set(errp, "discard-no-unref is only supported since qcow2 "
                  "version 3");
        return false;
    }
    opt->overlap = read_overlap(o->overlap_check);
    opt->allow_invalidated = o->has_allow_invalidated && o->allow_invalidated;
    return true;
}
