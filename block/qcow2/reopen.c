/* SPDX-License-Identifier: MIT */
/*
 * qcow2: blockdev-reopen.
 *
 * To read-only    Before anything changes all metadata is written and the
 *                 bitmaps are stored, as at close; they stay in memory,
 *                 readonly.  An abort marks them as in use again.
 * To read-write   When the file can be written: what an unclean end left is
 *                 mended and the bitmaps are marked as in use, as at open.
 *                 Not where the node's content is kept (node.content_kept):
 *                 the bitmaps stay as they are, true and read-only.
 * Another file    It may be a filter over the old one, a copy, or an image of
 *                 the same shape (two that swap their files): what of it is
 *                 in memory must be the same there, the caches start empty.
 * Options         take effect at commit.  Caches of another size are made
 *                 empty, after what was dirty in the old ones was written.
 */
#include <errno.h>
#include "bitmaps/dirty-bitmap.h"
#include "base/control.h"
#include "block/qcow2/qcow2.h"
#include "block/reopen.h"

enum { HEADER_BYTES = 512, PIECE_BYTES = 64 << 10 };

struct qcow2_reopen {
    struct qcow2_options opt;
    bool new_caches;
    struct qcow2_table_cache l2_cache, ref_cache;   /* with new_caches */
    char *shape;                /* another file: what it must be like */
    bool stored;                /* the bitmaps are not in use, in the file */
    bool activated;
};

/* ---- prepare ------------------------------------------------------------ */

static int digest_part(GChecksum *sum, struct node *file, int64_t offset,
                       int64_t bytes)
{
    g_autofree uint8_t *piece = g_malloc(PIECE_BYTES);

    if (offset < 0 || bytes < 0 || offset > node_length(file) - bytes) {
        return -EINVAL;
    }
    while (bytes > 0) {
        int64_t n = MIN(bytes, PIECE_BYTES);
        int ret = node_pread(file, offset, n, piece, 0);

        if (ret < 0) {
            return ret;
        }
        g_checksum_update(sum, piece, n);
        offset += n;
        bytes -= n;
    }
    return 0;
}

/* Of all in FILE that is in memory while the image is open: header, tables,
 * directories.  Owned; NULL with *RET -errno. */
static char *shape_of(struct qcow2 *s, struct node *file, int *ret)
{
    GChecksum *sum = g_checksum_new(G_CHECKSUM_SHA256);
    struct { int64_t offset, bytes; } part[5];
    char *shape = NULL;

    lock_acquire(&s->lock);
    part[0].offset = 0;
    part[0].bytes = HEADER_BYTES;
    part[1].offset = s->l1_offset;
    part[1].bytes = s->l1_entries * INT64_C(8);
    part[2].offset = s->reftable_offset;
    part[2].bytes = s->reftable_bytes;
    part[3].offset = s->hdr.snapshots_offset;
    part[3].bytes = s->snapshot_table_bytes;
    part[4].offset = s->bitmaps.directory_offset;
    part[4].bytes = s->bitmaps.directory_bytes;
    lock_release(&s->lock);
    *ret = 0;
    for (size_t i = 0; i < G_N_ELEMENTS(part) && *ret == 0; i++) {
        *ret = digest_part(sum, file, part[i].offset, part[i].bytes);
    }
    if (*ret == 0) {
        shape = g_strdup(g_checksum_get_string(sum));
    }
    g_checksum_free(sum);
    return shape;
}

/* All metadata is in the old file. */
static bool note_shape(struct qcow2 *s, struct node *file,
                       struct qcow2_reopen *qr, struct error **errp)
{
    int ret;

    if (file == qcow2_file(s)) {
        return true;
    }
    qr->shape = shape_of(s, qcow2_file(s), &ret);
    if (ret < 0) {
        error_set_errno(errp, -ret, "Could not read the image's metadata");
    }
    return ret == 0;
}

/* The file is the new one, and has all metadata of who had it. */
static bool take_file(struct qcow2 *s, const struct qcow2_reopen *qr,
                      struct error **errp)
{
    struct node *file = qcow2_file(s);
    g_autofree char *shape = NULL;
    int ret;

    if (!qr->shape) {
        return true;
    }
    shape = shape_of(s, file, &ret);
    if (ret < 0 && ret != -EINVAL) {
        error_set_errno(errp, -ret, "Could not read the image's metadata");
        return false;
    }
    if (g_strcmp0(shape, qr->shape) != 0) {
        error_set(errp, "Node '%s' does not hold the image that '%s' has "
                  "open", node_name(file), node_name(s->node));
        return false;
    }
    LOCK_GUARD(&s->lock);
    qcow2_table_drop_all(&s->l2_cache);
    qcow2_table_drop_all(&s->ref_cache);
    s->free_cursor = 0;
    s->packed_end = 0;
    s->zero_from = MAX(s->zero_from,
                       qcow2_cluster_end(s, node_length(file)));
    return true;
}

static bool check_writable(struct qcow2 *s, bool read_only,
                           struct error **errp)
{
    LOCK_GUARD(&s->lock);
    if (!read_only && !s->writable &&
        (s->hdr.incompatible & QCOW2_INCOMPAT_CORRUPT)) {
        error_set(errp, "qcow2: Image is corrupt; cannot be opened "
                  "read/write");
        return false;
    }
    return true;
}

/* A job that records in one of them could not any more. */
static bool check_bitmaps(struct qcow2 *s, struct error **errp)
{
    const struct dirty_bitmap_list *l = s->node->bitmaps;

    CONTROL_GUARD();
    for (struct dirty_bitmap *bm = dirty_bitmap_next(l, NULL); bm;
         bm = dirty_bitmap_next(l, bm)) {
        if (dirty_bitmap_persistent(bm) && dirty_bitmap_successor(bm)) {
            return dirty_bitmap_check(bm, DIRTY_BITMAP_NOT_BUSY, errp);
        }
    }
    return true;
}

static bool write_metadata(struct qcow2 *s, struct error **errp)
{
    int ret;

    lock_acquire(&s->lock);
    ret = s->corrupt ? 0 : qcow2_store_metadata(s);
    lock_release(&s->lock);
    qcow2_wait_background(s);
    if (ret < 0) {
        error_set_errno(errp, -ret, "Could not write the image's metadata");
    }
    return ret == 0;
}

static bool store_bitmaps(struct qcow2 *s, struct qcow2_reopen *qr,
                          struct error **errp)
{
    bool corrupt;

    if (s->node->content_kept) {
        return true;            /* they were not in use */
    }
    lock_acquire(&s->lock);
    corrupt = s->corrupt;
    lock_release(&s->lock);
    if (corrupt) {
        return true;
    }
    if (!check_bitmaps(s, errp)) {
        return false;
    }
    if (!qcow2_bitmaps_try_store(s, errp)) {
        error_prepend(errp, "Could not store the bitmaps of node '%s': ",
                      node_name(s->node));
        return false;
    }
    qr->stored = true;
    return true;
}

static bool make_caches(struct qcow2 *s, struct qcow2_reopen *qr,
                        struct error **errp)
{
    const struct qcow2_options *new = &qr->opt, *old = &s->opt;

    qr->new_caches = new->l2_entry_bytes != old->l2_entry_bytes ||
                     new->l2_cache_bytes != old->l2_cache_bytes ||
                     new->refcount_cache_bytes != old->refcount_cache_bytes;
    if (!qr->new_caches) {
        return true;
    }
    if (!qcow2_table_cache_init(&qr->l2_cache, new->l2_entry_bytes,
                                new->l2_cache_bytes) ||
        !qcow2_table_cache_init(&qr->ref_cache, MIN(s->cluster_bytes, 4096),
                                new->refcount_cache_bytes)) {
        error_set_errno(errp, ENOMEM, "Could not allocate table caches");
        return false;
    }
    return true;
}

static void state_free(struct qcow2_reopen *qr)
{
    qcow2_table_cache_deinit(&qr->l2_cache);
    qcow2_table_cache_deinit(&qr->ref_cache);
    g_free(qr->shape);
    g_free(qr);
}

/* The bitmaps are in use after all. */
static void restore_bitmaps(struct qcow2 *s, struct qcow2_reopen *qr)
{
    AUTO_ERROR(err);

    if (qr->stored && !qcow2_bitmaps_set_in_use(s, true, &err)) {
        /* A write now would make them wrong, and nobody would know. */
        error_report(err);
        lock_acquire(&s->lock);
        s->corrupt = true;
        lock_release(&s->lock);
    }
}

/* An inactive image is not written whatever its options say. */
static bool is_written(const struct node_reopen *r)
{
    return !r->read_only && !r->node->inactive;
}

static bool prepare(struct node_reopen *r, struct qcow2_reopen *qr,
                    struct error **errp)
{
    struct qcow2 *s = r->node->state;

    if (!qcow2_options_read(s, r->options, &qr->opt, errp) ||
        !check_writable(s, !is_written(r), errp) ||
        !make_caches(s, qr, errp)) {
        return false;
    }
    if (s->writable && r->read_only && !store_bitmaps(s, qr, errp)) {
        return false;
    }
    return (!s->writable || write_metadata(s, errp)) &&
           note_shape(s, r->file, qr, errp);
}

bool qcow2_reopen_prepare(struct node_reopen *r, struct error **errp)
{
    struct qcow2_reopen *qr = g_new0(struct qcow2_reopen, 1);

    if (!prepare(r, qr, errp)) {
        restore_bitmaps(r->node->state, qr);
        state_free(qr);
        return false;
    }
    r->driver_state = qr;
    return true;
}

/* ---- into use, and back ------------------------------------------------- */

bool qcow2_reopen_activate(struct node_reopen *r, struct error **errp)
{
    struct qcow2 *s = r->node->state;
    struct qcow2_reopen *qr = r->driver_state;

    if (!take_file(s, qr, errp)) {
        return false;
    }
    if (!is_written(r) || s->writable) {
        return true;
    }
    s->writable = true;
    if (qcow2_make_clean(s, errp) < 0 || qcow2_clear_autoclear(s, errp) < 0 ||
        (!r->node->content_kept && !qcow2_bitmaps_set_in_use(s, true, errp)) ||
        !write_metadata(s, errp)) {
        s->writable = false;
        return false;
    }
    qr->activated = true;
    return true;
}

static void take_caches(struct qcow2 *s, struct qcow2_reopen *qr)
{
    struct qcow2_table_cache l2 = s->l2_cache, ref = s->ref_cache;

    g_assert(l2.n_dirty == 0 || s->corrupt);
    s->l2_cache = qr->l2_cache;
    s->ref_cache = qr->ref_cache;
    qr->l2_cache = l2;
    qr->ref_cache = ref;
}

void qcow2_reopen_commit(struct node_reopen *r)
{
    struct qcow2 *s = r->node->state;
    struct qcow2_reopen *qr = g_steal_pointer(&r->driver_state);
    bool was_writable = s->writable && !qr->activated;

    lock_acquire(&s->lock);
    s->opt = qr->opt;
    if (qr->new_caches) {
        take_caches(s, qr);
    }
    lock_release(&s->lock);
    s->node->invalidated_allowed = s->opt.allow_invalidated;
    if (qcow2_note_inactive(s) < 0) {
        error_report_text("Node '%s': the tables of its snapshots could not "
                          "be read to be guarded", s->node->name);
    }
    s->writable = is_written(r);
    if (was_writable != s->writable && !r->node->content_kept) {
        qcow2_bitmaps_set_readonly(s, r->read_only);
    }
    state_free(qr);
}

void qcow2_reopen_abort(struct node_reopen *r)
{
    struct qcow2 *s = r->node->state;
    struct qcow2_reopen *qr = g_steal_pointer(&r->driver_state);
    AUTO_ERROR(err);

    if (qr->activated) {
        if (!r->node->content_kept &&
            !qcow2_bitmaps_set_in_use(s, false, &err)) {
            error_report(err);
        }
        s->writable = false;
    }
    restore_bitmaps(s, qr);
    state_free(qr);
}
