/* SPDX-License-Identifier: MIT */
/*
 * Opening and closing an image.
 *
 * Order       header, extensions, features, options, tables, snapshots;
 *             then, if the image may be written, what an unclean end left
 *             behind (refcounts of a dirty image); then the bitmaps.
 *             Nothing is written before all of it was read and checked.
 */
#include <errno.h>
#include <inttypes.h>
#include <string.h>
#include <sys/mman.h>
#include "block/qcow2/qcow2.h"

enum {
    FIRST_BYTES = 512,
    TABLE_PIECE = 2048,         /* entries of a table that are read at once */
};

/* ---- first cluster ----------------------------------------------------- */

static void read_names(struct qcow2 *s, const uint8_t *cluster)
{
    s->header_used_bytes = s->hdr.header_bytes;
    if (s->hdr.backing_offset && s->hdr.backing_bytes) {
        s->backing_name = g_strndup((const char *)cluster +
                                    s->hdr.backing_offset,
                                    s->hdr.backing_bytes);
        s->header_used_bytes = s->hdr.backing_offset + s->hdr.backing_bytes;
    }
}

/* What the header says of a backing format; owned, or NULL. */
char *qcow2_backing_format(const struct qcow2 *s)
{
    const struct qcow2_ext *format = qcow2_ext_find(s->exts,
                                                    QCOW2_EXT_BACKING_FORMAT);

    return format && s->backing_name
           ? g_strndup((const char *)format->data, format->bytes) : NULL;
}

/* Fields behind those we know are kept. */
static void keep_extra(struct qcow2 *s, const uint8_t *cluster)
{
    s->header_extra = g_byte_array_new();
    if (s->hdr.header_bytes > QCOW2_HEADER_OUR_BYTES) {
        g_byte_array_append(s->header_extra, cluster + QCOW2_HEADER_OUR_BYTES,
                            s->hdr.header_bytes - QCOW2_HEADER_OUR_BYTES);
    }
}

static int take_first_cluster(struct qcow2 *s, const uint8_t *cluster,
                              struct error **errp)
{
    size_t end = s->hdr.backing_offset ? s->hdr.backing_offset
                                       : s->cluster_bytes;

    keep_extra(s, cluster);
    s->exts = qcow2_exts_new();
    if (!qcow2_exts_decode(s->exts, cluster, s->hdr.header_bytes, end, errp)) {
        return -EINVAL;
    }
    /* Damaged: bitmaps.c tells. */
    qcow2_ext_bitmaps(s->exts, s->cluster_bytes, &s->bitmaps, NULL);
    read_names(s, cluster);
    return 0;
}

/* Not on the heap: what was written there and freed would become tables of
 * images, which are mostly zero and should cost nothing. */
static int read_first_cluster(struct qcow2 *s, struct error **errp)
{
    uint8_t *cluster = mmap(NULL, s->cluster_bytes, PROT_READ | PROT_WRITE,
                            MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    int ret;

    if (cluster == MAP_FAILED) {
        error_set_errno(errp, errno, "Could not read qcow2 header");
        return -ENOMEM;
    }
    ret = qcow2_file_pread(s, 0, s->cluster_bytes, cluster, 0);
    if (ret < 0) {
        error_set_errno(errp, -ret, "Could not read qcow2 header");
    } else {
        ret = take_first_cluster(s, cluster, errp);
    }
    munmap(cluster, s->cluster_bytes);
    return ret;
}

static void set_geometry(struct qcow2 *s)
{
    s->cluster_bits = s->hdr.cluster_bits;
    s->cluster_bytes = INT64_C(1) << s->cluster_bits;
    s->n_subs = s->hdr.incompatible & QCOW2_INCOMPAT_EXTENDED_L2 ? 32 : 1;
    s->sub_bits = s->cluster_bits - (s->n_subs > 1 ? 5 : 0);
    s->sub_bytes = INT64_C(1) << s->sub_bits;
    s->entry_shift = s->n_subs > 1 ? 4 : 3;
    s->l2_bits = s->cluster_bits - s->entry_shift;
    s->refcount_order = s->hdr.refcount_order;
    s->data_raw = s->data && (s->hdr.autoclear & QCOW2_AUTOCLEAR_RAW_DATA);
    s->refblock_bits = s->cluster_bits + 3 - s->refcount_order;
    s->refcount_max = UINT64_MAX >> (64 - (1U << s->refcount_order));
}

static int read_header(struct qcow2 *s, struct error **errp)
{
    uint8_t buf[FIRST_BYTES];
    int ret;

    ret = qcow2_file_pread(s, 0, sizeof(buf), buf, 0);
    if (ret < 0) {
        error_set_errno(errp, -ret, "Could not read qcow2 header");
        return ret;
    }
    if (!qcow2_header_decode(&s->hdr, buf, errp)) {
        return -EINVAL;
    }
    set_geometry(s);
    return read_first_cluster(s, errp);
}

static int check_features(struct qcow2 *s, struct error **errp)
{
    uint64_t unknown = s->hdr.incompatible & ~QCOW2_INCOMPAT_KNOWN;

    if (unknown) {
        g_autofree char *names = qcow2_feature_names(s->exts, unknown);
        error_set(errp, "Unsupported qcow2 feature(s): %s", names);
        return -ENOTSUP;
    }
    if (s->data && s->hdr.n_snapshots > 0) {
        error_set(errp, "Image with external data file has internal "
                  "snapshots");
        return -EINVAL;
    }
    if (s->hdr.crypt_method != QCOW2_CRYPT_LUKS &&
        qcow2_ext_find(s->exts, QCOW2_EXT_CRYPTO)) {
        error_set(errp, "CRYPTO header extension only expected with LUKS "
                  "encryption method");
        return -EINVAL;
    }
    if ((s->hdr.incompatible & QCOW2_INCOMPAT_CORRUPT) && s->writable) {
        error_set(errp, "qcow2: Image is corrupt; cannot be opened "
                  "read/write");
        return -EACCES;
    }
    return 0;
}

/* ---- tables ------------------------------------------------------------ */

/* Most of a table is zero: that is never written to, and costs no memory. */
static int read_table_pieces(struct qcow2 *s, int64_t offset, int64_t bytes,
                             uint64_t *table)
{
    uint64_t piece[TABLE_PIECE];

    for (int64_t i = 0; i < bytes / 8; i += TABLE_PIECE) {
        int64_t n = MIN(TABLE_PIECE, bytes / 8 - i);
        int ret = qcow2_file_pread(s, offset + i * 8, n * 8, piece, 0);

        if (ret < 0) {
            return ret;
        }
        for (int64_t k = 0; k < n; k++) {
            if (piece[k]) {
                table[i + k] = be64toh(piece[k]);
            }
        }
    }
    return 0;
}

/* A table of ENTRIES at OFFSET in the host's order; owned, NULL with errp. */
static uint64_t *read_table(struct qcow2 *s, const char *what, int64_t offset,
                            uint32_t entries, struct error **errp)
{
    int64_t bytes = entries * INT64_C(8);
    uint64_t *table = g_try_malloc0(MAX(bytes, 8));
    int ret = -ENOMEM;

    if (table && entries && offset >= node_length(qcow2_file(s))) {
        ret = -EIO;     /* the file was cut off */
    } else if (table) {
        ret = read_table_pieces(s, offset, bytes, table);
    }
    if (ret < 0) {
        error_set_errno(errp, -ret, "Could not read %s", what);
        g_free(table);
        return NULL;
    }
    return table;
}

void qcow2_note_tables(struct qcow2 *s)
{
    g_clear_pointer(&s->tables, qcow2_cluster_set_free);
    s->tables = qcow2_cluster_set_new();
    for (uint32_t i = 0; i < s->l1_entries; i++) {
        uint64_t offset = s->l1[i] & QCOW2_OFFSET_MASK;
        if (!(offset & (s->cluster_bytes - 1))) {
            qcow2_cluster_set_add(s->tables, offset, QCOW2_SET_L2);
        }
    }
    for (uint32_t i = 0; i < s->reftable_entries; i++) {
        uint64_t offset = s->reftable[i] & QCOW2_REFTABLE_OFFSET_MASK;
        if (!(offset & (s->cluster_bytes - 1)) && offset < INT64_MAX / 2) {
            qcow2_cluster_set_add(s->tables, offset, QCOW2_SET_REFBLOCK);
        }
    }
}

static int read_tables(struct qcow2 *s, struct error **errp)
{
    s->l1_entries = s->hdr.l1_entries;
    s->l1_offset = s->hdr.l1_offset;
    s->reftable_entries = ((int64_t)s->hdr.reftable_clusters
                           << s->cluster_bits) / 8;
    s->reftable_offset = s->hdr.reftable_offset;
    s->reftable_bytes = s->reftable_entries * INT64_C(8);
    s->l1 = read_table(s, "L1 table", s->l1_offset, s->l1_entries, errp);
    if (!s->l1) {
        return -EIO;
    }
    QCOW2_DEBUG(s, REFTABLE_LOAD);
    s->reftable = read_table(s, "refcount table", s->reftable_offset,
                             s->reftable_entries, errp);
    if (!s->reftable) {
        return -EIO;
    }
    s->l1_dirty = g_malloc0(s->l1_entries / QCOW2_TABLE_CHUNK + 1);
    s->reftable_dirty = g_malloc0(s->reftable_entries / QCOW2_TABLE_CHUNK + 1);
    qcow2_note_tables(s);
    s->zero_from = qcow2_cluster_end(s, node_length(qcow2_file(s)));
    if (!qcow2_table_cache_init(&s->l2_cache, s->opt.l2_entry_bytes,
                                s->opt.l2_cache_bytes) ||
        !qcow2_table_cache_init(&s->ref_cache, MIN(s->cluster_bytes, 4096),
                                s->opt.refcount_cache_bytes)) {
        error_set_errno(errp, ENOMEM, "Could not allocate table caches");
        return -ENOMEM;
    }
    return 0;
}

/* ---- before the first write -------------------------------------------- */

int qcow2_clear_autoclear(struct qcow2 *s, struct error **errp)
{
    uint64_t keep = QCOW2_AUTOCLEAR_BITMAPS |
                    (s->data ? QCOW2_AUTOCLEAR_RAW_DATA : 0);
    int ret;

    if (!(s->hdr.autoclear & ~keep)) {
        return 0;
    }
    s->hdr.autoclear &= keep;
    lock_acquire(&s->lock);
    ret = qcow2_header_write(s);
    lock_release(&s->lock);
    if (ret < 0) {
        error_set_errno(errp, -ret, "Could not update qcow2 header");
    }
    return ret;
}

int qcow2_make_clean(struct qcow2 *s, struct error **errp)
{
    int ret;

    if (!(s->hdr.incompatible & QCOW2_INCOMPAT_DIRTY)) {
        return 0;
    }
    ret = qcow2_rebuild_refcounts(s, errp);
    if (ret < 0) {
        error_prepend(errp, "Could not repair dirty image: ");
        return ret;
    }
    lock_acquire(&s->lock);
    ret = qcow2_header_set_incompatible(s, QCOW2_INCOMPAT_DIRTY, false);
    lock_release(&s->lock);
    if (ret < 0) {
        error_set_errno(errp, -ret, "Could not update qcow2 header");
    }
    return ret;
}

/* ---- open and close ---------------------------------------------------- */

void qcow2_wait_background(struct qcow2 *s)
{
    LOCK_GUARD(&s->lock);
    while (s->n_background > 0) {
        cond_wait(&s->changed, &s->lock);
    }
}

static void free_image(struct qcow2 *s)
{
    qcow2_bitmaps_close(s);
    qcow2_snapshots_free(s);
    qcow2_table_cache_deinit(&s->l2_cache);
    qcow2_table_cache_deinit(&s->ref_cache);
    g_clear_pointer(&s->l1, g_free);
    g_clear_pointer(&s->l1_dirty, g_free);
    g_clear_pointer(&s->reftable, g_free);
    g_clear_pointer(&s->reftable_dirty, g_free);
    g_clear_pointer(&s->tables, qcow2_cluster_set_free);
    g_clear_pointer(&s->backing_name, g_free);
    if (s->exts) {
        g_ptr_array_free(s->exts, TRUE);
    }
    if (s->header_extra) {
        g_byte_array_free(s->header_extra, TRUE);
    }
    g_array_free(s->frees, TRUE);
}

void qcow2_free(struct qcow2 *s)
{
    qcow2_wait_background(s);
    free_image(s);
    range_lock_deinit(&s->guest);
    cond_deinit(&s->changed);
    lock_deinit(&s->lock);
}

void qcow2_init(struct qcow2 *s, struct node *n)
{
    s->node = n;
    lock_init(&s->lock, "qcow2", LOCK_QCOW2);
    cond_init(&s->changed);
    range_lock_init(&s->guest, "qcow2-guest");
}

int qcow2_read_image(struct qcow2 *s, const BlockdevOptions *options,
                     struct error **errp)
{
    int ret;

    s->frees = g_array_new(FALSE, FALSE, sizeof(struct qcow2_free));
    ret = read_header(s, errp);

    if (ret == 0) {
        ret = check_features(s, errp);
    }
    if (ret == 0 && !qcow2_options_read(s, options, &s->opt, errp)) {
        ret = -EINVAL;
    }
    if (ret == 0 && !s->node->opened) {
        ret = qcow2_check_invalidated(s, options, errp);
    }
    if (ret == 0) {
        ret = read_tables(s, errp);
    }
    if (ret == 0) {
        ret = qcow2_snapshots_read(s, errp);
    }
    if (ret == 0) {
        ret = qcow2_note_inactive(s);
        if (ret < 0) {
            error_set_errno(errp, -ret, "Failed to read a snapshot's L1 "
                            "table");
        }
    }
    if (ret == 0 && s->writable) {
        ret = qcow2_make_clean(s, errp);
    }
    if (ret == 0 && s->writable) {
        ret = qcow2_clear_autoclear(s, errp);
    }
    if (ret == 0 && !qcow2_bitmaps_load(s, errp)) {
        ret = -EINVAL;
    }
    return ret;
}

int qcow2_open(struct node *n, const BlockdevOptions *options,
               struct error **errp)
{
    struct qcow2 *s = n->state;
    int ret;

    qcow2_init(s, n);
    s->writable = !n->read_only && !n->inactive;
    for (const struct child *c = n->children; c; c = c->next_sibling) {
        if (strcmp(c->name, "data-file") == 0) {
            s->data = c;
        }
    }

    ret = qcow2_read_image(s, options, errp);
    if (ret == 0) {
        n->header_backing_file = g_strdup(s->backing_name);
        n->header_backing_format = qcow2_backing_format(s);
        atomic_store(&n->length_bytes, (int64_t)s->hdr.size);
        n->supported_zero_flags = BLK_MAY_UNMAP;
        n->supported_write_flags = s->data ? 0 : BLK_COMPRESSED;
    } else {
        qcow2_free(s);
        memset(s, 0, sizeof(*s));
    }
    return ret;
}

int qcow2_store_metadata(struct qcow2 *s)
{
    int ret = qcow2_writeback_all(s);

    if (ret == 0) {
        lock_release(&s->lock);
        ret = node_flush(qcow2_file(s));
        lock_acquire(&s->lock);
    }
    if (ret == 0 && s->lazy_dirty) {
        ret = qcow2_header_set_incompatible(s, QCOW2_INCOMPAT_DIRTY, false);
        s->lazy_dirty = ret < 0;
    }
    return ret;
}

static bool is_corrupt(struct qcow2 *s)
{
    LOCK_GUARD(&s->lock);
    return s->corrupt;
}

void qcow2_close(struct node *n)
{
    struct qcow2 *s = n->state;
    uint32_t l2_dirty, ref_dirty;
    int ret = 0;

    if (s->writable && !is_corrupt(s)) {
        qcow2_bitmaps_store(s);
        lock_acquire(&s->lock);
        ret = qcow2_store_metadata(s);
        l2_dirty = s->l2_cache.n_dirty;
        ref_dirty = s->ref_cache.n_dirty;
        lock_release(&s->lock);
        if (ret < 0 && (l2_dirty || !ref_dirty)) {
            error_report_text("Failed to flush the L2 table cache: %s",
                              error_errno_text(-ret));
        }
        if (ret < 0 && ref_dirty) {
            error_report_text("Failed to flush the refcount block cache: %s",
                              error_errno_text(-ret));
        }
    }
    qcow2_free(s);
}
