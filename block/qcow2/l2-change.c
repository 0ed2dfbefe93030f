/* SPDX-License-Identifier: MIT */
/*
 * L2 entries, changing them: link, reserve, zero, unmap.
 *
 * What an old entry pointed to is freed when the new one is in the file
 * (qcow2_free_later()).  A change is all or nothing.
 */
#include <errno.h>
#include "block/qcow2/l2-priv.h"

int qcow2_l2_count_new(struct qcow2 *s, int64_t offset, int64_t n,
                       int64_t *count)
{
    int64_t table = qcow2_l2_table_of(s, offset);
    struct qcow2_table *t;
    uint32_t index;
    int ret = table > 0 ? qcow2_l2_slice_of(s, table, offset, false, &t, &index)
                        : -EIO;

    *count = 0;
    if (ret == 0) {
        n = MIN(n, slice_entries(s) - index);
        while (*count < n &&
               !is_owned(s, load_entry(s, t, index + *count).desc)) {
            ++*count;
        }
    }
    return ret;
}

int qcow2_l2_has_data(struct qcow2 *s, int64_t offset)
{
    int64_t table = qcow2_l2_table_of(s, offset);
    struct qcow2_table *t;
    uint32_t index;
    struct entry e;
    int ret;

    if (s->n_subs == 1) {
        return 1;       /* a cluster is changed whole */
    }
    if (table <= 0) {
        return table;
    }
    ret = qcow2_l2_slice_of(s, table, offset, false, &t, &index);
    if (ret < 0) {
        return ret;
    }
    e = load_entry(s, t, index);
    return (e.desc & QCOW2_COMPRESSED) || (uint32_t)e.bits;
}

/* ---- changing entries ---------------------------------------------------- */

static uint64_t new_desc(const struct qcow2 *s, enum qcow2_l2_op op,
                         uint64_t old, uint64_t host)
{
    enum qcow2_type type = qcow2_entry_type(s, old);
    bool has_subs = s->n_subs > 1;

    switch (op) {
    case QCOW2_L2_LINK:
    case QCOW2_L2_RESERVE:
        return host | QCOW2_COPIED;
    case QCOW2_L2_COMPRESS:
        return host;
    case QCOW2_L2_ZERO:
        if (type == QCOW2_NORMAL || type == QCOW2_ZERO_ALLOC) {
            return has_subs ? old : old | QCOW2_ZERO;
        }
        return has_subs ? 0 : QCOW2_ZERO;
    case QCOW2_L2_ZERO_FREE:
        return has_subs ? 0 : QCOW2_ZERO;
    default:
        return 0;
    }
}

/* The subclusters in MASK (bits 0 to 31) change. */
static uint64_t new_bits(enum qcow2_l2_op op, uint64_t old, uint64_t mask)
{
    switch (op) {
    case QCOW2_L2_LINK:
        return (old | mask) & ~(mask << 32);
    case QCOW2_L2_RESERVE:
        return old;
    case QCOW2_L2_COMPRESS:
        return 0;
    case QCOW2_L2_ZERO:
    case QCOW2_L2_ZERO_FREE:
        return (old & ~mask) | mask << 32;
    default:
        return old & ~(mask | mask << 32);
    }
}

static struct entry new_entry(const struct qcow2 *s, enum qcow2_l2_op op,
                              struct entry old, uint64_t host, uint64_t mask)
{
    bool whole = mask == UINT32_MAX;

    if (s->n_subs == 1) {
        return (struct entry) { .desc = new_desc(s, op, old.desc, host) };
    }
    if (!whole && (op == QCOW2_L2_ZERO_FREE || op == QCOW2_L2_UNMAP)) {
        /* The cluster stays for the others. */
        return (struct entry) { old.desc, new_bits(op, old.bits, mask) };
    }
    if (old.desc & QCOW2_COMPRESSED) {
        old.bits = 0;
    }
    return (struct entry) { new_desc(s, op, old.desc, host),
                            new_bits(op, old.bits, mask) };
}

/* What OLD pointed to and NEW does not is to be freed. */
static void free_old(struct qcow2 *s, uint64_t old, uint64_t new,
                     unsigned free_flags)
{
    int64_t offset, bytes, end;

    if (s->data) {
        return;     /* nothing was allocated */
    }
    switch (qcow2_entry_type(s, old)) {
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

/* Subclusters of the cluster at START that lie in [offset, end). */
static uint64_t sub_mask(const struct qcow2 *s, int64_t start, int64_t offset,
                         int64_t end)
{
    int64_t first = MAX(offset - start, 0) >> s->sub_bits;
    int64_t behind = MIN(end - start, s->cluster_bytes) >> s->sub_bits;

    return (UINT64_MAX >> (64 - (behind - first))) << first;
}

static int check_change(struct qcow2 *s, const struct qcow2_table *t,
                        uint32_t index, int64_t offset, int64_t end)
{
    int64_t start = qcow2_cluster_start(s, offset);

    for (; start < end; start += s->cluster_bytes, index++) {
        struct entry e = load_entry(s, t, index);
        int ret = qcow2_l2_check_entry(s, e, start);
        if (ret < 0) {
            return ret;
        }
        if ((e.desc & QCOW2_COMPRESSED) &&
            (start < offset || end - start < s->cluster_bytes)) {
            return -ENOTSUP;    /* compressed data has no subclusters */
        }
    }
    return 0;
}

int qcow2_l2_set(struct qcow2 *s, int64_t offset, int64_t bytes,
                 const struct qcow2_l2_change *c)
{
    int64_t table = qcow2_l2_table_of(s, offset), end = offset + bytes;
    int64_t start = qcow2_cluster_start(s, offset);
    uint64_t host = c->host;
    struct qcow2_table *t;
    uint32_t index;
    int ret;

    if (table <= 0) {
        return -EIO;
    }
    ret = qcow2_l2_slice_of(s, table, offset, false, &t, &index);
    if (ret == 0) {
        ret = check_change(s, t, index, offset, end);
    }
    if (ret < 0) {
        return ret;
    }
    for (; start < end; start += s->cluster_bytes, index++) {
        struct entry old = load_entry(s, t, index);
        struct entry new = new_entry(s, c->op, old, host,
                                     sub_mask(s, start, offset, end));
        if (new.desc != old.desc || new.bits != old.bits) {
            store_entry(s, t, index, new);
            free_old(s, old.desc, new.desc, c->free_flags);
        }
        host += s->cluster_bytes;
    }
    qcow2_table_dirty(s, &s->l2_cache, t);
    return 0;
}
