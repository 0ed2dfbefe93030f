/* SPDX-License-Identifier: MIT */
/*
 * Mirror-top: a filter over a node that is being mirrored to another one, the
 * target.  Guests' writes come by here.
 *
 * Problem     A mirror must know what guests write while it copies; or, if the
 *             user wants both sides equal at all times, take their writes to
 *             the target as well, without meeting its own copies there.
 * Invariants  I1  What was written, even in part, is in the copier's todo
 *                 after the write was done and before the guest is told, or is
 *                 on the target, too: a copy that raced with the write is
 *                 made again.
 *             I2  Who writes to both sides holds the range in the copier
 *                 exclusively from before the source to after the target:
 *                 overlapping writes reach both in one order, and no copy of
 *                 older data comes after them.
 *             I3  A granule that is in todo stays there until all of it was
 *                 copied, or written on both sides by one request.
 * Threads     Making and removing: control lock, everything drained.
 */
#pragma once

#include "base/error.h"
#include "block/types.h"

struct copier;

enum mirror_top_mode {
    MIRROR_TOP_BACKGROUND,      /* writes are noted, and copied later */
    MIRROR_TOP_BLOCKING,        /* writes go to both sides */
};

struct mirror_top_ops {
    /*
     * A guest has made BYTES dirty that the copier is to copy (again), and
     * GRANULES more bytes of todo by that; negative: fewer, after all.  Any
     * thread, no lock.
     */
    void (*dirtied)(void *opaque, int64_t bytes, int64_t granules);
    /* A guest has written BYTES to both sides; GRANULES bytes of todo are done
     * by that.  Any thread, no lock. */
    void (*written)(void *opaque, int64_t bytes, int64_t granules);
    /* A guest's write did not reach the target (ERR: -errno); it is dirty now,
     * and the guest does not hear of it.  Any thread, no lock. */
    void (*failed)(void *opaque, int err, int64_t offset, int64_t bytes);
    /* How long a guest's write of BYTES is to wait; a drain ends that.  Any
     * thread, no lock. */
    int64_t (*delay_ns)(void *opaque, int64_t bytes);
};

struct mirror_top_options {
    const char *name;           /* node name; NULL: made up, and implicit */
    uint32_t granularity;       /* power of two: unit of todo */
    /* What the target reads where it has nothing will change: it is written
     * in whole granules alone. */
    bool whole_granules;
    bool unmap;                 /* zeroes may deallocate in the target */
    bool is_commit;             /* the target is below the source */
    const struct mirror_top_ops *ops;   /* static */
    void *opaque;               /* borrowed; or mirror_top_set_opaque() */
};

/*
 * Put a filter over SOURCE; the copier from SOURCE to TARGET has nothing to
 * do yet.  Owned reference; NULL and errp: nothing has changed.
 */
struct node *mirror_top_insert(struct node *source, struct node *target,
                               const struct mirror_top_options *options,
                               struct error **errp);
/* Take it out again; the caller still holds its reference.  Everything is
 * drained. */
void mirror_top_remove(struct node *filter);

/* Before anything is written. */
void mirror_top_set_opaque(struct node *filter, void *opaque);
/* Borrowed; until mirror_top_remove(). */
struct copier *mirror_top_copier(struct node *filter);

/* Any thread; for writes that begin from now on. */
void mirror_top_set_mode(struct node *filter, enum mirror_top_mode mode);
