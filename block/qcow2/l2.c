/* SPDX-License-Identifier: MIT */
/*
 * L1 and L2 tables: where guest clusters are, and changing that.
 *
 * Invariants  I1  An L1 entry with COPIED names a table that only this image's
 *                 active state uses; only such a table is changed.  Another
 *                 (shared with an internal snapshot) is copied first.
 *             I2  A new or copied table is in the file before the L1 table in
 *                 memory names it.
 *             I3  An entry without COPIED is never written through: its
 *                 cluster belongs to a snapshot too.
 * Threads     Lock held; see qcow2.h for where it may be given up.
 */
#include <errno.h>
#include <inttypes.h>
#include "block/qcow2/qcow2.h"

enum qcow2_type qcow2_entry_type(uint64_t entry)
{
    if (entry & QCOW2_COMPRESSED) {
        return QCOW2_TYPE_COMPRESSED;
    }
    if (entry & QCOW2_ZERO) {
        return entry & QCOW2_OFFSET_MASK ? QCOW2_ZERO_ALLOC : QCOW2_ZERO_PLAIN;
    }
    return entry & QCOW2_OFFSET_MASK ? QCOW2_NORMAL : QCOW2_UNALLOCATED;
}

void qcow2_compressed_extent(const struct qcow2 *s, uint64_t entry,
                             int64_t *offset, int64_t *bytes)
{
    unsigned shift = 62 - (s->cluster_bits - 8);
    uint64_t sectors = ((entry & (QCOW2_COMPRESSED - 1)) >> shift) + 1;

    *offset = entry & ((UINT64_C(1) << shift) - 1);
    *bytes = sectors * 512 - (*offset & 511);
}

void qcow2_l1_dirty(struct qcow2 *s, uint32_t index)
{
    s->l1_dirty[index / QCOW2_TABLE_CHUNK] = 1;
    s->l1_any_dirty = true;
    s->n_changes++;
}

void qcow2_reftable_dirty(struct qcow2 *s, uint32_t index)
{
    s->reftable_dirty[index / QCOW2_TABLE_CHUNK] = 1;
    s->reftable_any_dirty = true;
    s->n_changes++;
}

/* ---- lookup ------------------------------------------------------------------- */

static uint32_t slice_entries(const struct qcow2 *s)
{
    return s->l2_cache.slice_bytes / 8;
}

static uint64_t l2_index(const struct qcow2 *s, int64_t offset)
{
    return (offset >> s->cluster_bits) & ((UINT64_C(1) << s->l2_bits) - 1);
}

static uint64_t l1_index(const struct qcow2 *s, int64_t offset)
{
    return offset >> (s->cluster_bits + s->l2_bits);
}

int64_t qcow2_l2_slice_left(const struct qcow2 *s, int64_t offset)
{
    return slice_entries(s) - (l2_index(s, offset) & (slice_entries(s) - 1));
}

/* The L2 table for OFFSET, 0 if there is none, or -EIO. */
static int64_t table_of(struct qcow2 *s, int64_t offset)
{
    uint64_t i = l1_index(s, offset);
    uint64_t table = i < s->l1_entries ? s->l1[i] & QCOW2_OFFSET_MASK : 0;

    if (G_UNLIKELY(table & (s->cluster_bytes - 1))) {
        return qcow2_corrupt(s, -1, -1, "L2 table offset %#" PRIx64
                             " unaligned (L1 index: %#" PRIx64 ")", table, i);
    }
    return table;
}

/* The slice with OFFSET's entry, and the entry's index in it. */
static int slice_of(struct qcow2 *s, int64_t table, int64_t offset,
                    bool nowait, struct qcow2_table **t, uint32_t *index)
{
    uint64_t i = l2_index(s, offset);

    *index = i & (slice_entries(s) - 1);
    return qcow2_table_get(s, &s->l2_cache, table + (i - *index) * 8, nowait,
                           t);
}

static int check_entry(struct qcow2 *s, uint64_t entry, int64_t offset)
{
    uint64_t host = entry & QCOW2_OFFSET_MASK;

    if (entry & QCOW2_COMPRESSED) {
        return 0;
    }
    if (G_UNLIKELY((entry & QCOW2_ZERO) && s->hdr.version < 3)) {
        return qcow2_corrupt(s, -1, -1, "Zero cluster entry found in pre-v3 "
                             "image (L2 offset: %#" PRIx64 ", L2 index: %#"
                             PRIx64 ")", s->l1[l1_index(s, offset)] &
                             QCOW2_OFFSET_MASK, l2_index(s, offset));
    }
    if (G_UNLIKELY(host & (s->cluster_bytes - 1))) {
        return qcow2_corrupt(s, -1, -1, "Cluster allocation offset %#" PRIx64
                             " unaligned (L2 offset: %#" PRIx64
                             ", L2 index: %#" PRIx64 ")", host,
                             s->l1[l1_index(s, offset)] & QCOW2_OFFSET_MASK,
                             l2_index(s, offset));
    }
    return 0;
}

/* How many of N entries behind the first go on as it began. */
static int64_t run_length(const struct qcow2 *s, const struct qcow2_table *t,
                          uint32_t index, int64_t n)
{
    uint64_t first = load_be64(t->data + index * 8);
    enum qcow2_type type = qcow2_entry_type(first);
    bool in_file = type == QCOW2_NORMAL || type == QCOW2_ZERO_ALLOC;
    int64_t i;

    if (type == QCOW2_TYPE_COMPRESSED) {
        return 1;
    }
    for (i = 1; i < n; i++) {
        uint64_t entry = load_be64(t->data + (index + i) * 8);
        if (in_file ? entry != first + (i << s->cluster_bits)
                    : qcow2_entry_type(entry) != type) {
            break;
        }
    }
    return i;
}

int qcow2_lookup(struct qcow2 *s, int64_t offset, int64_t bytes, bool nowait,
                 struct qcow2_map *map)
{
    int64_t in_cluster = offset & (s->cluster_bytes - 1);
    int64_t table = table_of(s, offset);
    struct qcow2_table *t;
    uint32_t index;
    int64_t n;
    int ret;

    if (table <= 0) {
        int64_t span = s->cluster_bytes << s->l2_bits;
        *map = (struct qcow2_map) {
            .type = QCOW2_UNALLOCATED,
            .bytes = MIN(bytes, span - (offset & (span - 1))),
        };
        return table;
    }
    ret = slice_of(s, table, offset, nowait, &t, &index);
    if (ret < 0) {
        return ret;
    }
    map->entry = load_be64(t->data + index * 8);
    ret = check_entry(s, map->entry, offset);
    if (ret < 0) {
        return ret;
    }
    n = (in_cluster + bytes + s->cluster_bytes - 1) >> s->cluster_bits;
    n = run_length(s, t, index, MIN(n, slice_entries(s) - index));
    map->type = qcow2_entry_type(map->entry);
    map->copied = (map->entry & QCOW2_COPIED) &&
                  (map->type == QCOW2_NORMAL || map->type == QCOW2_ZERO_ALLOC);
    map->host = (map->entry & QCOW2_OFFSET_MASK) + in_cluster;
    map->bytes = MIN(bytes, (n << s->cluster_bits) - in_cluster);
    return 0;
}

/* ---- tables that may be changed ---------------------------------------------------- */

/* Fill the new table at TO: what FROM has, or zeroes (FROM 0).  No lock. */
static int write_new_table(struct qcow2 *s, int64_t from, int64_t to)
{
    g_autofree uint8_t *buf = g_try_malloc0(s->cluster_bytes);
    int ret = buf ? 0 : -ENOMEM;

    if (ret == 0 && from) {
        ret = qcow2_file_pread(s, from, s->cluster_bytes, buf, 0);
    }
    if (ret == 0) {
        ret = qcow2_file_pwrite(s, to, s->cluster_bytes, buf, 0);
    }
    return ret;
}

/* I2: make a table for L1's entry I, which was OLD when we looked.  -EAGAIN:
 * look again, another thread was quicker. */
static int replace_table(struct qcow2 *s, uint64_t i, uint64_t old)
{
    int64_t from = old & QCOW2_OFFSET_MASK, to, n;
    int ret = 0;

    n = qcow2_alloc_run(s, 1, true, &to, NULL);
    if (n < 0) {
        return n;
    }
    if (s->l1[i] == old) {
        lock_release(&s->lock);
        ret = write_new_table(s, from, to);
        lock_acquire(&s->lock);
    }
    if (ret == 0 && s->l1[i] != old) {
        ret = -EAGAIN;
    }
    if (ret < 0) {
        qcow2_refcount_release(s, to, 1);
        return ret;
    }
    qcow2_table_drop(&s->l2_cache, to, s->cluster_bytes);
    qcow2_cluster_set_add(s->tables, to, QCOW2_SET_L2);
    s->l1[i] = to | QCOW2_COPIED;
    qcow2_l1_dirty(s, i);
    if (from) {
        qcow2_free_later(s, from, 1, QCOW2_FREE_TABLE);
    }
    return 0;
}

/* I1: the table for OFFSET may be changed. */
static int ensure_table(struct qcow2 *s, int64_t offset)
{
    uint64_t i = l1_index(s, offset);
    int ret;

    if (i >= s->l1_entries) {
        return -EIO;
    }
    do {
        uint64_t entry = s->l1[i];
        int64_t table = table_of(s, offset);
        if (table < 0) {
            return table;
        }
        if (table && (entry & QCOW2_COPIED)) {
            return qcow2_check_overlap(s, QCOW2_OL_ACTIVE_L2, table,
                                       s->cluster_bytes);
        }
        ret = replace_table(s, i, entry);
    } while (ret == -EAGAIN);
    return ret;
}

int qcow2_lookup_for_write(struct qcow2 *s, int64_t offset, int64_t bytes,
                           struct qcow2_map *map)
{
    int ret = s->corrupt ? -EIO : ensure_table(s, offset);

    return ret < 0 ? ret : qcow2_lookup(s, offset, bytes, false, map);
}

/* ---- changing entries --------------------------------------------------------------- */

static uint64_t new_entry(enum qcow2_l2_op op, uint64_t old, uint64_t host)
{
    enum qcow2_type type = qcow2_entry_type(old);

    switch (op) {
    case QCOW2_L2_LINK:
        return host | QCOW2_COPIED;
    case QCOW2_L2_ZERO:
        if (type == QCOW2_NORMAL || type == QCOW2_ZERO_ALLOC) {
            return old | QCOW2_ZERO;
        }
        return QCOW2_ZERO;
    case QCOW2_L2_ZERO_FREE:
        return QCOW2_ZERO;
    default:
        return 0;
    }
}

/* What OLD pointed to and NEW does not is to be freed. */
static void free_old(struct qcow2 *s, uint64_t old, uint64_t new,
                     unsigned free_flags)
{
    int64_t offset, bytes, end;

    switch (qcow2_entry_type(old)) {
    case QCOW2_NORMAL:
    case QCOW2_ZERO_ALLOC:
        if ((old & QCOW2_OFFSET_MASK) != (new & QCOW2_OFFSET_MASK)) {
            qcow2_free_later(s, old & QCOW2_OFFSET_MASK, 1, free_flags);
        }
        break;
    case QCOW2_TYPE_COMPRESSED:
        qcow2_compressed_extent(s, old, &offset, &bytes);
        end = qcow2_cluster_end(s, offset + bytes);
        offset = qcow2_cluster_start(s, offset);
        qcow2_free_later(s, offset, (end - offset) >> s->cluster_bits,
                         free_flags);
        break;
    default:
        break;
    }
}

int qcow2_l2_set(struct qcow2 *s, int64_t offset, int64_t n,
                 enum qcow2_l2_op op, int64_t host, unsigned free_flags)
{
    int64_t table = table_of(s, offset);
    struct qcow2_table *t;
    uint32_t index;
    int ret;

    if (table <= 0) {
        return -EIO;
    }
    ret = slice_of(s, table, offset, false, &t, &index);
    for (int64_t i = 0; i < n && ret == 0; i++) {
        ret = check_entry(s, load_be64(t->data + (index + i) * 8),
                          offset + (i << s->cluster_bits));
    }
    if (ret < 0) {
        return ret;
    }
    for (int64_t i = 0; i < n; i++) {
        uint8_t *place = t->data + (index + i) * 8;
        uint64_t old = load_be64(place);
        uint64_t new = new_entry(op, old, host + (i << s->cluster_bits));
        if (new != old) {
            store_be64(place, new);
            free_old(s, old, new, free_flags);
        }
    }
    qcow2_table_dirty(s, &s->l2_cache, t);
    return 0;
}
