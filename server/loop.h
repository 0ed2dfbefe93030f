/* SPDX-License-Identifier: MIT */
/*
 * The event loop: libevent's, in the main thread.
 *
 * Callbacks that touch the control plane take the control lock themselves
 * (CONTROL_GUARD); they do nothing that waits.  Events may be added and
 * activated by any thread.
 */
#pragma once

#include <stdbool.h>
#include <event2/event.h>

struct event_base *loop_base(void);

/* Before any other use; one thread. */
void loop_init(void);
/* Run until loop_stop().  The calling thread is the loop's from now on. */
void loop_run(void);
/* Any thread. */
void loop_stop(void);
/* Run FN(ARG) in the loop's thread, with the control lock held, after what
 * was deferred before.  Any thread; only takes a leaf lock. */
void loop_defer(void (*fn)(void *arg), void *arg);
/* Other threads have ended, all events but ours are freed. */
void loop_deinit(void);
