/* SPDX-License-Identifier: MIT */
/*
 * Converge: how long a guest's writes are delayed so that a mirror is ready
 * by a deadline.
 *
 * Problem     A guest may write faster than can be copied; a mirror of it
 *             is never ready.
 * Design      Looked at every CONVERGE_STEP_NS: what is left and what comes
 *             must be copied by the deadline.  If that will not do, the delay
 *             of each written byte grows by a step, if it will do easily, it
 *             shrinks by one.
 * Invariants  I1  From one step to the next the guest's rate changes by less
 *                 than a third.
 *             I2  No write is delayed for longer than CONVERGE_MAX_DELAY_NS.
 *             I3  No delay if the deadline is met without.
 * Threads     converge_update(), converge_end(): one thread at a time.
 *             converge_delay_ns(): any.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#define CONVERGE_STEP_NS      INT64_C(100000000)
#define CONVERGE_MAX_DELAY_NS INT64_C(200000000)

struct converge {
    int64_t begun_ns, deadline_ns;  /* clock_ns(); constant */
    /* What is known at the last step. */
    int64_t stepped_ns, copied_bytes, dirtied_bytes;
    double copy_rate, dirty_rate;   /* bytes per second; averages */
    int n_steps;

    double delay_per_byte;      /* in ns */
    int64_t delay_per_mib_ns;   /* the same; atomic */
};

/* The deadline is that of being ready, in clock_ns(). */
void converge_begin(struct converge *c, int64_t now_ns, int64_t deadline_ns);
/*
 * May be called often; acts once per CONVERGE_STEP_NS.  REMAINING bytes are to
 * be copied now; COPIED and DIRTIED have been since the begin.
 */
void converge_update(struct converge *c, int64_t now_ns, int64_t remaining,
                     int64_t copied, int64_t dirtied);
/* The mirror is ready, or over: no delay any more. */
void converge_end(struct converge *c);
/* For how long a write of BYTES is to wait before it is done. */
int64_t converge_delay_ns(const struct converge *c, int64_t bytes);
