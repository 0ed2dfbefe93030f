/* SPDX-License-Identifier: MIT */
/*
 * Counting references: what every cluster of an image is used for, by going
 * through all of its structures.
 *
 * Two users   check.c mends refcounts: the first thing that is wrong with a
 *             structure ends the count.  verify.c tells what is wrong: with
 *             a `problem` function the count goes on behind it.
 * Threads     Image not in use, or read-only; no lock held.
 */
#include "block/qcow2/refs.h"

#include <errno.h>

/* References this far behind the end of the file are nonsense. */
enum { SLACK_CLUSTERS = 1 << 20 };

/* Told and gone on (0), or the end of the count. */
static int problem(struct qcow2_refs *r, int ret, const char *what,
                   int64_t offset)
{
    if (!r->problem) {
        return ret;
    }
    r->problem(r->opaque, what, offset);
    return 0;
}

static int add(void *opaque, int64_t offset, int64_t bytes)
{
    struct qcow2_refs *r = opaque;
    int64_t first = offset >> r->s->cluster_bits;
    int64_t end;

    if (bytes == 0) {
        return 0;
    }
    if (offset < 0 || bytes < 0 || offset > INT64_MAX - bytes) {
        return problem(r, -EFBIG, "an impossible offset", offset);
    }
    end = ((offset + bytes - 1) >> r->s->cluster_bits) + 1;
    if (end > r->n) {
        return problem(r, -EFBIG, "a reference far behind the end of the "
                       "file", offset);
    }
    for (int64_t i = first; i < end; i++) {
        r->counts[i] += r->counts[i] < UINT32_MAX;
    }
    r->used_end = MAX(r->used_end, end);
    return 0;
}

static int count_entry(struct qcow2_refs *r, uint64_t entry)
{
    int64_t offset, bytes;
    enum qcow2_type type = qcow2_entry_type(r->s, entry);

    if (r->s->data) {
        return 0;       /* it lies elsewhere */
    }
    switch (type) {
    case QCOW2_TYPE_COMPRESSED:
        qcow2_compressed_extent(r->s, entry, &offset, &bytes);
        return add(r, offset, bytes);
    case QCOW2_NORMAL:
    case QCOW2_ZERO_ALLOC:
        offset = entry & QCOW2_OFFSET_MASK;
        if (r->problem && (offset & (r->s->cluster_bytes - 1))) {
            return problem(r, -EINVAL, "a data cluster that is not aligned",
                           offset);
        }
        return add(r, offset, r->s->cluster_bytes);
    default:
        return 0;
    }
}

static int count_l2(struct qcow2_refs *r, int64_t table)
{
    struct qcow2 *s = r->s;
    int ret;

    if (table & (s->cluster_bytes - 1)) {
        return problem(r, -EINVAL, "an L2 table that is not aligned", table);
    }
    ret = add(r, table, s->cluster_bytes);
    if (ret < 0) {
        return ret;
    }
    ret = qcow2_file_pread(s, table, s->cluster_bytes, r->table, 0);
    if (ret < 0) {
        return problem(r, ret, "an L2 table that cannot be read", table);
    }
    for (int64_t i = 0; ret == 0 && i < s->cluster_bytes / 8;
         i += 1 << (s->entry_shift - 3)) {
        uint64_t entry = be64toh(r->table[i]);
        if (r->entry && r->active) {
            r->entry(r->opaque, entry, i == 0);
        }
        ret = count_entry(r, entry);
    }
    return ret;
}

/* L1 in the host's order. */
static int count_l1(struct qcow2_refs *r, const uint64_t *l1, int64_t offset,
                    uint32_t entries)
{
    int ret = add(r, offset, entries * INT64_C(8));

    for (uint32_t i = 0; ret == 0 && i < entries; i++) {
        if (l1[i] & QCOW2_OFFSET_MASK) {
            ret = count_l2(r, l1[i] & QCOW2_OFFSET_MASK);
        }
    }
    return ret;
}

static int count_snapshot(struct qcow2_refs *r,
                          const struct qcow2_snapshot *sn)
{
    int64_t bytes = sn->l1_entries * INT64_C(8);
    g_autofree uint64_t *l1 = g_try_malloc(MAX(bytes, 8));
    int ret = l1 ? 0 : -ENOMEM;

    if (ret == 0) {
        ret = qcow2_file_pread(r->s, sn->l1_offset, bytes, l1, 0);
    }
    if (ret < 0) {
        return problem(r, ret, "a snapshot's L1 table that cannot be read",
                       sn->l1_offset);
    }
    for (uint32_t i = 0; i < sn->l1_entries; i++) {
        l1[i] = be64toh(l1[i]);
    }
    return count_l1(r, l1, sn->l1_offset, sn->l1_entries);
}

static int count_refcounts(struct qcow2_refs *r)
{
    struct qcow2 *s = r->s;
    int ret = add(r, s->reftable_offset, s->reftable_entries * INT64_C(8));

    for (uint32_t i = 0; ret == 0 && i < s->reftable_entries; i++) {
        uint64_t block = s->reftable[i] & QCOW2_REFTABLE_OFFSET_MASK;
        if (block > INT64_MAX / 2 || (block & (s->cluster_bytes - 1))) {
            ret = problem(r, -EINVAL, "a refcount block that is not aligned",
                          block);
        } else if (block) {
            ret = add(r, block, s->cluster_bytes);
        }
    }
    return ret;
}

static int count_all(struct qcow2_refs *r, struct error **errp)
{
    struct qcow2 *s = r->s;
    int ret = add(r, 0, s->cluster_bytes);

    if (ret == 0) {
        ret = count_refcounts(r);
    }
    if (ret == 0) {
        r->active = true;
        ret = count_l1(r, s->l1, s->l1_offset, s->l1_entries);
        r->active = false;
    }
    if (ret == 0) {
        ret = add(r, s->hdr.snapshots_offset, s->snapshot_table_bytes);
    }
    for (guint i = 0; ret == 0 && s->snapshots && i < s->snapshots->len; i++) {
        ret = count_snapshot(r, &g_array_index(s->snapshots,
                                               struct qcow2_snapshot, i));
    }
    if (ret < 0) {
        error_set_errno(errp, -ret, "Could not count references");
        return ret;
    }
    return qcow2_bitmaps_each_extent(s, add, r, errp);
}

int qcow2_refs_count(struct qcow2_refs *r, struct error **errp)
{
    struct qcow2 *s = r->s;
    int64_t file = qcow2_cluster_end(s, node_length(qcow2_file(s)));

    r->n_file = file >> s->cluster_bits;
    r->n = r->n_file + SLACK_CLUSTERS;
    r->counts = g_try_new0(uint32_t, r->n);
    r->table = g_try_malloc(s->cluster_bytes);
    if (!r->counts || !r->table) {
        error_set_errno(errp, ENOMEM, "Could not count references");
        return -ENOMEM;
    }
    return count_all(r, errp);
}

void qcow2_refs_clear(struct qcow2_refs *r)
{
    g_clear_pointer(&r->counts, g_free);
    g_clear_pointer(&r->table, g_free);
}
