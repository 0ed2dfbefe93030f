/* SPDX-License-Identifier: MIT */
/* How fast a job is, at times that the test makes up. */
#include "blockjobs/job-rate.h"

#define MS INT64_C(1000000)
#define MIB (INT64_C(1) << 20)

static struct job_rate_sample at(int64_t ms, int64_t done, int64_t dirty)
{
    return (struct job_rate_sample) {
        .ns = (1000000 + ms) * MS, .done = done, .dirty = dirty,
    };
}

/* Bytes per second at MS, or -1: too early to say. */
static double done_rate(struct job_rate *r, int64_t ms, int64_t done)
{
    const struct job_rate_sample now = at(ms, done, 0);
    double rate, dirty;

    return job_rate_get(r, &now, &rate, &dirty) ? rate : -1;
}

/* A job that does BYTES a millisecond from FROM_MS to TO_MS, and tells of it
 * each 10 ms.  Returns how much it has done. */
static int64_t work(struct job_rate *r, int64_t from_ms, int64_t to_ms,
                    int64_t done, int64_t bytes)
{
    for (int64_t ms = from_ms + 10; ms <= to_ms; ms += 10) {
        struct job_rate_sample now = at(ms, done += 10 * bytes, 0);

        if (job_rate_wants(r, now.ns)) {
            job_rate_note(r, &now);
        }
    }
    return done;
}

static void begin(struct job_rate *r, int64_t ms, int64_t done)
{
    const struct job_rate_sample now = at(ms, done, 0);

    job_rate_begin(r, &now);
}

static void test_steady(void)
{
    struct job_rate r;
    int64_t done;

    job_rate_init(&r);
    g_assert_false(job_rate_wants(&r, INT64_MAX - 1));
    g_assert_cmpfloat(done_rate(&r, 0, 0), ==, -1);
    begin(&r, 0, 5 * MIB);
    g_assert_cmpfloat(done_rate(&r, 50, 6 * MIB), ==, -1);
    done = work(&r, 0, 500, 5 * MIB, 1000);
    g_assert_cmpfloat(done_rate(&r, 500, done), ==, 1000000);
    done = work(&r, 500, 60000, done, 1000);
    g_assert_cmpfloat(done_rate(&r, 60000, done), ==, 1000000);
    job_rate_deinit(&r);
}

/* A change is half seen after half the window, and all of it afterwards. */
static void test_change(void)
{
    struct job_rate r;
    int64_t done;
    double rate;

    job_rate_init(&r);
    begin(&r, 0, 0);
    done = work(&r, 0, 10000, 0, 1000);
    done = work(&r, 10000, 11500, done, 9000);
    rate = done_rate(&r, 11500, done);
    g_assert_cmpfloat(rate, >, 4000000);
    g_assert_cmpfloat(rate, <, 6000000);
    done = work(&r, 11500, 14000, done, 9000);
    g_assert_cmpfloat(done_rate(&r, 14000, done), ==, 9000000);
    job_rate_deinit(&r);
}

/* Nobody copies, so nobody takes samples: it is seen all the same. */
static void test_stall(void)
{
    struct job_rate r;
    int64_t done;

    job_rate_init(&r);
    begin(&r, 0, 0);
    done = work(&r, 0, 10000, 0, 1000);
    g_assert_cmpfloat(done_rate(&r, 12000, done), <, 400000);
    g_assert_cmpfloat(done_rate(&r, 14000, done), <, 60000);
    g_assert_cmpfloat(done_rate(&r, 100000, done), <, 3000);
    job_rate_deinit(&r);
}

/* After a pause only what comes then counts. */
static void test_pause(void)
{
    struct job_rate r;
    int64_t done;

    job_rate_init(&r);
    begin(&r, 0, 0);
    done = work(&r, 0, 10000, 0, 1000);
    begin(&r, 1000000, done);
    g_assert_cmpfloat(done_rate(&r, 1000050, done), ==, -1);
    done = work(&r, 1000000, 1000500, done, 4000);
    g_assert_cmpfloat(done_rate(&r, 1000500, done), ==, 4000000);
    job_rate_deinit(&r);
}

static void test_dirty(void)
{
    struct job_rate r;
    struct job_rate_sample now = at(0, 0, 100);
    double done, dirty;

    job_rate_init(&r);
    job_rate_begin(&r, &now);
    now = at(1000, MIB, 100 + 3 * MIB);
    g_assert_true(job_rate_get(&r, &now, &done, &dirty));
    g_assert_cmpfloat(done, ==, MIB);
    g_assert_cmpfloat(dirty, ==, 3 * MIB);
    /* A counter that goes back (it should not) is no negative rate. */
    now = at(1100, 0, 0);
    now.done = -MIB;
    g_assert_true(job_rate_get(&r, &now, &done, &dirty));
    g_assert_cmpfloat(done, ==, 0);
    g_assert_cmpfloat(dirty, ==, 0);
    job_rate_deinit(&r);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/job-rate/steady", test_steady);
    g_test_add_func("/job-rate/change", test_change);
    g_test_add_func("/job-rate/stall", test_stall);
    g_test_add_func("/job-rate/pause", test_pause);
    g_test_add_func("/job-rate/dirty", test_dirty);
    return g_test_run();
}
