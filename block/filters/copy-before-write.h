/* SPDX-License-Identifier: MIT */
/*
 * Copy-before-write: a filter over a node that keeps on another node, the
 * target, what the first one held when the filter was inserted.
 *
 * What a write, zero write or discard is about to change is copied to the
 * target first, unless it was copied already or need not be: the copier's
 * todo says so, shared with a job that copies the rest in the background.
 *
 * Threads     Making and removing: control lock, everything drained.
 */
#pragma once

#include "base/error.h"
#include "block/types.h"

struct copier;

struct cbw_options {
    const char *name;           /* node name; NULL: made up, and implicit */
    uint32_t cluster_bytes;
    /* Guest writes go on when the copy fails; the target is broken then. */
    bool break_snapshot;
    bool skip_unallocated;      /* see struct copier_options */
    struct node *skip_base;     /* borrowed */
};

/*
 * Put a filter over SOURCE that copies to TARGET; nothing is to be copied
 * until the caller sets bits in cbw_copier()'s todo, still drained.  Owned
 * reference; NULL and errp: nothing has changed.
 */
struct node *cbw_insert(struct node *source, struct node *target,
                        const struct cbw_options *options,
                        struct error **errp);
/* Take it out again; the caller still holds its reference.  Everything is
 * drained. */
void cbw_remove(struct node *filter);

/* Borrowed; until cbw_remove(). */
struct copier *cbw_copier(struct node *filter);
/* -errno if break_snapshot let a write through, else 0.  Any thread. */
int cbw_snapshot_error(struct node *filter);
