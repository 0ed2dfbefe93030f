/* SPDX-License-Identifier: MIT */
/*
 * Events: from whoever causes one to every client.
 *
 * Threads  Any that holds the control lock, which puts events and replies in
 *          one order.
 */
#include "server/events.h"

#include <inttypes.h>
#include "base/control.h"
#include "base/trace.h"
#include "qapi/qapi-events.h"
#include "server/event-limit.h"
#include "server/event-log.h"
#include "server/loop.h"
#include "server/session.h"

/* Under the control lock. */
static struct event_limit *limit;
static struct event_log *past;
static struct event *limit_timer;

/* What a client that has switched on what is sent of an event. */
enum {
    WITH_SEQUENCE = 1, WITH_ERROR_DATA = 2, PRETTY = 4,
    N_VARIANTS = 8,
};

static int variant_of(const struct session *s)
{
    return (s->event_sequence ? WITH_SEQUENCE : 0) |
           (s->error_data ? WITH_ERROR_DATA : 0) | (s->pretty ? PRETTY : 0);
}

/* As it is on the wire, a new reference. */
static json_t *make_variant(json_t *event, int64_t number, int variant)
{
    json_t *copy = json_copy(event);
    json_t *data = json_object_get(event, "data");

    if (!(variant & WITH_ERROR_DATA) && json_object_get(data, "error-data")) {
        data = json_copy(data);
        json_object_del(data, "error-data");
        json_object_set_new_nocheck(copy, "data", data);
    }
    if (variant & WITH_SEQUENCE) {
        json_object_set_new_nocheck(copy, "sequence", json_integer(number));
    }
    return copy;
}

static char *make_line(json_t *event, int64_t number, int variant, size_t *len)
{
    json_t *copy = make_variant(event, number, variant);
    char *line = session_line(copy, variant & PRETTY, len);

    json_decref(copy);
    return line;
}

static void broadcast(json_t *event)
{
    char *lines[N_VARIANTS] = { NULL };     /* made when needed */
    size_t len[N_VARIANTS];
    int64_t number = event_log_add(past, event);
    struct session *s = NULL;

    while ((s = session_next(s))) {
        int v = variant_of(s);

        if (!s->negotiated) {
            continue;
        }
        if (!lines[v]) {
            lines[v] = make_line(event, number, v, &len[v]);
        }
        output_write(&s->output, lines[v], len[v]);
    }
    for (int v = 0; v < N_VARIANTS; v++) {
        g_free(lines[v]);
    }
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
    past = event_log_new(g_get_real_time());
    limit_timer = evtimer_new(loop_base(), timer_expired, NULL);
    qapi_event_set_emit(emit);
}

void events_deinit(void)
{
    qapi_event_set_emit(NULL);
    event_free(limit_timer);
    event_limit_free(limit);
    event_log_free(past);
}

/* ---- the past ------------------------------------------------------------ */

int64_t events_oldest(void)
{
    control_assert();
    return event_log_oldest(past);
}

static bool check_from(int64_t from, struct error **errp)
{
    int64_t oldest = event_log_oldest(past), next = event_log_next(past);

    control_assert();
    if (from < oldest) {
        error_set(errp, "Event %" PRId64 " is not kept any more: the oldest "
                  "is %" PRId64, from, oldest);
        error_append_hint(errp, "Events are lost; look at the state of what "
                          "you follow (query-job-history for jobs), and go "
                          "on from %" PRId64 "\n", oldest);
        return false;
    }
    if (from > next) {
        error_set(errp, "Event %" PRId64 " has not been sent yet: the next "
                  "one is %" PRId64, from, next);
        return false;
    }
    return true;
}

bool events_replay(struct session *s, int64_t from, struct error **errp)
{
    if (!check_from(from, errp)) {
        return false;
    }
    for (int64_t n = from; n < event_log_next(past); n++) {
        size_t len;
        g_autofree char *line = make_line(event_log_get(past, n), n,
                                          variant_of(s), &len);

        output_write(&s->output, line, len);
    }
    return true;
}

EventHistory *events_list(int64_t from, int64_t limit_n, struct error **errp)
{
    EventHistory *h;
    int64_t n = from;

    if (!check_from(from, errp)) {
        return NULL;
    }
    h = EventHistory_new0();
    h->oldest = event_log_oldest(past);
    h->events = g_new0(anyList, 1);
    for (; n < event_log_next(past) && n - from < limit_n; n++) {
        qapi_list_append(h->events,
                         make_variant(event_log_get(past, n), n,
                                      WITH_SEQUENCE | WITH_ERROR_DATA));
    }
    h->next = n;
    return h;
}
