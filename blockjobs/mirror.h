/* SPDX-License-Identifier: MIT */
/*
 * Mirror: copies a node to another one and follows its changes until a user
 * completes the job; the target then takes the source's place.
 *
 * Also what commits an active layer: its target is below its source.
 *
 * Threads     Control lock; yields where marked.
 */
#pragma once

#include "blockjobs/job.h"

/* Of the target, once it has taken the source's place. */
enum mirror_backing {
    MIRROR_BACKING_AS_IS,       /* the chain that it has then */
    MIRROR_BACKING_OF_SOURCE,   /* made by drive-mirror: what is below the
                                   source */
    MIRROR_BACKING_OPEN,        /* drive-mirror, mode=existing: what its
                                   header names, opened at the end */
};

struct mirror_options {
    struct job_options job;
    JobType type;               /* MIRROR, or COMMIT: of an active layer */
    struct node *source;        /* borrowed; the job takes references */
    struct node *target;        /* borrowed */
    /* FULL: all that the source shows; TOP: what the layers above BASE
     * decide; NONE: new writes only. */
    MirrorSyncMode sync;
    struct node *base;          /* borrowed; TOP only */
    enum mirror_backing backing;
    MirrorCopyMode copy_mode;
    uint32_t granularity;       /* bytes, power of two; 0: default */
    int64_t buf_bytes;          /* 0: default (16 MiB) */
    bool unmap;                 /* zeroes may deallocate in the target */
    bool target_is_zero;        /* the target reads as zeroes everywhere */
    BlockdevOnError on_source_error, on_target_error;
    const char *filter_node_name;   /* NULL: made up, and implicit */
    const char *replaces;       /* node whose place the target takes, not the
                                   source's; NULL: the source */
    /* After commit or abort, roots and filter out, everything drained still
     * (SUCCEEDED: the target has taken the source's place); may yield.  May be
     * NULL; OPAQUE is owned by who made it. */
    void (*finish)(void *opaque, bool succeeded);
    /* After that and after the drain, before the job is concluded; may yield.
     * May be NULL. */
    void (*released)(void *opaque, bool succeeded);
    void *opaque;
    /* A deadline for being ready, in seconds from the start, for which guest
     * writes may be slowed down; 0: none. */
    int64_t converge_seconds;
};

/* Check (texts are QEMU's), insert the filter, start.  Yields.  False: nothing
 * is left, FINISH was not called. */
bool mirror_start(const struct mirror_options *options, struct error **errp);
