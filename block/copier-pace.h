/* SPDX-License-Identifier: MIT */
/*
 * Pace: how much of a target's time the background of a copier may take, so
 * that guests who wait for the same target come first.
 *
 * Problem     A target serves what it has been given in order.  With all that
 *             the background could keep in flight before it, a guest's write
 *             would wait for seconds on a slow target.
 * Design      What is in flight is bounded by what the target gets done in a
 *             short time: its rate is measured, and how fast it answers at
 *             best.  The time is longer while no guest has waited lately.
 *             While guests wait or are about to come again, the background
 *             begins only what its share of the rate pays for.
 *             How many copies at once are worth it is tried: more are kept
 *             only where more gets done, since where the time is a lock's or
 *             a processor's they are in each other's way.
 * Invariants  I1  The background always may begin a copy when it has none in
 *                 flight and none begun for HELD_NS: no starvation.
 *             I2  background_bytes is the sum over tickets that were given and
 *                 not yet given back.
 * Threads     Any; the lock is not held across I/O.
 */
#pragma once

#include "base/lock.h"

/* The trial of another number of copies at once. */
struct pace_trial {
    enum { PACE_STEADY, PACE_MORE, PACE_FEWER } state, next;
    int64_t next_ns;            /* when steady: of the next trial */
    int depth;                  /* before it */
    double rate;                /* before it */
    /* What has been seen with the present depth in full use. */
    int64_t ns, bytes, answers_ns;
    int n_answers;
};

struct pace {
    int64_t unit_bytes;         /* constant: the smallest piece */

    /* Protected by lock (rank LOCK_COPIER). */
    struct lock lock;
    struct cond changed;        /* there may be room */
    int n_waiting;              /* of the background */

    int n_guests;               /* who wait for the target now */
    int64_t guest_left_ns;      /* when one last did */
    int64_t guest_wait_ns;      /* how long, on average */
    bool guest_suffered;        /* since guests began to wait */

    int n_background;
    int64_t background_bytes;   /* I2 */
    int64_t begun_ns;           /* the last one */
    double share_bytes;         /* that it may begin beside guests */
    int64_t share_ns;           /* when that was so */

    int depth;                  /* most at once */
    bool depth_reached;         /* since the last measurement */
    struct pace_trial trial;

    int64_t busy_since_ns;      /* while n_background > 0 */
    int64_t busy_ns;            /* all of it, up to then */
    int64_t window_ns;          /* busy time that is being measured */
    int64_t window_bytes, window_answers_ns;
    int n_window_answers;
    double rate;                /* bytes per second; 0: not known */
    int64_t best_ns;            /* quickest answer */
};

struct pace_ticket {            /* opaque to its holder, as the next */
    int64_t begun_ns, bytes;
};

struct pace_guest {
    int64_t begun_ns, busy_ns;
};

enum pace_answer {
    PACE_GO,            /* the ticket is to be given back */
    PACE_WAIT,          /* not by the deadline */
    PACE_ENOUGH,        /* enough are at it, or wait already */
};

void pace_init(struct pace *p, int64_t unit_bytes);
void pace_deinit(struct pace *p);

/* The background is about to copy up to *BYTES, which gets smaller if less at
 * once is better.  Waits until DEADLINE_NS (clock_ns()) for its turn. */
enum pace_answer pace_begin(struct pace *p, struct pace_ticket *t,
                            int64_t *bytes, int64_t deadline_ns);
/* BYTES were copied; 0: none, or it failed. */
void pace_end(struct pace *p, const struct pace_ticket *t, int64_t bytes);
/* Would one more worker, beside N_WORKERS, have something to do now? */
bool pace_wants_more(struct pace *p, int n_workers);

/* A guest waits for the target from the begin to the end; BYTES is what went
 * there meanwhile. */
void pace_guest_begin(struct pace *p, struct pace_guest *g);
void pace_guest_end(struct pace *p, const struct pace_guest *g,
                    int64_t bytes);
