/* SPDX-License-Identifier: MIT */
/*
 * Damage found at run time: an entry that cannot be, a write that would hit
 * the image's own tables.
 *
 * Answer      The first one is told (stderr and BLOCK_IMAGE_CORRUPTED), the
 *             header gets the corrupt bit, and from then on nothing is
 *             written; what can be read is read.  An image open read-only is
 *             not marked, the event then says fatal: false.
 * Threads     The event needs the control lock, which no request may wait
 *             for: a worker does it.  close waits for it (n_background).
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include "base/control.h"
#include "base/pool.h"
#include "block/qcow2/qcow2.h"
#include "qapi/qapi-events.h"

struct report {
    struct qcow2 *s;
    char *node_name, *text;     /* owned */
    int64_t offset, bytes;      /* < 0: unknown */
    bool fatal;
};

static void report_run(void *opaque)
{
    struct report *r = opaque;
    struct qcow2 *s = r->s;

    if (r->fatal && s->hdr.version >= 3) {
        LOCK_GUARD(&s->lock);
        qcow2_header_set_incompatible(s, QCOW2_INCOMPAT_CORRUPT, true);
    }
    {
        CONTROL_GUARD();
        qapi_event_send_block_image_corrupted("", r->node_name, r->text,
                                              r->offset >= 0, r->offset,
                                              r->bytes >= 0, r->bytes,
                                              r->fatal);
    }
    g_free(r->node_name);
    g_free(r->text);
    g_free(r);
    LOCK_GUARD(&s->lock);
    s->n_background--;
    cond_broadcast(&s->changed);
}

int qcow2_corrupt(struct qcow2 *s, int64_t offset, int64_t bytes,
                  const char *fmt, ...)
{
    bool fatal = s->writable && !s->corrupt;
    struct report *r;
    va_list ap;

    if (s->node->inactive || (s->corrupt_told && !fatal)) {
        return -EIO;    /* an inactive one may read what is being changed */
    }
    r = g_new0(struct report, 1);
    r->s = s;
    r->offset = offset;
    r->bytes = bytes;
    r->fatal = fatal;
    r->node_name = g_strdup(s->node->name);
    va_start(ap, fmt);
    r->text = g_strdup_vprintf(fmt, ap);
    va_end(ap);
    if (fatal) {
        fprintf(stderr, "qcow2: Marking image as corrupt: %s; further "
                "corruption events will be suppressed\n", r->text);
        s->corrupt = true;
    } else {
        fprintf(stderr, "qcow2: Image is corrupt: %s; further non-fatal "
                "corruption events will be suppressed\n", r->text);
    }
    s->corrupt_told = true;
    s->n_background++;
    pool_submit(report_run, r);
    return -EIO;
}

/* ---- writes that would hit metadata ------------------------------------ */

static bool overlaps(int64_t a, int64_t a_bytes, int64_t b, int64_t b_bytes)
{
    return b_bytes > 0 && a < b + b_bytes && b < a + a_bytes;
}

static bool hits_inactive_l1(const struct qcow2 *s, int64_t offset,
                             int64_t bytes)
{
    for (guint i = 0; s->snapshots && i < s->snapshots->len; i++) {
        const struct qcow2_snapshot *sn =
            &g_array_index(s->snapshots, struct qcow2_snapshot, i);
        if (overlaps(offset, bytes, sn->l1_offset,
                     sn->l1_entries * INT64_C(8))) {
            return true;
        }
    }
    return false;
}

static unsigned hits_fixed(const struct qcow2 *s, unsigned which,
                           int64_t offset, int64_t bytes)
{
    const struct {
        unsigned what;
        int64_t offset, bytes;
    } areas[] = {
        { QCOW2_OL_HEADER, 0, s->cluster_bytes },
        { QCOW2_OL_ACTIVE_L1, s->l1_offset, s->l1_entries * INT64_C(8) },
        { QCOW2_OL_REFTABLE, s->reftable_offset, s->reftable_bytes },
        { QCOW2_OL_SNAPSHOTS, s->hdr.snapshots_offset,
          s->snapshot_table_bytes },
        { QCOW2_OL_BITMAPS, s->bitmaps.directory_offset,
          s->bitmaps.directory_bytes },
    };

    for (size_t i = 0; i < G_N_ELEMENTS(areas); i++) {
        if ((which & areas[i].what) &&
            overlaps(offset, bytes, areas[i].offset, areas[i].bytes)) {
            return areas[i].what;
        }
    }
    return 0;
}

static unsigned hits_tables(const struct qcow2 *s, unsigned which,
                            int64_t offset, int64_t bytes)
{
    for (int64_t o = qcow2_cluster_start(s, offset); o < offset + bytes;
         o += s->cluster_bytes) {
        unsigned kinds = qcow2_cluster_set_test(s->tables, o);
        if ((kinds & QCOW2_SET_L2) && (which & QCOW2_OL_ACTIVE_L2)) {
            return QCOW2_OL_ACTIVE_L2;
        }
        if ((kinds & QCOW2_SET_INACTIVE_L2) &&
            (which & QCOW2_OL_INACTIVE_L2)) {
            return QCOW2_OL_INACTIVE_L2;
        }
        if ((kinds & QCOW2_SET_REFBLOCK) && (which & QCOW2_OL_REFBLOCK)) {
            return QCOW2_OL_REFBLOCK;
        }
    }
    return 0;
}

static const char *overlap_name(unsigned what)
{
    switch (what) {
    case QCOW2_OL_HEADER:
        return "qcow2_header";
    case QCOW2_OL_ACTIVE_L1:
        return "active L1 table";
    case QCOW2_OL_ACTIVE_L2:
        return "active L2 table";
    case QCOW2_OL_REFBLOCK:
        return "refcount block";
    case QCOW2_OL_REFTABLE:
        return "refcount table";
    case QCOW2_OL_SNAPSHOTS:
        return "snapshot table";
    case QCOW2_OL_INACTIVE_L1:
        return "inactive L1 table";
    case QCOW2_OL_INACTIVE_L2:
        return "inactive L2 table";
    default:
        return "bitmap directory";
    }
}

unsigned qcow2_find_overlap(const struct qcow2 *s, unsigned which,
                            int64_t offset, int64_t bytes)
{
    unsigned hit;

    /* Nothing shares a cluster with a table. */
    bytes = qcow2_cluster_end(s, offset + bytes);
    offset = qcow2_cluster_start(s, offset);
    bytes -= offset;
    hit = hits_fixed(s, which, offset, bytes);
    if (!hit && (which & (QCOW2_OL_ACTIVE_L2 | QCOW2_OL_REFBLOCK |
                          QCOW2_OL_INACTIVE_L2))) {
        hit = hits_tables(s, which, offset, bytes);
    }
    if (!hit && (which & QCOW2_OL_INACTIVE_L1) &&
        hits_inactive_l1(s, offset, bytes)) {
        hit = QCOW2_OL_INACTIVE_L1;
    }
    return hit;
}

int qcow2_check_overlap(struct qcow2 *s, unsigned ignore, int64_t offset,
                        int64_t bytes)
{
    unsigned hit = qcow2_find_overlap(s, s->opt.overlap & ~ignore, offset,
                                      bytes);

    if (G_LIKELY(!hit)) {
        return 0;
    }
    return qcow2_corrupt(s, offset, bytes, "Preventing invalid write on "
                         "metadata (overlaps with %s)", overlap_name(hit));
}
