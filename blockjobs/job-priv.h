/* SPDX-License-Identifier: MIT */
/* Jobs: what the job*.c files share and nobody else uses. */
#pragma once

#include "base/control.h"
#include "block/root.h"
#include "blockjobs/job.h"

/* ---- job-state.c: the two tables ----------------------------------------- */

#define JOB_VERBS(X) \
    X(CANCEL, "cancel") X(PAUSE, "pause") X(RESUME, "resume") \
    X(SET_SPEED, "set-speed") X(COMPLETE, "complete") \
    X(FINALIZE, "finalize") X(DISMISS, "dismiss") X(CHANGE, "change")

enum job_verb {
#define X(id, name) JOB_VERB_##id##_,
    JOB_VERBS(X)
#undef X
    JOB_VERB__COUNT
};

bool job_state_may_change(JobStatus from, JobStatus to);
bool job_state_may_verb(JobStatus status, enum job_verb verb);
const char *job_verb_name(enum job_verb verb);

/* Change status by the table (else: assertion) and send the event. */
void job_transition(struct job *job, JobStatus to);
/* Refuse VERB with QEMU's text where the table forbids it. */
bool job_check_verb(const struct job *job, enum job_verb verb,
                    struct error **errp);

/* ---- job.c --------------------------------------------------------------- */

/* Settled: out of the list and freed; status goes to "null". */
void job_dismiss_now(struct job *job);

/* ---- job-run.c: pausing -------------------------------------------------- */

void job_pause(struct job *job);            /* counted */
void job_resume(struct job *job);
void job_wake(struct job *job);             /* any sleep looks again */
/* The job's thread is about to be made. */
void job_expect_first_step(struct job *job);
void job_thread_main(void *job);

/* Any thread. */
int64_t job_progress_current(const struct job *job);
int64_t job_progress_total(const struct job *job);
/* The counters of job->rate as they are now. */
struct job_rate_sample job_rate_sample(const struct job *job);

/* ---- job-end.c: completion ----------------------------------------------- */

struct job_txn {
    int n_refs;
    struct job *jobs;       /* linked by txn_next, newest first */
    bool aborting;          /* a member failed: the others are cancelled */
    bool finalizing;        /* prepare, commit, abort are running */
    bool preparing;         /* of these, prepare */
};

void job_txn_add(struct job_txn *txn, struct job *job);
void job_txn_remove(struct job *job);
/* The job's run() has returned RET. */
void job_ended(struct job *job, int ret, struct error *err /* taken */);
/* Its transaction is being finalized: cancel has no effect any more. */
bool job_end_is_decided(const struct job *job);
/* Cancel by a user, a transaction or shutdown; does not wait. */
void job_cancel(struct job *job, bool force);
/* Finalize the whole transaction of a pending job. */
void job_finalize_txn(struct job *job);

/* ---- block-job.c: roots, events ------------------------------------------ */

void job_send_ready(struct job *job);
void job_send_pending(struct job *job);
void job_send_ended(struct job *job);       /* COMPLETED or CANCELLED */
/* It goes on, or ends: the error that stopped it is history. */
void job_iostatus_reset(struct job *job);
/* Its error gets what io_error knows. */
void job_describe_failure(struct job *job);

/* ---- job-detail.c -------------------------------------------------------- */

JobDetail *job_detail(struct job *job);     /* owned by the caller */
/* NULL for 0; owned by the caller. */
JobTime *job_time(int64_t us);
