/* SPDX-License-Identifier: MIT */
/* Events that come too often: what is sent, when. */
#include "server/event-limit.h"

#include <string.h>
#include <glib.h>

#define MS 1000000LL

static json_t *make_event(const char *name, const char *node, int n)
{
    return json_pack("{s:s, s:{s:s, s:s, s:i}}", "event", name, "data",
                     "qom-path", node, "node-name", node, "n", n);
}

static bool pass(struct event_limit *l, const char *name, const char *node,
                 int n, int64_t now_ns)
{
    json_t *event = make_event(name, node, n);
    bool passed = event_limit_pass(l, event, now_ns);

    json_decref(event);
    return passed;
}

/* The number of the event that is due, or -1. */
static int take(struct event_limit *l, int64_t now_ns)
{
    json_t *event = event_limit_take(l, now_ns);
    int n = -1;

    if (event) {
        json_t *data = json_object_get(event, "data");

        n = json_integer_value(json_object_get(data, "n"));
    }
    json_decref(event);
    return n;
}

static void test_unlimited(void)
{
    struct event_limit *l = event_limit_new();

    for (int i = 0; i < 5; i++) {
        g_assert_true(pass(l, "JOB_STATUS_CHANGE", "a", i, i));
    }
    g_assert_cmpint(event_limit_next_ns(l), ==, INT64_MAX);
    event_limit_free(l);
}

static void test_last_is_kept(void)
{
    struct event_limit *l = event_limit_new();

    g_assert_true(pass(l, "BLOCK_IO_ERROR", "a", 1, 0));
    g_assert_false(pass(l, "BLOCK_IO_ERROR", "a", 2, 100 * MS));
    g_assert_false(pass(l, "BLOCK_IO_ERROR", "a", 3, 200 * MS));
    g_assert_cmpint(event_limit_next_ns(l), ==, 1000 * MS);
    g_assert_cmpint(take(l, 999 * MS), ==, -1);
    /* The timer is late: a new one still replaces what is kept. */
    g_assert_false(pass(l, "BLOCK_IO_ERROR", "a", 4, 1001 * MS));
    g_assert_cmpint(take(l, 1002 * MS), ==, 4);
    g_assert_cmpint(take(l, 1002 * MS), ==, -1);
    /* Another second begins with it. */
    g_assert_false(pass(l, "BLOCK_IO_ERROR", "a", 5, 1500 * MS));
    g_assert_cmpint(take(l, 2002 * MS), ==, 5);
    /* Then nothing is left to wait for. */
    g_assert_cmpint(take(l, 3002 * MS), ==, -1);
    g_assert_cmpint(event_limit_next_ns(l), ==, INT64_MAX);
    g_assert_true(pass(l, "BLOCK_IO_ERROR", "a", 6, 3003 * MS));
    event_limit_free(l);
}

static void test_sources(void)
{
    struct event_limit *l = event_limit_new();

    g_assert_true(pass(l, "BLOCK_IO_ERROR", "a", 1, 0));
    g_assert_true(pass(l, "BLOCK_IO_ERROR", "b", 2, 0));
    g_assert_true(pass(l, "QUORUM_REPORT_BAD", "a", 3, 0));
    g_assert_true(pass(l, "RTC_CHANGE", "a", 4, 0));
    g_assert_false(pass(l, "RTC_CHANGE", "b", 5, 1 * MS));
    g_assert_false(pass(l, "BLOCK_IO_ERROR", "b", 6, 1 * MS));
    g_assert_cmpint(take(l, 1000 * MS) + take(l, 1000 * MS), ==, 11);
    g_assert_false(pass(l, "RTC_CHANGE", "b", 7, 1001 * MS));
    event_limit_free(l);        /* with one kept */
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/event-limit/unlimited", test_unlimited);
    g_test_add_func("/event-limit/last-is-kept", test_last_is_kept);
    g_test_add_func("/event-limit/sources", test_sources);
    return g_test_run();
}
