/* SPDX-License-Identifier: MIT */
/* Private to dirty-bitmap*.c: what a dirty bitmap and a list are made of. */
#pragma once

#include <inttypes.h>
#include "base/lock.h"
#include "bitmaps/dirty-bitmap.h"

struct dirty_bitmap {
    /* Set by dirty_bitmap_new(), then constant. */
    struct dirty_bitmap_list *list;     /* borrowed */
    struct bits *bits;                  /* owned; I4, I5 of dirty-bitmap.h */
    unsigned granularity_bits;

    /* Atomic; changed with the list's lock held. */
    int64_t length;                     /* bytes */
    bool inconsistent;

    /* Control lock; changed with the list's lock held too. */
    char *name;                         /* owned; NULL: internal */
    struct dirty_bitmap *newer, *older;
    struct dirty_bitmap *successor;     /* in the list as well */
    struct dirty_bitmap *parent;        /* whose successor this is */
    int n_busy;
    bool enabled;
    bool persistent, readonly, skip_store;

    /* The list's lock. */
    int recording_index;                /* in list->recording; -1: not there */
};

struct dirty_bitmap_list {
    /* Atomic. */
    int n_recording;                    /* bitmaps to be marked (I3) */

    struct lock lock;                   /* rank LOCK_BITMAP */

    /* Control lock; changed with LOCK held too. */
    struct dirty_bitmap *newest, *oldest;
    GHashTable *by_name;                /* owned; names borrowed */

    /* LOCK. */
    GPtrArray *recording;               /* owned; I3, n_recording of them */
    int n_readers;                      /* who look without the control lock */
    struct cond no_readers;
};

/* The lists' lock is held for these five. */
/* I3, after any change that matters to it. */
void dirty_bitmap_update_recording(struct dirty_bitmap *bm);
/* Put BM into its list before OLDER (NULL: at the end). */
void dirty_bitmap_list_insert(struct dirty_bitmap *bm,
                              struct dirty_bitmap *older);
void dirty_bitmap_list_remove(struct dirty_bitmap *bm);
/* It has missed a write: it is of no use any more. */
void dirty_bitmap_lost_track(struct dirty_bitmap *bm);
void dirty_bitmap_mark_locked(struct dirty_bitmap *bm, int64_t offset,
                              int64_t bytes);

/* N granules in bytes; the last one may end behind the largest offset. */
int64_t dirty_bitmap_granules_bytes(const struct dirty_bitmap *bm, int64_t n);
void dirty_bitmap_no_memory(struct error **errp, int64_t length,
                            uint32_t granularity);
