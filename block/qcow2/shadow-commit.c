/* SPDX-License-Identifier: MIT */
/* Shadow: allocating, writing, and the moment at which it counts.  shadow.c
 * has the invariants. */
#include <errno.h>
#include "block/qcow2/shadow-priv.h"

/* ---- what changes ------------------------------------------------------ */

static int compare_places(gconstpointer a, gconstpointer b)
{
    const struct shadow_place *x = a, *y = b;

    return x->index < y->index ? -1 : x->index > y->index;
}

/* All counts can be stored; which blocks hold those that change. */
static int find_blocks(struct qcow2_shadow *sh)
{
    struct qcow2 *s = sh->s;
    g_autoptr(GHashTable) seen = g_hash_table_new(NULL, NULL);
    GHashTableIter iter;
    struct shadow_chunk *c;
    int64_t count;

    g_hash_table_iter_init(&iter, sh->chunks);
    while (g_hash_table_iter_next(&iter, NULL, (gpointer *)&c)) {
        int64_t first = c->number << sh->chunk_bits;
        struct shadow_place p = { .index = first >> s->refblock_bits };
        bool any = false;
        for (int64_t i = 0; i < INT64_C(1) << sh->chunk_bits; i++) {
            int ret = c->delta[i] ? qcow2_shadow_get(sh, first + i, &count)
                                  : 0;
            if (ret < 0) {
                return ret;
            }
            any |= c->delta[i] != 0;
        }
        if (any && g_hash_table_add(seen, GUINT_TO_POINTER(p.index))) {
            p.old = s->reftable[p.index] & QCOW2_REFTABLE_OFFSET_MASK;
            g_array_append_val(sh->blocks, p);
        }
    }
    g_array_sort(sh->blocks, compare_places);
    return 0;
}

/* ---- places ------------------------------------------------------------ */

/* Lock held.  N clusters, EXACT: contiguous. */
static int take(struct qcow2_shadow *sh, int64_t n, int64_t *start)
{
    struct qcow2_free f = { 0 };
    int64_t ret = qcow2_alloc_run(sh->s, n, n > 1, start, NULL);

    if (ret < 0) {
        return ret;
    }
    f.offset = *start;
    f.n = n;
    g_array_append_val(sh->taken, f);
    return 0;
}

static int take_bytes(struct qcow2_shadow *sh, int64_t bytes, int64_t *start)
{
    return bytes == 0 ? 0
           : take(sh, qcow2_cluster_end(sh->s, bytes) >> sh->s->cluster_bits,
                  start);
}

static int take_places(struct qcow2_shadow *sh, GArray *places)
{
    int ret = 0;

    for (guint i = 0; ret == 0 && i < places->len; i++) {
        ret = take(sh, 1, &g_array_index(places, struct shadow_place,
                                         i).place);
    }
    return ret;
}

/* Lock held.  Allocating may itself make the refcount table larger. */
static int take_reftable(struct qcow2_shadow *sh)
{
    struct qcow2 *s = sh->s;
    int ret = 0;

    while (ret == 0 && sh->reftable_bytes < s->reftable_bytes) {
        sh->reftable_bytes = s->reftable_bytes;
        ret = take_bytes(sh, sh->reftable_bytes, &sh->reftable_place);
    }
    return ret;
}

static int take_all(struct qcow2_shadow *sh,
                    const struct qcow2_shadow_end *end)
{
    struct qcow2 *s = sh->s;
    int ret;

    LOCK_GUARD(&s->lock);
    ret = take_places(sh, sh->tables);
    if (ret == 0) {
        ret = take_places(sh, sh->blocks);
    }
    if (ret == 0 && sh->l1_changed) {
        ret = take_bytes(sh, s->l1_entries * INT64_C(8), &sh->l1_place);
    }
    if (ret == 0) {
        ret = take_bytes(sh, end->snapshots->len, &sh->snapshots_place);
    }
    if (ret == 0 && sh->blocks->len > 0) {
        ret = take_reftable(sh);
    }
    /* Now the stored counts are in the file, with what was taken. */
    return ret < 0 ? ret : qcow2_writeback_all(s);
}

/* What was taken and is not used goes back; it leaks if that fails. */
static void give_back(struct qcow2_shadow *sh)
{
    LOCK_GUARD(&sh->s->lock);
    for (guint i = 0; i < sh->taken->len; i++) {
        const struct qcow2_free *f = &g_array_index(sh->taken,
                                                    struct qcow2_free, i);
        qcow2_refcount_release(sh->s, f->offset, f->n);
    }
    qcow2_writeback(sh->s);
}

/* ---- writing ----------------------------------------------------------- */

static int check_place(struct qcow2 *s, int64_t offset, int64_t bytes)
{
    LOCK_GUARD(&s->lock);
    return qcow2_check_overlap(s, 0, offset, bytes);
}

static int write_cluster(struct qcow2_shadow *sh, int64_t place)
{
    int64_t bytes = sh->s->cluster_bytes;
    int ret = check_place(sh->s, place, bytes);

    return ret < 0 ? ret : qcow2_file_pwrite(sh->s, place, bytes, sh->buf, 0);
}

static int write_table(struct qcow2_shadow *sh, const struct shadow_place *p)
{
    int ret = qcow2_shadow_read(sh, p->old);

    for (int64_t k = 0; ret == 0 && k < sh->s->cluster_bytes;
         k += 1 << sh->s->entry_shift) {
        uint64_t entry = load_be64(sh->buf + k);
        ret = qcow2_shadow_flag(sh, &entry);
        store_be64(sh->buf + k, entry);
    }
    if (ret == 0) {
        sh->l1[p->index] = p->place | QCOW2_COPIED;
        ret = write_cluster(sh, p->place);
    }
    return ret;
}

static int write_block(struct qcow2_shadow *sh, const struct shadow_place *p)
{
    struct qcow2 *s = sh->s;
    int64_t first = (int64_t)p->index << s->refblock_bits;
    int64_t per_chunk = INT64_C(1) << sh->chunk_bits;
    int ret = qcow2_shadow_read(sh, p->old);

    for (int64_t i = 0; ret == 0 && i < INT64_C(1) << s->refblock_bits;
         i += per_chunk) {
        int64_t number = (first + i) >> sh->chunk_bits;
        struct shadow_chunk *c = g_hash_table_lookup(sh->chunks, &number);
        for (int64_t k = 0; c && k < per_chunk; k++) {
            if (c->delta[k]) {
                uint64_t v = qcow2_refcount_load(sh->buf, i + k,
                                                 s->refcount_order);
                qcow2_refcount_store(sh->buf, i + k, s->refcount_order,
                                     v + c->delta[k]);
            }
        }
    }
    return ret < 0 ? ret : write_cluster(sh, p->place);
}

/* ENTRIES, host order, to PLACE. */
static int write_array(struct qcow2 *s, const uint64_t *table, int64_t entries,
                       int64_t place)
{
    g_autofree uint64_t *buf = g_try_malloc(MAX(entries * 8, 8));
    int ret = buf ? check_place(s, place, entries * 8) : -ENOMEM;

    for (int64_t i = 0; ret == 0 && i < entries; i++) {
        buf[i] = htobe64(table[i]);
    }
    return ret < 0 ? ret : qcow2_file_pwrite(s, place, entries * 8, buf, 0);
}

static int write_reftable(struct qcow2_shadow *sh)
{
    struct qcow2 *s = sh->s;
    int64_t entries = sh->reftable_bytes / 8;

    if (sh->blocks->len == 0) {
        return 0;
    }
    sh->reftable = g_try_malloc0(sh->reftable_bytes);
    if (!sh->reftable) {
        return -ENOMEM;
    }
    memcpy(sh->reftable, s->reftable, MIN(entries, s->reftable_entries) * 8);
    for (guint i = 0; i < sh->blocks->len; i++) {
        const struct shadow_place *p = &g_array_index(sh->blocks,
                                                      struct shadow_place, i);
        sh->reftable[p->index] = p->place;
    }
    return write_array(s, sh->reftable, entries, sh->reftable_place);
}

static int write_all(struct qcow2_shadow *sh,
                     const struct qcow2_shadow_end *end)
{
    struct qcow2 *s = sh->s;
    int ret = 0;

    for (guint i = 0; ret == 0 && i < sh->tables->len; i++) {
        ret = write_table(sh, &g_array_index(sh->tables, struct shadow_place,
                                             i));
    }
    for (guint i = 0; ret == 0 && i < sh->blocks->len; i++) {
        ret = write_block(sh, &g_array_index(sh->blocks, struct shadow_place,
                                             i));
    }
    if (ret == 0) {
        ret = write_reftable(sh);
    }
    if (ret == 0 && sh->l1_place) {
        ret = write_array(s, sh->l1, s->l1_entries, sh->l1_place);
    }
    if (ret == 0 && end->snapshots->len) {
        ret = check_place(s, sh->snapshots_place, end->snapshots->len);
    }
    if (ret == 0 && end->snapshots->len) {
        ret = qcow2_file_pwrite(s, sh->snapshots_place, end->snapshots->len,
                                end->snapshots->data, 0);
    }
    return ret < 0 ? ret : node_flush(qcow2_file(s));
}

/* ---- the moment -------------------------------------------------------- */

static int write_header(struct qcow2_shadow *sh,
                        const struct qcow2_shadow_end *end)
{
    struct qcow2 *s = sh->s;
    struct qcow2_header old, *h = &s->hdr;
    int ret;

    lock_acquire(&s->lock);
    old = s->hdr;
    h->n_snapshots = end->n_snapshots;
    h->snapshots_offset = sh->snapshots_place;
    if (sh->l1_place) {
        h->l1_offset = sh->l1_place;
        h->l1_entries = s->l1_entries;
    }
    if (sh->blocks->len > 0) {
        h->reftable_offset = sh->reftable_place;
        h->reftable_clusters = sh->reftable_bytes >> s->cluster_bits;
    }
    ret = qcow2_header_write(s);
    lock_release(&s->lock);
    if (ret == 0) {
        ret = node_flush(qcow2_file(s));
    }
    if (ret < 0) {
        /* Which of the two the file has is not known: it gets the old one,
         * and what was taken stays taken. */
        LOCK_GUARD(&s->lock);
        s->hdr = old;
        qcow2_header_write(s);
        g_array_set_size(sh->taken, 0);
    }
    return ret;
}

static void free_bytes(struct qcow2 *s, int64_t offset, int64_t bytes)
{
    if (bytes > 0) {
        qcow2_free_later(s, offset,
                         qcow2_cluster_end(s, bytes) >> s->cluster_bits,
                         s->opt.discard_other ? QCOW2_FREE_DISCARD : 0);
    }
}

/* Lock held: memory follows the file. */
static void take_over(struct qcow2_shadow *sh,
                      const struct qcow2_shadow_end *end)
{
    struct qcow2 *s = sh->s;
    int64_t old_reftable = s->reftable_offset;
    int64_t old_bytes = s->reftable_bytes;

    qcow2_table_drop_all(&s->l2_cache);
    qcow2_table_drop_all(&s->ref_cache);
    memcpy(s->l1, sh->l1, s->l1_entries * sizeof(*s->l1));
    s->l1_offset = sh->l1_place ? sh->l1_place : s->l1_offset;
    free_bytes(s, end->snapshots_offset, s->snapshot_table_bytes);
    s->snapshot_table_bytes = end->snapshots->len;
    if (sh->blocks->len > 0) {
        for (guint i = 0; i < sh->blocks->len; i++) {
            const struct shadow_place *p =
                &g_array_index(sh->blocks, struct shadow_place, i);
            s->reftable[p->index] = p->place;
            free_bytes(s, p->old, s->cluster_bytes);
        }
        s->reftable_offset = sh->reftable_place;
        free_bytes(s, old_reftable, old_bytes);
    }
    s->free_cursor = 0;
    s->n_released++;
    s->packed_end = 0;
    qcow2_note_tables(s);
}

/* What nobody refers to any more: the file system may have it back. */
static void discard_freed(struct qcow2_shadow *sh)
{
    struct qcow2 *s = sh->s;
    GHashTableIter iter;
    struct shadow_chunk *c;

    g_hash_table_iter_init(&iter, sh->chunks);
    while (g_hash_table_iter_next(&iter, NULL, (gpointer *)&c)) {
        int64_t first = c->number << sh->chunk_bits, run = 0;
        for (int64_t i = 0; i <= INT64_C(1) << sh->chunk_bits; i++) {
            uint64_t count = 1;
            if (i < INT64_C(1) << sh->chunk_bits && c->delta[i] < 0) {
                LOCK_GUARD(&s->lock);
                if (qcow2_refcount_get(s, first + i, &count) < 0) {
                    count = 1;
                }
            }
            if (count == 0) {
                run++;
            } else if (run > 0) {
                node_pdiscard(qcow2_file(s),
                              (first + i - run) << s->cluster_bits,
                              run << s->cluster_bits);
                run = 0;
            }
        }
    }
}

/* Steps that may fail without a trace. */
static int prepare(struct qcow2_shadow *sh, struct qcow2_shadow_end *end)
{
    struct qcow2 *s = sh->s;
    int ret = qcow2_shadow_align(sh);

    sh->l1_changed |= end->keep_l1;
    if (ret == 0 && sh->l1_changed && !end->keep_l1) {
        ret = qcow2_shadow_add(sh, s->l1_offset, s->l1_entries * INT64_C(8),
                               -1);
    }
    if (ret == 0) {
        ret = find_blocks(sh);
    }
    if (ret == 0) {
        ret = take_all(sh, end);
    }
    return ret < 0 ? ret : write_all(sh, end);
}

int qcow2_shadow_commit(struct qcow2_shadow *sh, struct qcow2_shadow_end *end)
{
    struct qcow2 *s = sh->s;
    int ret;

    end->snapshots_offset = s->hdr.snapshots_offset;
    ret = prepare(sh, end);
    if (ret == 0) {
        ret = write_header(sh, end);
    }
    if (ret < 0) {
        give_back(sh);
        return ret;
    }
    lock_acquire(&s->lock);
    take_over(sh, end);
    lock_release(&s->lock);
    /* Before anybody can be given one of these clusters. */
    if (s->opt.discard_snapshot) {
        discard_freed(sh);
    }
    lock_acquire(&s->lock);
    qcow2_writeback_all(s);     /* or they leak */
    lock_release(&s->lock);
    end->snapshots_offset = sh->snapshots_place;
    return 0;
}
