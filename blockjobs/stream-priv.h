/* SPDX-License-Identifier: MIT */
/* Stream: what its files share. */
#pragma once

#include "base/lock.h"
#include "blockjobs/stream.h"

struct stream_job {
    struct job job;
    /* Set by stream_new(), then constant until clean(). */
    struct stream_chain chain;      /* refs */
    struct node *filter;            /* ref */
    struct copier *copier;          /* owned */
    struct engine *engine;          /* owned */
    BlockdevOnError on_error;
    char *backing_file;             /* owned, or NULL */
    bool mask_protocol;
    bool no_base;

    /* Control lock. */
    bool frozen;                    /* I2 */
    GSList *read_only_again;        /* struct node *, refs */

    /* Protected by lock (rank LOCK_JOB). */
    struct lock lock;
    int64_t scanned;                /* I1; written by the job's thread */
    int64_t done;                   /* what progress shows */
};

static inline struct stream_job *stream_of(struct job *job)
{
    return (struct stream_job *)job;
}

/* Control: somebody else may change the chain again (I2); once is enough. */
void stream_unfreeze(struct stream_job *sj);
/* The job driver's functions; yield. */
int stream_prepare(struct job *job, struct error **errp);
void stream_clean(struct job *job);
