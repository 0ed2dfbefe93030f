/* SPDX-License-Identifier: MIT */
/*
 * Reference counts of host clusters, and giving clusters up.
 *
 * Invariants  I1  A count is lowered at once only for clusters that no table
 *                 in the file ever pointed to (qcow2_refcount_release()).
 *             I2  All others go through `frees`: taken over by a write-back
 *                 (writeback.c) together with the tables that no longer
 *                 point to them, and lowered when these are stable.
 * Threads     Lock held everywhere; given up where a slice must be read.
 *             Only one thread at a time raises counts (alloc.c) and only the
 *             write-back lowers what I2 covers.
 */
#include <errno.h>
#include <inttypes.h>
#include "block/qcow2/qcow2.h"

uint64_t qcow2_refcount_load(const uint8_t *table, uint64_t i, uint32_t order)
{
    switch (order) {
    case 0:
        return (table[i / 8] >> (i % 8)) & 1;
    case 1:
        return (table[i / 4] >> (2 * (i % 4))) & 3;
    case 2:
        return (table[i / 2] >> (4 * (i % 2))) & 15;
    case 3:
        return table[i];
    case 4:
        return load_be16(table + 2 * i);
    case 5:
        return load_be32(table + 4 * i);
    default:
        return load_be64(table + 8 * i);
    }
}

static void store_bits(uint8_t *byte, unsigned shift, unsigned mask,
                       unsigned value)
{
    *byte = (*byte & ~(mask << shift)) | (value & mask) << shift;
}

void qcow2_refcount_store(uint8_t *table, uint64_t i, uint32_t order,
                          uint64_t value)
{
    switch (order) {
    case 0:
        store_bits(&table[i / 8], i % 8, 1, value);
        break;
    case 1:
        store_bits(&table[i / 4], 2 * (i % 4), 3, value);
        break;
    case 2:
        store_bits(&table[i / 2], 4 * (i % 2), 15, value);
        break;
    case 3:
        table[i] = value;
        break;
    case 4:
        store_be16(table + 2 * i, value);
        break;
    case 5:
        store_be32(table + 4 * i, value);
        break;
    default:
        store_be64(table + 8 * i, value);
        break;
    }
}

int qcow2_refcount_slice(struct qcow2 *s, int64_t cluster,
                         struct qcow2_table **t, uint64_t *index,
                         int64_t *n_left)
{
    uint64_t block_index = (uint64_t)cluster >> s->refblock_bits;
    uint64_t in_block = cluster & ((UINT64_C(1) << s->refblock_bits) - 1);
    uint64_t per_slice = ((uint64_t)s->ref_cache.slice_bytes * 8) >>
                         s->refcount_order;
    uint64_t block;

    *index = in_block & (per_slice - 1);
    *n_left = per_slice - *index;
    block = block_index < s->reftable_entries ? s->reftable[block_index] : 0;
    block &= QCOW2_REFTABLE_OFFSET_MASK;
    if (block == 0) {
        *n_left = (INT64_C(1) << s->refblock_bits) - in_block;
        return -ENOENT;
    }
    if ((block & (s->cluster_bytes - 1)) || block > INT64_MAX / 2) {
        return qcow2_corrupt(s, -1, -1, "Refblock offset %#" PRIx64
                             " unaligned (reftable index: %#" PRIx64 ")",
                             block, block_index);
    }
    return qcow2_table_get(s, &s->ref_cache, block + (in_block / per_slice) *
                           s->ref_cache.slice_bytes, false, t);
}

int qcow2_refcount_get(struct qcow2 *s, int64_t cluster, uint64_t *count)
{
    struct qcow2_table *t;
    uint64_t index;
    int64_t n_left;
    int ret = qcow2_refcount_slice(s, cluster, &t, &index, &n_left);

    if (ret == -ENOENT) {
        *count = 0;
        return 0;
    }
    if (ret == 0) {
        *count = qcow2_refcount_load(t->data, index, s->refcount_order);
    }
    return ret;
}

/* As qcow2_refcount_slice(), to be changed. */
static int slice_for_write(struct qcow2 *s, int64_t cluster,
                           struct qcow2_table **t, uint64_t *index,
                           int64_t *n_left)
{
    int ret = qcow2_refcount_slice(s, cluster, t, index, n_left);

    if (ret == 0) {
        ret = qcow2_check_overlap(s, QCOW2_OL_REFBLOCK, (*t)->offset,
                                  s->ref_cache.slice_bytes);
    }
    return ret;
}

int qcow2_refcount_set(struct qcow2 *s, int64_t cluster, int64_t n,
                       uint64_t count)
{
    while (n > 0) {
        struct qcow2_table *t;
        uint64_t index;
        int64_t part;
        int ret = slice_for_write(s, cluster, &t, &index, &part);
        if (ret < 0) {
            return ret == -ENOENT ? -EIO : ret;
        }
        part = MIN(part, n);
        for (int64_t i = 0; i < part; i++) {
            qcow2_refcount_store(t->data, index + i, s->refcount_order, count);
        }
        qcow2_table_dirty(s, &s->ref_cache, t);
        cluster += part;
        n -= part;
    }
    return 0;
}

int qcow2_refcount_release(struct qcow2 *s, int64_t offset, int64_t n)
{
    int64_t cluster = offset >> s->cluster_bits;

    while (n > 0) {
        struct qcow2_table *t;
        uint64_t index;
        int64_t part;
        int ret = slice_for_write(s, cluster, &t, &index, &part);
        if (ret < 0) {
            return ret == -ENOENT ? -EIO : ret;
        }
        part = MIN(part, n);
        for (int64_t i = 0; i < part; i++) {
            uint64_t count = qcow2_refcount_load(t->data, index + i,
                                                 s->refcount_order);
            if (count == 0) {
                return qcow2_corrupt(s, (cluster + i) << s->cluster_bits,
                                     s->cluster_bytes,
                                     "Freeing a cluster that is free already "
                                     "(host offset: %#" PRIx64 ")",
                                     (uint64_t)(cluster + i)
                                     << s->cluster_bits);
            }
            qcow2_refcount_store(t->data, index + i, s->refcount_order,
                                 count - 1);
            if (count == 1) {
                if ((s->packed_end - 1) >> s->cluster_bits == cluster + i) {
                    s->packed_end = 0;
                }
                s->free_cursor = MIN(s->free_cursor, cluster + i);
                s->n_released++;
            }
        }
        qcow2_table_dirty(s, &s->ref_cache, t);
        cluster += part;
        n -= part;
    }
    return 0;
}

void qcow2_free_later(struct qcow2 *s, int64_t offset, int64_t n,
                      unsigned flags)
{
    struct qcow2_free f = { .offset = offset, .n = n, .flags = flags };

    s->n_changes++;
    if (s->frees->len > 0) {
        struct qcow2_free *last = &g_array_index(s->frees, struct qcow2_free,
                                                 s->frees->len - 1);
        if (last->flags == flags &&
            last->offset + (last->n << s->cluster_bits) == offset) {
            last->n += n;
            return;
        }
    }
    g_array_append_val(s->frees, f);
}

/* How many clusters from OFFSET have refcount 1, of N. */
static int64_t count_last_references(struct qcow2 *s, int64_t offset,
                                     int64_t n)
{
    uint64_t count;

    for (int64_t i = 0; i < n; i++) {
        if (qcow2_refcount_get(s, (offset >> s->cluster_bits) + i, &count) < 0
            || count != 1) {
            return i;
        }
    }
    return n;
}

/* Nobody but us lowers these counts and nobody gets the clusters while they
 * are not zero, so the lock may be given up in between. */
static void discard_clusters(struct qcow2 *s, int64_t offset, int64_t n)
{
    while (n > 0) {
        int64_t run = count_last_references(s, offset, n);
        if (run > 0) {
            lock_release(&s->lock);
            node_pdiscard(qcow2_file(s), offset, run << s->cluster_bits);
            lock_acquire(&s->lock);
        } else {
            run = 1;
        }
        offset += run << s->cluster_bits;
        n -= run;
    }
}

static int free_compare(gconstpointer a, gconstpointer b)
{
    const struct qcow2_free *x = a, *y = b;

    return x->offset < y->offset ? -1 : x->offset > y->offset;
}

static void free_one(struct qcow2 *s, const struct qcow2_free *f)
{
    if (f->flags & QCOW2_FREE_TABLE) {
        for (int64_t i = 0; i < f->n; i++) {
            int64_t offset = f->offset + (i << s->cluster_bits);
            qcow2_cluster_set_remove(s->tables, offset, QCOW2_SET_L2);
            qcow2_table_drop(&s->l2_cache, offset, s->cluster_bytes);
        }
    }
    if (f->flags & QCOW2_FREE_DISCARD) {
        discard_clusters(s, f->offset, f->n);
    }
    qcow2_refcount_release(s, f->offset, f->n);
}

void qcow2_free_now(struct qcow2 *s, GArray *frees)
{
    if (frees->len > 0) {
        QCOW2_DEBUG_LOCKED(s, CLUSTER_FREE);
    }
    g_array_sort(frees, free_compare);
    for (guint i = 0; i < frees->len; i++) {
        struct qcow2_free f = g_array_index(frees, struct qcow2_free, i);
        /* Neighbours make one discard. */
        while (i + 1 < frees->len) {
            struct qcow2_free *next = &g_array_index(frees, struct qcow2_free,
                                                     i + 1);
            if (next->flags != f.flags ||
                next->offset != f.offset + (f.n << s->cluster_bits)) {
                break;
            }
            f.n += next->n;
            i++;
        }
        free_one(s, &f);
    }
}
