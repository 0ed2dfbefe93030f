/* SPDX-License-Identifier: MIT */
/*
 * blockdev-create for qcow2: lay an empty image out, and, for preallocation,
 * let the driver itself grow it.
 *
 * Layout      header | refcount table | refcount blocks | L1 table.  An empty
 *             file ends with the last entry of the L1 table, as QEMU's does.
 * In place    The node below may be longer, of a fixed size, or an image
 *             itself: it is made as long as needed, and what it holds behind
 *             the tables stays (a cluster is zeroed when it comes into use).
 *             Nothing is written before there is room.
 */
#include <errno.h>
#include <inttypes.h>
#include <string.h>
#include "base/control.h"
#include "block/qcow2/create-priv.h"
#include "block/root.h"

/* ---- layout ------------------------------------------------------------ */

static int64_t div_up(int64_t n, int64_t d)
{
    return n / d + (n % d != 0);
}

static void place(struct create_layout *l)
{
    int64_t per_block = ((int64_t)l->cluster_bytes * 8) >>
                        l->h.refcount_order;
    int64_t last;

    l->refblocks = l->reftable_clusters = 1;
    do {
        last = l->clusters;
        l->clusters = 1 + l->reftable_clusters + l->refblocks +
                      l->l1_clusters;
        l->refblocks = div_up(l->clusters, per_block);
        l->reftable_clusters = div_up(l->refblocks * 8, l->cluster_bytes);
    } while (l->clusters != last);
    l->h.reftable_offset = l->cluster_bytes;
    l->h.reftable_clusters = l->reftable_clusters;
    l->h.l1_offset = l->l1_clusters ? (l->clusters - l->l1_clusters)
                                      * (int64_t)l->cluster_bytes : 0;
}

static bool make_layout(const BlockdevCreateOptionsQcow2 *o,
                        struct create_layout *l, struct error **errp)
{
    struct qcow2_header *h = &l->h;
    int64_t l1_covers, size;

    h->refcount_order = __builtin_ctz(o->has_refcount_bits ? o->refcount_bits
                                                           : 16);
    h->header_bytes = h->version < 3 ? QCOW2_HEADER_V2_BYTES
                                     : QCOW2_HEADER_OUR_BYTES;
    if (o->has_lazy_refcounts && o->lazy_refcounts) {
        h->compatible |= QCOW2_COMPAT_LAZY_REFCOUNTS;
    }
    if (o->has_compression_type &&
        o->compression_type == QCOW2_COMPRESSION_TYPE_ZSTD) {
        h->compression_type = QCOW2_COMPRESSION_ZSTD;
        h->incompatible |= QCOW2_INCOMPAT_COMPRESSION;
    }
    l->prealloc = o->has_preallocation ? o->preallocation : PREALLOC_MODE_OFF;
    if (o->data_file) {
        h->incompatible |= QCOW2_INCOMPAT_DATA_FILE;
        l->grow = true;         /* the data file gets its length with it */
    }
    if (o->has_data_file_raw && o->data_file_raw) {
        h->autoclear |= QCOW2_AUTOCLEAR_RAW_DATA;
    }
    l->grow |= l->prealloc != PREALLOC_MODE_OFF;
    if (o->backing_file && *o->backing_file) {
        l->backing_file = o->backing_file;
        l->backing_format = o->has_backing_fmt
                          ? BlockdevDriver_str(o->backing_fmt) : NULL;
    }
    l1_covers = (int64_t)l->cluster_bytes * (l->cluster_bytes / 8);
    if (o->has_extended_l2 && o->extended_l2) {
        h->incompatible |= QCOW2_INCOMPAT_EXTENDED_L2;
        l1_covers /= 2;
    }
    if (div_up(o->size, l1_covers) > QCOW2_MAX_L1_BYTES / 8) {
        error_set_errno(errp, EFBIG, "Could not resize image: Failed to grow "
                        "the L1 table");
        return false;
    }
    size = l->grow ? 0 : o->size;
    h->size = size;
    h->l1_entries = div_up(size, l1_covers);
    l->l1_clusters = div_up(h->l1_entries * INT64_C(8), l->cluster_bytes);
    place(l);
    return true;
}

static GByteArray *compose_header(struct create_layout *l)
{
    GPtrArray *exts = qcow2_exts_new();
    GByteArray *out;

    if (l->backing_format) {
        qcow2_ext_set(exts, QCOW2_EXT_BACKING_FORMAT, l->backing_format,
                      strlen(l->backing_format));
    }
    if (l->data_file) {
        qcow2_ext_set(exts, QCOW2_EXT_DATA_FILE, l->data_file,
                      strlen(l->data_file));
    }
    /* The names are for people; a small cluster has no room for them. */
    if (l->h.version >= 3 && l->cluster_bytes >= 4096) {
        qcow2_ext_set_feature_names(exts);
    }
    out = qcow2_header_compose(&l->h, NULL, exts, l->backing_file);
    g_ptr_array_free(exts, TRUE);
    return out;
}

/* ---- writing it: control lock given up --------------------------------- */

static int write_refcounts(struct node *f, const struct create_layout *l)
{
    int64_t table_bytes = l->reftable_clusters * l->cluster_bytes;
    int64_t bytes = table_bytes + l->refblocks * l->cluster_bytes;
    g_autofree uint8_t *buf = g_try_malloc0(bytes);

    if (!buf) {
        return -ENOMEM;
    }
    for (int64_t i = 0; i < l->refblocks; i++) {
        store_be64(buf + i * 8, l->h.reftable_offset + table_bytes +
                                i * l->cluster_bytes);
    }
    for (int64_t i = 0; i < l->clusters; i++) {
        qcow2_refcount_store(buf + table_bytes, i, l->h.refcount_order, 1);
    }
    return node_pwrite(f, l->h.reftable_offset, bytes, buf, 0);
}

/* No image that was here before has its header when its tables go. */
static int write_tables(struct node *f, const struct create_layout *l)
{
    int64_t l1_bytes = l->h.l1_entries * INT64_C(8);
    g_autofree uint8_t *l1 = g_try_malloc0(MAX(l1_bytes, 8));
    int ret = l1 ? node_pwrite_zeroes(f, 0, l->cluster_bytes, 0) : -ENOMEM;

    if (ret == 0) {
        ret = node_flush(f);
    }
    if (ret == 0) {
        ret = write_refcounts(f, l);
    }
    return ret < 0 ? ret : node_pwrite(f, l->h.l1_offset, l1_bytes, l1, 0);
}

/* HEADER goes last: before it, this is no qcow2 image.  Then look, for null-co
 * forgets all: false in *KEPT. */
static int write_image(struct node *f, const struct create_layout *l,
                       const GByteArray *header, bool *kept)
{
    uint8_t magic[4] = { 0 };
    int ret = write_tables(f, l);

    if (ret == 0) {
        ret = node_pwrite(f, 0, header->len, header->data, 0);
    }
    if (ret == 0) {
        ret = node_flush(f);
    }
    if (ret == 0) {
        ret = node_pread(f, 0, sizeof(magic), magic, 0);
    }
    *kept = memcmp(magic, header->data, sizeof(magic)) == 0;
    return ret;
}

/* ---- control path ------------------------------------------------------ */

/* Resize N in a drained section. */
static bool resize_drained(struct node *n, int64_t length,
                           PreallocMode prealloc, struct error **errp)
{
    struct drain *d = drain_begin(&n, 1);
    bool ok = node_truncate(n, length, prealloc, errp);

    drain_end(&d);
    return ok;
}

/* Make F long enough for what is to be written. */
static bool make_room(struct node *f, const struct create_layout *l,
                      struct error **errp)
{
    int64_t end = l->l1_clusters ? l->h.l1_offset + l->h.l1_entries * INT64_C(8)
                                 : l->clusters * (int64_t)l->cluster_bytes;

    if ((l->prealloc == PREALLOC_MODE_FALLOC ||
         l->prealloc == PREALLOC_MODE_FULL) &&
        (f->driver->is_protocol || f->driver->may_grow)) {
        /* All is allocated anew, not behind the old.  If it cannot be cut,
         * nothing has changed. */
        resize_drained(f, 0, PREALLOC_MODE_OFF, NULL);
    }
    if (end <= node_length(f)) {
        return true;
    }
    if (!f->driver->is_protocol) {
        end = (end + 511) & ~INT64_C(511);
    }
    return resize_drained(f, end, PREALLOC_MODE_OFF, errp);
}

static bool write_header_and_tables(struct root *root,
                                    const struct create_layout *l,
                                    const GByteArray *header,
                                    struct error **errp)
{
    bool kept = true;
    int ret = 0;

    CONTROL_YIELD {
        root_enter(root);
        ret = write_image(root_node(root), l, header, &kept);
        root_leave(root);
    }
    if (ret < 0) {
        error_set_errno(errp, -ret, "Could not create qcow2 image");
    } else if (!kept) {
        error_set(errp, "Image is not in qcow2 format");
    }
    return ret == 0 && kept;
}

static bool write_to(struct node *f, struct create_layout *l,
                     struct error **errp)
{
    static const struct root_options options = {
        .name = "root", .perm = PERM_WRITE | PERM_RESIZE, .shared = PERM_ALL,
    };
    g_autoptr(GByteArray) header = compose_header(l);
    struct root *root;
    bool ok;

    if (header->len > l->cluster_bytes) {
        error_set(errp, "Could not assign backing file '%s': the header has "
                  "no room for its name",
                  l->backing_file ? l->backing_file : "");
        return false;
    }
    root = root_new(f, &options, errp);
    if (!root) {
        return false;
    }
    ok = make_room(f, l, errp) &&
         write_header_and_tables(root, l, header, errp);
    root_free(&root);
    return ok;
}

static BlockdevRef *ref_to(struct node *n)
{
    BlockdevRef *ref = BlockdevRef_new0();

    ref->type = QAPI_TYPE_STRING;
    ref->u.reference = g_strdup(node_name(n));
    return ref;
}

/* Open what was made in F (data in DATA, if not NULL) and let it grow. */
static bool grow(struct node *f, struct node *data, int64_t length,
                 PreallocMode mode, struct error **errp)
{
    static const struct root_options options = {
        .name = "root", .perm = PERM_WRITE | PERM_RESIZE, .shared = PERM_ALL,
    };
    g_autoptr(BlockdevOptions) o = BlockdevOptions_new0();
    struct node *n;
    struct root *root;
    bool ok = false;

    o->driver = BLOCKDEV_DRIVER_QCOW2;
    o->u.qcow2.file = ref_to(f);
    o->u.qcow2.data_file = data ? ref_to(data) : NULL;
    o->u.qcow2.backing = BlockdevRefOrNull_new0();
    o->u.qcow2.backing->type = QAPI_TYPE_NULL;
    n = node_open(o, errp);
    if (!n) {
        return false;
    }
    root = root_new(n, &options, errp);
    if (root) {
        ok = resize_drained(n, length, mode, errp);
        if (!ok) {
            error_prepend(errp, "Could not resize image: ");
        }
        root_free(&root);
    }
    node_unref(n);
    return ok;
}

static bool create_in(struct node *f, struct node *data,
                      const BlockdevCreateOptionsQcow2 *o,
                      struct create_layout *l, struct error **errp)
{
    bool ok;

    if (data) {
        if (data->filename[0] == '\0') {
            error_set(errp, "The data file '%s' has no name to store",
                      node_name(data));
            return false;
        }
        l->data_file = g_strdup(data->filename);
    }
    ok = write_to(f, l, errp);
    g_free(l->data_file);
    return ok && (!l->grow || grow(f, data, o->size, l->prealloc, errp));
}

bool qcow2_create(const BlockdevCreateOptions *options, struct error **errp)
{
    const BlockdevCreateOptionsQcow2 *o = &options->u.qcow2;
    struct create_layout l = { 0 };
    struct node *f, *data = NULL;
    bool ok;

    f = node_open_ref(o->file, errp);
    if (!f) {
        return false;
    }
    ok = qcow2_create_check(o, &l, errp) && make_layout(o, &l, errp);
    if (ok && o->data_file) {
        data = node_open_ref(o->data_file, errp);
        ok = data != NULL;
    }
    ok = ok && create_in(f, data, o, &l, errp);
    node_unref(data);
    node_unref(f);
    return ok;
}
