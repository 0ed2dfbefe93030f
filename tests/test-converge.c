/* SPDX-License-Identifier: MIT */
/*
 * Converge, in made-up time: a guest that writes as fast as it may, a copy of
 * constant rate, a deadline.
 */
#include <glib.h>
#include "blockjobs/converge.h"

enum { MIB = 1 << 20, BLOCK = 64 * 1024 };
#define STEP_S (CONVERGE_STEP_NS / 1e9)

struct world {
    struct converge c;
    double copy_rate, demand;   /* MiB/s; of a guest that is not delayed */
    double remaining, copied, dirtied, disk;    /* MiB */
    double guest_rate;          /* now */
    double least_rate, greatest_change; /* of the guest's */
    int64_t now_ns, greatest_delay_ns;
};

static double guest_rate(const struct world *w)
{
    double block_s = BLOCK / (w->demand * MIB) +
                     converge_delay_ns(&w->c, BLOCK) / 1e9;

    return BLOCK / block_s / MIB;
}

static void setup(struct world *w, double disk, double copy_rate,
                  double demand, double deadline_s)
{
    *w = (struct world){ .copy_rate = copy_rate, .demand = demand,
                         .remaining = disk, .disk = disk,
                         .least_rate = demand, .guest_rate = demand,
                         .now_ns = 12345 };
    converge_begin(&w->c, w->now_ns, w->now_ns + (int64_t)(deadline_s * 1e9));
}

/* Of 100 ms; true: all is copied. */
static bool turn(struct world *w)
{
    double rate = guest_rate(w), change, done;

    change = rate > w->guest_rate ? rate / w->guest_rate - 1
                                  : 1 - rate / w->guest_rate;
    w->guest_rate = rate;
    w->greatest_change = MAX(w->greatest_change, change);
    w->least_rate = MIN(w->least_rate, rate);
    w->greatest_delay_ns = MAX(w->greatest_delay_ns,
                               converge_delay_ns(&w->c, BLOCK));
    w->now_ns += CONVERGE_STEP_NS;
    done = MIN(w->copy_rate * STEP_S, w->remaining);
    w->copied += done;
    w->dirtied += rate * STEP_S;
    w->remaining = MIN(w->remaining - done + rate * STEP_S, w->disk);
    converge_update(&w->c, w->now_ns, w->remaining * MIB, w->copied * MIB,
                    w->dirtied * MIB);
    return done < w->copy_rate * STEP_S;
}

/* In seconds. */
static double run(struct world *w, double seconds)
{
    double s = 0;

    while (s < seconds) {
        s += STEP_S;
        if (turn(w)) {
            return s;
        }
    }
    return seconds + 1;
}

static void test_meets_deadline(void)
{
    static const struct {
        double disk, copy_rate, demand, deadline_s;
    } cases[] = {
        { 1000, 100, 200, 30 }, { 1000, 100, 95, 20 }, { 1000, 100, 5000, 40 },
        { 100000, 500, 450, 300 }, { 200, 50, 50, 10 },
    };

    for (size_t i = 0; i < G_N_ELEMENTS(cases); i++) {
        struct world w;
        double took;
        setup(&w, cases[i].disk, cases[i].copy_rate, cases[i].demand,
              cases[i].deadline_s);
        took = run(&w, cases[i].deadline_s * 2);
        g_test_message("%zu: ready after %.1f of %.0f s, guest at %.1f MiB/s "
                       "or more", i, took, cases[i].deadline_s, w.least_rate);
        g_assert_cmpfloat(took, <=, cases[i].deadline_s);
        g_assert_cmpfloat(w.greatest_change, <, 1 / 3.0);
        converge_end(&w.c);
        g_assert_cmpint(converge_delay_ns(&w.c, BLOCK), ==, 0);
    }
}

/* Nobody is slowed down who need not be. */
static void test_leaves_alone(void)
{
    struct world w;

    setup(&w, 1000, 100, 40, 30);
    g_assert_cmpfloat(run(&w, 30), <=, 30);
    g_assert_cmpint(w.greatest_delay_ns, ==, 0);
    /* Ahead, and so it stays: what little is left is no reason. */
    for (int i = 0; i < 100; i++) {
        turn(&w);
    }
    g_assert_cmpint(w.greatest_delay_ns, ==, 0);
}

/* The guest has less to write after a while. */
static void test_lets_go(void)
{
    struct world w;

    setup(&w, 2000, 100, 200, 60);
    run(&w, 15);
    g_assert_cmpint(converge_delay_ns(&w.c, BLOCK), >, 0);
    w.demand = 10;
    w.guest_rate = guest_rate(&w);
    w.greatest_change = 0;
    for (int i = 0; i < 100 && converge_delay_ns(&w.c, BLOCK) > 0; i++) {
        turn(&w);
    }
    g_assert_cmpint(converge_delay_ns(&w.c, BLOCK), ==, 0);
    g_assert_cmpfloat(w.greatest_change, <, 1 / 3.0);
}

/* Too late even with no guest at all: it is slowed down, not stopped. */
static void test_hopeless(void)
{
    struct world w;

    setup(&w, 10000, 10, 100, 5);
    run(&w, 60);
    g_assert_cmpfloat(w.least_rate, >, 10 * 0.05 / 2);
    g_assert_cmpfloat(w.greatest_change, <, 1 / 3.0);
}

static void test_bounds(void)
{
    struct world w;

    setup(&w, 10000, 1, 10, 5);
    run(&w, 60);
    g_assert_cmpint(converge_delay_ns(&w.c, 512), >, 0);
    g_assert_cmpint(converge_delay_ns(&w.c, INT64_C(1) << 40), ==,
                    CONVERGE_MAX_DELAY_NS);
    /* Often, or not for long: at most one step. */
    converge_begin(&w.c, 0, 1);
    for (int i = 0; i < 1000; i++) {
        converge_update(&w.c, i * 1000, INT64_C(1) << 40, i,
                        i * INT64_C(1000000000));
    }
    g_assert_cmpint(converge_delay_ns(&w.c, BLOCK), ==, 0);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/converge/meets-deadline", test_meets_deadline);
    g_test_add_func("/converge/leaves-alone", test_leaves_alone);
    g_test_add_func("/converge/lets-go", test_lets_go);
    g_test_add_func("/converge/hopeless", test_hopeless);
    g_test_add_func("/converge/bounds", test_bounds);
    return g_test_run();
}
