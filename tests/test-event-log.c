/* SPDX-License-Identifier: MIT */
/* The last events, by number: bounds in events and in bytes. */
#include "server/event-log.h"

#include <string.h>
#include <glib.h>

enum { FIRST = 1000003 };

static void add(struct event_log *l, int n, int n_bytes)
{
    g_autofree char *text = g_strnfill(n_bytes, 'x');
    json_t *event = json_pack("{s:i, s:s}", "n", n, "text", text);

    g_assert_cmpint(event_log_add(l, event), ==, FIRST + n);
    json_decref(event);
}

/* The log has events from OLDEST to NEXT - 1, and they are what was added. */
static void check(const struct event_log *l, int oldest, int next)
{
    g_assert_cmpint(event_log_oldest(l), ==, FIRST + oldest);
    g_assert_cmpint(event_log_next(l), ==, FIRST + next);
    for (int n = oldest; n < next; n++) {
        json_t *event = event_log_get(l, FIRST + n);

        g_assert_cmpint(json_integer_value(json_object_get(event, "n")), ==,
                        n);
    }
}

static void test_events(void)
{
    struct event_log *l = event_log_new(FIRST);

    check(l, 0, 0);
    for (int n = 0; n < 3 * EVENT_LOG_MAX_EVENTS; n++) {
        add(l, n, 1);
        if (n % 997 == 0) {
            check(l, MAX(0, n + 1 - EVENT_LOG_MAX_EVENTS), n + 1);
        }
    }
    check(l, 2 * EVENT_LOG_MAX_EVENTS, 3 * EVENT_LOG_MAX_EVENTS);
    event_log_free(l);
}

static void test_bytes(void)
{
    enum { LARGE = EVENT_LOG_MAX_BYTES / 4 };
    struct event_log *l = event_log_new(FIRST);

    for (int n = 0; n < 10; n++) {
        add(l, n, LARGE);
    }
    check(l, 7, 10);            /* four are a little more than it may have */
    add(l, 10, 2 * EVENT_LOG_MAX_BYTES);
    check(l, 10, 11);           /* the newest in any case */
    add(l, 11, 10);
    check(l, 11, 12);
    for (int n = 12; n < 100; n++) {
        add(l, n, 10);
    }
    check(l, 11, 100);          /* what has gone counts no more */
    event_log_free(l);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/event-log/events", test_events);
    g_test_add_func("/event-log/bytes", test_bytes);
    return g_test_run();
}
