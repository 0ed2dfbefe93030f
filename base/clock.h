/* SPDX-License-Identifier: MIT */
/*
 * The virtual clock: what limits on guest I/O are measured with.
 *
 * It runs with CLOCK_MONOTONIC, or stands still and is stepped by hand: a
 * test then sees the same however slow the machine is.  Everything else (job
 * speed, timeouts) goes by clock_ns() of base/lock.h.
 *
 * Threads     Reading: any, no lock needed.  Changing and listening: control
 *             lock held.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

/* Nanoseconds; never goes back. */
int64_t clock_virtual_ns(void);
/*
 * When clock_ns() will say that the virtual clock reads VIRTUAL_NS;
 * INT64_MAX while it stands still and has not got there.  For
 * cond_wait_until().
 */
int64_t clock_virtual_deadline(int64_t virtual_ns);

/* Stand still from now on. */
void clock_virtual_stop(void);
/* Go forward by NS (>= 0) and tell who listens.  Returns the new time.  The
 * clock must stand still. */
int64_t clock_virtual_step(int64_t ns);
/* Run with real time again, from where it stands. */
void clock_virtual_run(void);

/* Told when the clock was stepped, stopped or started: who waits for a
 * deadline asks again.  Owned by the listener while it is in the list. */
struct clock_listener {
    void (*changed)(struct clock_listener *l);
    /* When the first of those that wait may go: virtual ns, INT64_MAX for
     * never; adds how many wait to *N_WAITING.  NULL: nobody ever waits. */
    int64_t (*deadline)(struct clock_listener *l, int64_t *n_waiting);
    struct clock_listener *next;
};
void clock_virtual_listen(struct clock_listener *l);
void clock_virtual_unlisten(struct clock_listener *l);
/* The first deadline of all listeners (INT64_MAX: none), and, if not NULL, how
 * many wait. */
int64_t clock_virtual_next_deadline(int64_t *n_waiting);
/* Does it stand still? */
bool clock_virtual_is_stopped(void);
