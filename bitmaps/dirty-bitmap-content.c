/* SPDX-License-Identifier: MIT */
/* Dirty bitmaps: content, merging, successors.  See dirty-bitmap.h. */
#include "bitmaps/dirty-bitmap-priv.h"

/*
 * Granules that [offset, offset+bytes) touches, as far as they are in BM.
 */
static int64_t granules(const struct dirty_bitmap *bm, int64_t offset,
                        int64_t bytes, int64_t *first)
{
    int64_t end;

    g_assert(offset >= 0 && bytes >= 0 && bytes <= INT64_MAX - offset);
    if (bytes == 0) {
        return 0;
    }
    *first = offset >> bm->granularity_bits;
    end = ((offset + bytes - 1) >> bm->granularity_bits) + 1;
    end = MIN(end, bits_size(bm->bits));
    return MAX(end - *first, 0);
}

/* I5: the list's lock is held. */
void dirty_bitmap_mark_locked(struct dirty_bitmap *bm, int64_t offset,
                              int64_t bytes)
{
    int64_t first, n = granules(bm, offset, bytes, &first);

    if (n) {
        bits_set(bm->bits, first, n);
    }
}

void dirty_bitmap_mark(struct dirty_bitmap *bm, int64_t offset, int64_t bytes)
{
    LOCK_GUARD(&bm->list->lock);
    dirty_bitmap_mark_locked(bm, offset, bytes);
}

void dirty_bitmap_unmark(struct dirty_bitmap *bm, int64_t offset,
                         int64_t bytes)
{
    int64_t first, n;

    LOCK_GUARD(&bm->list->lock);
    n = granules(bm, offset, bytes, &first);
    if (n) {
        bits_clear(bm->bits, first, n);
    }
}

/* Bits that nobody will miss go to *BACKUP or away. */
static void give_or_free(struct bits *b, struct bits **backup)
{
    if (backup) {
        *backup = b;
    } else {
        bits_free(b);
    }
}

bool dirty_bitmap_clear(struct dirty_bitmap *bm, struct bits **backup,
                        struct error **errp)
{
    struct bits *clear = bits_new(bits_size(bm->bits));

    if (!clear) {
        dirty_bitmap_no_memory(errp, dirty_bitmap_length(bm),
                               dirty_bitmap_granularity(bm));
        return false;
    }
    {
        LOCK_GUARD(&bm->list->lock);
        bits_swap(bm->bits, clear);
    }
    give_or_free(clear, backup);
    return true;
}

void dirty_bitmap_restore(struct dirty_bitmap *bm, struct bits *backup)
{
    {
        LOCK_GUARD(&bm->list->lock);
        if (bits_size(backup) != bits_size(bm->bits) &&
            !bits_resize(backup, bits_size(bm->bits))) {
            dirty_bitmap_lost_track(bm);
        } else {
            bits_swap(bm->bits, backup);
        }
    }
    bits_free(backup);
}

static void readers_add(struct dirty_bitmap_list *l, int n)
{
    LOCK_GUARD(&l->lock);
    l->n_readers += n;
    if (l->n_readers == 0) {
        cond_broadcast(&l->no_readers);
    }
}

bool dirty_bitmap_can_merge(const struct dirty_bitmap *dst,
                            const struct dirty_bitmap *src,
                            struct error **errp)
{
    int64_t dst_length = dirty_bitmap_length(dst);
    int64_t src_length = dirty_bitmap_length(src);

    if (dst_length != src_length) {
        error_set(errp, "Bitmaps are of different sizes (destination size is %"
                  PRId64 ", source size is %" PRId64 ") and can't be merged",
                  dst_length, src_length);
        return false;
    }
    return true;
}

/* Writers wait for DST's list while so many of its bits are merged. */
#define MERGE_STEP (INT64_C(1) << 20)

void dirty_bitmap_mark_bits(struct dirty_bitmap *bm, const struct bits *bits)
{
    int64_t size = MIN(bits_size(bits), bits_size(bm->bits)), at = 0, n;

    while ((at = bits_next_set(bits, at, size)) < size) {
        LOCK_GUARD(&bm->list->lock);
        n = MIN(MERGE_STEP, size - at);
        bits_merge(bm->bits, bits, at, n);
        at += n;
    }
}

/* DST |= SRC, run by run. */
static void merge_scaled(struct dirty_bitmap *dst, struct dirty_bitmap *src)
{
    int64_t size = bits_size(src->bits), at = 0, n, max = MERGE_STEP, offset;

    if (dst->granularity_bits < src->granularity_bits) {
        max >>= src->granularity_bits - dst->granularity_bits;
        max = MAX(max, 1);
    }
    while ((n = bits_next_run(src->bits, at, size, max, &at))) {
        offset = at << src->granularity_bits;
        at += n;
        dirty_bitmap_mark(dst, offset,
                          dirty_bitmap_granules_bytes(src, at) - offset);
    }
}

bool dirty_bitmap_merge(struct dirty_bitmap *dst, struct dirty_bitmap *src,
                        struct bits **backup, struct error **errp)
{
    if (!dirty_bitmap_can_merge(dst, src, errp)) {
        return false;
    }
    if (backup) {
        *backup = bits_clone(dst->bits);
        if (!*backup) {
            dirty_bitmap_no_memory(errp, dirty_bitmap_length(dst),
                                   dirty_bitmap_granularity(dst));
            return false;
        }
    }
    readers_add(dst->list, 1);
    readers_add(src->list, 1);
    if (dst->granularity_bits == src->granularity_bits) {
        dirty_bitmap_mark_bits(dst, src->bits);
    } else {
        merge_scaled(dst, src);
    }
    readers_add(src->list, -1);
    readers_add(dst->list, -1);
    return true;
}

int64_t dirty_bitmap_next_dirty(struct dirty_bitmap *bm, int64_t offset,
                                int64_t end, int64_t max_bytes,
                                int64_t *run_offset)
{
    unsigned shift = bm->granularity_bits;
    int64_t size = bits_size(bm->bits), start, n, run_end;

    g_assert(offset >= 0 && max_bytes > 0);
    if (offset >= end) {
        return 0;
    }
    n = bits_next_run(bm->bits, offset >> shift,
                      MIN(((end - 1) >> shift) + 1, size),
                      (max_bytes >> shift) + 2, &start);
    if (n == 0) {
        return 0;
    }
    *run_offset = MAX(start << shift, offset);
    run_end = dirty_bitmap_granules_bytes(bm, start + n);
    return MIN(MIN(run_end, end) - *run_offset, max_bytes);
}

/* ---- successor ---------------------------------------------------------- */

bool dirty_bitmap_create_successor(struct dirty_bitmap *bm,
                                   struct error **errp)
{
    struct dirty_bitmap *successor;

    if (!dirty_bitmap_check(bm, DIRTY_BITMAP_NOT_BUSY, errp)) {
        return false;
    }
    g_assert(!bm->successor);
    successor = dirty_bitmap_new(bm->list, NULL, dirty_bitmap_granularity(bm),
                                 bm->length, errp);
    if (!successor) {
        return false;
    }
    LOCK_GUARD(&bm->list->lock);
    successor->enabled = bm->enabled;
    successor->parent = bm;
    bm->successor = successor;
    bm->n_busy++;
    dirty_bitmap_update_recording(successor);
    dirty_bitmap_update_recording(bm);
    return true;
}

struct dirty_bitmap *dirty_bitmap_successor(const struct dirty_bitmap *bm)
{
    return bm->successor;
}

/* BM records again itself; the successor is returned, to be freed. */
static struct dirty_bitmap *successor_end(struct dirty_bitmap *bm)
{
    struct dirty_bitmap *successor = g_steal_pointer(&bm->successor);

    lock_assert_held(&bm->list->lock);
    g_assert(successor && bm->n_busy > 0);
    successor->parent = NULL;
    bm->n_busy--;
    bm->enabled = successor->enabled;
    successor->enabled = false;
    dirty_bitmap_update_recording(successor);
    dirty_bitmap_update_recording(bm);
    return successor;
}

void dirty_bitmap_abdicate(struct dirty_bitmap *bm)
{
    struct dirty_bitmap *successor;

    {
        LOCK_GUARD(&bm->list->lock);
        successor = successor_end(bm);
        bits_swap(bm->bits, successor->bits);
        /* BM is now as old as its content: that order is seen by clients. */
        dirty_bitmap_list_remove(bm);
        dirty_bitmap_list_insert(bm, successor);
    }
    dirty_bitmap_free(successor);
}

void dirty_bitmap_reclaim(struct dirty_bitmap *bm)
{
    struct dirty_bitmap *successor;

    {
        LOCK_GUARD(&bm->list->lock);
        successor = successor_end(bm);
    }
    /* BM records since: both have all of it. */
    dirty_bitmap_mark_bits(bm, successor->bits);
    dirty_bitmap_free(successor);
}
