/* SPDX-License-Identifier: MIT */
/* The event loop: see loop.h. */
#include "server/loop.h"

#include <event2/thread.h>
#include "base/control.h"

struct deferred {
    void (*fn)(void *arg);
    void *arg;
};

static struct event_base *the_base;
static struct event *wake_event;

/* Protected by deferred_lock. */
static struct lock deferred_lock = LOCK_INIT("deferred", LOCK_LEAF);
static GArray *deferred_calls;          /* of struct deferred */

struct event_base *loop_base(void)
{
    return the_base;
}

static void run_deferred(evutil_socket_t fd, short what, void *arg)
{
    GArray *calls;

    lock_acquire(&deferred_lock);
    calls = deferred_calls;
    deferred_calls = g_array_new(FALSE, FALSE, sizeof(struct deferred));
    lock_release(&deferred_lock);
    CONTROL_GUARD();
    for (guint i = 0; i < calls->len; i++) {
        struct deferred *call = &g_array_index(calls, struct deferred, i);

        call->fn(call->arg);
    }
    g_array_free(calls, TRUE);
}

void loop_init(void)
{
    evthread_use_pthreads();
    the_base = event_base_new();
    if (!the_base) {
        g_error("cannot make an event loop");
    }
    wake_event = event_new(the_base, -1, EV_READ, run_deferred, NULL);
    deferred_calls = g_array_new(FALSE, FALSE, sizeof(struct deferred));
}

void loop_run(void)
{
    control_set_loop_thread();
    event_base_loop(the_base, EVLOOP_NO_EXIT_ON_EMPTY);
}

void loop_stop(void)
{
    event_base_loopbreak(the_base);
}

void loop_defer(void (*fn)(void *arg), void *arg)
{
    struct deferred call = { .fn = fn, .arg = arg };
    bool first;

    lock_acquire(&deferred_lock);
    g_array_append_val(deferred_calls, call);
    first = deferred_calls->len == 1;
    lock_release(&deferred_lock);
    if (first) {
        event_active(wake_event, EV_READ, 0);
    }
}

void loop_deinit(void)
{
    run_deferred(-1, 0, NULL);
    event_free(wake_event);
    g_array_free(deferred_calls, TRUE);
    event_base_free(the_base);
    libevent_global_shutdown();
}
