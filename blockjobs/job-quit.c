/* SPDX-License-Identifier: MIT */
/*
 * Jobs: the end of the server.
 *
 * Clients know the sequence: QEMU drains all jobs twice and then cancels one
 * after the other, the newest first; each shows paused (standby) and running
 * (ready) twice, then aborting, cancelled, concluded, null.  A job that cannot
 * hold still, because its target hangs, keeps nobody waiting for long.
 */
#include "blockjobs/job-priv.h"

#include "base/control.h"
#include "blockjobs/job-history.h"

enum { N_DRAINS = 2 };
#define PATIENCE_NS INT64_C(1000000000)     /* for all jobs together */
#define SETTING_OUT_NS INT64_C(400000000)   /* for all of them, too */
#define LOOK_AGAIN_NS INT64_C(2000000)      /* progress notifies nobody */

/* A job that only waits for its user to dismiss it. */
static bool is_over(const struct job *job)
{
    return job->status == JOB_STATUS_CONCLUDED;
}

static bool is_at_work(const struct job *job)
{
    return job->started && !job->thread_ended && !job->force_cancel;
}

static bool holds_still(const struct job *job)
{
    return !is_at_work(job) ||
           (job->parked && (job->status == JOB_STATUS_PAUSED ||
                            job->status == JOB_STATUS_STANDBY));
}

/* The oldest that has not been asked to hold still, or NULL. */
static struct job *next_to_hold(void)
{
    struct job *found = NULL;

    for (struct job *job = job_next(NULL); job; job = job_next(job)) {
        if (is_at_work(job) && !job->held_at_quit) {
            found = job;
        }
    }
    return found;
}

static bool all_hold_still(void)
{
    for (struct job *job = job_next(NULL); job; job = job_next(job)) {
        if (job->held_at_quit && !holds_still(job)) {
            return false;
        }
    }
    return true;
}

/* Every job pauses, and goes on.  False: one of them could not in time. */
static bool drain_all_jobs(int64_t deadline_ns)
{
    bool in_time = true;
    struct job *job;

    /* While this waits, jobs end and are freed: nothing is remembered. */
    while ((job = next_to_hold())) {
        job->held_at_quit = true;
        job_pause(job);
        while (in_time && !all_hold_still()) {
            in_time = control_wait_until(deadline_ns);
        }
    }
    for (job = job_next(NULL); job; job = job_next(job)) {
        if (job->held_at_quit) {
            job->held_at_quit = false;
            job_resume(job);
        }
    }
    return in_time;
}

/* A job with a ready state that has not done anything yet, perhaps because
 * there is nothing to do. */
static bool is_setting_out(const struct job *job)
{
    return is_at_work(job) && job->driver->complete &&
           job->status == JOB_STATUS_RUNNING &&
           !__atomic_load_n(&job->sleeping, __ATOMIC_RELAXED) &&
           job_progress_current(job) == 0;
}

/*
 * In QEMU a job gets as far as it gets without waiting before the next command
 * is read: one that has nothing to copy is ready when quit comes.
 */
static void let_new_jobs_begin(void)
{
    int64_t deadline_ns = clock_ns() + SETTING_OUT_NS;
    struct job *job = job_next(NULL);

    while (job) {
        if (!is_setting_out(job)) {
            job = job_next(job);
        } else if (control_wait_until(MIN(deadline_ns,
                                          clock_ns() + LOOK_AGAIN_NS)) ||
                   clock_ns() < deadline_ns) {
            job = job_next(NULL);
        } else {
            return;
        }
    }
}

/* On its way out: cancelled, or failed and waiting for its transaction. */
static bool is_ending(const struct job *job)
{
    return !is_over(job) &&
           (job->force_cancel || job->status == JOB_STATUS_ABORTING ||
            job_end_is_decided(job));
}

static bool one_is_ending(void)
{
    for (struct job *job = job_next(NULL); job; job = job_next(job)) {
        if (is_ending(job)) {
            return true;
        }
    }
    return false;
}

static struct job *next_to_cancel(void)
{
    struct job *job = job_next(NULL);

    while (job && (is_over(job) || is_ending(job))) {
        job = job_next(job);
    }
    return job;
}

/* They had their time: what hangs at their end is given up. */
static void hurry_finalizing(bool *done)
{
    for (struct job *job = *done ? NULL : job_next(NULL); job;
         job = job_next(job)) {
        if (!is_over(job) && job_end_is_decided(job)) {
            job_cancel(job, true);      /* decided: does not yield */
        }
    }
    *done = true;
}

void job_cancel_all(void)
{
    bool hurried = false;
    int64_t deadline_ns;
    struct job *job;

    control_assert();
    let_new_jobs_begin();
    deadline_ns = clock_ns() + PATIENCE_NS;
    for (int i = 0; i < N_DRAINS && drain_all_jobs(deadline_ns); i++) {
    }
    while ((job = next_to_cancel()) || one_is_ending()) {
        if (job) {
            job_cancel(job, true);
        }
        /* One after the other, unless one hangs. */
        while (one_is_ending() && control_wait_until(deadline_ns)) {
        }
        if (!next_to_cancel() && one_is_ending()) {
            hurry_finalizing(&hurried);
            control_wait();
        }
    }
    while ((job = job_next(NULL))) {
        job_dismiss_now(job);
    }
    job_history_free();
}
