/* SPDX-License-Identifier: MIT */
/*
 * Rebuilding refcounts: what an image needs whose dirty bit is set.
 *
 * Answer      Count every reference there is (refs.c), then make the stored
 *             counts and the COPIED flags say the same.  The structure of
 *             the refcounts themselves must be sound; if their blocks
 *             collide with something else we do not guess and refuse.
 * Order       All counts right, and stable, before COPIED flags that depend
 *             on them; the dirty bit stays set until the caller clears it.
 */
#include <errno.h>
#include "block/qcow2/refs.h"

/* The blocks must be theirs alone, or mending them would destroy something. */
static bool blocks_are_sound(const struct qcow2_refs *c)
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

static int mend_one(struct qcow2_refs *c, int64_t i, bool make_blocks)
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

static int mend_counts(struct qcow2_refs *c)
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

static uint64_t right_flag(const struct qcow2_refs *c, uint64_t entry)
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

static int mend_l2_flags(struct qcow2_refs *c, int64_t table)
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

static int mend_flags(struct qcow2_refs *c)
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

static int mend(struct qcow2_refs *c)
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
    struct qcow2_refs refs = { .s = s };
    int ret = qcow2_refs_count(&refs, errp);

    if (ret == 0 && !blocks_are_sound(&refs)) {
        error_set(errp, "The refcount table or its blocks overlap with other "
                  "structures; try qemu-img check -r all");
        ret = -EINVAL;
    }
    if (ret == 0) {
        ret = mend(&refs);
        if (ret == 0) {
            ret = node_flush(qcow2_file(s));
        }
        if (ret < 0) {
            error_set_errno(errp, -ret, "Could not write refcounts");
        }
    }
    qcow2_refs_clear(&refs);
    return ret;
}
