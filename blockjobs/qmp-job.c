/* SPDX-License-Identifier: MIT */
/*
 * QMP: job-* and block-job-*, query-jobs and query-block-jobs.
 *
 * Both families do the same; they differ in how a job is found: job-* sees
 * every job and answers `Job not found`, block-job-* only block jobs and
 * answers with class DeviceNotActive.
 */
#include "blockjobs/job-priv.h"

#include "blockjobs/job-history.h"
#include "qapi/qapi-commands.h"

/* ---- finding ---------------------------------------------------------------- */

static struct job *find_any(const char *id, enum job_verb verb,
                            struct error **errp)
{
    struct job *job = job_find(id);

    if (!job) {
        error_set(errp, "Job not found");
        return NULL;
    }
    return job_check_verb(job, verb, errp) ? job : NULL;
}

static struct job *find_block(const char *id, enum job_verb verb,
                              struct error **errp)
{
    struct job *job = job_find(id);

    if (!job || !job->driver->is_block_job) {
        error_set_class(errp, ERROR_DEVICE_NOT_ACTIVE,
                        "Block job '%s' not found", id);
        return NULL;
    }
    return job_check_verb(job, verb, errp) ? job : NULL;
}

/* ---- verbs -------------------------------------------------------------------- */

static bool user_pause(struct job *job, struct error **errp)
{
    if (!job) {
        return false;
    }
    if (job->user_paused) {
        error_set(errp, "Job is already paused");
        return false;
    }
    job->user_paused = job->pause_asked = true;
    job_pause(job);
    return true;
}

static bool user_resume(struct job *job, struct error **errp)
{
    if (!job) {
        return false;
    }
    if (!job->user_paused || job->pause_count <= 0) {
        error_set(errp, "Can't resume a job that was not paused");
        return false;
    }
    job_iostatus_reset(job);
    if (job->driver->user_resume) {
        job->driver->user_resume(job);
    }
    job->user_paused = false;
    job_resume(job);
    return true;
}

static bool complete(struct job *job, struct error **errp)
{
    if (!job) {
        return false;
    }
    if (job_cancel_requested(job) || !job->driver->complete) {
        error_set(errp, "The active block job '%s' cannot be completed",
                  job->id);
        return false;
    }
    return job->driver->complete(job, errp);
}

static bool finalize(struct job *job, struct error **errp)
{
    if (!job) {
        return false;
    }
    if (job->txn->finalizing) {
        error_set(errp, "Job '%s' is being finalized already", job->id);
        return false;
    }
    job_finalize_txn(job);
    return true;
}

static bool dismiss(struct job *job)
{
    if (!job) {
        return false;
    }
    job_dismiss_now(job);
    return true;
}

static bool set_speed(struct job *job, int64_t speed, struct error **errp)
{
    if (!job) {
        return false;
    }
    if (speed < 0) {
        error_set(errp, "Parameter 'speed' expects a non-negative value");
        return false;
    }
    __atomic_store_n(&job->speed, speed, __ATOMIC_RELAXED);
    if (job->driver->set_speed) {
        job->driver->set_speed(job, speed);
    }
    job_kick(job);
    return true;
}

/* ---- job-* ---------------------------------------------------------------------- */

bool qmp_job_pause(const JobPauseArgs *args, struct error **errp)
{
    return user_pause(find_any(args->id, JOB_VERB_PAUSE_, errp), errp);
}

bool qmp_job_resume(const JobResumeArgs *args, struct error **errp)
{
    return user_resume(find_any(args->id, JOB_VERB_RESUME_, errp), errp);
}

bool qmp_job_cancel(const JobCancelArgs *args, struct error **errp)
{
    struct job *job = find_any(args->id, JOB_VERB_CANCEL_, errp);

    if (!job) {
        return false;
    }
    job_cancel(job, true);
    return true;
}

bool qmp_job_complete(const JobCompleteArgs *args, struct error **errp)
{
    return complete(find_any(args->id, JOB_VERB_COMPLETE_, errp), errp);
}

bool qmp_job_finalize(const JobFinalizeArgs *args, struct error **errp)
{
    return finalize(find_any(args->id, JOB_VERB_FINALIZE_, errp), errp);
}

bool qmp_job_dismiss(const JobDismissArgs *args, struct error **errp)
{
    return dismiss(find_any(args->id, JOB_VERB_DISMISS_, errp));
}

/* ---- block-job-* ------------------------------------------------------------------ */

bool qmp_block_job_set_speed(const BlockJobSetSpeedArgs *args,
                             struct error **errp)
{
    return set_speed(find_block(args->device, JOB_VERB_SET_SPEED_, errp),
                     args->speed, errp);
}

bool qmp_block_job_cancel(const BlockJobCancelArgs *args, struct error **errp)
{
    struct job *job = find_block(args->device, JOB_VERB_CANCEL_, errp);
    bool force = args->has_force && args->force;

    if (!job) {
        return false;
    }
    if (job->user_paused && !force) {
        error_set(errp, "The block job for device '%s' is currently paused",
                  args->device);
        return false;
    }
    job_cancel(job, force);
    return true;
}

bool qmp_block_job_pause(const BlockJobPauseArgs *args, struct error **errp)
{
    return user_pause(find_block(args->device, JOB_VERB_PAUSE_, errp), errp);
}

bool qmp_block_job_resume(const BlockJobResumeArgs *args, struct error **errp)
{
    return user_resume(find_block(args->device, JOB_VERB_RESUME_, errp), errp);
}

bool qmp_block_job_complete(const BlockJobCompleteArgs *args,
                            struct error **errp)
{
    return complete(find_block(args->device, JOB_VERB_COMPLETE_, errp), errp);
}

bool qmp_block_job_finalize(const BlockJobFinalizeArgs *args,
                            struct error **errp)
{
    return finalize(find_block(args->id, JOB_VERB_FINALIZE_, errp), errp);
}

bool qmp_block_job_dismiss(const BlockJobDismissArgs *args,
                           struct error **errp)
{
    return dismiss(find_block(args->id, JOB_VERB_DISMISS_, errp));
}

bool qmp_block_job_change(const BlockJobChangeOptions *args,
                          struct error **errp)
{
    struct job *job = find_block(args->id, JOB_VERB_CHANGE_, errp);

    if (!job) {
        return false;
    }
    if (job->driver->type != args->type) {
        error_set(errp, "Block job '%s' is of type %s, not %s", args->id,
                  JobType_str(job->driver->type), JobType_str(args->type));
        return false;
    }
    if (!job->driver->change) {
        error_set(errp, "Nothing of a block job of type %s can be changed",
                  JobType_str(args->type));
        return false;
    }
    return job->driver->change(job, args, errp);
}

/* ---- queries ----------------------------------------------------------------------- */

static bool job_is_busy(const struct job *job)
{
    return !job->parked && !__atomic_load_n(&job->sleeping, __ATOMIC_RELAXED);
}

JobInfoList *qmp_query_jobs(const QueryJobsArgs *args, struct error **errp)
{
    JobInfoList *list = g_new0(JobInfoList, 1);

    for (struct job *job = job_next(NULL); job; job = job_next(job)) {
        JobInfo *info;

        if (!job->id) {
            continue;
        }
        info = g_new0(JobInfo, 1);
        info->id = g_strdup(job->id);
        info->type = job->driver->type;
        info->status = job->status;
        info->current_progress = job_progress_current(job);
        info->total_progress = job_progress_total(job);
        info->error = job->err ? g_strdup(error_text(job->err)) : NULL;
        info->detail = args->has_detail && args->detail ? job_detail(job)
                                                        : NULL;
        qapi_list_append(list, info);
    }
    return list;
}

static BlockJobInfo *block_job_info(struct job *job, bool detail)
{
    BlockJobInfo *info = g_new0(BlockJobInfo, 1);

    info->type = job->driver->type;
    info->device = g_strdup(job->id);
    info->offset = job_progress_current(job);
    info->len = job_progress_total(job);
    info->busy = job_is_busy(job);
    info->paused = job->user_paused;      /* a drain does not show */
    info->speed = job_speed(job);
    info->io_status = job->iostatus;
    info->ready = job->status == JOB_STATUS_READY ||
                  job->status == JOB_STATUS_STANDBY;
    info->status = job->status;
    info->auto_finalize = job->auto_finalize;
    info->auto_dismiss = job->auto_dismiss;
    info->error = job->err ? g_strdup(error_text(job->err)) : NULL;
    info->detail = detail ? job_detail(job) : NULL;
    if (job->driver->query) {
        job->driver->query(job, info);
    }
    return info;
}

BlockJobInfoList *qmp_query_block_jobs(const QueryBlockJobsArgs *args,
                                       struct error **errp)
{
    BlockJobInfoList *list = g_new0(BlockJobInfoList, 1);

    for (struct job *job = job_next(NULL); job; job = job_next(job)) {
        if (job->id && job->driver->is_block_job) {
            qapi_list_append(list, block_job_info(job, args->has_detail &&
                                                       args->detail));
        }
    }
    return list;
}

JobHistoryEntryList *qmp_query_job_history(const QueryJobHistoryArgs *args,
                                           struct error **errp)
{
    if (args->has_limit && args->limit < 0) {
        error_set(errp, "Parameter 'limit' expects a non-negative value");
        return NULL;
    }
    return job_history_list(args->id, args->has_limit ? args->limit
                                                      : JOB_HISTORY_MAX);
}
