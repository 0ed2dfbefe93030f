/* SPDX-License-Identifier: MIT */
/*
 * Locks with a name and a rank, and what is needed beside them.
 *
 * Every mutex of blockjobd is a struct lock.  A thread takes locks in
 * ascending rank only (equal ranks never nest); debug builds check this at
 * every acquisition and end the process with both names.  docs/locking.md
 * has the order with its reasons; this enum is the order.
 *
 * No lock but LOCK_CONTROL is held across I/O or a callback, and
 * LOCK_CONTROL only through control.h, which gives it up for that time.
 */
#pragma once

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <glib.h>

enum lock_rank {
    LOCK_CONTROL = 1,   /* base/control: the right to change the graph, jobs */
    LOCK_NBD_SERVER,    /* nbd: list of connections */
    LOCK_NBD_CONN,      /* nbd: one connection's state and send side */
    LOCK_JOB,           /* blockjobs: what a job's thread and control share */
    LOCK_COPIER,        /* block: copier's todo cursor and counters */
    LOCK_RANGE,         /* block: one range lock */
    LOCK_QCOW2,         /* block/qcow2: metadata of one image */
    LOCK_FILE,          /* block: file driver's remembered holes */
    LOCK_NBD_CLIENT,    /* block/nbd: connections of one NBD client */
    LOCK_ROOT,          /* block: gate of one root, slow path only */
    LOCK_BITMAP,        /* bitmaps: list and states of a node's bitmaps */
    LOCK_MONITOR,       /* server: a monitor's output queue */
    LOCK_POOL,          /* base/pool */
    LOCK_LEAF,          /* holds nothing else, calls nothing */
};

struct lock {
    pthread_mutex_t mutex;
    const char *name;
    enum lock_rank rank;
    pthread_t owner;        /* valid while held */
    bool held;              /* for lock_held(); racy to read unless owner */
};

#define LOCK_INIT(name_, rank_) \
    { .mutex = PTHREAD_MUTEX_INITIALIZER, .name = (name_), .rank = (rank_) }

void lock_init(struct lock *l, const char *name, enum lock_rank rank);
void lock_deinit(struct lock *l);       /* must not be held */
void lock_acquire(struct lock *l);
void lock_release(struct lock *l);
bool lock_held(const struct lock *l);   /* by the calling thread? */
#define lock_assert_held(l) g_assert(lock_held(l))

/* Held from here to the end of the enclosing block. */
#define LOCK_GUARD(l) \
    __attribute__((cleanup(lock_guard_end), unused)) \
    struct lock *G_PASTE(lock_guard_, __COUNTER__) = lock_guard_begin(l)
struct lock *lock_guard_begin(struct lock *l);
void lock_guard_end(struct lock **l);

/* A condition variable on CLOCK_MONOTONIC; use with a struct lock. */
struct cond {
    pthread_cond_t cond;
};

void cond_init(struct cond *c);
void cond_deinit(struct cond *c);
void cond_wait(struct cond *c, struct lock *l);
/* False when DEADLINE_NS (clock_ns()) has passed. */
bool cond_wait_until(struct cond *c, struct lock *l, int64_t deadline_ns);
void cond_signal(struct cond *c);
void cond_broadcast(struct cond *c);

/* CLOCK_MONOTONIC in nanoseconds. */
int64_t clock_ns(void);
