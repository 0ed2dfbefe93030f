/* SPDX-License-Identifier: MIT */
/*
 * Looking for leaks and corruptions: driver->check().
 *
 * Count all references (refs.c), then compare with what the image says of
 * itself: the stored refcounts, and the COPIED flags of the active tables.
 * Nothing is written.
 */
#include <inttypes.h>
#include <stdarg.h>
#include "block/qcow2/refs.h"

struct verify {
    struct qcow2 *s;
    struct qcow2_refs refs;
    ImageCheck *result;         /* borrowed */
    const struct image_check_ops *ops;
    void *opaque;
    int64_t next_offset;        /* a cluster there is not fragmented; 0: the
                                   first of its table never is */
};

static void G_GNUC_PRINTF(2, 3) tell(struct verify *v, const char *fmt, ...)
{
    g_autofree char *text = NULL;
    va_list ap;

    va_start(ap, fmt);
    text = g_strdup_vprintf(fmt, ap);
    va_end(ap);
    v->ops->problem(v->opaque, text);
}

static void on_problem(void *opaque, const char *what, int64_t offset)
{
    struct verify *v = opaque;

    tell(v, "ERROR there is %s: %#" PRIx64, what, offset);
    v->result->corruptions++;
}

/* One cluster of the disk, in order. */
static void on_entry(void *opaque, uint64_t entry, bool first)
{
    struct verify *v = opaque;
    int64_t host = entry & QCOW2_OFFSET_MASK;

    if (first) {
        v->next_offset = 0;
    }
    switch (qcow2_entry_type(v->s, entry)) {
    case QCOW2_TYPE_COMPRESSED:
        v->result->allocated_clusters++;
        v->result->compressed_clusters++;
        v->result->fragmented_clusters++;
        break;
    case QCOW2_NORMAL:
    case QCOW2_ZERO_ALLOC:
        v->result->allocated_clusters++;
        if (v->next_offset && host != v->next_offset) {
            v->result->fragmented_clusters++;
        }
        v->next_offset = host + v->s->cluster_bytes;
        break;
    default:
        break;
    }
}

/* ---- refcounts ---------------------------------------------------------- */

/* Stored count of cluster I; false: it cannot be read. */
static bool stored_count(struct verify *v, int64_t i, uint64_t *count)
{
    int ret;

    LOCK_GUARD(&v->s->lock);
    ret = qcow2_refcount_get(v->s, i, count);
    return ret == 0;
}

static void compare_count(struct verify *v, int64_t i)
{
    uint64_t count;

    if (!stored_count(v, i, &count)) {
        tell(v, "Can't get refcount for cluster %" PRId64, i);
        v->result->check_errors++;
        return;
    }
    if (count == v->refs.counts[i]) {
        return;
    }
    if (count > v->refs.counts[i]) {
        tell(v, "Leaked cluster %" PRId64 " refcount=%" PRIu64
             " reference=%" PRIu32, i, count, v->refs.counts[i]);
        v->result->leaks++;
    } else {
        tell(v, "ERROR cluster %" PRId64 " refcount=%" PRIu64
             " reference=%" PRIu32, i, count, v->refs.counts[i]);
        v->result->corruptions++;
    }
}

static void compare_counts(struct verify *v)
{
    struct qcow2 *s = v->s;
    int64_t covered = (int64_t)s->reftable_entries << s->refblock_bits;
    int64_t end = MIN(v->refs.n, MAX(v->refs.n_file, v->refs.used_end));
    int64_t last = 0;

    for (int64_t i = 0; i < end; i++) {
        uint64_t count = 0;

        compare_count(v, i);
        if (v->refs.counts[i] ||
            (i < covered && stored_count(v, i, &count) && count)) {
            last = i;
        }
    }
    v->result->has_image_end_offset = true;
    v->result->image_end_offset = (last + 1) << s->cluster_bits;
}

/* ---- COPIED flags -------------------------------------------------------- */

static void check_flag(struct verify *v, const char *what, uint64_t entry)
{
    int64_t i = (entry & QCOW2_OFFSET_MASK) >> v->s->cluster_bits;
    uint64_t count;

    if (i >= v->refs.n || !stored_count(v, i, &count)) {
        return;         /* told already */
    }
    if ((count == 1) != !!(entry & QCOW2_COPIED)) {
        tell(v, "ERROR OFLAG_COPIED %s: %s_entry=%" PRIx64
             " refcount=%" PRIu64, what, what[0] == 'L' ? "l1" : "l2", entry,
             count);
        v->result->corruptions++;
    }
}

static void check_l2_flags(struct verify *v, int64_t table)
{
    struct qcow2 *s = v->s;
    g_autofree uint64_t *l2 = g_try_malloc(s->cluster_bytes);

    if (!l2 || qcow2_file_pread(s, table, s->cluster_bytes, l2, 0) < 0) {
        v->result->check_errors++;
        return;
    }
    for (int64_t i = 0; i < s->cluster_bytes / 8;
         i += 1 << (s->entry_shift - 3)) {
        uint64_t entry = be64toh(l2[i]);
        enum qcow2_type type = qcow2_entry_type(s, entry);

        if (type == QCOW2_NORMAL || type == QCOW2_ZERO_ALLOC) {
            check_flag(v, "data cluster", entry);
        } else if (type == QCOW2_TYPE_COMPRESSED && (entry & QCOW2_COPIED)) {
            tell(v, "ERROR OFLAG_COPIED is set for a compressed cluster: "
                 "l2_entry=%" PRIx64, entry);
            v->result->corruptions++;
        }
    }
}

static void check_flags(struct verify *v)
{
    struct qcow2 *s = v->s;

    for (uint32_t i = 0; i < s->l1_entries; i++) {
        int64_t table = s->l1[i] & QCOW2_OFFSET_MASK;

        if (!table) {
            continue;
        }
        check_flag(v, "L2 cluster", s->l1[i]);
        if (!s->data && !(table & (s->cluster_bytes - 1))) {
            check_l2_flags(v, table);
        }
    }
}

/* ---- all ---------------------------------------------------------------- */

static void finish(struct verify *v)
{
    ImageCheck *r = v->result;

    r->has_total_clusters = r->has_allocated_clusters = true;
    r->total_clusters = qcow2_cluster_end(v->s, node_length(v->s->node)) >>
                        v->s->cluster_bits;
    r->has_fragmented_clusters = r->fragmented_clusters > 0;
    r->has_compressed_clusters = r->compressed_clusters > 0;
    r->has_allocated_clusters = r->allocated_clusters > 0;
    r->has_corruptions = r->corruptions > 0;
    r->has_leaks = r->leaks > 0;
}

bool qcow2_check(struct node *n, ImageCheck *result,
                 const struct image_check_ops *ops, void *opaque,
                 struct error **errp)
{
    struct qcow2 *s = n->state;
    struct verify v = {
        .s = s, .result = result, .ops = ops, .opaque = opaque,
    };
    int ret;

    v.refs = (struct qcow2_refs){
        .s = s, .problem = on_problem, .entry = on_entry, .opaque = &v,
    };
    ret = qcow2_refs_count(&v.refs, errp);
    if (ret == 0) {
        compare_counts(&v);
        check_flags(&v);
        finish(&v);
    }
    qcow2_refs_clear(&v.refs);
    return ret == 0;
}
