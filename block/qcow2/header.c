/* SPDX-License-Identifier: MIT */
/*
 * The header: decoding with all checks that need nothing else, and writing
 * the first cluster.
 *
 * Invariant   s->hdr is what the file says.  A change is made there under
 *             the lock and written at once; writes of the header follow each
 *             other (header_writing), so the last one wins.
 */
#include <errno.h>
#include <inttypes.h>
#include <string.h>
#include "block/qcow2/qcow2.h"

static void decode_v3(struct qcow2_header *h, const uint8_t *buf)
{
    if (h->version < 3) {
        h->refcount_order = 4;
        h->header_bytes = QCOW2_HEADER_V2_BYTES;
        return;
    }
    h->incompatible = load_be64(buf + 72);
    h->compatible = load_be64(buf + 80);
    h->autoclear = load_be64(buf + 88);
    h->refcount_order = load_be32(buf + 96);
    h->header_bytes = load_be32(buf + 100);
    h->compression_type = h->header_bytes > 104 ? buf[104] : 0;
}

static bool check_fields(const struct qcow2_header *h, struct error **errp)
{
    bool compression_bit = h->incompatible & QCOW2_INCOMPAT_COMPRESSION;

    if (h->cluster_bits < QCOW2_MIN_CLUSTER_BITS ||
        h->cluster_bits > QCOW2_MAX_CLUSTER_BITS) {
        error_set(errp, "Unsupported cluster size: 2^%" PRIu32,
                  h->cluster_bits);
    } else if (h->version >= 3 && h->header_bytes < QCOW2_HEADER_V3_BYTES) {
        error_set(errp, "qcow2 header too short");
    } else if (h->header_bytes > (1U << h->cluster_bits)) {
        error_set(errp, "qcow2 header exceeds cluster size");
    } else if (h->refcount_order > 6) {
        error_set(errp, "Reference count entry width too large; may not "
                  "exceed 64 bits");
    } else if ((h->incompatible & QCOW2_INCOMPAT_EXTENDED_L2) &&
               h->cluster_bits < QCOW2_MIN_EXTENDED_L2_CLUSTER_BITS) {
        error_set(errp, "Unsupported subcluster size: %u",
                  1U << h->cluster_bits >> 5);
    } else if (h->crypt_method > QCOW2_CRYPT_LUKS) {
        error_set(errp, "Unsupported encryption method %" PRIu32,
                  h->crypt_method);
    } else if (h->compression_type == QCOW2_COMPRESSION_ZLIB &&
               compression_bit) {
        error_set(errp, "qcow2: Compression type incompatible feature bit "
                  "must not be set");
    } else if (h->compression_type != QCOW2_COMPRESSION_ZLIB &&
               !compression_bit) {
        error_set(errp, "qcow2: Compression type incompatible feature bit "
                  "must be set");
    } else if (h->compression_type > QCOW2_COMPRESSION_ZSTD) {
        error_set(errp, "qcow2: unknown compression type: %u",
                  h->compression_type);
    } else {
        return true;
    }
    return false;
}

struct table_area {
    const char *name;
    uint64_t offset, n;         /* entries */
    uint32_t entry_bytes;
    uint64_t max_bytes;
};

static bool check_table(const struct qcow2_header *h,
                        const struct table_area *a, struct error **errp)
{
    if (a->n > a->max_bytes / a->entry_bytes) {
        error_set(errp, "%s too large", a->name);
        return false;
    }
    if (a->offset > INT64_MAX - a->n * a->entry_bytes ||
        (a->offset & ((1U << h->cluster_bits) - 1))) {
        error_set(errp, "%s offset invalid", a->name);
        return false;
    }
    return true;
}

static bool check_size(const struct qcow2_header *h, struct error **errp)
{
    unsigned entry_bits = h->incompatible & QCOW2_INCOMPAT_EXTENDED_L2 ? 4 : 3;
    unsigned shift = 2 * h->cluster_bits - entry_bits;
    uint64_t needed;

    if (h->size > (uint64_t)BLK_MAX_LENGTH_BYTES) {
        error_set(errp, "Image is too big");
        return false;
    }
    needed = (h->size + (UINT64_C(1) << shift) - 1) >> shift;
    if (needed > INT32_MAX / 8) {
        error_set(errp, "Image is too big");
        return false;
    }
    if (h->l1_entries < needed) {
        error_set(errp, "L1 table is too small");
        return false;
    }
    return true;
}

static bool check_tables(const struct qcow2_header *h, struct error **errp)
{
    uint32_t cluster_bytes = 1U << h->cluster_bits;
    const struct table_area areas[] = {
        { "Reference count table", h->reftable_offset, h->reftable_clusters,
          cluster_bytes, MAX(QCOW2_MAX_REFTABLE_BYTES, cluster_bytes) },
        { "Snapshot table", h->snapshots_offset, h->n_snapshots, 40,
          QCOW2_MAX_SNAPSHOTS * 40 },
        { "Active L1 table", h->l1_offset, h->l1_entries, 8,
          QCOW2_MAX_L1_BYTES },
    };

    if (h->reftable_clusters == 0) {
        error_set(errp, "Image does not contain a reference count table");
        return false;
    }
    for (size_t i = 0; i < G_N_ELEMENTS(areas); i++) {
        if (!check_table(h, &areas[i], errp)) {
            return false;
        }
    }
    return check_size(h, errp);
}

static bool check_backing(const struct qcow2_header *h, struct error **errp)
{
    uint64_t cluster_bytes = UINT64_C(1) << h->cluster_bits;

    if (h->backing_offset == 0) {
        return true;
    }
    if (h->backing_offset > cluster_bytes ||
        h->backing_offset < h->header_bytes) {
        error_set(errp, "Invalid backing file offset");
        return false;
    }
    if (h->backing_bytes > QCOW2_MAX_BACKING_NAME ||
        h->backing_bytes > cluster_bytes - h->backing_offset) {
        error_set(errp, "Backing file name too long");
        return false;
    }
    return true;
}

bool qcow2_header_decode(struct qcow2_header *h, const uint8_t *buf,
                         struct error **errp)
{
    *h = (struct qcow2_header) { 0 };
    if (load_be32(buf) != QCOW2_MAGIC) {
        error_set(errp, "Image is not in qcow2 format");
        return false;
    }
    h->version = load_be32(buf + 4);
    if (h->version < 2 || h->version > 3) {
        error_set(errp, "Unsupported qcow2 version %" PRIu32, h->version);
        return false;
    }
    h->backing_offset = load_be64(buf + 8);
    h->backing_bytes = load_be32(buf + 16);
    h->cluster_bits = load_be32(buf + 20);
    h->size = load_be64(buf + 24);
    h->crypt_method = load_be32(buf + 32);
    h->l1_entries = load_be32(buf + 36);
    h->l1_offset = load_be64(buf + 40);
    h->reftable_offset = load_be64(buf + 48);
    h->reftable_clusters = load_be32(buf + 56);
    h->n_snapshots = load_be32(buf + 60);
    h->snapshots_offset = load_be64(buf + 64);
    decode_v3(h, buf);
    return check_fields(h, errp) && check_backing(h, errp) &&
           check_tables(h, errp);
}

void qcow2_header_encode(const struct qcow2_header *h,
                         const GByteArray *extra, GByteArray *out)
{
    uint8_t buf[QCOW2_HEADER_OUR_BYTES] = { 0 };
    size_t ours = MIN(h->header_bytes, sizeof(buf));

    store_be32(buf, QCOW2_MAGIC);
    store_be32(buf + 4, h->version);
    store_be64(buf + 8, h->backing_offset);
    store_be32(buf + 16, h->backing_bytes);
    store_be32(buf + 20, h->cluster_bits);
    store_be64(buf + 24, h->size);
    store_be32(buf + 32, h->crypt_method);
    store_be32(buf + 36, h->l1_entries);
    store_be64(buf + 40, h->l1_offset);
    store_be64(buf + 48, h->reftable_offset);
    store_be32(buf + 56, h->reftable_clusters);
    store_be32(buf + 60, h->n_snapshots);
    store_be64(buf + 64, h->snapshots_offset);
    store_be64(buf + 72, h->incompatible);
    store_be64(buf + 80, h->compatible);
    store_be64(buf + 88, h->autoclear);
    store_be32(buf + 96, h->refcount_order);
    store_be32(buf + 100, h->header_bytes);
    buf[104] = h->compression_type;
    g_byte_array_append(out, buf, ours);
    if (extra && h->header_bytes > ours) {
        g_byte_array_append(out, extra->data, extra->len);
    }
}

GByteArray *qcow2_header_compose(struct qcow2_header *h,
                                 const GByteArray *extra,
                                 const GPtrArray *exts,
                                 const char *backing_name)
{
    GByteArray *rest = g_byte_array_new(), *out = g_byte_array_new();

    qcow2_exts_encode(exts, rest);
    h->backing_offset = backing_name ? h->header_bytes + rest->len : 0;
    h->backing_bytes = backing_name ? strlen(backing_name) : 0;
    qcow2_header_encode(h, extra, out);
    g_byte_array_append(out, rest->data, rest->len);
    if (backing_name) {
        g_byte_array_append(out, (const uint8_t *)backing_name,
                            h->backing_bytes);
    }
    g_byte_array_free(rest, TRUE);
    return out;
}

static int header_write_locked(struct qcow2 *s)
{
    struct qcow2_header h = s->hdr;
    GByteArray *out = qcow2_header_compose(&h, s->header_extra, s->exts,
                                           s->backing_name);
    guint used = out->len, old = s->header_used_bytes;
    int ret = -ENOSPC;

    if (used <= s->cluster_bytes) {
        s->hdr.backing_offset = h.backing_offset;
        s->hdr.backing_bytes = h.backing_bytes;
        s->header_used_bytes = MAX(used, old);
        if (old > used) {
            g_byte_array_set_size(out, old);
            memset(out->data + used, 0, old - used);
        }
        lock_release(&s->lock);
        ret = qcow2_file_pwrite(s, 0, out->len, out->data, 0);
        lock_acquire(&s->lock);
    }
    g_byte_array_free(out, TRUE);
    return ret;
}

int qcow2_header_write(struct qcow2 *s)
{
    int ret;

    while (s->header_writing) {
        cond_wait(&s->changed, &s->lock);
    }
    s->header_writing = true;
    ret = header_write_locked(s);
    s->header_writing = false;
    cond_broadcast(&s->changed);
    return ret;
}

int qcow2_header_set_incompatible(struct qcow2 *s, uint64_t bit, bool on)
{
    uint64_t old = s->hdr.incompatible;
    int ret;

    s->hdr.incompatible = on ? old | bit : old & ~bit;
    ret = qcow2_header_write(s);
    if (ret < 0) {
        s->hdr.incompatible = (s->hdr.incompatible & ~bit) | (old & bit);
    }
    return ret;
}

/* ---- the bitmaps extension --------------------------------------------- */

static int write_bitmaps_ext(struct qcow2 *s,
                             const struct qcow2_bitmaps_ext *ext, bool set)
{
    uint8_t data[24] = { 0 };
    bool any = ext && ext->n_bitmaps > 0;
    int ret;

    if (any) {
        store_be32(data, ext->n_bitmaps);
        store_be64(data + 8, ext->directory_bytes);
        store_be64(data + 16, ext->directory_offset);
    }
    LOCK_GUARD(&s->lock);
    qcow2_ext_set(s->exts, QCOW2_EXT_BITMAPS, data, any ? sizeof(data) : 0);
    s->hdr.autoclear &= ~QCOW2_AUTOCLEAR_BITMAPS;
    s->hdr.autoclear |= set ? QCOW2_AUTOCLEAR_BITMAPS : 0;
    ret = qcow2_header_write(s);
    if (ret == 0) {
        s->bitmaps = any ? *ext : (struct qcow2_bitmaps_ext) { 0 };
    }
    return ret;
}

bool qcow2_set_bitmaps_ext(struct qcow2 *s, const struct qcow2_bitmaps_ext *ext,
                           bool autoclear_set, struct error **errp)
{
    struct qcow2_bitmaps_ext old = s->bitmaps;
    bool old_set = s->hdr.autoclear & QCOW2_AUTOCLEAR_BITMAPS;
    int ret = qcow2_meta_flush(s);

    if (ret == 0) {
        /* What the old directory used is freed after this. */
        LOCK_GUARD(&s->lock);
        ret = qcow2_lazy_begin(s);
    }
    if (ret == 0) {
        ret = write_bitmaps_ext(s, ext, autoclear_set);
        if (ret < 0) {
            write_bitmaps_ext(s, &old, old_set);
        }
    }
    if (ret == 0) {
        ret = node_flush(qcow2_file(s));
    }
    if (ret < 0) {
        error_set_errno(errp, -ret, "Could not update the qcow2 header");
        return false;
    }
    return true;
}
