/* SPDX-License-Identifier: MIT */
/*
 * Throttle groups: nodes that share limits, and the requests that wait.
 *
 * Problem     Requests are threads that may have to wait for their turn; no
 *             member may starve the others; whoever drains must be able to
 *             let all go at once.
 * Invariants  I1  Requests of one member and direction go in the order they
 *                 came; members with waiting requests take turns, and so do
 *                 the two directions.
 *             I2  While requests wait, one of them is the group's timekeeper:
 *                 it sleeps until the next may go and lets it.  The others
 *                 sleep until they are told.
 *             I3  Nothing waits in a member that is let go.
 * Threads     throttle_member_wait(): any.  The group's lock is a leaf.
 */
#pragma once

#include "base/clock.h"
#include "base/lock.h"
#include "block/throttle.h"

struct throttle_member;
struct throttle_request;

struct throttle_group {
    struct lock lock;
    /* Protected by lock. */
    struct throttle throttle;
    struct throttle_request *timekeeper;        /* I2; NULL: nobody waits */
    /* Members with waiting requests, whose turn it is first; by direction
     * (1: writes). */
    struct throttle_member *first[2], **last[2];
    bool turn;                                  /* direction to serve next */

    /* Atomic: throttle_has_limit(), to pass without the lock. */
    bool limited[2];

    struct clock_listener listener;             /* control lock */
};

struct throttle_member {
    struct throttle_group *group;   /* borrowed; changes only while nobody
                                       waits and nobody comes */
    /* Protected by the group's lock. */
    int n_let_go;                   /* reasons not to hold anything back */
    int n_waiting;
    struct throttle_request *head[2], **tail[2];
    struct throttle_member *next[2];
};

/* ---- groups: control lock held ------------------------------------------ */

void throttle_group_init(struct throttle_group *g,
                         const struct throttle_limits *limits);
/* No member is left. */
void throttle_group_deinit(struct throttle_group *g);
void throttle_group_get_limits(struct throttle_group *g,
                               struct throttle_limits *limits);
/* With empty buckets; who waits is looked at again at once. */
void throttle_group_set_limits(struct throttle_group *g,
                               const struct throttle_limits *limits);

/* ---- members ------------------------------------------------------------ */

void throttle_member_init(struct throttle_member *m,
                          struct throttle_group *g);
/* Into another group: the member is let go, or nobody uses it. */
void throttle_member_move(struct throttle_member *m,
                          struct throttle_group *g);
/*
 * Wait until a request of BYTES may go, and count it.  Any thread, no lock
 * held.  0; NOWAIT: -EAGAIN, not counted, if there are limits at all.
 */
int throttle_member_wait(struct throttle_member *m, bool is_write,
                         int64_t bytes, bool nowait);
/* Told in the thread of a request that it waits from now on, or nearly; no
 * lock held.  One hook for all; any thread. */
void throttle_set_wait_hook(void (*hook)(void));
/* What waits now goes at once.  Any thread. */
void throttle_member_flush(struct throttle_member *m);
/* From now on (until as many _end()) nothing waits.  Any thread. */
void throttle_member_let_go_begin(struct throttle_member *m);
void throttle_member_let_go_end(struct throttle_member *m);
