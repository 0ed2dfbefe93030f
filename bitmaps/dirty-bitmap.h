/* SPDX-License-Identifier: MIT */
/*
 * Dirty bitmap: which granules of a node were written since it was cleared.
 *
 * Life        enabled <-> disabled by command.  busy: held by a job or an
 *             export.  With a successor (a job using it is running) new writes
 *             go to the successor and this bitmap stays as it was at the
 *             job's start; at the end the successor replaces it (abdicate) or
 *             is merged back (reclaim).  readonly: the image is read-only.
 *             inconsistent: the stored bitmap was in use at a crash; listed,
 *             removable, nothing else.
 * Invariants  I1  At most one successor; a bitmap with one is busy.
 *             I2  Within a list, names are unique; no name: internal.
 *             I3  Only enabled bitmaps without a successor are marked.
 *             I4  A bitmap's struct bits stays the same object all its life.
 *             I5  Content changes only under the list's lock (any thread).
 *                 It is replaced as a whole only by who holds the control
 *                 lock, and not while somebody else holds the bitmap busy.
 * Threads     A node's list and all states change under the control lock and
 *             the list's lock (rank LOCK_BITMAP); dirty_bitmaps_mark() runs in
 *             any thread and takes only the list's lock, and not even that
 *             when the list has nothing to mark.  Content may be looked at
 *             without a lock by who holds the bitmap busy or the control
 *             lock.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include "base/error.h"
#include "bitmaps/bits.h"

struct dirty_bitmap;
struct dirty_bitmap_list;       /* the bitmaps of one node, newest first */

#define DIRTY_BITMAP_MAX_NAME 1023      /* bytes */

/* ---- list of a node ----------------------------------------------------- */

struct dirty_bitmap_list *dirty_bitmap_list_new(void);
void dirty_bitmap_list_free(struct dirty_bitmap_list *l);   /* frees bitmaps */
/* Mark [offset, offset+bytes) in every bitmap that records.  Any thread. */
void dirty_bitmaps_mark(struct dirty_bitmap_list *l, int64_t offset,
                        int64_t bytes);
/* The node has a new length: resize all; grown area clean.  Control lock held,
 * node drained.  On failure (no memory) none has changed. */
bool dirty_bitmaps_resize(struct dirty_bitmap_list *l, int64_t length,
                          struct error **errp);
/* The node grew by a write.  Any thread.  What has no memory to grow becomes
 * inconsistent. */
void dirty_bitmaps_grow(struct dirty_bitmap_list *l, int64_t length);
struct dirty_bitmap *dirty_bitmap_find(const struct dirty_bitmap_list *l,
                                       const char *name);
/* How many have a name. */
unsigned dirty_bitmap_list_size(const struct dirty_bitmap_list *l);
/* Newest first; NULL starts. */
struct dirty_bitmap *dirty_bitmap_next(const struct dirty_bitmap_list *l,
                                       const struct dirty_bitmap *bm);

/* ---- one bitmap: control lock held -------------------------------------- */

/* Granularity: power of two, 512 .. 2 GiB.  NAME NULL: internal.  Enabled,
 * clear.  NULL and errp: exists already, name too long, no memory. */
struct dirty_bitmap *dirty_bitmap_new(struct dirty_bitmap_list *l,
                                      const char *name, uint32_t granularity,
                                      int64_t length, struct error **errp);
/* Out of its list and freed (its successor too).  NULL is fine. */
void dirty_bitmap_free(struct dirty_bitmap *bm);
void dirty_bitmap_rename(struct dirty_bitmap *bm, const char *name);

const char *dirty_bitmap_name(const struct dirty_bitmap *bm); /* NULL: none */
uint32_t dirty_bitmap_granularity(const struct dirty_bitmap *bm);
int64_t dirty_bitmap_length(const struct dirty_bitmap *bm);
struct bits *dirty_bitmap_bits(struct dirty_bitmap *bm); /* granule numbers */
/* Bytes: dirty granules times granularity, as query-block's "count". */
int64_t dirty_bitmap_count(const struct dirty_bitmap *bm);

bool dirty_bitmap_enabled(const struct dirty_bitmap *bm);
bool dirty_bitmap_recording(const struct dirty_bitmap *bm); /* it or successor*/
bool dirty_bitmap_busy(const struct dirty_bitmap *bm);
bool dirty_bitmap_persistent(const struct dirty_bitmap *bm);
bool dirty_bitmap_readonly(const struct dirty_bitmap *bm);
bool dirty_bitmap_inconsistent(const struct dirty_bitmap *bm);
void dirty_bitmap_set_enabled(struct dirty_bitmap *bm, bool on);
void dirty_bitmap_set_busy(struct dirty_bitmap *bm, bool on);   /* counted */
void dirty_bitmap_set_persistent(struct dirty_bitmap *bm, bool on);
void dirty_bitmap_set_readonly(struct dirty_bitmap *bm, bool on);
/* For ever; it is disabled and clear then. */
void dirty_bitmap_set_inconsistent(struct dirty_bitmap *bm);
/* Kept from storing at close though persistent (its removal, migration). */
void dirty_bitmap_set_skip_store(struct dirty_bitmap *bm, bool on);
bool dirty_bitmap_skip_store(const struct dirty_bitmap *bm);

/* What a use cannot live with; the check's text is QEMU's (COMPAT 8). */
enum {
    DIRTY_BITMAP_NOT_BUSY = 1, DIRTY_BITMAP_NOT_RO = 2,
    DIRTY_BITMAP_NOT_INCONSISTENT = 4,
    DIRTY_BITMAP_DEFAULT = 7, DIRTY_BITMAP_ALLOW_RO = 5,
};
bool dirty_bitmap_check(const struct dirty_bitmap *bm, unsigned flags,
                        struct error **errp);

/* ---- content (see Threads) ---------------------------------------------- */

/* Parts outside the bitmap's length are left out. */
void dirty_bitmap_mark(struct dirty_bitmap *bm, int64_t offset, int64_t bytes);
void dirty_bitmap_unmark(struct dirty_bitmap *bm, int64_t offset,
                         int64_t bytes);
/* Clear; the old bits are returned in *BACKUP if it is not NULL (undo).
 * False: no memory, nothing has changed. */
bool dirty_bitmap_clear(struct dirty_bitmap *bm, struct bits **backup,
                        struct error **errp);
/* Undo of clear and merge; takes BACKUP; nothing was written since (drained),
 * though the node may have been resized. */
void dirty_bitmap_restore(struct dirty_bitmap *bm, struct bits *backup);
/* Mark what is set in BITS, granule by granule. */
void dirty_bitmap_mark_bits(struct dirty_bitmap *bm, const struct bits *bits);
/* Can SRC be merged into DST?  Sizes must match ("Bitmaps are of different
 * sizes (destination size is ..."); granularities may differ. */
bool dirty_bitmap_can_merge(const struct dirty_bitmap *dst,
                            const struct dirty_bitmap *src,
                            struct error **errp);
/*
 * dst |= src.  The old bits of DST in *BACKUP if it is not NULL.  False: they
 * cannot be merged, or no memory for the backup.  Can take long: the control
 * lock is not needed if both are held busy by the caller.
 */
bool dirty_bitmap_merge(struct dirty_bitmap *dst, struct dirty_bitmap *src,
                        struct bits **backup, struct error **errp);
/* First dirty run of bytes in [offset, end), at most max_bytes; 0: none. */
int64_t dirty_bitmap_next_dirty(struct dirty_bitmap *bm, int64_t offset,
                                int64_t end, int64_t max_bytes,
                                int64_t *run_offset);

/* ---- successor: a job's use (node drained) ------------------------------ */

/* I1.  The successor takes over recording if BM is enabled.  Sets busy. */
bool dirty_bitmap_create_successor(struct dirty_bitmap *bm,
                                   struct error **errp);
struct dirty_bitmap *dirty_bitmap_successor(const struct dirty_bitmap *bm);
/* Job done: BM := successor's bits (N); no longer busy. */
void dirty_bitmap_abdicate(struct dirty_bitmap *bm);
/* Job failed: BM |= successor's bits (S u N); no longer busy. */
void dirty_bitmap_reclaim(struct dirty_bitmap *bm);
