/* SPDX-License-Identifier: MIT */
/* Jobs: creation, the list of all jobs, start and end of life. */
#include "blockjobs/job-priv.h"

#include <string.h>
#include "base/id.h"
#include "base/pool.h"
#include "base/trace.h"

static struct job *newest;      /* control lock */

struct job *job_find(const char *id)
{
    control_assert();
    for (struct job *j = newest; j; j = j->older) {
        if (j->id && strcmp(j->id, id) == 0) {
            return j;
        }
    }
    return NULL;
}

struct job *job_next(const struct job *job)
{
    control_assert();
    return job ? job->older : newest;
}

bool job_check_options(const struct job_options *options, struct error **errp)
{
    control_assert();
    if (options->id) {
        if (!id_is_well_formed(options->id)) {
            error_set(errp, "Invalid job ID '%s'", options->id);
            return false;
        }
        if (job_find(options->id)) {
            error_set(errp, "Job ID '%s' already in use", options->id);
            error_add_job(errp, options->id);
            return false;
        }
    }
    if (options->speed < 0) {
        error_set(errp, "Parameter 'speed' expects a non-negative value");
        return false;
    }
    return true;
}

struct job *job_create(const struct job_driver *driver,
                       const struct job_options *options, struct error **errp)
{
    struct job *job;

    control_assert();
    if (!job_check_options(options, errp)) {
        return NULL;
    }
    job = g_malloc0(driver->job_size);
    job->driver = driver;
    job->id = g_strdup(options->id);
    job->auto_finalize = !options->manual_finalize;
    job->auto_dismiss = !options->manual_dismiss;
    job->speed = options->speed;
    job->pause_count = 1;       /* until job_start() */
    job->pause_requested = true;
    job->parked = true;
    lock_init(&job->lock, "job", LOCK_JOB);
    job_rate_init(&job->rate);
    cond_init(&job->wake);

    job->older = newest;
    if (newest) {
        newest->newer = job;
    }
    newest = job;
    job_transition(job, JOB_STATUS_CREATED);
    if (options->txn) {
        job_txn_add(options->txn, job);
    } else {
        struct job_txn *own = job_txn_new();

        job_txn_add(own, job);
        job_txn_unref(own);
    }
    return job;
}

static void job_unlink(struct job *job)
{
    if (job->newer) {
        job->newer->older = job->older;
    } else {
        newest = job->older;
    }
    if (job->older) {
        job->older->newer = job->newer;
    }
}

void job_dismiss_now(struct job *job)
{
    g_assert(!job->txn);
    job_transition(job, JOB_STATUS_NULL);
    job_unlink(job);
    if (job->driver->free) {
        job->driver->free(job);
    }
    g_assert(!job->roots && !job->blocked_nodes);
    lock_deinit(&job->lock);
    cond_deinit(&job->wake);
    job_rate_deinit(&job->rate);
    error_free(job->io_error);
    error_free(job->err);
    g_free(job->id);
    g_free(job);
    control_notify();
}

void job_early_fail(struct job *job)
{
    control_assert();
    g_assert(!job->started);
    job_drop_roots(job);
    job_txn_remove(job);
    job_dismiss_now(job);
}

void job_undo(struct job *job)
{
    control_assert();
    g_assert(!job->started);
    job_transition(job, JOB_STATUS_ABORTING);
    job_drop_roots(job);
    job_txn_remove(job);
    job_transition(job, JOB_STATUS_CONCLUDED);
    job_dismiss_now(job);
}

void job_start(struct job *job)
{
    control_assert();
    g_assert(!job->started);
    job->started = true;
    job_transition(job, JOB_STATUS_RUNNING);
    job->pause_count--;         /* job_create()'s */
    if (job->pause_count > 0) {
        /* In a drained section: it ends by job_resume(). */
        job_transition(job, JOB_STATUS_PAUSED);
    } else {
        __atomic_store_n(&job->pause_requested, false, __ATOMIC_RELEASE);
    }
    job_expect_first_step(job);
    pool_submit(job_thread_main, job);
}
