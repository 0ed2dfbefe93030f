/* SPDX-License-Identifier: MIT */
/*
 * Allocation of host clusters.
 *
 * Design      First fit from a cursor, in runs: a large write gets one large
 *             run.  Where nothing was allocated yet there is no refcount
 *             block either; a run there gets the blocks it needs right behind
 *             it.  A block may describe itself.  When the refcount table is
 *             too small a larger one takes its place in memory; the
 *             write-back makes it the file's.
 * Invariants  I1  No cluster before free_cursor is free.
 *             I2  A refcount block's own count is set in the same moment (no
 *                 lock given up) as the refcount table gets it.
 *             I3  zero_from only grows: a cluster behind it never had data.
 * Threads     One allocator at a time: `allocating` is held, also while the
 *             lock is given up to read a slice.  Releases go on meanwhile,
 *             they only make more clusters free.
 */
#include <errno.h>
#include "block/qcow2/qcow2.h"

static int64_t max_clusters(const struct qcow2 *s)
{
    return QCOW2_MAX_HOST_OFFSET >> s->cluster_bits;
}

static int64_t blocks_end(const struct qcow2 *s)
{
    return (int64_t)s->reftable_entries << s->refblock_bits;
}

/* How many of N entries from INDEX are zero / not zero. */
static int64_t run_in_slice(const struct qcow2 *s, const struct qcow2_table *t,
                            uint64_t index, int64_t n, bool zero)
{
    for (int64_t i = 0; i < n; i++) {
        bool is_zero = !qcow2_refcount_load(t->data, index + i,
                                            s->refcount_order);
        if (is_zero != zero) {
            return i;
        }
    }
    return n;
}

/* How many clusters from START are free, at most MAX; or -errno. */
static int64_t count_free(struct qcow2 *s, int64_t start, int64_t max)
{
    int64_t done = 0;

    while (done < max && start + done < blocks_end(s)) {
        struct qcow2_table *t;
        uint64_t index;
        int64_t left, run;
        int ret = qcow2_refcount_slice(s, start + done, &t, &index, &left);
        if (ret == -ENOENT) {
            done += left;
            continue;
        }
        if (ret < 0) {
            return ret;
        }
        left = MIN(left, max - done);
        run = run_in_slice(s, t, index, left, true);
        done += run;
        if (run < left) {
            return done;
        }
    }
    return max;
}

/* The first free cluster from START. */
static int find_free(struct qcow2 *s, int64_t start, int64_t *found)
{
    while (start < blocks_end(s)) {
        struct qcow2_table *t;
        uint64_t index;
        int64_t left, run;
        int ret = qcow2_refcount_slice(s, start, &t, &index, &left);
        if (ret == -ENOENT) {
            break;
        }
        if (ret < 0) {
            return ret;
        }
        run = run_in_slice(s, t, index, left, false);
        start += run;
        if (run < left) {
            break;
        }
    }
    *found = start;
    return start < max_clusters(s) ? 0 : -EFBIG;
}

static bool take_fresh(struct qcow2 *s, int64_t cluster, int64_t n)
{
    int64_t offset = cluster << s->cluster_bits;
    bool fresh = offset >= s->zero_from;

    s->zero_from = MAX(s->zero_from, offset + (n << s->cluster_bits));
    return fresh;
}

static int write_zero_cluster(struct qcow2 *s, int64_t offset)
{
    g_autofree uint8_t *zeroes = g_try_malloc0(s->cluster_bytes);
    int ret = -ENOMEM;

    lock_release(&s->lock);
    if (zeroes) {
        ret = qcow2_file_pwrite(s, offset, s->cluster_bytes, zeroes, 0);
    }
    lock_acquire(&s->lock);
    return ret;
}

/* The slice of PLACE's count: in the block itself if it describes itself. */
static int refblock_count_slice(struct qcow2 *s, uint32_t index,
                                int64_t place, struct qcow2_table **t,
                                uint64_t *entry)
{
    int64_t offset = place << s->cluster_bits;
    uint64_t bit, in_block;
    int64_t left;

    if (place >> s->refblock_bits != index) {
        return qcow2_refcount_slice(s, place, t, entry, &left);
    }
    in_block = place & ((INT64_C(1) << s->refblock_bits) - 1);
    bit = in_block << s->refcount_order;
    *entry = in_block & ((((uint64_t)s->ref_cache.slice_bytes * 8) >>
                          s->refcount_order) - 1);
    return qcow2_table_new(s, &s->ref_cache, offset +
                           (bit / 8 & -(uint64_t)s->ref_cache.slice_bytes), t);
}

/* Make the free cluster PLACE the refcount block of INDEX (I2). */
static int place_refblock(struct qcow2 *s, uint32_t index, int64_t place)
{
    int64_t offset = place << s->cluster_bits;
    struct qcow2_table *t;
    uint64_t entry;
    int ret;

    QCOW2_DEBUG_LOCKED(s, REFBLOCK_ALLOC);
    ret = qcow2_check_overlap(s, 0, offset, s->cluster_bytes);
    if (ret == 0 && !take_fresh(s, place, 1)) {
        ret = write_zero_cluster(s, offset);
    }
    if (ret < 0) {
        return ret;
    }
    qcow2_table_drop(&s->ref_cache, offset, s->cluster_bytes);
    ret = refblock_count_slice(s, index, place, &t, &entry);
    if (ret < 0) {
        return ret;
    }
    qcow2_refcount_store(t->data, entry, s->refcount_order, 1);
    qcow2_table_dirty(s, &s->ref_cache, t);
    s->reftable[index] = offset;
    qcow2_reftable_dirty(s, index);
    qcow2_cluster_set_add(s->tables, offset, QCOW2_SET_REFBLOCK);
    return 0;
}

static bool has_block(const struct qcow2 *s, int64_t index)
{
    return s->reftable[index] & QCOW2_REFTABLE_OFFSET_MASK;
}

/* Every cluster of [start, end) has its refcount block; new ones are placed at
 * PLACE and behind.  -EAGAIN: the refcount table is too small. */
static int ensure_blocks(struct qcow2 *s, int64_t start, int64_t end,
                         int64_t place)
{
    int64_t last = (end - 1) >> s->refblock_bits;
    int ret = 0;

    for (int64_t i = start >> s->refblock_bits; i <= last && ret == 0; i++) {
        int64_t home;
        if (i >= s->reftable_entries) {
            return -EAGAIN;
        }
        if (has_block(s, i)) {
            continue;
        }
        ret = find_free(s, place, &place);
        home = place >> s->refblock_bits;
        if (ret < 0 || home >= s->reftable_entries) {
            return ret < 0 ? ret : -EAGAIN;
        }
        if (!has_block(s, home)) {
            /* The block describes itself; then look at I again. */
            ret = place_refblock(s, home, place);
            i--;
        } else {
            ret = place_refblock(s, i, place);
        }
        place++;
    }
    return ret;
}

static int64_t alloc_run(struct qcow2 *s, int64_t n, bool exact,
                         int64_t *start);

/* Growing failed: what was made behind ENTRIES was never in the file. */
static void shrink_back(struct qcow2 *s, uint32_t entries)
{
    for (uint32_t i = entries; i < s->reftable_entries; i++) {
        if (s->reftable[i]) {
            qcow2_table_drop(&s->ref_cache, s->reftable[i], s->cluster_bytes);
            qcow2_cluster_set_remove(s->tables, s->reftable[i],
                                     QCOW2_SET_REFBLOCK);
        }
    }
    s->reftable_entries = entries;
}

/* The table in memory belongs there from now on. */
static void move_reftable(struct qcow2 *s, int64_t offset, int64_t bytes)
{
    int64_t old = s->reftable_offset, old_bytes = s->reftable_bytes;

    take_fresh(s, offset >> s->cluster_bits, bytes >> s->cluster_bits);
    memset(s->reftable_dirty, 1, bytes / 8 / QCOW2_TABLE_CHUNK + 1);
    s->reftable_any_dirty = true;
    s->n_changes++;
    s->reftable_offset = offset;
    s->reftable_bytes = bytes;
    /* What the file names, or is about to, is freed by the write-back. */
    if (old != (int64_t)s->hdr.reftable_offset && old != s->reftable_in_cut) {
        qcow2_refcount_release(s, old, old_bytes >> s->cluster_bits);
    }
}

/* A refcount table for at least ENTRIES blocks, in memory; see writeback.c. */
static int grow_reftable(struct qcow2 *s, int64_t entries)
{
    int64_t per_cluster = s->cluster_bytes / 8;
    int64_t clusters, start;
    uint64_t *table;
    uint8_t *dirty;

    QCOW2_DEBUG_LOCKED(s, REFTABLE_GROW);
    entries = MAX(entries + 1, s->reftable_entries * INT64_C(3) / 2);
    clusters = (entries + per_cluster - 1) / per_cluster;
    /* It and its blocks need to be covered too. */
    clusters += (clusters >> s->refblock_bits) / per_cluster + 1;
    entries = clusters * per_cluster;
    if (s->reftable_growing || entries * 8 > QCOW2_MAX_REFTABLE_BYTES) {
        return -EFBIG;
    }
    table = g_try_renew(uint64_t, s->reftable, entries);
    if (!table) {
        return -ENOMEM;
    }
    s->reftable = table;
    dirty = g_try_realloc(s->reftable_dirty, entries / QCOW2_TABLE_CHUNK + 1);
    if (!dirty) {
        return -ENOMEM;
    }
    s->reftable_dirty = dirty;
    memset(table + s->reftable_entries, 0,
           (entries - s->reftable_entries) * 8);
    memset(dirty + s->reftable_entries / QCOW2_TABLE_CHUNK + 1, 0,
           entries / QCOW2_TABLE_CHUNK -
           s->reftable_entries / QCOW2_TABLE_CHUNK);
    s->reftable_entries = entries;

    s->reftable_growing = true;
    clusters = alloc_run(s, clusters, true, &start);
    s->reftable_growing = false;
    if (clusters < 0) {
        shrink_back(s, s->reftable_bytes / 8);
        return clusters;
    }
    move_reftable(s, start << s->cluster_bits, entries * 8);
    return 0;
}

/* Find a free run from POS: *START and its length, or -errno. */
static int64_t find_run(struct qcow2 *s, int64_t pos, int64_t n, bool exact,
                        int64_t *start)
{
    for (;;) {
        int64_t run;
        int ret = find_free(s, pos, start);
        if (ret < 0) {
            return ret;
        }
        run = count_free(s, *start, n);
        if (run < 0 || run == n || (!exact && run > 0)) {
            return run;
        }
        pos = *start + MAX(run, 1);
    }
}

/* As qcow2_alloc_run(); START is a cluster number; allocating is held. */
static int64_t alloc_run(struct qcow2 *s, int64_t n, bool exact,
                         int64_t *start)
{
    for (;;) {
        uint64_t n_released = s->n_released;
        int64_t run = find_run(s, s->free_cursor, n, exact, start);
        int ret;
        if (run < 0) {
            return run;
        }
        if (*start + run > max_clusters(s)) {
            return -EFBIG;
        }
        ret = qcow2_check_overlap(s, 0, *start << s->cluster_bits,
                                  run << s->cluster_bits);
        if (ret == 0) {
            ret = ensure_blocks(s, *start, *start + run, *start + run);
        }
        if (ret == -EAGAIN) {
            /* Blocks for the run and, behind it, for these blocks. */
            int64_t end = *start + run + (run >> s->refblock_bits) + 4;
            ret = grow_reftable(s, (end >> s->refblock_bits) + 2);
            if (ret == 0) {
                continue;
            }
        }
        if (ret == 0) {
            ret = qcow2_refcount_set(s, *start, run, 1);
        }
        if (ret < 0) {
            return ret;
        }
        if (n_released == s->n_released && !exact) {
            s->free_cursor = *start + run;      /* I1 */
        }
        return run;
    }
}

static void allocating_begin(struct qcow2 *s)
{
    while (s->allocating) {
        cond_wait(&s->changed, &s->lock);
    }
    s->allocating = true;
}

static void allocating_end(struct qcow2 *s)
{
    s->allocating = false;
    cond_broadcast(&s->changed);
}

/* One more reference to the cluster that packed data ends in, if BYTES fit.
 * The place, 0 if not, or -errno. */
static int64_t share_packed(struct qcow2 *s, int64_t bytes)
{
    int64_t place = s->packed_end, left;
    struct qcow2_table *t;
    uint64_t index, count;
    int ret;

    if (place == 0 ||
        bytes > s->cluster_bytes - (place & (s->cluster_bytes - 1))) {
        return 0;
    }
    ret = qcow2_refcount_slice(s, place >> s->cluster_bits, &t, &index,
                               &left);
    if (ret < 0) {
        return ret == -ENOENT ? -EIO : ret;
    }
    count = qcow2_refcount_load(t->data, index, s->refcount_order);
    if (s->packed_end != place || count == 0 || count == s->refcount_max) {
        return 0;       /* it was freed meanwhile, or is full */
    }
    qcow2_refcount_store(t->data, index, s->refcount_order, count + 1);
    qcow2_table_dirty(s, &s->ref_cache, t);
    return place;
}

int64_t qcow2_alloc_packed(struct qcow2 *s, int64_t bytes)
{
    int64_t place, n;

    QCOW2_DEBUG_LOCKED(s, CLUSTER_ALLOC_BYTES);
    /* The allocator's turn: nobody else raises a count meanwhile. */
    allocating_begin(s);
    place = s->corrupt ? -EIO : share_packed(s, bytes);
    allocating_end(s);
    if (place == 0) {
        n = qcow2_alloc_run(s, 1, true, &place, NULL);
        if (n < 0) {
            return n;
        }
    }
    if (place > 0) {
        s->packed_end = place + bytes;
        if ((s->packed_end & (s->cluster_bytes - 1)) == 0) {
            s->packed_end = 0;
        }
    }
    return place;
}

int qcow2_lazy_begin(struct qcow2 *s)
{
    int ret;

    if (!s->opt.lazy_refcounts || s->lazy_dirty) {
        return 0;
    }
    ret = qcow2_header_set_incompatible(s, QCOW2_INCOMPAT_DIRTY, true);
    if (ret == 0) {
        lock_release(&s->lock);
        ret = node_flush(qcow2_file(s));
        lock_acquire(&s->lock);
    }
    s->lazy_dirty = ret == 0;
    return ret;
}

int64_t qcow2_alloc_run(struct qcow2 *s, int64_t n, bool exact,
                        int64_t *start, bool *fresh)
{
    int64_t run, cluster;
    bool is_fresh;

    QCOW2_DEBUG_LOCKED(s, CLUSTER_ALLOC);
    allocating_begin(s);
    run = s->corrupt ? -EIO : qcow2_lazy_begin(s);
    if (run == 0) {
        run = alloc_run(s, n, exact, &cluster);
    }
    if (run > 0) {
        is_fresh = take_fresh(s, cluster, run);
        *start = cluster << s->cluster_bits;
        if (fresh) {
            *fresh = is_fresh;
        }
    }
    allocating_end(s);
    return run;
}

int qcow2_alloc_refblock_for(struct qcow2 *s, int64_t cluster, int64_t place)
{
    int ret;

    allocating_begin(s);
    s->free_cursor = place;
    do {
        ret = ensure_blocks(s, cluster, cluster + 1, place);
        if (ret == -EAGAIN) {
            ret = grow_reftable(s, (MAX(cluster, place) >> s->refblock_bits)
                                   + 2);
            ret = ret == 0 ? -EAGAIN : ret;
        }
    } while (ret == -EAGAIN);
    allocating_end(s);
    return ret;
}

int64_t qcow2_alloc_bytes(struct qcow2 *s, int64_t bytes)
{
    int64_t n = qcow2_cluster_end(s, bytes) >> s->cluster_bits;
    int64_t start, ret;

    LOCK_GUARD(&s->lock);
    ret = qcow2_alloc_run(s, n, n > 1, &start, NULL);
    return ret < 0 ? ret : start;
}

void qcow2_free_bytes(struct qcow2 *s, int64_t offset, int64_t bytes)
{
    LOCK_GUARD(&s->lock);
    qcow2_free_later(s, offset,
                     qcow2_cluster_end(s, bytes) >> s->cluster_bits,
                     s->opt.discard_other ? QCOW2_FREE_DISCARD : 0);
}
