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
    struct clock_listener *next;
};
void clock_virtual_listen(struct clock_listener *l);
void clock_virtual_unlisten(struct clock_listener *l);
