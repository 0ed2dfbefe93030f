/* SPDX-License-Identifier: MIT */
/* How fast a job is: see job-rate.h. */
#include "blockjobs/job-rate.h"

#define MS INT64_C(1000000)     /* in nanoseconds */

void job_rate_init(struct job_rate *r)
{
    lock_init(&r->lock, "job-rate", LOCK_LEAF);
    r->n_samples = 0;
    r->next_ns = INT64_MAX;
}

void job_rate_deinit(struct job_rate *r)
{
    lock_deinit(&r->lock);
}

static void add_sample(struct job_rate *r, const struct job_rate_sample *now)
{
    r->newest = (r->newest + 1) % JOB_RATE_SAMPLES;
    r->samples[r->newest] = *now;
    r->n_samples = MIN(r->n_samples + 1, JOB_RATE_SAMPLES);
    __atomic_store_n(&r->next_ns, now->ns + JOB_RATE_STEP_MS * MS,
                     __ATOMIC_RELAXED);
}

void job_rate_begin(struct job_rate *r, const struct job_rate_sample *now)
{
    LOCK_GUARD(&r->lock);
    r->n_samples = 0;
    add_sample(r, now);
}

void job_rate_note(struct job_rate *r, const struct job_rate_sample *now)
{
    LOCK_GUARD(&r->lock);
    if (job_rate_wants(r, now->ns)) {   /* else: someone else has noted it */
        add_sample(r, now);
    }
}

/* The newest that is a window old, else the oldest there is. */
static const struct job_rate_sample *window_start(const struct job_rate *r,
                                                  int64_t now_ns)
{
    const struct job_rate_sample *s = NULL;

    for (int i = 0; i < r->n_samples; i++) {
        s = &r->samples[(r->newest - i + JOB_RATE_SAMPLES) %
                        JOB_RATE_SAMPLES];
        if (s->ns <= now_ns - JOB_RATE_WINDOW_MS * MS) {
            break;
        }
    }
    return s;
}

bool job_rate_get(struct job_rate *r, const struct job_rate_sample *now,
                  double *done, double *dirty)
{
    const struct job_rate_sample *start;
    double seconds;

    LOCK_GUARD(&r->lock);
    start = window_start(r, now->ns);
    if (!start || now->ns < start->ns + JOB_RATE_STEP_MS / 2 * MS) {
        return false;
    }
    seconds = (now->ns - start->ns) / 1e9;
    *done = MAX(0, now->done - start->done) / seconds;
    *dirty = MAX(0, now->dirty - start->dirty) / seconds;
    return true;
}
