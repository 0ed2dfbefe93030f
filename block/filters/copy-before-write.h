/* SPDX-License-Identifier: MIT */
/*
 * Copy-before-write: a filter over a node that keeps on another node, the
 * target, what the first one held when the filter was inserted.
 *
 * Problem     A write, zero write or discard must not destroy what the
 *             snapshot still needs, may wait only for what it touches, and,
 *             if the user says so, not for long.
 * Answer      What is about to change is copied first, unless the copier's
 *             todo says that it was copied already or need not be.  A job
 *             (backup) shares todo and copies the rest; a reader of the
 *             snapshot (snapshot-access) takes from the target what was
 *             copied and from the source what was not.
 * Invariants  I1  What is in todo has not changed since the insertion, or
 *                 snapshot_error is set.
 *             I2  snapshot_error is set before the write that breaks the
 *                 snapshot goes on; who read without seeing it read the
 *                 point in time.
 *             I3  access has a cluster that is in todo; one in access but not
 *                 in todo is on the target.
 * Threads     Making and removing: control lock, everything drained.
 */
#pragma once

#include "base/error.h"
#include "block/types.h"

struct copier;

/* By code, for a job. */
struct cbw_options {
    const char *name;           /* node name; NULL: made up, and implicit */
    uint32_t cluster_bytes;
    /* Guest writes go on when the copy fails; the target is broken then. */
    bool break_snapshot;
    int64_t timeout_ns;         /* of a copy that a guest waits for; 0: none */
    /* See struct copier_options. */
    bool skip_unallocated;
    struct node *skip_base;     /* borrowed */
    bool compress, use_copy_range;
    bool discard_source;        /* SOURCE must be writable */
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

/*
 * The unit in which is copied to TARGET: no smaller than its clusters, so that
 * a copied part never stands in one whose rest was not copied.  0 and errp:
 * MIN_BYTES is no good.
 */
uint32_t cbw_cluster_bytes(const struct node *target, uint64_t min_bytes,
                           struct error **errp);

/* ---- reading the point in time: snapshot-access ------------------------- */

/* N, or the first filter below it with a snapshot to read; NULL: none.  Below
 * an entered root, or control lock. */
struct node *cbw_find_snapshot(struct node *n);
/*
 * As node_pread() etc., of the snapshot that FILTER (cbw_find_snapshot())
 * keeps.  -EACCES: what is not in the bitmap, was discarded, or everything
 * once the snapshot is broken.
 */
int cbw_snapshot_pread(struct node *filter, int64_t offset, int64_t bytes,
                       void *buf);
int cbw_snapshot_block_status(struct node *filter, bool want_zero,
                              int64_t offset, int64_t bytes,
                              struct block_status *st);
/* No longer wanted: dropped from the target, and never copied again. */
int cbw_snapshot_pdiscard(struct node *filter, int64_t offset, int64_t bytes);
/* The target has what was dropped no more. */
int cbw_snapshot_flush(struct node *filter);
