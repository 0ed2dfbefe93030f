/* SPDX-License-Identifier: MIT */
/*
 * Jobs: how they end, alone or with their transaction.
 *
 * Phases      1  run() returns (job_ended).  A failure cancels the others of
 *                the transaction; a success waits for them.
 *             2  All have returned.  Without failure: pending, all of them;
 *                then, at once or when a user says finalize, prepare in
 *                turn.  A prepare that fails turns the whole into a failure.
 *             3  Each is finalized: commit or abort, clean, BLOCK_JOB_*,
 *                concluded, and, unless its user dismisses it, null.
 * Invariants  E1  Phase 3 happens once for a transaction, in one thread;
 *                 txn->finalizing keeps others out while it yields.
 *             E2  After phase 2 began no cancel can fail the transaction.
 *             E3  A job that is not started belongs to who makes it: a cancel
 *                 is noted, and acts when it is started.
 */
#include "blockjobs/job-priv.h"

#include "base/trace.h"
#include "blockjobs/job-history.h"
#include "blockjobs/job-kill.h"

/* ---- membership ---------------------------------------------------------- */

struct job_txn *job_txn_new(void)
{
    struct job_txn *txn = g_new0(struct job_txn, 1);

    txn->n_refs = 1;
    return txn;
}

void job_txn_unref(struct job_txn *txn)
{
    if (txn && --txn->n_refs == 0) {
        g_assert(!txn->jobs);
        g_free(txn);
    }
}

/* In front: what is done to all of a transaction begins with the newest. */
void job_txn_add(struct job_txn *txn, struct job *job)
{
    job->txn_next = txn->jobs;
    txn->jobs = job;
    job->txn = txn;
    txn->n_refs++;
}

void job_txn_remove(struct job *job)
{
    struct job_txn *txn = job->txn;
    struct job **link = &txn->jobs;

    while (*link != job) {
        link = &(*link)->txn_next;
    }
    *link = job->txn_next;
    job->txn_next = NULL;
    job->txn = NULL;
    job_txn_unref(txn);
}

/* ---- phase 3 ------------------------------------------------------------- */

/* A result of cancellation or failure shows in the status. */
static void job_settle_result(struct job *job)
{
    if (job->ret == 0 && job_is_cancelled(job)) {
        job->ret = -ECANCELED;
    }
    if (job->ret == 0) {
        return;
    }
    if (!job->err) {
        error_set(&job->err, "%s", error_errno_text(-job->ret));
    }
    job_describe_failure(job);
    if (job->status != JOB_STATUS_ABORTING) {
        job_transition(job, JOB_STATUS_ABORTING);
    }
}

static void job_finalize_one(struct job *job)
{
    const struct job_driver *drv = job->driver;

    job_settle_result(job);
    job_kill_point(job, job->ret == 0 ? "commit" : "abort");
    if (job->ret == 0) {
        if (drv->commit) {
            drv->commit(job);
        }
    } else if (drv->abort) {
        drv->abort(job);
    }
    job_kill_point(job, "clean");
    if (drv->clean) {
        drv->clean(job);
    }
    job_drop_roots(job);
    job_kill_point(job, "dropped");
    job_send_ended(job);
    job_txn_remove(job);
    job_transition(job, JOB_STATUS_CONCLUDED);
    job_history_add(job);
    if (job->auto_dismiss) {
        job_dismiss_now(job);
    }
}

static void job_txn_finalize_all(struct job_txn *txn)
{
    txn->n_refs++;
    while (txn->jobs) {
        job_finalize_one(txn->jobs);
    }
    job_txn_unref(txn);
}

/* ---- phases 1 and 2 ------------------------------------------------------ */

static bool job_txn_all_ended(const struct job_txn *txn)
{
    for (const struct job *j = txn->jobs; j; j = j->txn_next) {
        if (!j->thread_ended) {
            return false;
        }
    }
    return true;
}

/* Only a job that is ready can be asked to end well. */
static bool cancel_is_hard(struct job *job, bool force)
{
    bool ready = job->status == JOB_STATUS_READY ||
                 job->status == JOB_STATUS_STANDBY;

    return force || !ready || !job->driver->soft_cancel_is_hard ||
           job->driver->soft_cancel_is_hard(job);
}

/* Cancel flags only; the thread notices. */
static void job_cancel_flags(struct job *job, bool force)
{
    force = cancel_is_hard(job, force);
    if (job->user_paused) {
        /* Paused by a user: nobody else will resume it. */
        job_iostatus_reset(job);
        job->user_paused = false;
        job_resume(job);
    }
    if (force) {
        __atomic_store_n(&job->force_cancel, true, __ATOMIC_RELEASE);
    }
    __atomic_store_n(&job->cancel_requested, true, __ATOMIC_RELEASE);
    for (GSList *l = force ? job->roots : NULL; l; l = l->next) {
        root_hurry(l->data);
    }
    /* A thread that has ended leaves guests who wait for a target, say. */
    if (job->driver->cancel && job->started &&
        (force || !job->thread_ended)) {
        job->driver->cancel(job, force);
    }
    job_wake(job);
    control_notify();
}

static void job_txn_abort(struct job_txn *txn)
{
    if (!txn->aborting) {
        txn->aborting = true;
        for (struct job *j = txn->jobs; j; j = j->txn_next) {
            if (j->thread_ended && j->ret != 0) {
                continue;       /* it failed or was cancelled by itself */
            }
            job_cancel_flags(j, true);
        }
    }
    if (!txn->finalizing && job_txn_all_ended(txn)) {
        txn->finalizing = true;
        job_txn_finalize_all(txn);
    }
}

static void job_txn_prepare_and_finalize(struct job_txn *txn)
{
    g_assert(!txn->finalizing);
    txn->finalizing = true;
    txn->preparing = true;
    for (struct job *j = txn->jobs; j; j = j->txn_next) {
        job_kill_point(j, "prepare");
        if (j->driver->prepare) {
            AUTO_ERROR(err);

            j->ret = j->driver->prepare(j, &err);
            if (j->ret != 0) {
                error_propagate(&j->err, g_steal_pointer(&err));
                job_settle_result(j);
                txn->preparing = false;
                txn->finalizing = false;
                job_txn_abort(txn);
                return;
            }
        }
    }
    txn->preparing = false;
    job_txn_finalize_all(txn);
}

static void job_txn_success(struct job_txn *txn)
{
    bool all_auto = true;

    for (struct job *j = txn->jobs; j; j = j->txn_next) {
        if (j->status != JOB_STATUS_WAITING) {
            return;
        }
    }
    for (struct job *j = txn->jobs; j; j = j->txn_next) {
        job_transition(j, JOB_STATUS_PENDING);
        if (!j->auto_finalize) {
            job_send_pending(j);
            all_auto = false;
        }
    }
    if (all_auto) {
        job_txn_prepare_and_finalize(txn);
    }
}

void job_ended(struct job *job, int ret, struct error *err)
{
    control_assert();
    job->thread_ended = true;
    job->ret = ret;
    g_assert(!job->err);
    if (ret != 0) {
        job->err = err;
    } else {
        error_free(err);
    }
    job_settle_result(job);
    if (job->ret != 0) {
        job_txn_abort(job->txn);
    } else {
        job_transition(job, JOB_STATUS_WAITING);
        job_txn_success(job->txn);
    }
}

void job_finalize_txn(struct job *job)
{
    job_txn_prepare_and_finalize(job->txn);
}

bool job_end_is_decided(const struct job *job)
{
    return job->txn && job->txn->finalizing;
}

void job_cancel(struct job *job, bool force)
{
    control_assert();
    if (job_end_is_decided(job)) {
        /* E2.  But nobody need wait for what hangs. */
        if (force && job->driver->cancel) {
            job->driver->cancel(job, true);
        }
        return;
    }
    job_cancel_flags(job, force);
    if (job->thread_ended && job_is_cancelled(job)) {
        job_settle_result(job);
        job_txn_abort(job->txn);
    }
}
