/* SPDX-License-Identifier: MIT */
/*
 * Range lock: shared or exclusive holds on byte ranges, first come first
 * served where they overlap.
 *
 * Invariants  I1  Two holds that overlap are both shared.
 *             I2  A waiter is passed only by requests that do not overlap it,
 *                 or, if both are "passing", by RANGE_LOCK_PASSES at most: no
 *                 starvation.
 * Threads     Any; blocks the caller until it has its range.  Rank LOCK_RANGE
 *             inside; holding a range is not holding a lock, but a thread
 *             that holds one range waits for another only in an order its
 *             user states.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include "base/lock.h"

enum { RANGE_LOCK_PASSES = 64 };

struct range_hold {             /* on the caller's stack; opaque to it */
    int64_t offset, end;
    bool exclusive, granted, passing;
    int n_passed;               /* how often it was, while it waited */
    struct range_hold *next, *prev;
};

struct range_lock {
    struct lock lock;           /* rank LOCK_RANGE; never held across I/O */
    struct cond changed;
    struct range_hold *first, *last;    /* in order of arrival */
    int n_waiting;
};

void range_lock_init(struct range_lock *rl, const char *name);
void range_lock_deinit(struct range_lock *rl);  /* nobody holds or waits */
void range_lock_acquire(struct range_lock *rl, struct range_hold *h,
                        int64_t offset, int64_t bytes, bool exclusive);
/* Exclusive, and passing: need not wait for those that only wait themselves
 * and are passing, too. */
void range_lock_acquire_passing(struct range_lock *rl, struct range_hold *h,
                                int64_t offset, int64_t bytes);
/* False if it is not granted by DEADLINE_NS (clock_ns()); INT64_MAX: waits for
 * ever. */
bool range_lock_acquire_until(struct range_lock *rl, struct range_hold *h,
                              int64_t offset, int64_t bytes, bool exclusive,
                              int64_t deadline_ns);
/* False at once if it would have to wait. */
bool range_lock_try(struct range_lock *rl, struct range_hold *h,
                    int64_t offset, int64_t bytes, bool exclusive);
void range_lock_release(struct range_lock *rl, struct range_hold *h);
/* Give up [h->offset, offset) of a hold, or all behind end: shrinks. */
void range_lock_shrink(struct range_lock *rl, struct range_hold *h,
                       int64_t offset, int64_t end);
/* The lowest offset that is held or waited for; INT64_MAX: none. */
int64_t range_lock_lowest(struct range_lock *rl);
