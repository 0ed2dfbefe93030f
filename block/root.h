/* SPDX-License-Identifier: MIT */
/*
 * Roots: where I/O enters the graph (an export, a device, a job), and drain.
 *
 * Problem     The graph may change only while nobody is inside it.
 * Answer      Whoever does I/O enters through a root.  The root counts the
 *             requests in flight and has a gate; a drain closes the gate of
 *             every root above a node and waits for the counts.
 * Invariants  I1  A request is in flight from root_enter() to root_leave();
 *                 in that time no node below the root changes.
 *             I2  drain_begin() returns with every root above its nodes at
 *                 zero and closed, and they stay so until drain_end(); a root
 *                 attached meanwhile is closed from its start.
 *             I3  A gate is closed by each of several drains and opens with
 *                 the last.
 *             I4  Who waits at a gate holds no lock and no other token.
 * Threads     root_p*(): any thread, no lock.  The rest: control lock.
 */
#pragma once

#include "block/node.h"

struct block_stats;

struct root_ops {
    /* Who it is in messages: "block device 'vda'", "backup job 'j0'".  Owned
     * by the caller. */
    char *(*describe)(void *opaque);
    /* An export's id, borrowed.  Such a root has statistics. */
    const char *(*export_id)(void *opaque);
    /* A job's roots: its id, borrowed; all with the same opaque are one. */
    const char *(*job_id)(void *opaque);
    /*
     * A drain closes / reopens this root (control lock held; must not
     * yield).  For owners whose requests do not stop at the gate.
     */
    void (*drained_begin)(void *opaque);
    void (*drained_end)(void *opaque);
    /* Still at work?  A drain waits until false; changes are followed by
     * control_notify(). */
    bool (*drained_poll)(void *opaque);
    /*
     * May the node be inactive (block/inactive.h) for now?  The root keeps
     * what it wants to hold and has it again when the node is active.  NULL:
     * a job's root says no; others do if they do not write.  Must not yield.
     */
    bool (*may_be_inactive)(void *opaque);
    /* The node below was resized, or is another one now. */
    void (*resized)(void *opaque);
};

struct root_options {
    const char *name;           /* child name in graph dumps: "root", "main
                                   node", "source", "target"; static */
    const struct root_ops *ops; /* static; may be NULL */
    void *opaque;               /* borrowed */
    unsigned perm, shared;      /* PERM_* */
    /*
     * Requests pass a closed gate: a job's, which is quiet once
     * drained_poll() says so (a job waits for its own requests before it
     * pauses; a gate would make it wait for ever).
     */
    bool no_gate;
    /* node_replace() leaves this root where it is (a job's "main node"). */
    bool stay_on_node;
};

/*
 * A root on NODE (ref taken).  NULL and errp if permissions conflict.
 * If NODE is in a drained section the root starts closed (I2).
 */
struct root *root_new(struct node *node, const struct root_options *options,
                      struct error **errp);
/* Waits for its requests (yields if there are any), frees and nulls *R. */
void root_free(struct root **r);

/* Whoever uses R is on its way out: what holds its requests back (a throttle)
 * lets go, until root_free(). */
void root_hurry(struct root *r);

struct node *root_node(const struct root *r);   /* borrowed */
/* R's link to its node, for who holds links (block/copier.h); until
 * root_free(). */
struct child *root_link(struct root *r);
/* What its owner counts requests in (block/stats.h), or NULL; constant. */
struct block_stats *root_stats(const struct root *r);
/* Made with .no_gate. */
bool root_is_jobs(const struct root *r);
/* Change what the root holds and shares; all or nothing. */
bool root_set_perm(struct root *r, unsigned perm, unsigned shared,
                   struct error **errp);
/* Move to another node, in a drained section of both; all or nothing. */
bool root_set_node(struct root *r, struct node *node, struct error **errp);

/* ---- requests: any thread, no lock -------------------------------------- */

/* Wait at the gate, then be in flight. */
void root_enter(struct root *r);
/* As root_enter(); false at once if the gate is closed. */
bool root_try_enter(struct root *r);
void root_leave(struct root *r);
/* Is at least one drain waiting for, or holding, this root? */
bool root_is_drained(const struct root *r);

/*
 * root_enter(), range check, node_p*(), root_leave().  0 or -errno:
 * -EIO outside the node, -EINVAL for a bad range, -EPERM for a write without
 * PERM_WRITE.
 */
int root_pread(struct root *r, int64_t offset, int64_t bytes, void *buf,
               unsigned flags);
int root_pwrite(struct root *r, int64_t offset, int64_t bytes, const void *buf,
                unsigned flags);
int root_pwrite_zeroes(struct root *r, int64_t offset, int64_t bytes,
                       unsigned flags);
int root_pdiscard(struct root *r, int64_t offset, int64_t bytes);
int root_flush(struct root *r);
int root_block_status_above(struct root *r, struct node *base, bool want_zero,
                            int64_t offset, int64_t bytes,
                            struct block_status *st);
/* Between root_enter() and root_leave(), or with the control lock. */
int64_t root_length(const struct root *r);

/* ---- drain (block/drain.c): control lock held --------------------------- */

struct drain;

/*
 * Drain NODES (n of them, duplicates allowed) as one section.  Yields until
 * quiet; other commands run meanwhile.  Not in the loop's thread.
 */
struct drain *drain_begin(struct node *const *nodes, size_t n);
/* Opens the gates (I3), frees and nulls *D.  Does not yield. */
void drain_end(struct drain **d);
/* All nodes there are. */
struct drain *drain_all_begin(void);
/* The server ends: from now on nothing holds requests back, anywhere. */
void drain_hurry_all(void);
