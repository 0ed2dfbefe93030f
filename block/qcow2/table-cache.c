/* SPDX-License-Identifier: MIT */
/*
 * Table cache: slices of L2 tables and refcount blocks.
 *
 * Problem     Tables are up to gigabytes; a request needs eight bytes.
 * Answer      Slices of at most a few KiB, hashed by their offset, dropped by
 *             second chance.  Dirty ones stay until they are written.
 * Invariants  I1  A slice is in the hash chain and on the ring, or is gone.
 *             I2  dirty: on the dirty list, once.
 *             I3  loading or writing: only its thread frees it; a drop
 *                 meanwhile takes it out and marks it gone.
 * Threads     All under qcow2.lock, see qcow2.h.
 */
#include <errno.h>
#include <stdlib.h>
#include "block/qcow2/qcow2.h"

enum { MIN_SLICES = 16, MAX_BUCKETS = 1 << 16 };

bool qcow2_table_cache_init(struct qcow2_table_cache *c, uint32_t slice_bytes,
                            int64_t max_bytes)
{
    int64_t max = MAX(max_bytes / slice_bytes, MIN_SLICES);

    c->slice_bytes = slice_bytes;
    c->slice_bits = __builtin_ctz(slice_bytes);
    c->max = MIN(max, INT32_MAX);
    c->n_buckets = 64;
    while (c->n_buckets < c->max && c->n_buckets < MAX_BUCKETS) {
        c->n_buckets *= 2;
    }
    c->buckets = g_try_new0(struct qcow2_table *, c->n_buckets);
    return c->buckets != NULL;
}

static struct qcow2_table **bucket_of(const struct qcow2_table_cache *c,
                                      int64_t offset)
{
    uint64_t key = (uint64_t)offset >> c->slice_bits;

    key *= UINT64_C(0x9e3779b97f4a7c15);
    return &c->buckets[(key >> 32) & (c->n_buckets - 1)];
}

static struct qcow2_table *find(const struct qcow2_table_cache *c,
                                int64_t offset)
{
    struct qcow2_table *t = *bucket_of(c, offset);

    while (t && t->offset != offset) {
        t = t->next;
    }
    return t;
}

static void table_free(struct qcow2_table *t)
{
    free(t->data);
    g_free(t);
}

static void undirty(struct qcow2_table_cache *c, struct qcow2_table *t)
{
    struct qcow2_table **p = &c->dirty;

    if (!t->dirty) {
        return;
    }
    while (*p != t) {
        p = &(*p)->next_dirty;
    }
    *p = t->next_dirty;
    t->dirty = false;
    c->n_dirty--;
}

/* Take T out (I1); freed unless its thread is still at it (I3). */
static void table_remove(struct qcow2_table_cache *c, struct qcow2_table *t)
{
    struct qcow2_table **p = bucket_of(c, t->offset);

    while (*p != t) {
        p = &(*p)->next;
    }
    *p = t->next;
    undirty(c, t);
    if (c->hand == t) {
        c->hand = t->ring_next == t ? NULL : t->ring_next;
    }
    t->ring_next->ring_prev = t->ring_prev;
    t->ring_prev->ring_next = t->ring_next;
    c->n--;
    if (t->loading || t->writing) {
        t->gone = true;
    } else {
        table_free(t);
    }
}

/* Second chance: drop clean slices until there is room for one more. */
static void make_room(struct qcow2_table_cache *c)
{
    uint32_t steps = MIN(c->n * 2, 64);

    while (c->n >= c->max && steps-- > 0) {
        struct qcow2_table *t = c->hand;
        c->hand = t->ring_next;
        if (t->loading || t->writing || t->dirty) {
            continue;
        }
        if (t->used) {
            t->used = false;
        } else {
            table_remove(c, t);
        }
    }
}

static struct qcow2_table *table_insert(struct qcow2_table_cache *c,
                                        int64_t offset)
{
    struct qcow2_table *t = g_try_new0(struct qcow2_table, 1);
    struct qcow2_table **bucket = bucket_of(c, offset);

    if (!t) {
        return NULL;
    }
    /* Aligned for a file child with O_DIRECT. */
    t->data = aligned_alloc(MAX(c->slice_bytes, 4096),
                            MAX(c->slice_bytes, 4096));
    if (!t->data) {
        g_free(t);
        return NULL;
    }
    make_room(c);
    t->offset = offset;
    t->used = true;
    t->next = *bucket;
    *bucket = t;
    if (c->hand) {
        t->ring_next = c->hand;
        t->ring_prev = c->hand->ring_prev;
        t->ring_prev->ring_next = t;
        c->hand->ring_prev = t;
    } else {
        t->ring_next = t->ring_prev = t;
        c->hand = t;
    }
    c->n++;
    return t;
}

/* Read it with the lock given up.  -EAGAIN: dropped meanwhile. */
static int table_load(struct qcow2 *s, struct qcow2_table_cache *c,
                      struct qcow2_table *t)
{
    int ret;

    t->loading = true;
    lock_release(&s->lock);
    if (c == &s->l2_cache) {
        QCOW2_DEBUG(s, L2_LOAD);
    } else {
        QCOW2_DEBUG(s, REFBLOCK_LOAD);
    }
    ret = qcow2_file_pread(s, t->offset, c->slice_bytes, t->data, 0);
    lock_acquire(&s->lock);
    t->loading = false;
    cond_broadcast(&s->changed);
    if (t->gone) {
        table_free(t);
        return -EAGAIN;
    }
    if (ret < 0) {
        table_remove(c, t);
    }
    return ret == -EAGAIN ? -EIO : ret;
}

int qcow2_table_get(struct qcow2 *s, struct qcow2_table_cache *c,
                    int64_t offset, bool nowait, struct qcow2_table **out)
{
    struct qcow2_table *t;
    int ret;

    for (;;) {
        t = find(c, offset);
        if (G_LIKELY(t && !t->loading)) {
            t->used = true;
            *out = t;
            return 0;
        }
        if (nowait) {
            return -EAGAIN;
        }
        if (t) {
            cond_wait(&s->changed, &s->lock);
            continue;
        }
        t = table_insert(c, offset);
        if (!t) {
            return -ENOMEM;
        }
        ret = table_load(s, c, t);
        if (ret == 0) {
            *out = t;
            return 0;
        }
        if (ret != -EAGAIN) {
            return ret;
        }
    }
}

int qcow2_table_new(struct qcow2 *s, struct qcow2_table_cache *c,
                    int64_t offset, struct qcow2_table **out)
{
    struct qcow2_table *t;

    qcow2_table_drop(c, offset, c->slice_bytes);
    t = table_insert(c, offset);
    if (!t) {
        return -ENOMEM;
    }
    memset(t->data, 0, c->slice_bytes);
    qcow2_table_dirty(s, c, t);
    *out = t;
    return 0;
}

void qcow2_table_add_zero(struct qcow2_table_cache *c, int64_t offset,
                          int64_t bytes)
{
    enum { MOST_SLICES = 16 };
    int64_t end = offset + MIN(bytes, MOST_SLICES * c->slice_bytes);

    for (; offset < end; offset += c->slice_bytes) {
        struct qcow2_table *t = table_insert(c, offset);

        if (!t) {
            return;
        }
        memset(t->data, 0, c->slice_bytes);
    }
}

void qcow2_table_dirty(struct qcow2 *s, struct qcow2_table_cache *c,
                       struct qcow2_table *t)
{
    s->n_changes++;
    if (!t->dirty) {
        t->dirty = true;
        t->next_dirty = c->dirty;
        c->dirty = t;
        c->n_dirty++;
    }
}

void qcow2_table_drop(struct qcow2_table_cache *c, int64_t offset,
                      int64_t bytes)
{
    for (int64_t o = offset; o < offset + bytes; o += c->slice_bytes) {
        struct qcow2_table *t = find(c, o);
        if (t) {
            table_remove(c, t);
        }
    }
}

void qcow2_table_clean(struct qcow2_table_cache *c, int64_t now_ns,
                       int64_t interval_ns)
{
    struct qcow2_table *t = c->hand;

    if (interval_ns == 0 || now_ns - c->cleaned_ns < interval_ns) {
        return;
    }
    c->cleaned_ns = now_ns;
    for (uint32_t i = c->n; i > 0; i--) {
        struct qcow2_table *next = t->ring_next;
        if (!t->used && !t->dirty && !t->loading && !t->writing) {
            table_remove(c, t);
        } else {
            t->used = false;
        }
        t = next;
    }
}

void qcow2_table_drop_all(struct qcow2_table_cache *c)
{
    for (struct qcow2_table *t = c->dirty; t; t = t->next_dirty) {
        t->dirty = false;
    }
    c->dirty = NULL;
    c->n_dirty = 0;
    while (c->hand) {
        table_remove(c, c->hand);
    }
}

void qcow2_table_written(struct qcow2_table_cache *c, struct qcow2_table *t)
{
    t->writing = false;
    if (t->gone) {
        table_free(t);
    }
}

void qcow2_table_cache_deinit(struct qcow2_table_cache *c)
{
    if (c->buckets) {
        qcow2_table_drop_all(c);
    }
    g_clear_pointer(&c->buckets, g_free);
}
