/* SPDX-License-Identifier: MIT */
/*
 * qcow2 bitmaps: storing them at close, removing one.
 *
 * Problem     Bits, tables and directory change together, and the process may
 *             die in between.
 * Answer      What is new is written to new clusters; the header is pointed
 *             to the new directory when all of it is stable; then the old
 *             clusters are freed.
 * Invariants  I1  A crash at any moment leaves either the old directory, in
 *                 which the bitmaps are marked in_use, or the new one; besides
 *                 that, leaked clusters.
 *             I2  What could not be stored stays marked in_use.
 * Threads     Control path, no lock held; `update` is held throughout.
 */
#include <errno.h>
#include <inttypes.h>
#include "base/control.h"
#include "bitmaps/dirty-bitmap.h"
#include "block/qcow2/bitmaps-priv.h"

/* Written at once where clusters follow each other. */
#define WRITE_BYTES (1 << 20)

struct extent {
    int64_t offset, bytes;
};

static void extent_add(GArray *extents, int64_t offset, int64_t bytes)
{
    struct extent e = { offset, bytes };

    g_array_append_val(extents, e);
}

/* qcow2_bitmaps_extent_fn: what may be freed is noted. */
static int note_extent(void *opaque, int64_t offset, int64_t bytes)
{
    extent_add(opaque, offset, bytes);
    return 0;
}

/* The file does not point there any more. */
static void free_extents(struct qcow2 *s, const GArray *extents)
{
    for (guint i = 0; i < extents->len; i++) {
        const struct extent *e = &g_array_index(extents, struct extent, i);

        /* A damaged table could have named anything. */
        if (!qcow2_bitmaps_hits_metadata(s, e->offset, e->bytes)) {
            qcow2_free_bytes(s, e->offset, e->bytes);
        }
    }
}

/* New clusters with BYTES of BUF; noted in ADDED.  The offset, or -errno. */
static int64_t write_new(struct qcow2 *s, const void *buf, int64_t bytes,
                         GArray *added)
{
    int64_t offset = qcow2_alloc_bytes(s, bytes);
    int ret;

    if (offset < 0) {
        return offset;
    }
    extent_add(added, offset, bytes);
    ret = qcow2_file_pwrite(s, offset, bytes, buf, 0);
    return ret < 0 ? ret : offset;
}

/* ---- one bitmap's bits -------------------------------------------------- */

enum cluster_kind { KIND_ZEROES, KIND_ONES, KIND_MIXED };

/* What cluster I of the stored form of BITS holds. */
static enum cluster_kind cluster_kind(const struct qcow2 *s,
                                      const struct bits *bits, int64_t i)
{
    int64_t n_bits = s->cluster_bytes * 8;
    int64_t start = i * n_bits, end = MIN(start + n_bits, bits_size(bits));

    if (bits_next_set(bits, start, end) == end) {
        return KIND_ZEROES;
    }
    /* The tail of the last cluster must be zero: it is never all ones. */
    return end == start + n_bits && bits_next_clear(bits, start, end) == end
           ? KIND_ONES : KIND_MIXED;
}

/*
 * Write the mixed clusters from I on, as many as are handled at once, and
 * fill their entries of TABLE.  How many, or -errno.
 */
static int64_t store_clusters(struct qcow2 *s, const struct bits *bits,
                              uint64_t *table, int64_t i, int64_t n,
                              GArray *added)
{
    int64_t max = MAX(WRITE_BYTES >> s->cluster_bits, 1), run = 1, offset;
    g_autofree uint8_t *buf = NULL;

    while (run < max && i + run < n &&
           cluster_kind(s, bits, i + run) == KIND_MIXED) {
        run++;
    }
    buf = g_try_malloc(run << s->cluster_bits);
    if (!buf) {
        return -ENOMEM;
    }
    bits_store_bytes(bits, i << s->cluster_bits, run << s->cluster_bits, buf);
    offset = write_new(s, buf, run << s->cluster_bits, added);
    for (int64_t k = 0; offset >= 0 && k < run; k++) {
        table[i + k] = htobe64(offset + (k << s->cluster_bits));
    }
    return offset < 0 ? offset : run;
}

/* Table of N entries and clusters of BITS.  The table's offset, or -errno. */
static int64_t store_bits(struct qcow2 *s, const struct bits *bits, int64_t n,
                          GArray *added)
{
    g_autofree uint64_t *table = g_try_new0(uint64_t, n);
    int64_t per_cluster = s->cluster_bytes * 8, size = bits_size(bits);
    int64_t i = 0, run, next;

    if (!table) {
        return -ENOMEM;
    }
    while (i < n) {
        switch (cluster_kind(s, bits, i)) {
        case KIND_ZEROES:
            next = bits_next_set(bits, i * per_cluster, size);
            i = next == size ? n : next / per_cluster;
            break;
        case KIND_ONES:
            table[i++] = htobe64(STORED_TABLE_ONES);
            break;
        case KIND_MIXED:
            run = store_clusters(s, bits, table, i, n, added);
            if (run < 0) {
                return run;
            }
            i += run;
            break;
        }
    }
    return write_new(s, table, n * 8, added);
}

/* ---- the directory ------------------------------------------------------ */

/* Write DIR anew.  *EXT is what the header is to say. */
static int write_directory(struct qcow2 *s, const struct stored_directory *dir,
                           GArray *added, struct qcow2_bitmaps_ext *ext)
{
    int64_t bytes = stored_directory_bytes(dir), offset;
    g_autofree uint8_t *buf = g_try_malloc(bytes + 1);

    *ext = (struct qcow2_bitmaps_ext) { 0 };
    if (bytes == 0) {
        return 0;
    }
    if (!buf) {
        return -ENOMEM;
    }
    if (bytes > STORED_MAX_DIRECTORY_BYTES ||
        stored_directory_count(dir) > STORED_MAX_BITMAPS) {
        return -ENOSPC;
    }
    stored_directory_encode(dir, buf);
    offset = write_new(s, buf, bytes, added);
    ext->n_bitmaps = stored_directory_count(dir);
    ext->directory_bytes = bytes;
    ext->directory_offset = offset;
    return offset < 0 ? offset : 0;
}

/*
 * Make DIR (taken) the file's directory.  ADDED: clusters that it is the first
 * to point to; DROPPED: those that only the old one points to.  One of the two
 * is freed; neither if it is not known which directory the file has now.
 */
static bool replace_directory(struct qcow2 *s, struct stored_directory *dir,
                              GArray *added, GArray *dropped,
                              struct error **errp)
{
    struct qcow2_bitmaps_ext old = s->bitmaps, ext;
    int ret = write_directory(s, dir, added, &ext);
    bool ok = ret == 0;

    if (!ok) {
        error_set_errno(errp, -ret, "Could not write the bitmap directory");
        free_extents(s, added);
    } else {
        ok = qcow2_set_bitmaps_ext(s, &ext, ext.n_bitmaps > 0, errp);
    }
    if (!ok) {
        stored_directory_free(dir);
        return false;
    }
    if (old.n_bitmaps) {
        extent_add(dropped, old.directory_offset, old.directory_bytes);
    }
    free_extents(s, dropped);
    qcow2_bitmaps_set_directory(s, dir);
    return true;
}

/* ---- store at close ----------------------------------------------------- */

static bool is_to_be_stored(const struct dirty_bitmap *bm)
{
    return dirty_bitmap_name(bm) && dirty_bitmap_persistent(bm) &&
           !dirty_bitmap_skip_store(bm) && !dirty_bitmap_readonly(bm) &&
           !dirty_bitmap_inconsistent(bm);
}

static bool store_one(struct qcow2 *s, struct stored_directory *dir,
                      struct dirty_bitmap *bm, GArray *added, GArray *dropped,
                      struct error **errp)
{
    unsigned granularity_bits = __builtin_ctz(dirty_bitmap_granularity(bm));
    struct stored_geometry geometry = qcow2_bitmaps_geometry(s);
    const char *name = dirty_bitmap_name(bm);
    struct stored_bitmap *b = stored_directory_find(dir, name);
    int64_t n = stored_table_entries(&geometry, granularity_bits), offset;

    /* QEMU would not open an image with a table of no entries. */
    if (n == 0 || dirty_bitmap_length(bm) != geometry.disk_bytes) {
        error_set(errp, n ? "its size is not that of the disk"
                          : "the disk has no bytes");
        return false;
    }
    if (!b) {
        b = stored_directory_add(dir, name, granularity_bits);
    } else if (qcow2_bitmaps_each_of(s, b, note_extent, dropped) < 0) {
        error_report_text("Node '%s': clusters of bitmap '%s' leak: its table"
                          " could not be read", node_name(s->node), name);
    }
    offset = store_bits(s, dirty_bitmap_bits(bm), n, added);
    if (offset < 0) {
        error_set_errno(errp, -offset, "could not write it");
        return false;
    }
    b->granularity_bits = granularity_bits;
    b->table_offset = offset;
    b->table_entries = n;
    b->flags &= ~(STORED_IN_USE | STORED_AUTO);
    b->flags |= dirty_bitmap_enabled(bm) ? STORED_AUTO : 0;
    return true;
}

/* In the order of queries.  *ANY: there was one. */
static bool store_all(struct qcow2 *s, struct stored_directory *dir,
                      GArray *added, GArray *dropped, bool *any,
                      struct error **errp)
{
    const struct dirty_bitmap_list *l = s->node->bitmaps;

    for (struct dirty_bitmap *bm = dirty_bitmap_next(l, NULL); bm;
         bm = dirty_bitmap_next(l, bm)) {
        if (!is_to_be_stored(bm)) {
            continue;
        }
        if (!store_one(s, dir, bm, added, dropped, errp)) {
            error_prepend(errp, "bitmap '%s': ", dirty_bitmap_name(bm));
            return false;
        }
        *any = true;
    }
    return true;
}

bool qcow2_bitmaps_try_store(struct qcow2 *s, struct error **errp)
{
    g_autoptr(GArray) added = g_array_new(FALSE, FALSE, sizeof(struct extent));
    g_autoptr(GArray) dropped = g_array_new(FALSE, FALSE,
                                            sizeof(struct extent));
    struct stored_directory *dir;
    struct range_hold hold;
    bool any = false, ok;

    range_lock_acquire(&qcow2_bitmaps_of(s)->update, &hold, 0, 1, true);
    dir = qcow2_bitmaps_copy_directory(s);
    ok = store_all(s, dir, added, dropped, &any, errp);
    if (ok && any) {
        ok = replace_directory(s, g_steal_pointer(&dir), added, dropped, errp);
    } else if (!ok) {
        free_extents(s, added);
    }
    stored_directory_free(dir);
    range_lock_release(&qcow2_bitmaps_of(s)->update, &hold);
    return ok;
}

void qcow2_bitmaps_store(struct qcow2 *s)
{
    AUTO_ERROR(err);

    if (!qcow2_bitmaps_try_store(s, &err)) {
        error_report_text("Lost persistent bitmaps during inactivation of node"
                          " '%s': %s", node_name(s->node), error_text(err));
    }
}

/* ---- remove ------------------------------------------------------------- */

static bool remove_held(struct qcow2 *s, const char *name, struct error **errp)
{
    g_autoptr(GArray) added = g_array_new(FALSE, FALSE, sizeof(struct extent));
    g_autoptr(GArray) dropped = g_array_new(FALSE, FALSE,
                                            sizeof(struct extent));
    struct stored_directory *dir = qcow2_bitmaps_copy_directory(s);
    struct stored_bitmap *b = stored_directory_find(dir, name);

    if (!b) {
        stored_directory_free(dir);
        return true;            /* it was never stored */
    }
    if (qcow2_bitmaps_each_of(s, b, note_extent, dropped) < 0) {
        error_report_text("Node '%s': clusters of bitmap '%s' leak: its table"
                          " could not be read", node_name(s->node), name);
    }
    stored_directory_remove(dir, b);
    return replace_directory(s, dir, added, dropped, errp);
}

bool qcow2_bitmap_remove_stored(struct node *n, const char *name,
                                struct error **errp)
{
    struct qcow2 *s = n->state;
    struct range_hold hold;
    bool ok;

    if (!s->writable) {
        error_set(errp, "Cannot remove bitmap '%s' from a read-only image",
                  name);
        return false;
    }
    range_lock_acquire(&qcow2_bitmaps_of(s)->update, &hold, 0, 1, true);
    ok = remove_held(s, name, errp);
    range_lock_release(&qcow2_bitmaps_of(s)->update, &hold);
    if (!ok) {
        error_prepend(errp, "Failed to remove bitmap '%s' from file: ", name);
    }
    return ok;
}
