/* SPDX-License-Identifier: MIT */
/* Mirror: what its files share.  mirror.c: start; mirror-run.c: the job's
 * thread; mirror-end.c: completing, cancelling, the end. */
#pragma once

#include "blockjobs/converge.h"
#include "blockjobs/mirror.h"

struct copier;
struct drain;
struct engine;

struct mirror_job {
    struct job job;

    /* Set by mirror_start(), then constant. */
    struct mirror_options o;        /* its nodes and texts are not to be used
                                       after the start */
    char *replaces;                 /* owned, or NULL */

    /* Control lock; until clean(). */
    struct node *source, *target, *filter;  /* refs */
    struct node *base;              /* ref, or NULL */
    struct root *target_root;       /* owned: who may do what with it */
    struct node *to_replace;        /* ref, blocked; set by complete() */
    struct node *new_backing;       /* ref: what the target is to get, opened
                                       by complete() */
    bool chain_frozen;              /* source down to target */
    bool filter_in;
    bool pivoted;
    int n_completing;               /* complete() at work in a yield */
    struct drain *drain;            /* from prepare() to clean() */

    int64_t counted_end;            /* the job's thread, while it looks: up to
                                       here (a granule's start, or the end)
                                       all is in the progress */

    /* Set before the job's thread begins, used by it until run() ends. */
    struct copier *copier;          /* borrowed from the filter */
    struct engine *engine;          /* owned */

    /* Until the job is ready, if there is a deadline.  Updated by whoever has
     * moved next_converge_ns on. */
    struct converge converge;
    int64_t next_converge_ns;       /* atomic; 0: not yet, or no more */

    /* Atomic. */
    bool running;                   /* sizes agree: the target may be written */
    int copy_mode;                  /* MirrorCopyMode */
    bool ready;
    bool complete_asked;
    bool waiting_for_dirt;          /* a guest's write is to kick the job */
    int64_t end_asked_ns;           /* since when it tries to end; 0: not */
    int64_t dirty_bytes;            /* by guests, since the start */
    /* A guest's write that did not reach the target: -errno; 0: none; > 0:
     * being noted.  The rest belongs to who has moved it away from 0. */
    int guest_error;
    int64_t guest_error_offset, guest_error_bytes;
};

static inline struct mirror_job *mirror_of(struct job *job)
{
    return (struct mirror_job *)job;
}

/* mirror-run.c */
int mirror_run(struct job *job, struct error **errp);
/* For the engine: -EINPROGRESS when something else comes first. */
int mirror_check_end(void *opaque);
/* The copier's progress. */
void mirror_progress(void *opaque, int64_t bytes, bool skipped);
/* The filter's ops. */
extern const struct mirror_top_ops mirror_guest_ops;

/* mirror-end.c */
bool mirror_complete(struct job *job, struct error **errp);
bool mirror_change(struct job *job, const BlockJobChangeOptions *options,
                   struct error **errp);
void mirror_cancel(struct job *job, bool force);
bool mirror_soft_cancel_is_hard(struct job *job);
void mirror_user_resume(struct job *job);
void mirror_query(struct job *job, BlockJobInfo *info);
int mirror_prepare(struct job *job, struct error **errp);
void mirror_clean(struct job *job);
/* Roots, filter, links: as if it had never been there.  Drained. */
void mirror_take_apart(struct mirror_job *mj);
void mirror_drop_nodes(struct mirror_job *mj);
