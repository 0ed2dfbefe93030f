/* SPDX-License-Identifier: MIT */
/*
 * x-blockdev-amend: changes an image's own options in a job.
 *
 * The drivers do the work (driver->amend), with the node drained.  The job
 * waits to be dismissed, so that its error can be read.
 */
#include "blockjobs/job-priv.h"

#include <errno.h>
#include "block/driver.h"
#include "block/root.h"
#include "qapi/qapi-commands.h"

struct amend_job {
    struct job job;
    struct node *node;                  /* owned reference */
    BlockdevAmendOptions *options;      /* owned */
    bool force;
};

static int amend_run(struct job *job, struct error **errp)
{
    struct amend_job *aj = (struct amend_job *)job;
    struct drain *drain;
    bool ok = false;

    job_progress_set_remaining(job, 1);
    control_lock();
    drain = drain_begin(&aj->node, 1);
    CONTROL_YIELD {
        ok = aj->node->driver->amend(aj->node, aj->options, aj->force, errp);
    }
    drain_end(&drain);
    control_unlock();
    job_progress_add(job, 1);
    return ok ? 0 : -EINVAL;
}

static void amend_clean(struct job *job)
{
    struct amend_job *aj = (struct amend_job *)job;

    node_unref(aj->node);
    aj->node = NULL;
}

static void amend_free(struct job *job)
{
    struct amend_job *aj = (struct amend_job *)job;

    BlockdevAmendOptions_free(aj->options);
}

static const struct job_driver amend_driver = {
    .type = JOB_TYPE_AMEND,
    .job_size = sizeof(struct amend_job),
    .run = amend_run,
    .clean = amend_clean,
    .free = amend_free,
};

bool qmp_x_blockdev_amend(const XBlockdevAmendArgs *args, struct error **errp)
{
    const char *name = BlockdevDriver_str(args->options->driver);
    const struct driver *driver = driver_find(name);
    struct job_options options = {
        .id = args->job_id,
        .manual_dismiss = true,
    };
    struct node *n = node_find(args->node_name);
    struct amend_job *aj;

    if (!n) {
        error_set(errp, "Cannot find device='' nor node-name='%s'",
                  args->node_name);
        return false;
    }
    if (n->driver != driver) {
        error_set(errp, "x-blockdev-amend doesn't support changing the block "
                  "driver");
        return false;
    }
    if (!driver->amend) {
        error_set(errp, "Driver does not support x-blockdev-amend");
        return false;
    }
    aj = (struct amend_job *)job_create(&amend_driver, &options, errp);
    if (!aj) {
        return false;
    }
    aj->node = node_ref(n);
    aj->options = BlockdevAmendOptions_clone(args->options);
    aj->force = args->has_force && args->force;
    job_start(&aj->job);
    return true;
}
