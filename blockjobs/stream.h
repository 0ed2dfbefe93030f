/* SPDX-License-Identifier: MIT */
/*
 * Stream: fills an overlay from the layers below it, then takes them out of
 * its chain.
 *
 * Threads     Control lock.
 */
#pragma once

#include "blockjobs/job.h"

/*
 * Nodes of one chain, from the top down; each may be the one before it:
 *   device      what the user named: the overlay, or filters above it
 *   overlay     no filter: receives the data; may have no backing file at all
 *   bottom      no filter: the last one whose data is copied
 *   above_base  bottom, or the last of the filters below it that go away
 * What is below above_base, perhaps nothing, is the base.
 */
struct stream_chain {
    struct node *device, *overlay, *bottom, *above_base;
};

struct stream_options {
    struct job_options job;
    struct stream_chain chain;  /* borrowed */
    const char *backing_file;   /* what the header is to name; NULL: the base */
    bool mask_protocol;         /* backing-mask-protocol */
    BlockdevOnError on_error;
    const char *filter_node_name;   /* NULL: made up, and implicit */
};

/*
 * Make the job; the caller starts it.  The overlay is drained.  Does not yield.
 * NULL: nothing has changed.
 */
struct job *stream_new(const struct stream_options *o, struct error **errp);
/* At its end the job makes NODES (a list of owned references, taken) read-only
 * again, as the next function does. */
void stream_restore_read_only(struct job *job, GSList *nodes);
/* Make *NODES read-only, in that order, and drop the references; NULL then.
 * Where that fails it is reported on stderr.  Yields. */
void nodes_make_read_only(GSList **nodes);
