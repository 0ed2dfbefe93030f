/* SPDX-License-Identifier: MIT */
/*
 * blockdev-create: makes an image in a job.
 *
 * The drivers do the work (driver->create); the job gives it a thread, an id
 * and an end that waits to be dismissed, so that its error can be read.
 */
#include "blockjobs/job-priv.h"

#include <errno.h>
#include "block/cancel.h"
#include "block/driver.h"
#include "qapi/qapi-commands.h"

struct create_job {
    struct job job;
    const struct driver *driver;
    BlockdevCreateOptions *options;     /* owned */
};

static bool create_cancel_asked(void *job)
{
    return job_is_cancelled(job);
}

static int create_run(struct job *job, struct error **errp)
{
    struct create_job *cj = (struct create_job *)job;
    bool ok;

    job_progress_set_remaining(job, 1);
    control_lock();
    cancel_begin(create_cancel_asked, job);
    ok = cj->driver->create(cj->options, errp);
    cancel_end();
    control_unlock();
    job_progress_add(job, 1);
    return ok ? 0 : job_is_cancelled(job) ? -ECANCELED : -EINVAL;
}

static void create_free(struct job *job)
{
    struct create_job *cj = (struct create_job *)job;

    BlockdevCreateOptions_free(cj->options);
}

static const struct job_driver create_driver = {
    .type = JOB_TYPE_CREATE,
    .job_size = sizeof(struct create_job),
    .run = create_run,
    .free = create_free,
};

bool qmp_blockdev_create(const BlockdevCreateArgs *args, struct error **errp)
{
    const char *name = BlockdevDriver_str(args->options->driver);
    const struct driver *driver = driver_find(name);
    struct job_options options = {
        .id = args->job_id,
        .manual_dismiss = true,
    };
    struct create_job *cj;

    if (!driver || !driver->create) {
        error_set(errp, "Driver does not support blockdev-create");
        return false;
    }
    cj = (struct create_job *)job_create(&create_driver, &options, errp);
    if (!cj) {
        return false;
    }
    cj->driver = driver;
    cj->options = BlockdevCreateOptions_clone(args->options);
    job_start(&cj->job);
    return true;
}
