/* SPDX-License-Identifier: MIT */
/* Copy engine: what its files share. */
#pragma once

#include "blockjobs/engine.h"

enum {
    ENGINE_FIRST_WORKERS = 4,           /* of a burst; more if it helps */
    ENGINE_MAX_WORKERS = 64,
};

struct engine {
    /* Set by engine_new(), then constant. */
    struct engine_options o;

    /* Protected by lock (rank LOCK_COPIER). */
    struct lock lock;
    struct cond burst_over;
    int n_workers;              /* in the burst, the job's thread included */
    int64_t zero_bytes;         /* most in one write of zeroes; 0: not known */
    int64_t unflushed_bytes;    /* since the target began to flush */
    int64_t cursor;             /* where the next run is looked for */
    bool pass_over;             /* nothing at or behind the cursor */
    int64_t next_ns;            /* when the limit lets the next copy through */
    int64_t limit;              /* the speed that next_ns was made with */
    int error;                  /* -errno of the first that failed */
    bool error_is_read;
    int64_t error_offset, error_bytes;
    int left_out;               /* -errno of the first that was left out */
};

/* Until something wants it to stop; then nothing is in flight. */
void engine_burst(struct engine *e);

/* From here to cancel_end() what the thread waits for asks whether the job is
 * cancelled: a read that hangs does not hold the cancel up. */
void engine_cancel_begin(struct engine *e);

/* Lock held: does the speed limit let a copy through at NOW?  Its cost. */
bool engine_limit_lets_through(struct engine *e, int64_t now);
void engine_limit_charge(struct engine *e, int64_t now, int64_t bytes);
