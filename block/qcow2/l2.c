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
 * Subclusters With extended L2 entries a cluster has 32, each with a state;
 *             without, a cluster is its one subcluster.
 * Threads     Lock held; see qcow2.h for where it may be given up.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include "block/qcow2/l2-priv.h"

enum qcow2_type qcow2_entry_type(const struct qcow2 *s, uint64_t entry)
{
    if (entry & QCOW2_COMPRESSED) {
        return QCOW2_TYPE_COMPRESSED;
    }
    if (entry & QCOW2_ZERO) {
        return has_place(s, entry) ? QCOW2_ZERO_ALLOC : QCOW2_ZERO_PLAIN;
    }
    return has_place(s, entry) ? QCOW2_NORMAL : QCOW2_UNALLOCATED;
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

/* ---- entries ------------------------------------------------------------- */

/* What subcluster SUB of E is; without subclusters there is one. */
static enum qcow2_type sub_type(const struct qcow2 *s, struct entry e,
                                unsigned sub)
{
    bool host = has_place(s, e.desc);

    if (s->n_subs == 1 || (e.desc & QCOW2_COMPRESSED)) {
        return qcow2_entry_type(s, e.desc);
    }
    if ((e.bits >> (32 + sub)) & 1) {
        return host ? QCOW2_ZERO_ALLOC : QCOW2_ZERO_PLAIN;
    }
    if ((e.bits >> sub) & 1) {
        return QCOW2_NORMAL;
    }
    return host ? QCOW2_UNALLOC_HELD : QCOW2_UNALLOCATED;
}

static bool in_file(enum qcow2_type type)
{
    return type == QCOW2_NORMAL || type == QCOW2_ZERO_ALLOC ||
           type == QCOW2_UNALLOC_HELD;
}

static unsigned sub_of(const struct qcow2 *s, int64_t offset)
{
    return (offset & (s->cluster_bytes - 1)) >> s->sub_bits;
}

/* ---- lookup -------------------------------------------------------------- */

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

int64_t qcow2_l2_table_of(struct qcow2 *s, int64_t offset)
{
    uint64_t i = l1_index(s, offset);
    uint64_t table = i < s->l1_entries ? s->l1[i] & QCOW2_OFFSET_MASK : 0;

    if (G_UNLIKELY(table & (s->cluster_bytes - 1))) {
        return qcow2_corrupt(s, -1, -1, "L2 table offset %#" PRIx64
                             " unaligned (L1 index: %#" PRIx64 ")", table, i);
    }
    return table;
}

int qcow2_l2_slice_of(struct qcow2 *s, int64_t table, int64_t offset,
                    bool nowait, struct qcow2_table **t, uint32_t *index)
{
    uint64_t i = l2_index(s, offset);

    *index = i & (slice_entries(s) - 1);
    return qcow2_table_get(s, &s->l2_cache, table +
                           ((i - *index) << s->entry_shift), nowait, t);
}

static int bad_entry(struct qcow2 *s, int64_t offset, const char *what)
{
    return qcow2_corrupt(s, -1, -1, "%s (L2 offset: %#" PRIx64
                         ", L2 index: %#" PRIx64 ")", what,
                         s->l1[l1_index(s, offset)] & QCOW2_OFFSET_MASK,
                         l2_index(s, offset));
}

/* There the place of a cluster is given. */
static int check_data_file_entry(struct qcow2 *s, struct entry e,
                                 int64_t offset)
{
    uint64_t host = e.desc & QCOW2_OFFSET_MASK;

    if (e.desc & QCOW2_COMPRESSED) {
        return bad_entry(s, offset, "Compressed cluster entry found in image "
                         "with external data file");
    }
    if (has_place(s, e.desc) &&
        host != (uint64_t)qcow2_cluster_start(s, offset)) {
        return qcow2_corrupt(s, -1, -1, "External data file host cluster "
                             "offset %#" PRIx64 " does not match guest "
                             "cluster offset: %#" PRIx64 ", L2 index: %#"
                             PRIx64 ")", host,
                             (uint64_t)qcow2_cluster_start(s, offset),
                             l2_index(s, offset));
    }
    return 0;
}

int qcow2_l2_check_entry(struct qcow2 *s, struct entry e, int64_t offset)
{
    uint64_t host = e.desc & QCOW2_OFFSET_MASK;

    if (G_UNLIKELY(s->data) && check_data_file_entry(s, e, offset) < 0) {
        return -EIO;
    }
    if (e.desc & QCOW2_COMPRESSED) {
        return 0;
    }
    if (G_UNLIKELY((e.desc & QCOW2_ZERO) && s->hdr.version < 3)) {
        return bad_entry(s, offset, "Zero cluster entry found in pre-v3 "
                         "image");
    }
    if (G_UNLIKELY(host & (s->cluster_bytes - 1))) {
        char what[64];
        snprintf(what, sizeof(what), "Cluster allocation offset %#" PRIx64
                 " unaligned", host);
        return bad_entry(s, offset, what);
    }
    if (G_UNLIKELY((e.bits & (e.bits >> 32)) ||
                   ((uint32_t)e.bits && !has_place(s, e.desc)))) {
        return bad_entry(s, offset, "Invalid cluster entry found");
    }
    return 0;
}

/* Does the entry behind E by CLUSTERS go on as E began, with TYPE? */
static bool goes_on(const struct qcow2 *s, struct entry first,
                    struct entry e, int64_t clusters, enum qcow2_type type)
{
    return !in_file(type) ||
           e.desc == first.desc + ((uint64_t)clusters << s->cluster_bits);
}

/* How many of N subclusters, from SUB of the entry INDEX, are of one kind and
 * contiguous in the file. */
static int64_t run_length(const struct qcow2 *s, const struct qcow2_table *t,
                          uint32_t index, unsigned sub, int64_t n)
{
    struct entry first = load_entry(s, t, index), e = first;
    enum qcow2_type type = sub_type(s, first, sub);
    unsigned per_cluster = s->n_subs;
    int64_t i;

    if (type == QCOW2_TYPE_COMPRESSED) {
        return MIN(n, per_cluster - sub);
    }
    for (i = 1; i < n; i++) {
        unsigned next = (sub + i) & (per_cluster - 1);
        if (next == 0) {
            int64_t clusters = (sub + i) / per_cluster;
            e = load_entry(s, t, index + clusters);
            if (!goes_on(s, first, e, clusters, type)) {
                break;
            }
        }
        if (sub_type(s, e, next) != type) {
            break;
        }
    }
    return i;
}

int qcow2_lookup(struct qcow2 *s, int64_t offset, int64_t bytes, bool nowait,
                 struct qcow2_map *map)
{
    int64_t table = qcow2_l2_table_of(s, offset);
    struct qcow2_table *t;
    uint32_t index;
    struct entry e;
    unsigned sub;
    int64_t n, in_sub;
    int ret;

    if (table <= 0) {
        int64_t span = s->cluster_bytes << s->l2_bits;
        *map = (struct qcow2_map) {
            .type = QCOW2_UNALLOCATED,
            .bytes = MIN(bytes, span - (offset & (span - 1))),
        };
        return table;
    }
    ret = qcow2_l2_slice_of(s, table, offset, nowait, &t, &index);
    if (ret < 0) {
        return ret;
    }
    e = load_entry(s, t, index);
    ret = qcow2_l2_check_entry(s, e, offset);
    if (ret < 0) {
        return ret;
    }
    sub = sub_of(s, offset);
    in_sub = offset & (s->sub_bytes - 1);
    n = (in_sub + bytes + s->sub_bytes - 1) >> s->sub_bits;
    n = run_length(s, t, index, sub,
                   MIN(n, (int64_t)(slice_entries(s) - index) * s->n_subs -
                          sub));
    map->type = sub_type(s, e, sub);
    map->entry = e.desc;
    map->copied = is_owned(s, e.desc);
    map->host = (e.desc & QCOW2_OFFSET_MASK) +
                (offset & (s->cluster_bytes - 1));
    map->bytes = MIN(bytes, (n << s->sub_bits) - in_sub);
    return 0;
}

/* ---- tables that may be changed ---------------------------------------- */

/* Fill the new table at TO: what FROM has, or zeroes (FROM 0).  No lock. */
static int write_new_table(struct qcow2 *s, int64_t from, int64_t to)
{
    g_autofree uint8_t *buf = g_try_malloc0(s->cluster_bytes);
    int ret = buf ? 0 : -ENOMEM;

    if (ret == 0 && from) {
        QCOW2_DEBUG(s, L2_ALLOC_COW_READ);
        ret = qcow2_file_pread(s, from, s->cluster_bytes, buf, 0);
    }
    if (ret == 0) {
        QCOW2_DEBUG(s, L2_ALLOC_WRITE);
        QCOW2_DEBUG(s, L2_UPDATE);
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
    if (!from) {
        qcow2_table_add_zero(&s->l2_cache, to, s->cluster_bytes);
    }
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
        int64_t table = qcow2_l2_table_of(s, offset);
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
