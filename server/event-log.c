/* SPDX-License-Identifier: MIT */
/* The last events: see event-log.h. */
#include "server/event-log.h"

#include "qapi/qapi.h"

struct kept {
    json_t *event;      /* a reference */
    size_t n_bytes;     /* of its text */
};

struct event_log {
    struct kept ring[EVENT_LOG_MAX_EVENTS];     /* by number modulo size */
    int64_t oldest, next;
    size_t n_bytes;
};

static struct kept *at(const struct event_log *l, int64_t number)
{
    return (struct kept *)&l->ring[number % EVENT_LOG_MAX_EVENTS];
}

static void drop_oldest(struct event_log *l)
{
    struct kept *k = at(l, l->oldest++);

    l->n_bytes -= k->n_bytes;
    json_decref(k->event);
    k->event = NULL;
}

struct event_log *event_log_new(int64_t first)
{
    struct event_log *l = g_new0(struct event_log, 1);

    g_assert(first >= 0);
    l->oldest = l->next = first;
    return l;
}

void event_log_free(struct event_log *l)
{
    while (l->oldest < l->next) {
        drop_oldest(l);
    }
    g_free(l);
}

int64_t event_log_add(struct event_log *l, json_t *event)
{
    struct kept *k;

    if (l->next - l->oldest == EVENT_LOG_MAX_EVENTS) {
        drop_oldest(l);
    }
    k = at(l, l->next);
    k->event = json_incref(event);
    g_free(qapi_json_dump(event, false, &k->n_bytes));
    l->n_bytes += k->n_bytes;
    l->next++;
    while (l->n_bytes > EVENT_LOG_MAX_BYTES && l->oldest < l->next - 1) {
        drop_oldest(l);
    }
    return l->next - 1;
}

int64_t event_log_oldest(const struct event_log *l)
{
    return l->oldest;
}

int64_t event_log_next(const struct event_log *l)
{
    return l->next;
}

json_t *event_log_get(const struct event_log *l, int64_t number)
{
    g_assert(number >= l->oldest && number < l->next);
    return at(l, number)->event;
}
