/* SPDX-License-Identifier: MIT */
/*
 * Write-back: bring changed metadata to the file so that the file is right at
 * every moment.
 *
 * Design      A cut: with the lock held once, everything dirty is copied and
 *             the list of dropped references taken.  What the cut says is
 *             consistent (qcow2.h I1, I2), so it may be written while
 *             others go on changing tables; they make the next cut.
 * Order       refcount blocks | refcount table | (header if that table moved)
 *             | barrier | L2 tables | L1 table | (barrier, header if that
 *             moved) | barrier, then lower the counts of what was dropped.
 *             The kernel keeps the order of our write()s if only the process
 *             dies; the barriers (a flush of the file) keep it at power loss.
 * Invariants  I1  One cut at a time: a slice is never written twice at once.
 *             I2  A cut that fails is dirty again, its frees are back on the
 *                 list.
 * Lazy        With lazy refcounts (the dirty bit is set) the refcount stages
 *             wait until close, or until their cache is full.  The bit is set
 *             before the first allocation and before the first cut that drops
 *             a reference, so that whoever finds the image repairs it.
 */
#include <errno.h>
#include "block/qcow2/qcow2.h"

struct extent {
    int64_t offset;
    size_t pos, bytes;
};

struct stage {                  /* writes of one kind, in file order */
    GArray *extents;            /* struct extent */
    GPtrArray *tables;          /* struct qcow2_table, writing */
    uint8_t *mem;
    size_t used;
};

struct cut {
    struct stage ref, reftable, l2, l1;
    GArray *frees;
    uint64_t n_changes;
    bool has_refcounts;
    bool reftable_moved, l1_moved;
    int64_t reftable_offset, l1_offset;
    uint32_t reftable_clusters, l1_entries;
};

int qcow2_file_pread(struct qcow2 *s, int64_t offset, int64_t bytes,
                     void *buf, unsigned flags)
{
    return node_pread(qcow2_file(s), offset, bytes, buf, flags);
}

int qcow2_file_pwrite(struct qcow2 *s, int64_t offset, int64_t bytes,
                      const void *buf, unsigned flags)
{
    return node_pwrite(qcow2_file(s), offset, bytes, buf, flags);
}

/* ---- stages ------------------------------------------------------------ */

static bool stage_init(struct stage *st, size_t bytes)
{
    st->extents = g_array_new(FALSE, FALSE, sizeof(struct extent));
    st->tables = g_ptr_array_new();
    st->mem = bytes ? g_try_malloc(bytes) : NULL;
    return st->mem || bytes == 0;
}

static void stage_deinit(struct stage *st)
{
    if (st->extents) {
        g_array_free(st->extents, TRUE);
        g_ptr_array_free(st->tables, TRUE);
        g_free(st->mem);
    }
}

/* Room for BYTES to be written to OFFSET; offsets ascend. */
static uint8_t *stage_add(struct stage *st, int64_t offset, size_t bytes)
{
    struct extent e = { .offset = offset, .pos = st->used, .bytes = bytes };
    struct extent *last = NULL;

    if (st->extents->len > 0) {
        last = &g_array_index(st->extents, struct extent,
                              st->extents->len - 1);
    }
    if (last && last->offset + (int64_t)last->bytes == offset) {
        last->bytes += bytes;
    } else {
        g_array_append_val(st->extents, e);
    }
    st->used += bytes;
    return st->mem + e.pos;
}

/* EVENT goes before it, if there is something to write. */
static int stage_write(struct qcow2 *s, const struct stage *st,
                       BlkdebugEvent event)
{
    int ret = 0;

    if (st->extents->len > 0 && NODE_DEBUG_ACTIVE()) {
        node_debug_event(s->node, event);
    }
    for (guint i = 0; i < st->extents->len && ret == 0; i++) {
        const struct extent *e = &g_array_index(st->extents, struct extent, i);
        ret = qcow2_file_pwrite(s, e->offset, e->bytes, st->mem + e->pos, 0);
    }
    return ret;
}

static int table_compare(gconstpointer a, gconstpointer b)
{
    const struct qcow2_table *x = *(struct qcow2_table *const *)a;
    const struct qcow2_table *y = *(struct qcow2_table *const *)b;

    return x->offset < y->offset ? -1 : x->offset > y->offset;
}

static void cut_tables(struct qcow2_table_cache *c, struct stage *st)
{
    for (struct qcow2_table *t = c->dirty; t; t = t->next_dirty) {
        g_ptr_array_add(st->tables, t);
    }
    g_ptr_array_sort(st->tables, table_compare);
    for (guint i = 0; i < st->tables->len; i++) {
        struct qcow2_table *t = st->tables->pdata[i];
        t->dirty = false;
        t->writing = true;
        memcpy(stage_add(st, t->offset, c->slice_bytes), t->data,
               c->slice_bytes);
    }
    c->dirty = NULL;
    c->n_dirty = 0;
}

static size_t marks(uint32_t entries)
{
    return entries / QCOW2_TABLE_CHUNK + 1;
}

static void cut_array(const uint64_t *table, uint32_t entries, uint8_t *dirty,
                      int64_t offset, struct stage *st)
{
    for (uint32_t i = 0; i < entries; i += QCOW2_TABLE_CHUNK) {
        uint32_t n = MIN(QCOW2_TABLE_CHUNK, entries - i);
        uint8_t *to;
        if (!dirty[i / QCOW2_TABLE_CHUNK]) {
            continue;
        }
        dirty[i / QCOW2_TABLE_CHUNK] = 0;
        to = stage_add(st, offset + i * INT64_C(8), n * 8);
        for (uint32_t k = 0; k < n; k++) {
            store_be64(to + k * 8, table[i + k]);
        }
    }
}

static size_t array_bytes(uint32_t entries, const uint8_t *dirty)
{
    size_t n = 0;

    for (size_t i = 0; i < marks(entries); i++) {
        n += dirty[i];
    }
    return n * QCOW2_TABLE_CHUNK * 8;
}

/* ---- the cut ----------------------------------------------------------- */

static void cut_deinit(struct cut *cut)
{
    stage_deinit(&cut->ref);
    stage_deinit(&cut->reftable);
    stage_deinit(&cut->l2);
    stage_deinit(&cut->l1);
    if (cut->frees) {
        g_array_free(cut->frees, TRUE);
    }
}

static bool wants_refcounts(const struct qcow2 *s, bool all)
{
    return all || !s->lazy_dirty ||
           s->ref_cache.n_dirty >= s->ref_cache.max / 2;
}

static int cut_init(struct qcow2 *s, struct cut *cut, bool all)
{
    bool ref = wants_refcounts(s, all);

    cut->has_refcounts = ref;
    if (!stage_init(&cut->ref, ref ? (size_t)s->ref_cache.n_dirty *
                                     s->ref_cache.slice_bytes : 0) ||
        !stage_init(&cut->reftable, ref ? array_bytes(s->reftable_entries,
                                                      s->reftable_dirty) : 0) ||
        !stage_init(&cut->l2, (size_t)s->l2_cache.n_dirty *
                              s->l2_cache.slice_bytes) ||
        !stage_init(&cut->l1, array_bytes(s->l1_entries, s->l1_dirty))) {
        return -ENOMEM;
    }
    cut->n_changes = s->n_changes;
    if (ref) {
        cut->reftable_moved = s->reftable_offset !=
                              (int64_t)s->hdr.reftable_offset;
        cut->reftable_offset = s->reftable_offset;
        cut->reftable_clusters = s->reftable_bytes >> s->cluster_bits;
        s->reftable_in_cut = cut->reftable_moved ? s->reftable_offset : 0;
        cut_tables(&s->ref_cache, &cut->ref);
        cut_array(s->reftable, s->reftable_bytes / 8, s->reftable_dirty,
                  s->reftable_offset, &cut->reftable);
        s->reftable_any_dirty = false;
    }
    cut->l1_moved = s->l1_offset != (int64_t)s->hdr.l1_offset ||
                    s->l1_entries != s->hdr.l1_entries;
    cut->l1_offset = s->l1_offset;
    cut->l1_entries = s->l1_entries;
    cut_tables(&s->l2_cache, &cut->l2);
    cut_array(s->l1, s->l1_entries, s->l1_dirty, s->l1_offset, &cut->l1);
    s->l1_any_dirty = false;
    cut->frees = s->frees;
    s->frees = g_array_new(FALSE, FALSE, sizeof(struct qcow2_free));
    return 0;
}

static void stage_done(struct qcow2 *s, struct qcow2_table_cache *c,
                       struct stage *st, bool failed)
{
    for (guint i = 0; i < st->tables->len; i++) {
        struct qcow2_table *t = st->tables->pdata[i];
        if (failed && !t->gone) {
            qcow2_table_dirty(s, c, t);
        }
        qcow2_table_written(c, t);
    }
}

/* Lock held: the cut is in the file, or (I2) is not. */
static void cut_done(struct qcow2 *s, struct cut *cut, bool failed)
{
    stage_done(s, &s->ref_cache, &cut->ref, failed);
    stage_done(s, &s->l2_cache, &cut->l2, failed);
    s->reftable_in_cut = 0;
    if (!failed) {
        s->n_written = MAX(s->n_written, cut->n_changes);
        return;
    }
    s->n_changes++;
    memset(s->l1_dirty, 1, marks(s->l1_entries));
    if (cut->has_refcounts) {
        memset(s->reftable_dirty, 1, marks(s->reftable_entries));
        s->reftable_any_dirty = true;
    }
    if (cut->reftable_moved && s->reftable_offset != cut->reftable_offset &&
        (int64_t)s->hdr.reftable_offset != cut->reftable_offset) {
        /* Grown again meanwhile: nothing came to need that place. */
        qcow2_refcount_release(s, cut->reftable_offset,
                               cut->reftable_clusters);
    }
    g_array_prepend_vals(s->frees, cut->frees->data, cut->frees->len);
}

/* ---- writing it -------------------------------------------------------- */

/* A table that the header names lies somewhere else now; the old place is
 * free when the cut is through. */
static int moved_reftable(struct qcow2 *s, struct cut *cut)
{
    struct qcow2_free old;
    int ret = node_flush(qcow2_file(s));

    if (ret < 0) {
        return ret;
    }
    LOCK_GUARD(&s->lock);
    old = (struct qcow2_free) {
        .offset = s->hdr.reftable_offset, .n = s->hdr.reftable_clusters,
    };
    s->hdr.reftable_offset = cut->reftable_offset;
    s->hdr.reftable_clusters = cut->reftable_clusters;
    ret = qcow2_header_write(s);
    if (ret < 0) {
        s->hdr.reftable_offset = old.offset;
        s->hdr.reftable_clusters = old.n;
        return ret;
    }
    g_array_append_val(cut->frees, old);
    return 0;
}

static int moved_l1(struct qcow2 *s, struct cut *cut)
{
    struct qcow2_free old;
    uint32_t old_entries;
    int ret = node_flush(qcow2_file(s));

    if (ret < 0) {
        return ret;
    }
    LOCK_GUARD(&s->lock);
    old_entries = s->hdr.l1_entries;
    old = (struct qcow2_free) {
        .offset = s->hdr.l1_offset,
        .n = qcow2_cluster_end(s, old_entries * INT64_C(8)) >>
             s->cluster_bits,
    };
    s->hdr.l1_offset = cut->l1_offset;
    s->hdr.l1_entries = cut->l1_entries;
    ret = qcow2_header_write(s);
    if (ret < 0) {
        s->hdr.l1_offset = old.offset;
        s->hdr.l1_entries = old_entries;
        return ret;
    }
    if (old.offset != cut->l1_offset && old.n > 0) {
        g_array_append_val(cut->frees, old);
    }
    return 0;
}

/* Data and refcounts are stable before anything points to them. */
static int barrier(struct qcow2 *s)
{
    int ret = node_flush(qcow2_file(s));

    return ret == 0 && s->data ? node_flush(s->data->node) : ret;
}

static int write_refcounts(struct qcow2 *s, struct cut *cut)
{
    int ret = stage_write(s, &cut->ref, BLKDEBUG_EVENT_REFBLOCK_UPDATE_PART);

    if (ret == 0 && cut->reftable_moved) {
        QCOW2_DEBUG(s, REFBLOCK_ALLOC_WRITE_TABLE);
    }
    if (ret == 0) {
        ret = stage_write(s, &cut->reftable,
                          BLKDEBUG_EVENT_REFBLOCK_ALLOC_HOOKUP);
    }
    if (ret == 0 && cut->reftable_moved) {
        QCOW2_DEBUG(s, REFBLOCK_ALLOC_SWITCH_TABLE);
        ret = moved_reftable(s, cut);
    }
    return ret;
}

static int write_mapping(struct qcow2 *s, struct cut *cut)
{
    int ret = stage_write(s, &cut->l2, BLKDEBUG_EVENT_L2_UPDATE);

    if (ret == 0 && cut->l1_moved) {
        QCOW2_DEBUG(s, L1_GROW_WRITE_TABLE);
    }
    if (ret == 0) {
        ret = stage_write(s, &cut->l1, BLKDEBUG_EVENT_L1_UPDATE);
    }
    if (ret == 0 && cut->l1_moved) {
        QCOW2_DEBUG(s, L1_GROW_ACTIVATE_TABLE);
        ret = moved_l1(s, cut);
    }
    return ret;
}

static int cut_write(struct qcow2 *s, struct cut *cut)
{
    int ret = write_refcounts(s, cut);

    if (ret == 0 && (cut->l2.used || cut->l1.used)) {
        ret = barrier(s);
    }
    if (ret == 0) {
        ret = write_mapping(s, cut);
    }
    if (ret == 0 && cut->frees->len > 0) {
        ret = node_flush(qcow2_file(s));
    }
    return ret;
}

static int writeback_cut(struct qcow2 *s, bool all)
{
    struct cut cut = { 0 };
    /* References leave the file before their counts are lowered. */
    int ret = s->frees->len > 0 ? qcow2_lazy_begin(s) : 0;

    if (ret == 0) {
        ret = cut_init(s, &cut, all);
    }
    if (ret == 0) {
        lock_release(&s->lock);
        ret = cut_write(s, &cut);
        lock_acquire(&s->lock);
        cut_done(s, &cut, ret < 0);
        if (ret == 0) {
            qcow2_free_now(s, cut.frees);
        }
    }
    cut_deinit(&cut);
    return ret;
}

static int writeback(struct qcow2 *s, bool all)
{
    uint64_t want = s->n_changes;
    int ret;

    while (s->writing_back) {
        cond_wait(&s->changed, &s->lock);
    }
    if (s->n_written >= want && !all) {
        return 0;
    }
    if (s->corrupt) {
        return -EIO;        /* nothing is written any more */
    }
    s->writing_back = true;
    ret = writeback_cut(s, all);
    s->writing_back = false;
    cond_broadcast(&s->changed);
    return ret;
}

int qcow2_writeback(struct qcow2 *s)
{
    return writeback(s, false);
}

int qcow2_writeback_all(struct qcow2 *s)
{
    int ret = 0;

    while (ret == 0 && (s->n_written < s->n_changes || s->frees->len > 0 ||
                        s->ref_cache.n_dirty > 0 || s->reftable_any_dirty)) {
        ret = writeback(s, true);
    }
    return ret;
}

int qcow2_writeback_some(struct qcow2 *s)
{
    if (s->l2_cache.n_dirty < MAX(s->l2_cache.max / 2, 8) &&
        s->ref_cache.n_dirty < MAX(s->ref_cache.max / 2, 8) &&
        s->frees->len < 4096) {
        return 0;
    }
    return qcow2_writeback(s);
}

int qcow2_meta_flush(struct qcow2 *s)
{
    int ret;

    lock_acquire(&s->lock);
    ret = qcow2_writeback(s);
    lock_release(&s->lock);
    return ret < 0 ? ret : node_flush(qcow2_file(s));
}

int qcow2_flush_to_os(struct node *n)
{
    struct qcow2 *s = n->state;
    int64_t interval_ns = s->opt.cache_clean_seconds * 1000000000;
    int64_t now = interval_ns ? clock_ns() : 0;
    int ret;

    LOCK_GUARD(&s->lock);
    ret = qcow2_writeback(s);
    qcow2_table_clean(&s->l2_cache, now, interval_ns);
    qcow2_table_clean(&s->ref_cache, now, interval_ns);
    return ret;
}
