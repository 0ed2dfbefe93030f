/* SPDX-License-Identifier: MIT */
/*
 * The job state machine: two tables and one function that changes status.
 *
 * docs/jobs.md shows both tables; tests/test-job-state.c walks every cell.
 */
#include "blockjobs/job-priv.h"

#include "base/trace.h"
#include "blockjobs/job-kill.h"
#include "qapi/qapi-events.h"

#define S(status) (1u << JOB_STATUS_##status)

/* From a status to these. */
static const unsigned may_change[JOB_STATUS__MAX] = {
    [JOB_STATUS_UNDEFINED] = S(CREATED),
    [JOB_STATUS_CREATED]   = S(RUNNING) | S(ABORTING) | S(NULL),
    [JOB_STATUS_RUNNING]   = S(PAUSED) | S(READY) | S(WAITING) | S(ABORTING),
    [JOB_STATUS_PAUSED]    = S(RUNNING),
    [JOB_STATUS_READY]     = S(STANDBY) | S(WAITING) | S(ABORTING),
    [JOB_STATUS_STANDBY]   = S(READY),
    [JOB_STATUS_WAITING]   = S(PENDING) | S(ABORTING),
    [JOB_STATUS_PENDING]   = S(ABORTING) | S(CONCLUDED),
    [JOB_STATUS_ABORTING]  = S(ABORTING) | S(CONCLUDED),
    [JOB_STATUS_CONCLUDED] = S(NULL),
    [JOB_STATUS_NULL]      = 0,
};

#define LIVE (S(CREATED) | S(RUNNING) | S(PAUSED) | S(READY) | S(STANDBY))

/* A verb is accepted in these. */
static const unsigned may_verb[JOB_VERB__COUNT] = {
    [JOB_VERB_CANCEL_]    = LIVE | S(WAITING) | S(PENDING),
    [JOB_VERB_PAUSE_]     = LIVE,
    [JOB_VERB_RESUME_]    = LIVE,
    [JOB_VERB_SET_SPEED_] = LIVE,
    [JOB_VERB_CHANGE_]    = LIVE,
    [JOB_VERB_COMPLETE_]  = S(READY) | S(STANDBY),
    [JOB_VERB_FINALIZE_]  = S(PENDING),
    [JOB_VERB_DISMISS_]   = S(CONCLUDED),
};

static const char *const verb_names[JOB_VERB__COUNT] = {
#define X(id, name) [JOB_VERB_##id##_] = name,
    JOB_VERBS(X)
#undef X
};

bool job_state_may_change(JobStatus from, JobStatus to)
{
    return may_change[from] & (1u << to);
}

bool job_state_may_verb(JobStatus status, enum job_verb verb)
{
    return may_verb[verb] & (1u << status);
}

const char *job_verb_name(enum job_verb verb)
{
    return verb_names[verb];
}

/* It runs, for the first time or after a pause. */
static void job_begin_rate(struct job *job)
{
    const struct job_rate_sample sample = job_rate_sample(job);

    job_rate_begin(&job->rate, &sample);
}

/* It has a new status. */
static void job_note_time(struct job *job)
{
    const int64_t now_us = g_get_real_time();
    struct job_times *t = &job->times;

    switch (job->status) {
    case JOB_STATUS_CREATED:
        t->created_us = now_us;
        break;
    case JOB_STATUS_RUNNING:
        t->started_us = t->started_us ? t->started_us : now_us;
        job_begin_rate(job);
        break;
    case JOB_STATUS_READY:
        if (t->ready_us) {
            job_begin_rate(job);
        } else {
            t->ready_us = now_us;
        }
        break;
    case JOB_STATUS_CONCLUDED:
        t->ended_us = now_us;
        break;
    default:
        break;
    }
}

void job_transition(struct job *job, JobStatus to)
{
    control_assert();
    trace(JOB, "job-status id=%s from=%s to=%s", job->id ? job->id : "-",
          JobStatus_str(job->status), JobStatus_str(to));
    g_assert(job_state_may_change(job->status, to));
    if (job->status == to) {
        return;
    }
    job_kill_point(job, JobStatus_str(to));
    job->status = to;
    job_note_time(job);
    if (job->id) {
        qapi_event_send_job_status_change(job->id, to);
    }
    control_notify();
}

bool job_check_verb(const struct job *job, enum job_verb verb,
                    struct error **errp)
{
    if (job_state_may_verb(job->status, verb)) {
        return true;
    }
    error_set(errp, "Job '%s' in state '%s' cannot accept command verb '%s'",
              job->id, JobStatus_str(job->status), verb_names[verb]);
    error_add_job(errp, job->id);
    return false;
}
