/* SPDX-License-Identifier: MIT */
/*
 * Copier: moves what is still to be copied from one node to another.
 *
 * Problem     Jobs differ in when a range is to be copied, not in how it
 *             moves.  How it moves is here: which clusters, never twice at
 *             once, zeroes and holes seen, in pieces that are fast.
 * Invariants  I1  A cluster's bit in todo is cleared before it is read and
 *                 set again if the copy fails: clear means "on the target, or
 *                 in flight by one who holds its range".
 *             I2  Who copies a cluster holds it exclusively in in_flight.
 *             I3  After copier_before_write() returned 0 no copy reads the
 *                 range any more: the source may change.
 *             I4  n_workers copies run that somebody waited for, or still
 *                 waits, with a deadline; each holds its range, and the
 *                 owner's n_in_flight until it is through with the nodes.
 * Threads     Any number at once, no lock held; the graph below does not
 *             change meanwhile.
 */
#pragma once

#include "bitmaps/bits.h"
#include "block/types.h"

struct copier;
struct copier_result;
struct pace;
struct range_hold;

/* Largest piece that is read at once. */
enum { COPIER_CHUNK_BYTES = 1 << 20 };

struct copier_options {
    /* Borrowed: links of the filter or of the job (root_link()) that owns the
     * copier. */
    struct child *source, *target;
    /* The filter itself, for I4; NULL: nobody passes a deadline. */
    struct node *owner;
    int64_t length;             /* bytes; of both */
    uint32_t cluster_bytes;     /* power of two: unit of todo */
    /*
     * sync=top: clusters that no layer above SKIP_BASE (borrowed; NULL: the
     * whole chain) decides are dropped from todo, not copied.
     */
    bool skip_unallocated;
    struct node *skip_base;
    /* Added to every write to the target: BLK_COMPRESSED,
     * BLK_WRITE_UNCHANGED. */
    unsigned write_flags;
    bool keep_zeroes;           /* zeroes are written without
                                   BLK_MAY_UNMAP */
    /* What was copied is discarded in the source; the owner may write it. */
    bool discard_source;
    bool use_copy_range;        /* try node_copy_range() first */
    /* A last cluster that is not whole counts as what there is of it. */
    bool exact_progress;
    /* What of a chunk comes behind a run that fails is copied all the same:
     * to users they are requests of their own. */
    bool past_errors;
    /*
     * Instead of reading the source and writing the target: make [offset,
     * offset + bytes) what it is to be.  Whole clusters, held and cleared;
     * 0 or -errno.
     */
    int (*move)(void *opaque, int64_t offset, int64_t bytes,
                struct copier_result *result);
    void *move_opaque;          /* borrowed */
};

/* BYTES (whole clusters, the last one too) were copied, or (SKIPPED) need not
 * be.  Any thread. */
typedef void copier_progress_fn(void *opaque, int64_t bytes, bool skipped);

/* Nothing to do yet: fill copier_todo().  NULL: no memory. */
struct copier *copier_new(const struct copier_options *options);
void copier_free(struct copier **c);        /* nobody is inside */

/* Before anything is copied.  OPAQUE borrowed. */
void copier_set_progress(struct copier *c, copier_progress_fn *fn,
                         void *opaque);

/* Borrowed; may be set and cleared by anyone at any time. */
struct bits *copier_todo(struct copier *c);
uint32_t copier_cluster_bytes(const struct copier *c);
int64_t copier_length(const struct copier *c);
/* What it reads or writes; borrowed, until the graph changes. */
struct node *copier_node(const struct copier *c, bool source);
/* Of guests and background at the target: who copies from todo by itself asks
 * it (copier-pace.h); copier_before_write() tells it.  Borrowed. */
struct pace *copier_pace(struct copier *c);
/* Bytes still to be copied, in whole clusters as QEMU counts them. */
int64_t copier_remaining(struct copier *c);
/*
 * Into todo with the clusters that [offset, offset + bytes) touches; out of it
 * with those that lie inside.  Returns how many bytes of them were not, or
 * were, in todo.  Any thread.
 */
int64_t copier_set_dirty(struct copier *c, int64_t offset, int64_t bytes);
int64_t copier_set_clean(struct copier *c, int64_t offset, int64_t bytes);

/* All below is done, or need not be: nothing of it is to be copied or being
 * copied.  FROM: what it was before, or 0. */
int64_t copier_done_below(struct copier *c, int64_t from);

/*
 * First run to be copied at or after OFFSET, whole clusters, at most MAX_BYTES
 * (at least one cluster) and not past the end: its length, 0 if none.
 */
int64_t copier_next(struct copier *c, int64_t offset, int64_t max_bytes,
                    int64_t *run_offset);

struct copier_result {
    bool is_read;               /* the error came from the source */
    int64_t failed_end;         /* of what could not be copied; private */
};

/*
 * Copy what is to be copied in [offset, offset + bytes), aligned to clusters.
 * 0 or -errno; then what failed is in todo again (I1).
 */
int copier_copy(struct copier *c, int64_t offset, int64_t bytes,
                struct copier_result *result);

/* Instead of a deadline. */
#define COPIER_NOWAIT  INT64_C(0)
#define COPIER_FOREVER INT64_MAX

/*
 * Someone is about to change [offset, offset + bytes) of the source, any
 * alignment: copy first what is to be copied there, wait for what is in
 * flight.  COPIER_NOWAIT: -EAGAIN if either is needed.  A deadline
 * (clock_ns()): -ETIMEDOUT when it has passed; the copy may still go on then,
 * and the range stays held until it ends.
 */
int copier_before_write(struct copier *c, int64_t offset, int64_t bytes,
                        int64_t deadline_ns);
/* Does a copy go on whose deadline has passed?  Any thread. */
bool copier_was_left(struct copier *c);

/*
 * For readers of the point in time: hold [offset, offset + *bytes) shared, so
 * that no copy of it is under way or begins, shortened to what is *COPIED, or
 * not, as a whole.  What is not copied is still in the source, and cannot be
 * changed there before the release.  False: not by the deadline.
 */
bool copier_hold_run(struct copier *c, struct range_hold *hold,
                     int64_t offset, int64_t *bytes, bool *copied,
                     int64_t deadline_ns);
void copier_release_run(struct copier *c, struct range_hold *hold);
/* For who writes to both sides: hold [offset, offset + bytes), any alignment,
 * exclusively; copier_release_run() ends it. */
void copier_hold(struct copier *c, struct range_hold *hold, int64_t offset,
                 int64_t bytes);
/*
 * Whole clusters that nobody wants any more: FN(OPAQUE, first cluster, count)
 * and out of todo, while no copy or reader is in there.  False: not by the
 * deadline.
 */
bool copier_drop(struct copier *c, int64_t offset, int64_t bytes,
                 void (*fn)(void *opaque, int64_t first, int64_t n),
                 void *opaque, int64_t deadline_ns);

/* Give [offset, offset + bytes) up: out of todo, counted as skipped. */
void copier_leave_out(struct copier *c, int64_t offset, int64_t bytes);
/* Flush the target.  0 or -errno. */
int copier_flush(struct copier *c);
/* ...which will come, let it begin. */
void copier_begin_flush(struct copier *c);
/* Wait for all copies that are in flight now.  Then, if todo is empty, all is
 * on the target. */
void copier_settle(struct copier *c);

/* Drop from todo what skip_unallocated says, from *OFFSET on; *OFFSET moves
 * on.  One step of limited work; 0 or -errno. */
int copier_skip_step(struct copier *c, int64_t *offset);

/*
 * How far [offset, end) reads as zeroes at once, in whole clusters or, where
 * they are larger, chunks; 0: not at OFFSET.  For runs longer than a chunk.
 */
int64_t copier_zero_run(struct copier *c, int64_t offset, int64_t end);
