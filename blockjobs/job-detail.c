/* SPDX-License-Identifier: MIT */
/* Jobs: what queries tell those who ask for detail. */
#include "blockjobs/job-priv.h"

#include "block/driver.h"
#include "qapi/error-data.h"

JobTime *job_time(int64_t us)
{
    JobTime *time = us ? JobTime_new0() : NULL;

    if (time) {
        time->seconds = us / G_USEC_PER_SEC;
        time->microseconds = us % G_USEC_PER_SEC;
    }
    return time;
}

static bool job_is_stopped(const struct job *job)
{
    return job->status == JOB_STATUS_PAUSED ||
           job->status == JOB_STATUS_STANDBY;
}

/* Seconds to ready or done; -1: cannot be told. */
static int64_t expected_seconds(const struct job *job, int64_t remaining,
                                double rate, double dirty_rate)
{
    if (job->status != JOB_STATUS_RUNNING || job->pause_count > 0 ||
        (job->driver->is_endless && job->driver->is_endless(job))) {
        return -1;
    }
    if (remaining <= 0) {
        return 0;
    }
    rate -= dirty_rate;
    /* Less than a byte a second, or more than a century: no expectation. */
    if (rate < 1 || remaining / rate > 100 * 366.0 * 86400) {
        return -1;
    }
    return (int64_t)(remaining / rate + 0.999);
}

static void add_amounts(JobDetail *d, struct job *job)
{
    const struct job_rate_sample now = job_rate_sample(job);
    int64_t remaining = MAX(0, job_progress_total(job) - now.done);
    double rate = 0, dirty_rate = 0;
    bool known;

    d->has_bytes_copied = d->has_bytes_remaining = true;
    d->bytes_copied = now.done;
    d->bytes_remaining = remaining;
    known = job->times.started_us && job_rate_get(&job->rate, &now, &rate,
                                                  &dirty_rate);
    if (job_is_stopped(job)) {
        rate = 0;
    } else if (!known || job->thread_ended) {
        return;
    }
    d->has_rate = true;
    d->rate = (int64_t)rate;
    if (job->driver->dirty_bytes && known) {
        d->has_dirty_rate = true;
        d->dirty_rate = (int64_t)dirty_rate;
    }
    d->expected_seconds = expected_seconds(job, remaining, rate, dirty_rate);
    d->has_expected_seconds = d->expected_seconds >= 0;
    job_rate_note(&job->rate, &now);
}

static JobPauseReasonList *pause_reasons(const struct job *job)
{
    JobPauseReasonList *list = JobPauseReasonList_new0();
    bool by_start = job->status == JOB_STATUS_CREATED;

    if (job->pause_asked) {
        qapi_list_append(list, JOB_PAUSE_REASON_USER);
    }
    if (job->error_paused) {
        qapi_list_append(list, JOB_PAUSE_REASON_ERROR);
    }
    if (job->pause_count > job->user_paused + by_start) {
        qapi_list_append(list, JOB_PAUSE_REASON_DRAIN);
    }
    return list;
}

static JobNodeList *nodes(const struct job *job)
{
    JobNodeList *list = JobNodeList_new0();

    /* Last one first in the list of roots. */
    for (GSList *l = job->roots; l; l = l->next) {
        struct root *root = l->data;
        JobNode *n = JobNode_new0();

        n->role = g_strdup(root_link(root)->name);
        n->node_name = g_strdup(node_name(root_node(root)));
        n->drained = root_is_drained(root);
        qapi_list_append(list, n);
    }
    return list;
}

JobDetail *job_detail(struct job *job)
{
    JobDetail *d = JobDetail_new0();

    control_assert();
    if (job->driver->is_block_job) {
        add_amounts(d, job);
    }
    d->created = job_time(job->times.created_us);
    d->started = job_time(job->times.started_us);
    d->ready = job_time(job->times.ready_us);
    d->ended = job_time(job->times.ended_us);
    d->pause_reasons = pause_reasons(job);
    d->nodes = nodes(job);
    if (job->err) {
        d->error_data = error_to_qapi(job->err);
    } else if (job->error_paused) {
        d->error_data = error_to_qapi(job->io_error);
    }
    return d;
}
