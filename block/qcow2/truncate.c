/* SPDX-License-Identifier: MIT */
/*
 * Another length: growing (with preallocation) and shrinking.
 *
 * Order       Growing: a larger L1 table and what is preallocated are in the
 *             file before the header says the new length.  Shrinking: what is
 *             behind the new end is unmapped first.
 * Threads     Drained: no request runs.
 */
#include <errno.h>
#include <inttypes.h>
#include "block/cancel.h"
#include "block/qcow2/qcow2.h"

static int64_t l1_needed(const struct qcow2 *s, int64_t length)
{
    unsigned shift = s->cluster_bits + s->l2_bits;

    return (length >> shift) + !!(length & ((INT64_C(1) << shift) - 1));
}

bool qcow2_file_truncate(struct qcow2 *s, int64_t length, PreallocMode mode,
                         struct error **errp)
{
    return node_truncate_child(qcow2_file(s), length, false, mode, errp) >= 0;
}

/* ---- L1 table ---------------------------------------------------------- */

/* Larger arrays in memory, new entries empty.  Lock held. */
static int extend_l1(struct qcow2 *s, uint32_t entries)
{
    uint64_t *l1 = g_try_renew(uint64_t, s->l1, entries);
    uint8_t *dirty;

    if (!l1) {
        return -ENOMEM;
    }
    s->l1 = l1;
    dirty = g_try_realloc(s->l1_dirty, entries / QCOW2_TABLE_CHUNK + 1);
    if (!dirty) {
        return -ENOMEM;
    }
    s->l1_dirty = dirty;
    memset(dirty, 1, entries / QCOW2_TABLE_CHUNK + 1);
    memset(l1 + s->l1_entries, 0, (entries - s->l1_entries) * 8);
    return 0;
}

static int grow_l1(struct qcow2 *s, int64_t entries)
{
    int64_t old_end = qcow2_cluster_end(s, s->l1_entries * INT64_C(8));
    int64_t bytes = entries * 8, start = s->l1_offset, n;
    int ret;

    if (entries <= s->l1_entries) {
        return 0;
    }
    if (bytes > QCOW2_MAX_L1_BYTES) {
        return -EFBIG;
    }
    QCOW2_DEBUG(s, L1_GROW_ALLOC_TABLE);
    LOCK_GUARD(&s->lock);
    if (bytes > old_end) {
        n = qcow2_alloc_run(s, qcow2_cluster_end(s, bytes) >> s->cluster_bits,
                            true, &start, NULL);
        if (n < 0) {
            return n;
        }
    }
    ret = extend_l1(s, entries);
    if (ret < 0) {
        if (start != s->l1_offset) {
            qcow2_refcount_release(s, start, qcow2_cluster_end(s, bytes) >>
                                             s->cluster_bits);
        }
        return ret;
    }
    s->l1_entries = entries;
    s->l1_offset = start;
    s->l1_any_dirty = true;
    s->n_changes++;
    return qcow2_writeback(s);
}

/* Tables that describe only what is behind LENGTH now; they are empty. */
static void drop_tables(struct qcow2 *s, int64_t length, int64_t old_length)
{
    int64_t end = MIN(l1_needed(s, old_length), s->l1_entries);

    QCOW2_DEBUG(s, L1_SHRINK_WRITE_TABLE);
    QCOW2_DEBUG(s, L1_SHRINK_FREE_L2_CLUSTERS);
    LOCK_GUARD(&s->lock);
    for (int64_t i = l1_needed(s, length); i < end; i++) {
        int64_t table = s->l1[i] & QCOW2_OFFSET_MASK;
        if (table) {
            s->l1[i] = 0;
            qcow2_l1_dirty(s, i);
            qcow2_free_later(s, table, 1, QCOW2_FREE_TABLE);
        }
    }
}

/* ---- preallocation ----------------------------------------------------- */

static int write_zero_run(struct qcow2 *s, int64_t host, int64_t bytes)
{
    return node_pwrite_zeroes(qcow2_file(s), host, bytes, 0);
}

/* Clusters for a run of N from OFFSET without any; *N is how many there are
 * now.  Lock held. */
static int preallocate_run(struct qcow2 *s, int64_t offset, int64_t *n,
                           int64_t *file_end)
{
    struct qcow2_l2_change change = { .op = QCOW2_L2_RESERVE };
    int64_t bytes;
    bool fresh;
    int ret = 0;

    if (s->data) {
        change.host = offset;
        return qcow2_l2_set(s, offset, *n << s->cluster_bits, &change);
    }
    *n = qcow2_alloc_run(s, *n, false, &change.host, &fresh);
    if (*n < 0) {
        return *n;
    }
    bytes = *n << s->cluster_bits;
    if (!fresh) {
        lock_release(&s->lock);
        ret = write_zero_run(s, change.host, bytes);
        lock_acquire(&s->lock);
    }
    if (ret == 0) {
        ret = qcow2_l2_set(s, offset, bytes, &change);
    }
    if (ret < 0) {
        qcow2_refcount_release(s, change.host, *n);
    }
    *file_end = MAX(*file_end, change.host + bytes);
    return ret;
}

/* One step from OFFSET; *BYTES is how far it went. */
static int preallocate_step(struct qcow2 *s, int64_t offset, int64_t end,
                            int64_t *bytes, int64_t *file_end)
{
    struct qcow2_map map;
    int64_t n;
    int ret = qcow2_writeback_some(s);

    if (ret == 0) {
        ret = qcow2_lookup_for_write(s, offset, end - offset, &map);
    }
    if (ret < 0) {
        return ret;
    }
    n = MIN(MAX(map.bytes >> s->cluster_bits, 1),
            qcow2_l2_slice_left(s, offset));
    if (map.type == QCOW2_UNALLOCATED || map.type == QCOW2_ZERO_PLAIN) {
        ret = preallocate_run(s, offset, &n, file_end);
    }
    *bytes = n << s->cluster_bits;
    return ret;
}

static int preallocate_tables(struct qcow2 *s, int64_t offset, int64_t end,
                              int64_t *file_end)
{
    int ret = 0;

    LOCK_GUARD(&s->lock);
    while (offset < end && ret == 0) {
        int64_t bytes = 0;
        ret = cancel_asked() ? -ECANCELED
            : preallocate_step(s, offset, end, &bytes, file_end);
        offset += bytes;
    }
    return ret < 0 ? ret : qcow2_writeback_all(s);
}

/* How long the file can become when BYTES of data are allocated. */
static int64_t estimate_file(const struct qcow2 *s, int64_t bytes)
{
    int64_t n = bytes >> s->cluster_bits;
    int64_t tables = (n >> s->l2_bits) + 2;
    int64_t blocks = ((n + tables) >> s->refblock_bits) + 3;

    return qcow2_cluster_end(s, node_length(qcow2_file(s))) +
           ((n + tables + blocks) << s->cluster_bits);
}

static int preallocate(struct qcow2 *s, int64_t old_length, int64_t length,
                       PreallocMode mode, struct error **errp)
{
    int64_t start = qcow2_cluster_end(s, old_length);
    int64_t end = qcow2_cluster_end(s, length);
    int64_t file_end = 0;
    int ret;

    if (s->data) {
        PreallocMode data = mode == PREALLOC_MODE_METADATA
                          ? PREALLOC_MODE_OFF : mode;
        if (node_truncate_child(qcow2_data(s), length, false, data,
                                errp) < 0) {
            return -EIO;
        }
        if (s->data_raw) {
            mode = PREALLOC_MODE_METADATA;  /* all of it is allocated */
        }
    }
    if (mode == PREALLOC_MODE_OFF || start >= end) {
        return 0;
    }
    if (mode != PREALLOC_MODE_METADATA && !s->data &&
        !qcow2_file_truncate(s, estimate_file(s, end - start), mode, errp)) {
        error_prepend(errp, "Could not allocate data clusters: ");
        return -EIO;
    }
    ret = preallocate_tables(s, start, end, &file_end);
    if (ret < 0) {
        error_set_errno(errp, -ret, "Allocating clusters failed");
        return ret;
    }
    if (s->data) {
        return 0;
    }
    lock_acquire(&s->lock);
    file_end = s->zero_from;    /* behind everything allocated */
    lock_release(&s->lock);
    if (mode == PREALLOC_MODE_METADATA &&
        file_end <= node_length(qcow2_file(s))) {
        return 0;
    }
    return qcow2_file_truncate(s, file_end, PREALLOC_MODE_OFF, errp) ? 0
                                                                     : -EIO;
}

/* ---- both ways --------------------------------------------------------- */

/* The rest of the last cluster may hold old data: it must read as zeroes. */
static int zero_old_tail(struct qcow2 *s, int64_t offset, int64_t length)
{
    int64_t end = MIN(qcow2_cluster_end(s, offset), length);
    g_autofree uint8_t *zeroes = NULL;
    int ret = 0;

    if (offset >= end) {
        return 0;
    }
    zeroes = g_try_malloc0(end - offset);
    if (!zeroes) {
        return -ENOMEM;
    }
    while (offset < end && ret == 0) {
        struct qcow2_map map;
        lock_acquire(&s->lock);
        ret = qcow2_lookup(s, offset, end - offset, false, &map);
        lock_release(&s->lock);
        if (ret == 0 && (map.type == QCOW2_NORMAL ||
                         map.type == QCOW2_TYPE_COMPRESSED)) {
            ret = qcow2_pwrite(s->node, offset, map.bytes, zeroes, 0);
        }
        offset += ret == 0 ? map.bytes : 0;
    }
    return ret;
}

static int grow(struct qcow2 *s, int64_t old_length, int64_t length,
                PreallocMode prealloc, struct error **errp)
{
    int ret = grow_l1(s, l1_needed(s, length));

    if (ret < 0) {
        error_set_errno(errp, -ret, "Failed to grow the L1 table");
        return ret;
    }
    ret = zero_old_tail(s, old_length, length);
    if (ret < 0) {
        error_set_errno(errp, -ret, "Failed to zero the end of the image");
        return ret;
    }
    return preallocate(s, old_length, length, prealloc, errp);
}

/* Give the file system back what is behind the last cluster in use.  Only
 * space is lost when that fails. */
static void shrink_file(struct qcow2 *s)
{
    int64_t length = node_length(qcow2_file(s));
    int64_t n = qcow2_cluster_end(s, length) >> s->cluster_bits;
    uint64_t count = 0;

    lock_acquire(&s->lock);
    while (n > 0 && qcow2_refcount_get(s, n - 1, &count) == 0 && count == 0) {
        n--;
    }
    lock_release(&s->lock);
    if (n > 0 && n << s->cluster_bits < length) {
        qcow2_file_truncate(s, n << s->cluster_bits, PREALLOC_MODE_OFF, NULL);
    }
}

static int shrink(struct qcow2 *s, int64_t old_length, int64_t length,
                  struct error **errp)
{
    int64_t start = qcow2_cluster_end(s, length);
    int64_t end = qcow2_cluster_end(s, old_length);
    int ret = 0;

    if (start < end) {
        ret = qcow2_unmap(s, start, end - start);
    }
    if (ret == 0) {
        drop_tables(s, length, old_length);
        lock_acquire(&s->lock);
        ret = qcow2_writeback_all(s);
        lock_release(&s->lock);
    }
    if (ret < 0) {
        error_set_errno(errp, -ret, "Failed to discard cropped clusters");
        return ret;
    }
    shrink_file(s);
    if (s->data && node_truncate_child(qcow2_data(s), length, false,
                                       PREALLOC_MODE_OFF, errp) < 0) {
        return -EIO;
    }
    return 0;
}

static bool check_request(struct qcow2 *s, int64_t length,
                          PreallocMode prealloc, struct error **errp)
{
    if (length & 511) {
        error_set(errp, "The new size must be a multiple of 512");
        return false;
    }
    if (s->snapshots && s->snapshots->len > 0 && s->hdr.version < 3) {
        error_set(errp, "Can't resize a v2 image which has snapshots");
        return false;
    }
    if (length < node_length(s->node) && prealloc != PREALLOC_MODE_OFF) {
        error_set(errp, "Preallocation can't be used for shrinking an image");
        return false;
    }
    if (s->node->header_backing_file && prealloc != PREALLOC_MODE_OFF &&
        s->n_subs == 1) {
        error_set(errp, "Backing file and preallocation can only be used at "
                  "the same time if extended_l2 is on");
        return false;
    }
    if (s->hdr.version < 3 && s->node->backing &&
        node_length(s->node->backing->node) > node_length(s->node) &&
        qcow2_cluster_end(s, node_length(s->node)) < length) {
        /* What is below would show. */
        error_set_errno(errp, ENOTSUP, "Failed to zero out new clusters");
        return false;
    }
    return qcow2_bitmaps_can_resize(s, length, errp);
}

static int write_size(struct qcow2 *s, int64_t length)
{
    uint64_t old;
    int ret;

    LOCK_GUARD(&s->lock);
    ret = qcow2_writeback(s);
    if (ret < 0) {
        return ret;
    }
    old = s->hdr.size;
    s->hdr.size = length;
    ret = qcow2_header_write(s);
    if (ret < 0) {
        s->hdr.size = old;
    }
    return ret;
}

static int truncate_image(struct node *n, int64_t length,
                          PreallocMode prealloc, struct error **errp)
{
    struct qcow2 *s = n->state;
    int64_t old_length = node_length(n);
    int ret;

    if (!check_request(s, length, prealloc, errp)) {
        return -EINVAL;
    }
    if (length < old_length) {
        ret = shrink(s, old_length, length, errp);
    } else {
        ret = grow(s, old_length, length, prealloc, errp);
    }
    if (ret < 0) {
        return ret;
    }
    ret = write_size(s, length);
    if (ret < 0) {
        error_set_errno(errp, -ret, "Failed to update the image size");
        return ret;
    }
    atomic_store(&n->length_bytes, length);
    return 0;
}

int qcow2_truncate(struct node *n, int64_t length, bool exact,
                   PreallocMode prealloc, struct error **errp)
{
    struct qcow2 *s = n->state;
    int ret;

    qcow2_change_begin(s);
    ret = truncate_image(n, length, prealloc, errp);
    qcow2_change_end(s);
    return ret;
}
