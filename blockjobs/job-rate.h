/* SPDX-License-Identifier: MIT */
/*
 * How fast a job is: bytes per second over the last few seconds.
 *
 * Samples of two counters that only grow, a few a second at most, taken by
 * whoever moves them and by who asks; what stands still is slow at once.
 *
 * Threads     Any (a leaf lock), but for init, deinit.
 */
#pragma once

#include "base/lock.h"

enum {
    JOB_RATE_SAMPLES = 20,
    JOB_RATE_STEP_MS = 200,     /* between two samples, at least */
    JOB_RATE_WINDOW_MS = 3000,  /* what a rate is the mean of */
};

struct job_rate_sample {
    int64_t ns;                 /* clock_ns() */
    int64_t done, dirty;        /* bytes so far */
};

struct job_rate {
    int64_t next_ns;            /* atomic: a sample is wanted from then on */

    struct lock lock;           /* rank LOCK_LEAF */
    struct job_rate_sample samples[JOB_RATE_SAMPLES];   /* a ring */
    int n_samples, newest;
};

void job_rate_init(struct job_rate *r);
void job_rate_deinit(struct job_rate *r);
/* Forget what was: the job begins, or goes on after a pause. */
void job_rate_begin(struct job_rate *r, const struct job_rate_sample *now);
/* Cheap: has the time come for a sample? */
static inline bool job_rate_wants(const struct job_rate *r, int64_t now_ns)
{
    return now_ns >= __atomic_load_n(&r->next_ns, __ATOMIC_RELAXED);
}
void job_rate_note(struct job_rate *r, const struct job_rate_sample *now);
/* Bytes per second of both counters.  False: too early to say. */
bool job_rate_get(struct job_rate *r, const struct job_rate_sample *now,
                  double *done, double *dirty);
