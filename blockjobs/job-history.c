/* SPDX-License-Identifier: MIT */
/* The last jobs that ended: see job-history.h. */
#include "blockjobs/job-history.h"

#include <string.h>
#include "blockjobs/job-priv.h"
#include "qapi/error-data.h"
#include "qapi/qapi-visit.h"

static GQueue entries = G_QUEUE_INIT;   /* owned; newest first */

static JobOutcome job_outcome(const struct job *job)
{
    if (job_is_cancelled(job)) {
        return JOB_OUTCOME_CANCELLED;
    }
    return job->ret == 0 ? JOB_OUTCOME_COMPLETED : JOB_OUTCOME_FAILED;
}

static void add_bytes(JobHistoryEntry *e, const struct job *job)
{
    int64_t us = job->times.ended_us - job->times.started_us;

    if (!job->driver->is_block_job) {
        return;
    }
    e->has_bytes_copied = e->has_bytes_total = true;
    e->bytes_copied = job_progress_current(job);
    e->bytes_total = job_progress_total(job);
    if (job->times.started_us && us > 0) {
        e->has_average_rate = true;
        e->average_rate = (double)e->bytes_copied * G_USEC_PER_SEC / us;
    }
}

void job_history_add(const struct job *job)
{
    JobHistoryEntry *e;

    control_assert();
    if (!job->id) {
        return;
    }
    e = JobHistoryEntry_new0();
    e->id = g_strdup(job->id);
    e->type = job->driver->type;
    e->outcome = job_outcome(job);
    e->error = job->err ? g_strdup(error_text(job->err)) : NULL;
    e->error_data = error_to_qapi(job->err);
    e->created = job_time(job->times.created_us);
    e->started = job_time(job->times.started_us);
    e->ready = job_time(job->times.ready_us);
    e->ended = job_time(job->times.ended_us);
    add_bytes(e, job);
    g_queue_push_head(&entries, e);
    if (g_queue_get_length(&entries) > JOB_HISTORY_MAX) {
        JobHistoryEntry_free(g_queue_pop_tail(&entries));
    }
}

JobHistoryEntryList *job_history_list(const char *id, int64_t limit)
{
    JobHistoryEntryList *list = JobHistoryEntryList_new0();

    control_assert();
    for (GList *l = entries.head; l && (int64_t)list->n < limit; l = l->next) {
        const JobHistoryEntry *e = l->data;

        if (!id || strcmp(id, e->id) == 0) {
            qapi_list_append(list, JobHistoryEntry_clone(e));
        }
    }
    return list;
}

void job_history_free(void)
{
    JobHistoryEntry *e;

    control_assert();
    while ((e = g_queue_pop_head(&entries))) {
        JobHistoryEntry_free(e);
    }
}
