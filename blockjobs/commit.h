/* SPDX-License-Identifier: MIT */
/*
 * Commit: moves what the layers above a base hold down into the base, then
 * takes them out of the chain.
 *
 *   commit.c        layers below the active one, QEMU's order: top's view goes
 *                   to the base, all layers leave at the end
 *   mirror.h        the active layer: followed until complete
 *   commit-depth.c  from the base upwards, one layer at a time, stoppable
 *
 * Threads     Control lock; yields.
 */
#pragma once

#include "blockjobs/job.h"

struct commit_options {
    struct job_options job;
    /* Borrowed; all of one chain: ACTIVE (what the user named as device) down
     * to TOP (the highest that goes away) down to BASE (that receives). */
    struct node *active, *top, *base;
    const char *backing_file;   /* for the overlays of top; NULL: base */
    bool mask_protocol;         /* backing-mask-protocol */
    BlockdevOnError on_error;
    const char *filter_node_name;   /* NULL: made up, and implicit */
};

/* False: nothing has changed. */
bool commit_start(const struct commit_options *o, struct error **errp);
bool commit_depth_start(const struct commit_options *o, struct error **errp);
