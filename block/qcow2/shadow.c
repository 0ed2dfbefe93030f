/* SPDX-License-Identifier: MIT */
/*
 * Shadow: the part that counts.  shadow-commit.c writes.
 *
 * Problem     Making or deleting an internal snapshot changes the refcounts
 *             of all clusters and, with them, the COPIED flag of each entry
 *             in the active tables.  A crash between the two is damage to
 *             qemu-img check.
 * Answer      Nothing that the file's header reaches is changed in place.
 *             New copies of the refcount blocks, L2 tables and tables above
 *             them go to free clusters; one write of the header, behind a
 *             barrier, makes them the image's; then the old ones are freed.
 * Invariants  I1  Until the header is written the image in the file is the
 *                 old one, with leaks; from then on it is the new one, with
 *                 leaks.
 *             I2  A count is what the stored one says plus its delta.  The
 *                 stored ones are read late: allocating changes them.
 */
#include <errno.h>
#include "block/qcow2/shadow-priv.h"

enum { MAX_CHUNK_BITS = 12 };

int qcow2_shadow_new(struct qcow2 *s, struct qcow2_shadow **out)
{
    struct qcow2_shadow *sh;
    int ret;

    lock_acquire(&s->lock);
    ret = s->corrupt ? -EIO : qcow2_writeback_all(s);
    lock_release(&s->lock);
    if (ret < 0) {
        return ret;
    }
    sh = g_new0(struct qcow2_shadow, 1);
    sh->s = s;
    sh->chunk_bits = MIN(s->refblock_bits, MAX_CHUNK_BITS);
    sh->chunks = g_hash_table_new_full(g_int64_hash, g_int64_equal, g_free,
                                       NULL);
    sh->tables = g_array_new(FALSE, FALSE, sizeof(struct shadow_place));
    sh->blocks = g_array_new(FALSE, FALSE, sizeof(struct shadow_place));
    sh->taken = g_array_new(FALSE, FALSE, sizeof(struct qcow2_free));
    sh->buf = g_try_malloc(s->cluster_bytes);
    sh->l1 = g_try_malloc(MAX(s->l1_entries, 1) * sizeof(*sh->l1));
    if (!sh->buf || !sh->l1) {
        qcow2_shadow_free(sh);
        return -ENOMEM;
    }
    memcpy(sh->l1, s->l1, s->l1_entries * sizeof(*sh->l1));
    *out = sh;
    return 0;
}

void qcow2_shadow_free(struct qcow2_shadow *sh)
{
    if (!sh) {
        return;
    }
    g_hash_table_destroy(sh->chunks);
    g_array_free(sh->tables, TRUE);
    g_array_free(sh->blocks, TRUE);
    g_array_free(sh->taken, TRUE);
    g_free(sh->buf);
    g_free(sh->l1);
    g_free(sh->reftable);
    g_free(sh);
}

/* ---- deltas ------------------------------------------------------------ */

static struct shadow_chunk *find_chunk(struct qcow2_shadow *sh,
                                       int64_t cluster, bool make)
{
    int64_t number = cluster >> sh->chunk_bits;
    struct shadow_chunk *c = g_hash_table_lookup(sh->chunks, &number);

    if (!c && make) {
        c = g_try_malloc0(sizeof(*c) + (sizeof(c->delta[0])
                                        << sh->chunk_bits));
        if (c) {
            c->number = number;
            g_hash_table_insert(sh->chunks, &c->number, c);
        }
    }
    return c;
}

int qcow2_shadow_add(struct qcow2_shadow *sh, int64_t offset, int64_t bytes,
                     int delta)
{
    struct qcow2 *s = sh->s;
    int64_t end;

    if (bytes == 0) {
        return 0;
    }
    if (offset < 0 || bytes < 0 || offset > QCOW2_MAX_HOST_OFFSET - bytes) {
        return -EIO;
    }
    end = (offset + bytes - 1) >> s->cluster_bits;
    for (int64_t i = offset >> s->cluster_bits; i <= end; i++) {
        int64_t block = i >> s->refblock_bits;
        struct shadow_chunk *c;
        if (block >= s->reftable_entries ||
            !(s->reftable[block] & QCOW2_REFTABLE_OFFSET_MASK)) {
            return -EIO;        /* in use, and never counted */
        }
        c = find_chunk(sh, i, true);
        if (!c) {
            return -ENOMEM;
        }
        c->delta[i & ((1 << sh->chunk_bits) - 1)] += delta;
    }
    return 0;
}

int qcow2_shadow_get(struct qcow2_shadow *sh, int64_t cluster, int64_t *count)
{
    struct shadow_chunk *c = find_chunk(sh, cluster, false);
    int32_t delta = c ? c->delta[cluster & ((1 << sh->chunk_bits) - 1)] : 0;
    uint64_t stored;
    int ret;

    LOCK_GUARD(&sh->s->lock);
    ret = qcow2_refcount_get(sh->s, cluster, &stored);
    if (ret < 0) {
        return ret;
    }
    if (delta < 0 ? stored < (uint64_t)-delta
                  : (uint64_t)delta > sh->s->refcount_max - stored) {
        return delta < 0 ? -EIO : -EINVAL;
    }
    *count = MIN(stored + delta, INT64_MAX);
    return 0;
}

/* ---- references of tables ---------------------------------------------- */

int qcow2_shadow_read(struct qcow2_shadow *sh, int64_t offset)
{
    struct qcow2 *s = sh->s;

    if (offset & (s->cluster_bytes - 1) ||
        offset >= node_length(qcow2_file(s))) {
        return -EIO;
    }
    return qcow2_file_pread(s, offset, s->cluster_bytes, sh->buf, 0);
}

static int count_entry(struct qcow2_shadow *sh, uint64_t entry, int delta)
{
    int64_t offset, bytes;

    switch (qcow2_entry_type(sh->s, entry)) {
    case QCOW2_TYPE_COMPRESSED:
        qcow2_compressed_extent(sh->s, entry, &offset, &bytes);
        return qcow2_shadow_add(sh, offset, bytes, delta);
    case QCOW2_NORMAL:
    case QCOW2_ZERO_ALLOC:
        return qcow2_shadow_add(sh, entry & QCOW2_OFFSET_MASK,
                                sh->s->cluster_bytes, delta);
    default:
        return 0;
    }
}

int qcow2_shadow_count_l1(struct qcow2_shadow *sh, const uint64_t *l1,
                          uint32_t entries, int delta)
{
    struct qcow2 *s = sh->s;
    int ret = 0;

    for (uint32_t i = 0; ret == 0 && i < entries; i++) {
        int64_t table = l1[i] & QCOW2_OFFSET_MASK;
        if (!table) {
            continue;
        }
        ret = qcow2_shadow_read(sh, table);
        if (ret == 0) {
            ret = qcow2_shadow_add(sh, table, s->cluster_bytes, delta);
        }
        for (int64_t k = 0; ret == 0 && k < s->cluster_bytes;
             k += 1 << s->entry_shift) {
            ret = count_entry(sh, load_be64(sh->buf + k), delta);
        }
    }
    return ret;
}

/* ---- COPIED flags of the active tables --------------------------------- */

int qcow2_shadow_flag(struct qcow2_shadow *sh, uint64_t *entry)
{
    enum qcow2_type type = qcow2_entry_type(sh->s, *entry);
    int64_t count;
    int ret;

    if (type != QCOW2_NORMAL && type != QCOW2_ZERO_ALLOC) {
        return 0;
    }
    ret = qcow2_shadow_get(sh, (*entry & QCOW2_OFFSET_MASK) >>
                               sh->s->cluster_bits, &count);
    *entry &= ~QCOW2_COPIED;
    *entry |= ret == 0 && count == 1 ? QCOW2_COPIED : 0;
    return ret;
}

/* Are the flags of the table at OFFSET right?  1, 0, -errno. */
static int flags_right(struct qcow2_shadow *sh, int64_t offset)
{
    int ret = qcow2_shadow_read(sh, offset);

    for (int64_t k = 0; ret == 0 && k < sh->s->cluster_bytes;
         k += 1 << sh->s->entry_shift) {
        uint64_t old = load_be64(sh->buf + k), entry = old;
        ret = qcow2_shadow_flag(sh, &entry);
        if (ret == 0 && entry != old) {
            return 0;
        }
    }
    return ret < 0 ? ret : 1;
}

int qcow2_shadow_align(struct qcow2_shadow *sh)
{
    struct qcow2 *s = sh->s;

    for (uint32_t i = 0; i < s->l1_entries; i++) {
        int64_t table = s->l1[i] & QCOW2_OFFSET_MASK, count;
        int ret = table ? flags_right(sh, table) : 1;
        if (ret == 0) {
            struct shadow_place p = { .index = i, .old = table };
            g_array_append_val(sh->tables, p);
            sh->l1[i] = QCOW2_COPIED;   /* and a place, later */
            ret = qcow2_shadow_add(sh, table, s->cluster_bytes, -1);
        } else if (ret > 0 && table) {
            ret = qcow2_shadow_get(sh, table >> s->cluster_bits, &count);
            sh->l1[i] = table | (ret == 0 && count == 1 ? QCOW2_COPIED : 0);
        }
        if (ret < 0) {
            return ret;
        }
        sh->l1_changed |= sh->l1[i] != s->l1[i];
    }
    return 0;
}
