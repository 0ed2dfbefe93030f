/* SPDX-License-Identifier: MIT */
/*
 * Sync modes: what becomes of a bitmap when the job that used it ends.
 *
 * S: the bits at the job's start (the bitmap itself meanwhile).  N: written
 * since (its successor).  R: what the job was to copy and has not.
 *
 *   mode         job succeeded      job failed or cancelled
 *   on-success   N                  S u N
 *   never        S u N              S u N
 *   always       N (R is empty)     R u N
 *
 * sync=incremental is on-success.  R is not a part of S with sync=full and
 * sync=top: then on-success and always still end in the same sets.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

struct bits;
struct dirty_bitmap;

enum sync_mode {
    SYNC_MODE_ON_SUCCESS, SYNC_MODE_NEVER, SYNC_MODE_ALWAYS,
};

/* Which sets make the result. */
enum { SYNC_SET_S = 1, SYNC_SET_N = 2, SYNC_SET_R = 4 };
unsigned sync_mode_sets(enum sync_mode mode, bool succeeded);

/*
 * The job is over: give BM, which has a successor, its new content; it is no
 * longer busy.  The todo bits are R, one per UNIT_BYTES (a power of two); NULL
 * will do if SUCCEEDED.  Control lock held, nobody changes the todo bits.
 */
void sync_mode_finish(struct dirty_bitmap *bm, enum sync_mode mode,
                      bool succeeded, const struct bits *todo,
                      int64_t unit_bytes);
