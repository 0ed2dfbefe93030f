/* SPDX-License-Identifier: MIT */
/*
 * Rebuilding refcounts: what an image needs whose dirty bit is set.
 *
 * Answer      Count every reference there is (header, tables, snapshots,
 *             bitmaps), then make the stored counts and the COPIED flags say
 *             the same.  The structure of the refcounts themselves must be
 *             sound; if their blocks collide with something else we do not
 *             guess and refuse.
 * Order       All counts right, and stable, before COPIED flags that depend
 *             on them; the dirty bit stays set until the caller clears it.
 */
#include <errno.h>
#include <inttypes.h>
#include "block/qcow2/qcow2.h"

/* References this far behind the end of the file are nonsense. */
enum { SLACK_CLUSTERS = 1 << 20 };

struct check {
    struct qcow2 *s;
    uint32_t *counts;           /* owned */
    int64_t n, used_end;        /* clusters; behind the last one used */
    uint64_t *table;            /* owned; an L2 table as on disk */
};

static int add(void *opaque, int64_t offset, int64_t bytes)
{
    struct check *c = opaque;
    int64_t first = offset >> c->s->cluster_bits;
    int64_t end;

    if (bytes == 0) {
        return 0;
    }
    if (offset < 0 || bytes < 0 || offset > INT64_MAX - bytes) {
        return -EFBIG;
    }
    end = ((offset + bytes - 1) >> c->s->cluster_bits) + 1;
    if (end > c->n) {
        return -EFBIG;
    }
    for (int64_t i = first; i < end; i++) {
        c->counts[i] += c->counts[i] < UINT32_MAX;
    }
    c->used_end = MAX(c->used_end, end);
    return 0;
}

static int count_entry(struct check *c, uint64_t entry)
{
    int64_t offset, bytes;

    if (c->s->data) {
        return 0;       /* it lies elsewhere */
    }
    switch (qcow2_entry_type(c->s, entry)) {
    case QCOW2_TYPE_COMPRESSED:
        qcow2_compressed_extent(c->s, entry, &offset, &bytes);
        return add(c, offset, bytes);
    case QCOW2_NORMAL:
    case QCOW2_ZERO_ALLOC:
        return add(c, entry & QCOW2_OFFSET_MASK, c->s->cluster_bytes);
    default:
        return 0;
    }
}

static int count_l2(struct check *c, int64_t table)
{
    struct qcow2 *s = c->s;
    int ret;

    if (table & (s->cluster_bytes - 1)) {
        return -EINVAL;
    }
    ret = add(c, table, s->cluster_bytes);
    if (ret == 0) {
        ret = qcow2_file_pread(s, table, s->cluster_bytes, c->table, 0);
    }
    for (int64_t i = 0; ret == 0 && i < s->cluster_bytes / 8;
         i += 1 << (s->entry_shift - 3)) {
        ret = count_entry(c, be64toh(c->table[i]));
    }
    return ret;
}

/* L1 in the host's order. */
static int count_l1(struct check *c, const uint64_t *l1, int64_t offset,
                    uint32_t entries)
{
    int ret = add(c, offset, entries * INT64_C(8));

    for (uint32_t i = 0; ret == 0 && i < entries; i++) {
        if (l1[i] & QCOW2_OFFSET_MASK) {
            ret = count_l2(c, l1[i] & QCOW2_OFFSET_MASK);
        }
    }
    return ret;
}

static int count_snapshot(struct check *c, const struct qcow2_snapshot *sn)
{
    int64_t bytes = sn->l1_entries * INT64_C(8);
    g_autofree uint64_t *l1 = g_try_malloc(MAX(bytes, 8));
    int ret = l1 ? 0 : -ENOMEM;

    if (ret == 0) {
        ret = qcow2_file_pread(c->s, sn->l1_offset, bytes, l1, 0);
    }
    for (uint32_t i = 0; ret == 0 && i < sn->l1_entries; i++) {
        l1[i] = be64toh(l1[i]);
    }
    return ret < 0 ? ret : count_l1(c, l1, sn->l1_offset, sn->l1_entries);
}

static int count_refcounts(struct check *c)
{
    struct qcow2 *s = c->s;
    int ret = add(c, s->reftable_offset, s->reftable_entries * INT64_C(8));

    for (uint32_t i = 0; ret == 0 && i < s->reftable_entries; i++) {
        uint64_t block = s->reftable[i] & QCOW2_REFTABLE_OFFSET_MASK;
        if (block > INT64_MAX / 2 || (block & (s->cluster_bytes - 1))) {
            return -EINVAL;
        }
        if (block) {
            ret = add(c, block, s->cluster_bytes);
        }
    }
    return ret;
}

static int count_all(struct check *c, struct error **errp)
{
    struct qcow2 *s = c->s;
    int ret = add(c, 0, s->cluster_bytes);

    if (ret == 0) {
        ret = count_refcounts(c);
    }
    if (ret == 0) {
        ret = count_l1(c, s->l1, s->l1_offset, s->l1_entries);
    }
    if (ret == 0) {
        ret = add(c, s->hdr.snapshots_offset, s->snapshot_table_bytes);
    }
    for (guint i = 0; ret == 0 && s->snapshots && i < s->snapshots->len; i++) {
        ret = count_snapshot(c, &g_array_index(s->snapshots,
                                               struct qcow2_snapshot, i));
    }
    if (ret < 0) {
        error_set_errno(errp, -ret, "Could not count references");
        return ret;
    }
    return qcow2_bitmaps_each_extent(s, add, c, errp);
}

/* The blocks must be theirs alone, or mending them would destroy something. */
static bool blocks_are_sound(const struct check *c)
{
    const struct qcow2 *s = c->s;
    int64_t table_end = s->reftable_offset + s->reftable_entries * INT64_C(8);

    for (int64_t o = s->reftable_offset; o < table_end;
         o += s->cluster_bytes) {
        if (c->counts[o >> s->cluster_bits] != 1) {
            return false;
        }
    }
    for (uint32_t i = 0; i < s->reftable_entries; i++) {
        uint64_t block = s->reftable[i] & QCOW2_REFTABLE_OFFSET_MASK;
        if (block && c->counts[block >> s->cluster_bits] != 1) {
            return false;
        }
    }
    return true;
}

/* ---- mending: lock held ------------------------------------------------ */

static int mend_one(struct check *c, int64_t i, bool make_blocks)
{
    struct qcow2 *s = c->s;
    bool has_block = (i >> s->refblock_bits) < s->reftable_entries &&
                     s->reftable[i >> s->refblock_bits];
    uint64_t stored;
    int ret;

    if (!has_block) {
        if (c->counts[i] == 0 || !make_blocks) {
            return 0;
        }
        ret = qcow2_alloc_refblock_for(s, i, c->used_end);
        if (ret < 0) {
            return ret;
        }
    } else if (make_blocks && c->counts[i] == 0) {
        return 0;       /* may be a block made just now */
    }
    if (c->counts[i] > s->refcount_max) {
        return -ERANGE;
    }
    ret = qcow2_refcount_get(s, i, &stored);
    if (ret == 0 && stored != c->counts[i]) {
        ret = qcow2_refcount_set(s, i, 1, c->counts[i]);
    }
    return ret;
}

static int mend_counts(struct check *c)
{
    int ret = 0;

    for (int64_t i = 0; ret == 0 && i < c->n; i++) {
        ret = mend_one(c, i, false);
    }
    for (int64_t i = 0; ret == 0 && i < c->used_end; i++) {
        ret = mend_one(c, i, true);
    }
    return ret;
}

static uint64_t right_flag(const struct check *c, uint64_t entry)
{
    uint64_t host = entry & QCOW2_OFFSET_MASK;
    enum qcow2_type type = qcow2_entry_type(c->s, entry);

    if (c->s->data) {
        return entry;
    }
    entry &= ~QCOW2_COPIED;
    if ((type == QCOW2_NORMAL || type == QCOW2_ZERO_ALLOC) &&
        c->counts[host >> c->s->cluster_bits] == 1) {
        entry |= QCOW2_COPIED;
    }
    return entry;
}

static int mend_l2_flags(struct check *c, int64_t table)
{
    struct qcow2 *s = c->s;
    uint32_t slice = s->l2_cache.slice_bytes;

    for (int64_t o = table; o < table + s->cluster_bytes; o += slice) {
        struct qcow2_table *t;
        int ret = qcow2_table_get(s, &s->l2_cache, o, false, &t);
        bool changed = false;
        if (ret < 0) {
            return ret;
        }
        for (uint32_t i = 0; i < slice; i += 1 << s->entry_shift) {
            uint64_t entry = load_be64(t->data + i);
            uint64_t right = right_flag(c, entry);
            changed |= right != entry;
            store_be64(t->data + i, right);
        }
        if (changed) {
            qcow2_table_dirty(s, &s->l2_cache, t);
            ret = qcow2_writeback_some(s);
        }
        if (ret < 0) {
            return ret;
        }
    }
    return 0;
}

static int mend_flags(struct check *c)
{
    struct qcow2 *s = c->s;
    int ret = 0;

    for (uint32_t i = 0; ret == 0 && i < s->l1_entries; i++) {
        uint64_t table = s->l1[i] & QCOW2_OFFSET_MASK;
        bool alone = table && c->counts[table >> s->cluster_bits] == 1;
        uint64_t right = table | (alone ? QCOW2_COPIED : 0);
        if (alone) {
            ret = mend_l2_flags(c, table);
        }
        if ((s->l1[i] ^ right) & QCOW2_COPIED) {
            s->l1[i] ^= QCOW2_COPIED;
            qcow2_l1_dirty(s, i);
        }
    }
    return ret;
}

static int mend(struct check *c)
{
    struct qcow2 *s = c->s;
    int ret;

    LOCK_GUARD(&s->lock);
    ret = mend_counts(c);
    s->free_cursor = 0;
    if (ret == 0) {
        ret = qcow2_writeback_all(s);
    }
    if (ret == 0) {
        ret = mend_flags(c);
    }
    return ret < 0 ? ret : qcow2_writeback_all(s);
}

int qcow2_rebuild_refcounts(struct qcow2 *s, struct error **errp)
{
    struct check c = { .s = s };
    int64_t file = qcow2_cluster_end(s, node_length(qcow2_file(s)));
    int ret;

    c.n = (file >> s->cluster_bits) + SLACK_CLUSTERS;
    c.counts = g_try_new0(uint32_t, c.n);
    c.table = g_try_malloc(s->cluster_bytes);
    if (!c.counts || !c.table) {
        ret = -ENOMEM;
        error_set_errno(errp, ENOMEM, "Could not count references");
    } else {
        ret = count_all(&c, errp);
    }
    if (ret == 0 && !blocks_are_sound(&c)) {
        error_set(errp, "The refcount table or its blocks overlap with other "
                  "structures; try qemu-img check -r all");
        ret = -EINVAL;
    }
    if (ret == 0) {
        ret = mend(&c);
        if (ret == 0) {
            ret = node_flush(qcow2_file(s));
        }
        if (ret < 0) {
            error_set_errno(errp, -ret, "Could not write refcounts");
        }
    }
    g_free(c.counts);
    g_free(c.table);
    return ret;
}
