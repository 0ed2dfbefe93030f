/* SPDX-License-Identifier: MIT */
/*
 * Copy engine: the loop of every job that copies.
 *
 * Problem     What a job copies is in its copier's todo; how fast, how much at
 *             once, when to hold still and what an error means is here, once
 *             for all jobs.
 * Design      Bursts: workers (pool threads and the job's own) take runs from
 *             todo, one after the other, until something wants them to stop:
 *             a pause, a cancel, an error, the speed limit, no more runs.
 *             Between bursts nothing is in flight, and the job's thread alone
 *             decides.
 *             How many workers and how large a run is the copier's pace
 *             (copier-pace.h), which lets guests go first.
 * Invariants  I1  Outside engine_burst() no worker of the engine runs, and
 *                 nothing of it is in flight.
 *             I2  Never more than max_workers copies at once; one in a burst
 *                 that begins under a speed limit, in the order of the todo.
 *             I3  engine_run() returns 0 only when todo was empty with no copy
 *                 in flight, a guest's neither.
 *             I4  Under a limit the sum of copies begun by any time is at most
 *                 what the limit allows since the job began, a slice and one
 *                 copy more.  A change forgets what was owed.
 *             I5  A worker sees a pause or a cancel before each copy, and at
 *                 least every 20 ms while it waits for its turn.
 * Threads     engine_run(): the job's thread.  engine_set_speed(): control.
 */
#pragma once

#include "blockjobs/job.h"

struct copier;
struct engine;

struct engine_options {
    struct job *job;                /* borrowed */
    struct copier *copier;          /* borrowed */
    BlockdevOnError on_source_error, on_target_error;
    int max_workers;                /* most copies in flight; 0: default */
    int64_t max_chunk_bytes;        /* 0: default */
    /* A copy's size under a speed limit, which lets whole copies through: the
     * step that users see.  0: max_chunk_bytes. */
    int64_t limited_chunk_bytes;
    /* "ignore": what failed is left out; engine_run() goes on with the rest
     * and fails at the end.  Otherwise it is tried again. */
    bool ignore_skips;
    /* Told after each copy, whatever became of it; any worker, no lock. */
    void (*copied)(void *opaque);
    /* Asked between copies: -errno ends the job (a broken snapshot). */
    int (*check)(void *opaque);
    void *opaque;
};

struct engine *engine_new(const struct engine_options *options);
void engine_free(struct engine **e);

/* Copy until todo is empty.  0, -ECANCELED, or -errno by policy. */
int engine_run(struct engine *e);
/* Wait until all that was copied is paid for at the limit's rate: a job that is
 * ready has kept to its limit.  0, -ECANCELED. */
int engine_wait_paid(struct engine *e);
/* Drop from todo what need not be copied (sync=top); as engine_run(). */
int engine_skip_unallocated(struct engine *e);
/* Bring what was copied to stable storage; errors by on_target_error. */
int engine_flush(struct engine *e);
/* The limit has changed; no yield. */
void engine_set_speed(struct engine *e);
/* BYTES of a copy under way need not be copied after all: the limit does not
 * count them.  Any thread. */
void engine_refund(struct engine *e, int64_t bytes);
