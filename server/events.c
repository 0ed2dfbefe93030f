/* SPDX-License-Identifier: MIT */
/*
 * Events: from whoever causes one to every client.
 *
 * Threads  Any that holds the control lock, which puts events and replies in
 *          one order.
 */
#include "server/events.h"

#include "base/control.h"
#include "base/trace.h"
#include "qapi/qapi-events.h"
#include "server/event-limit.h"
#include "server/loop.h"
#include "server/session.h"

/* Under the control lock. */
static struct event_limit *limit;
static struct event *limit_timer;

static void broadcast(const json_t *event)
{
    char *lines[2] = { NULL, NULL };    /* plain, pretty: made when needed */
    size_t len[2];
    struct session *s = NULL;

    while ((s = session_next(s))) {
        if (s->negotiated) {
            if (!lines[s->pretty]) {
                lines[s->pretty] = session_line(event, s->pretty,
                                                &len[s->pretty]);
            }
            output_write(&s->output, lines[s->pretty], len[s->pretty]);
        }
    }
    g_free(lines[0]);
    g_free(lines[1]);
}

static void set_timer(void)
{
    int64_t next_ns = event_limit_next_ns(limit);
    int64_t wait_us = MAX(0, next_ns - clock_ns()) / 1000 + 1;
    struct timeval tv = { wait_us / 1000000, wait_us % 1000000 };

    if (next_ns != INT64_MAX) {
        event_add(limit_timer, &tv);
    }
}

static void timer_expired(evutil_socket_t unused, short what, void *arg)
{
    json_t *event;

    CONTROL_GUARD();
    while ((event = event_limit_take(limit, clock_ns()))) {
        broadcast(event);
        json_decref(event);
    }
    set_timer();
}

static void emit(QAPIEvent kind, json_t *event)
{
    control_assert();
    trace(QMP, "event name=%s", QAPIEvent_str(kind));
    if (event_limit_pass(limit, event, clock_ns())) {
        broadcast(event);
    }
    set_timer();
    json_decref(event);
}

void events_init(void)
{
    limit = event_limit_new();
    limit_timer = evtimer_new(loop_base(), timer_expired, NULL);
    qapi_event_set_emit(emit);
}

void events_deinit(void)
{
    qapi_event_set_emit(NULL);
    event_free(limit_timer);
    event_limit_free(limit);
}
