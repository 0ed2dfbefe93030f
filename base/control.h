/* SPDX-License-Identifier: MIT */
/*
 * The control plane is one thread at a time.
 *
 * Problem     Changing the graph, a job's status or an export is done by one
 *             thread at a time.  But such work must also wait: for a drain,
 *             for an image to open, for tables to be written.  Written as
 *             callbacks it cannot be read; done in the main loop it hangs
 *             the monitor (QEMU).
 * Answer      The control lock.  Whoever holds it is "the control thread":
 *             the main loop while it runs a callback, a worker while it runs
 *             a command declared 'blocking', a job's thread while it starts,
 *             pauses or ends.  Code reads top to bottom; where it must wait
 *             it gives the lock up (control_wait, CONTROL_YIELD) and others
 *             go on.
 * Invariants  I1  Graph, jobs, exports, monitors' registry change only with
 *                 the control lock held.
 *             I2  Nothing blocks with it held: I/O, joins and waits go
 *                 inside CONTROL_YIELD or control_wait().
 *             I3  What was looked up before a yield is looked up again (or
 *                 was pinned with a reference) after it.
 *             I4  The data plane never takes it while a request is in
 *                 flight: drains wait for requests, with the lock given up,
 *                 but a request that waits for the lock could wait for a
 *                 command that waits for it.
 * See         docs/decisions/0001-control-lock.md
 */
#pragma once

#include "base/lock.h"

void control_lock(void);
void control_unlock(void);
bool control_held(void);
#define control_assert() g_assert(control_held())

/* Held from here to the end of the enclosing block. */
#define CONTROL_GUARD() \
    __attribute__((cleanup(control_guard_end), unused)) \
    bool G_PASTE(control_guard_, __COUNTER__) = control_guard_begin()

/* CONTROL_YIELD { io(); }: given up for the block, then taken again.
 * No break, return or goto out of the block. */
#define CONTROL_YIELD \
    for (bool control_y_ = control_yield_begin(); control_y_; \
         control_y_ = control_yield_end())

/*
 * Give the lock up until something in the control plane has changed (any
 * control_notify()), then take it again: while (!cond) { control_wait(); }.
 * Also returns for no reason.  Never in the main loop's thread while
 * others need it: debug builds check control_set_main_thread().
 */
void control_wait(void);
/* False when DEADLINE_NS (clock_ns()) has passed. */
bool control_wait_until(int64_t deadline_ns);
/* Wake all of control_wait(); from any thread, with or without the lock. */
void control_notify(void);

/* The calling thread runs the event loop: it must never control_wait(). */
void control_set_loop_thread(void);
bool control_in_loop_thread(void);

bool control_guard_begin(void);
void control_guard_end(bool *unused);
bool control_yield_begin(void);
bool control_yield_end(void);
