/* SPDX-License-Identifier: MIT */
/*
 * Jobs: the job's own thread, and how it is paused.
 *
 * Invariants  P1  parked is false exactly while the thread may have requests
 *                 in flight; only the thread changes it, with the control
 *                 lock held.  A drain waits for parked.
 *             P2  pause_requested == (pause_count > 0), so that the thread
 *                 can look without the lock.
 *             P3  Whoever brings pause_count to 0 makes the status running
 *                 (ready) again, before the thread wakes; if a new pause comes
 *                 first, the thread, still parked, makes it paused again.
 */
#include "blockjobs/job-priv.h"

#include "base/trace.h"
#include "block/root.h"

enum {
    FIRST_STEP_NS = 50 * 1000 * 1000,   /* how long a cancel waits for it */
};

void job_expect_first_step(struct job *job)
{
    if (job_speed(job) > 0) {
        __atomic_store_n(&job->first_step_until_ns,
                         clock_ns() + FIRST_STEP_NS, __ATOMIC_RELAXED);
    }
}

static void first_step_done(struct job *job)
{
    if (__atomic_load_n(&job->first_step_until_ns, __ATOMIC_RELAXED)) {
        __atomic_store_n(&job->first_step_until_ns, 0, __ATOMIC_RELAXED);
    }
}

bool job_is_cancelled(const struct job *job)
{
    int64_t until_ns;

    if (!__atomic_load_n(&job->force_cancel, __ATOMIC_ACQUIRE)) {
        return false;
    }
    until_ns = __atomic_load_n(&job->first_step_until_ns, __ATOMIC_RELAXED);
    return until_ns == 0 || clock_ns() >= until_ns;
}

bool job_cancel_requested(const struct job *job)
{
    return __atomic_load_n(&job->cancel_requested, __ATOMIC_ACQUIRE);
}

bool job_should_pause(const struct job *job)
{
    return __atomic_load_n(&job->pause_requested, __ATOMIC_ACQUIRE) &&
           !job_is_cancelled(job);
}

void job_wake(struct job *job)
{
    LOCK_GUARD(&job->lock);
    cond_broadcast(&job->wake);
}

void job_kick(struct job *job)
{
    LOCK_GUARD(&job->lock);
    job->kicked = true;
    cond_broadcast(&job->wake);
}

void job_pause(struct job *job)
{
    control_assert();
    if (job->pause_count++ == 0) {
        __atomic_store_n(&job->pause_requested, true, __ATOMIC_RELEASE);
        job_wake(job);
    }
}

static void job_leave_paused(struct job *job)
{
    if (job->status == JOB_STATUS_PAUSED) {
        job_transition(job, JOB_STATUS_RUNNING);
    } else if (job->status == JOB_STATUS_STANDBY) {
        job_transition(job, JOB_STATUS_READY);
    }
}

void job_resume(struct job *job)
{
    control_assert();
    g_assert(job->pause_count > 0);
    if (--job->pause_count > 0) {
        return;
    }
    __atomic_store_n(&job->pause_requested, false, __ATOMIC_RELEASE);
    job_leave_paused(job);
    control_notify();
    job_wake(job);
}

/* Park with the control lock held until nobody wants a pause (P3). */
static void job_park(struct job *job)
{
    job->parked = true;
    control_notify();
    while (job->pause_count > 0 && !job->force_cancel) {
        if (job->status == JOB_STATUS_RUNNING) {
            job_transition(job, JOB_STATUS_PAUSED);
        } else if (job->status == JOB_STATUS_READY) {
            job_transition(job, JOB_STATUS_STANDBY);
        }
        control_wait();
    }
    job_leave_paused(job);
    job->parked = false;
}

void job_pause_point(struct job *job)
{
    if (job_should_pause(job)) {
        CONTROL_GUARD();
        job_park(job);
    }
}

void job_hurry(struct job *job)
{
    CONTROL_GUARD();
    for (GSList *l = job->roots; l; l = l->next) {
        root_hurry(l->data);
    }
}

void job_graph_begin(struct job *job)
{
    control_lock();
    job->parked = true;
    control_notify();
}

void job_graph_end(struct job *job)
{
    job_park(job);
    control_unlock();
}

void job_sleep_until(struct job *job, int64_t deadline_ns)
{
    lock_acquire(&job->lock);
    __atomic_store_n(&job->sleeping, true, __ATOMIC_RELAXED);
    while (!job->kicked && !job_is_cancelled(job) && !job_should_pause(job)) {
        if (__atomic_load_n(&job->force_cancel, __ATOMIC_ACQUIRE)) {
            deadline_ns = MIN(deadline_ns, clock_ns() + FIRST_STEP_NS);
        }
        if (!cond_wait_until(&job->wake, &job->lock, deadline_ns)) {
            break;
        }
    }
    job->kicked = false;
    __atomic_store_n(&job->sleeping, false, __ATOMIC_RELAXED);
    lock_release(&job->lock);
    job_pause_point(job);
}

int64_t job_progress_current(const struct job *job)
{
    return __atomic_load_n(&job->progress_current, __ATOMIC_RELAXED);
}

int64_t job_progress_total(const struct job *job)
{
    return __atomic_load_n(&job->progress_total, __ATOMIC_RELAXED);
}

struct job_rate_sample job_rate_sample(const struct job *job)
{
    return (struct job_rate_sample) {
        .ns = clock_ns(),
        .done = job_progress_current(job),
        .dirty = job->driver->dirty_bytes ? job->driver->dirty_bytes(job) : 0,
    };
}

void job_progress_add(struct job *job, int64_t bytes)
{
    __atomic_add_fetch(&job->progress_current, bytes, __ATOMIC_RELAXED);
    first_step_done(job);
    if (job_rate_wants(&job->rate, clock_ns())) {
        struct job_rate_sample sample = job_rate_sample(job);

        job_rate_note(&job->rate, &sample);
    }
}

void job_progress_set_remaining(struct job *job, int64_t bytes)
{
    int64_t now = __atomic_load_n(&job->progress_current, __ATOMIC_RELAXED);

    __atomic_store_n(&job->progress_total, now + bytes, __ATOMIC_RELAXED);
}

void job_progress_add_remaining(struct job *job, int64_t bytes)
{
    __atomic_add_fetch(&job->progress_total, bytes, __ATOMIC_RELAXED);
}

int64_t job_speed(const struct job *job)
{
    return __atomic_load_n(&job->speed, __ATOMIC_RELAXED);
}

void job_set_ready(struct job *job)
{
    CONTROL_GUARD();
    /* What is left is to sleep: who asks on this event finds it idle. */
    __atomic_store_n(&job->sleeping, true, __ATOMIC_RELAXED);
    job_transition(job, JOB_STATUS_READY);
    job_send_ready(job);
}

void job_thread_main(void *arg)
{
    struct job *job = arg;
    struct error *err = NULL;
    int ret;

    control_lock();
    job_park(job);
    control_unlock();
    ret = job_is_cancelled(job) ? -ECANCELED : job->driver->run(job, &err);
    first_step_done(job);
    CONTROL_GUARD();
    trace(JOB, "job-run-ended id=%s ret=%d", job->id ? job->id : "-", ret);
    job->parked = true;
    control_notify();
    job_ended(job, ret, err);
}
