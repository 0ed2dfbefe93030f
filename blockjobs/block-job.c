/* SPDX-License-Identifier: MIT */
/* Block jobs: what jobs on nodes add: roots, in-use marks, I/O status, the
 * BLOCK_JOB_* events. */
#include "blockjobs/job-priv.h"

#include <errno.h>
#include "qapi/error-data.h"
#include "qapi/qapi-events.h"

/* ---- roots ----------------------------------------------------------------- */

static char *job_root_describe(void *opaque)
{
    const struct job *job = opaque;

    return g_strdup_printf("%s job '%s'", JobType_str(job->driver->type),
                           job->id ? job->id : "");
}

static const char *job_root_job_id(void *opaque)
{
    const struct job *job = opaque;

    return job->id ? job->id : "";
}

static void job_root_drained_begin(void *opaque)
{
    job_pause(opaque);
}

static void job_root_drained_end(void *opaque)
{
    job_resume(opaque);
}

static bool job_root_drained_poll(void *opaque)
{
    const struct job *job = opaque;

    return !job->parked && !job->thread_ended;
}

static const struct root_ops job_root_ops = {
    .describe = job_root_describe,
    .job_id = job_root_job_id,
    .drained_begin = job_root_drained_begin,
    .drained_end = job_root_drained_end,
    .drained_poll = job_root_drained_poll,
};

struct root *job_add_root(struct job *job, struct node *node, const char *name,
                          unsigned perm, unsigned shared, struct error **errp)
{
    struct root_options options = {
        .name = name,
        .ops = &job_root_ops,
        .opaque = job,
        .perm = perm,
        .shared = shared,
        .no_gate = true,
        .stay_on_node = true,
    };
    g_autofree char *reason = NULL;
    struct root *root = root_new(node, &options, errp);

    if (!root) {
        return NULL;
    }
    reason = g_strdup_printf("block device is in use by block job: %s",
                             JobType_str(job->driver->type));
    node_block_all_ops(node, job, reason);
    job->blocked_nodes = g_slist_prepend(job->blocked_nodes, node_ref(node));
    job->roots = g_slist_prepend(job->roots, root);
    return root;
}

void job_remove_root(struct job *job, struct root *root)
{
    struct node *node = root_node(root);

    control_assert();
    job->roots = g_slist_remove(job->roots, root);
    job->blocked_nodes = g_slist_remove(job->blocked_nodes, node);
    root_free(&root);
    node_unblock_all_ops(node, job);
    node_unref(node);
}

void job_drop_roots(struct job *job)
{
    control_assert();
    while (job->roots) {
        struct root *root = job->roots->data;

        job->roots = g_slist_delete_link(job->roots, job->roots);
        root_free(&root);
    }
    while (job->blocked_nodes) {
        struct node *node = job->blocked_nodes->data;

        job->blocked_nodes = g_slist_delete_link(job->blocked_nodes,
                                                 job->blocked_nodes);
        node_unblock_all_ops(node, job);
        node_unref(node);
    }
}

/* ---- errors ------------------------------------------------------------------ */

static BlockErrorAction action_for(BlockdevOnError on_err, int err)
{
    switch (on_err) {
    case BLOCKDEV_ON_ERROR_ENOSPC:
    case BLOCKDEV_ON_ERROR_AUTO:
        return err == ENOSPC ? BLOCK_ERROR_ACTION_STOP
                             : BLOCK_ERROR_ACTION_REPORT;
    case BLOCKDEV_ON_ERROR_STOP:
        return BLOCK_ERROR_ACTION_STOP;
    case BLOCKDEV_ON_ERROR_IGNORE:
        return BLOCK_ERROR_ACTION_IGNORE;
    default:
        return BLOCK_ERROR_ACTION_REPORT;
    }
}

/* What is known of E, as an error object. */
static struct error *make_io_error(const struct job_io_error *e)
{
    struct error *err = NULL;

    error_set(&err, "%s", error_errno_text(ABS(e->err)));
    error_add_errno(&err, ABS(e->err));
    if (e->node) {
        error_add_node(&err, node_name(e->node));
    }
    if (e->bytes > 0) {
        error_add_range(&err, e->offset, e->bytes);
    }
    return err;
}

/* The job stops until its user has seen to the error. */
static void job_stop_by_error(struct job *job, int err)
{
    if (!job->user_paused) {
        job->user_paused = true;    /* resumed by the user alone */
        job_pause(job);
    }
    job->error_paused = true;
    if (job->iostatus == BLOCK_DEVICE_IO_STATUS_OK) {
        job->iostatus = err == ENOSPC ? BLOCK_DEVICE_IO_STATUS_NOSPACE
                                      : BLOCK_DEVICE_IO_STATUS_FAILED;
    }
}

BlockErrorAction job_io_error_action(struct job *job, BlockdevOnError on_err,
                                     const struct job_io_error *error)
{
    BlockErrorAction action = action_for(on_err, ABS(error->err));

    CONTROL_GUARD();
    error_free(job->io_error);
    job->io_error = make_io_error(error);
    if (job->id) {
        g_autoptr(ErrorData) data = error_to_qapi(job->io_error);

        qapi_event_send_block_job_error(job->id,
                                        error->is_read
                                        ? IO_OPERATION_TYPE_READ
                                        : IO_OPERATION_TYPE_WRITE,
                                        action, data);
    }
    if (action == BLOCK_ERROR_ACTION_STOP && !job_is_cancelled(job)) {
        job_stop_by_error(job, ABS(error->err));
    }
    return action;
}

BlockErrorAction job_error_action(struct job *job, BlockdevOnError on_err,
                                  bool is_read, int err)
{
    const struct job_io_error error = { .is_read = is_read, .err = err };

    return job_io_error_action(job, on_err, &error);
}

void job_iostatus_reset(struct job *job)
{
    job->iostatus = BLOCK_DEVICE_IO_STATUS_OK;
    job->pause_asked = job->error_paused = false;
    error_free(job->io_error);
    job->io_error = NULL;
}

void job_describe_failure(struct job *job)
{
    const struct error_data *d;

    error_add_errno(&job->err, -job->ret);
    if (job->io_error && !error_get_data(job->err) &&
        error_get_errno(job->io_error) == error_get_errno(job->err)) {
        d = error_get_data(job->io_error);
        if (d) {
            error_add_node(&job->err, d->node_name);
            error_add_range(&job->err, d->offset, d->bytes);
        }
    }
}

/* ---- events -------------------------------------------------------------------- */

static bool job_sends(const struct job *job)
{
    return job->id && job->driver->is_block_job;
}

void job_send_ready(struct job *job)
{
    if (job_sends(job)) {
        qapi_event_send_block_job_ready(job->driver->type, job->id,
                                        job_progress_total(job),
                                        job_progress_current(job),
                                        job_speed(job));
    }
}

void job_send_pending(struct job *job)
{
    if (job_sends(job)) {
        qapi_event_send_block_job_pending(job->driver->type, job->id);
    }
}

void job_send_ended(struct job *job)
{
    if (!job_sends(job)) {
        return;
    }
    if (job_is_cancelled(job)) {
        qapi_event_send_block_job_cancelled(job->driver->type, job->id,
                                            job_progress_total(job),
                                            job_progress_current(job),
                                            job_speed(job));
    } else {
        qapi_event_send_block_job_completed(job->driver->type, job->id,
                                            job_progress_total(job),
                                            job_progress_current(job),
                                            job_speed(job),
                                            job->err ? error_text(job->err)
                                                     : NULL);
    }
}
