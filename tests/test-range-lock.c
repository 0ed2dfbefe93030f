/* SPDX-License-Identifier: MIT */
/* Range lock: against a model in one thread, then with many threads. */
#include <glib.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include "block/range-lock.h"

static void test_basic(void)
{
    struct range_lock rl;
    struct range_hold a, b, c;

    range_lock_init(&rl, "test");
    range_lock_acquire(&rl, &a, 0, 100, true);
    g_assert_false(range_lock_try(&rl, &b, 99, 1, false));
    g_assert_true(range_lock_try(&rl, &b, 100, 1, true));
    range_lock_release(&rl, &b);
    range_lock_shrink(&rl, &a, 10, 50);
    g_assert_true(range_lock_try(&rl, &b, 50, 50, false));
    g_assert_true(range_lock_try(&rl, &c, 0, 10, false));
    range_lock_release(&rl, &c);
    g_assert_true(range_lock_try(&rl, &c, 60, 10, false));
    range_lock_release(&rl, &a);
    range_lock_release(&rl, &b);
    range_lock_release(&rl, &c);
    /* Empty ranges overlap nothing. */
    range_lock_acquire(&rl, &a, 5, 0, true);
    range_lock_acquire(&rl, &b, 5, 0, true);
    range_lock_release(&rl, &a);
    range_lock_release(&rl, &b);
    range_lock_deinit(&rl);
}

/* Random try/release of single bytes' readers and writers. */
/* Who gives up leaves nothing behind, and does not hold up who came later. */
static void *late_reader(void *arg)
{
    struct range_lock *rl = arg;
    struct range_hold h;

    range_lock_acquire(rl, &h, 50, 10, false);
    range_lock_release(rl, &h);
    return NULL;
}

static void test_lowest(void)
{
    struct range_lock rl;
    struct range_hold a, b;

    range_lock_init(&rl, "test");
    g_assert_cmpint(range_lock_lowest(&rl), ==, INT64_MAX);
    range_lock_acquire(&rl, &a, 50, 10, true);
    g_assert_cmpint(range_lock_lowest(&rl), ==, 50);
    range_lock_acquire(&rl, &b, 10, 10, false);
    g_assert_cmpint(range_lock_lowest(&rl), ==, 10);
    range_lock_release(&rl, &b);
    g_assert_cmpint(range_lock_lowest(&rl), ==, 50);
    range_lock_release(&rl, &a);
    range_lock_deinit(&rl);
}

static void test_deadline(void)
{
    struct range_lock rl;
    struct range_hold a, b;
    pthread_t thread;
    int64_t start = clock_ns();

    range_lock_init(&rl, "test");
    range_lock_acquire(&rl, &a, 0, 100, false);
    g_assert_true(range_lock_acquire_until(&rl, &b, 50, 100, false, 1));
    range_lock_release(&rl, &b);
    g_assert_false(range_lock_acquire_until(&rl, &b, 50, 100, true, 1));
    /* The reader stands behind a writer that waits for A for a while. */
    pthread_create(&thread, NULL, late_reader, &rl);
    g_assert_false(range_lock_acquire_until(&rl, &b, 0, 100, true,
                                            start + 50000000));
    g_assert_cmpint(clock_ns(), >=, start + 50000000);
    pthread_join(thread, NULL);
    range_lock_release(&rl, &a);
    range_lock_acquire(&rl, &a, 0, 100, true);
    range_lock_release(&rl, &a);
    range_lock_deinit(&rl);
}

static void test_model(void)
{
    enum { N = 12, SIZE = 40 };
    struct range_lock rl;
    struct range_hold holds[N];
    bool used[N] = { false };
    int readers[SIZE] = { 0 }, writers[SIZE] = { 0 };
    g_autoptr(GRand) rnd = g_rand_new_with_seed(4711);

    range_lock_init(&rl, "test");
    for (int step = 0; step < 200000; step++) {
        int i = g_rand_int_range(rnd, 0, N);
        if (used[i]) {
            int *count = holds[i].exclusive ? writers : readers;
            for (int64_t p = holds[i].offset; p < holds[i].end; p++) {
                count[p]--;
            }
            range_lock_release(&rl, &holds[i]);
            used[i] = false;
            continue;
        }
        int offset = g_rand_int_range(rnd, 0, SIZE);
        int bytes = g_rand_int_range(rnd, 0, MIN(8, SIZE - offset) + 1);
        bool exclusive = g_rand_int_range(rnd, 0, 3) == 0;
        bool expected = true;
        for (int p = offset; p < offset + bytes; p++) {
            if (writers[p] || (exclusive && readers[p])) {
                expected = false;
            }
        }
        used[i] = range_lock_try(&rl, &holds[i], offset, bytes, exclusive);
        g_assert_cmpint(used[i], ==, expected);
        if (used[i]) {
            int *count = exclusive ? writers : readers;
            for (int p = offset; p < offset + bytes; p++) {
                count[p]++;
            }
        }
    }
    for (int i = 0; i < N; i++) {
        if (used[i]) {
            range_lock_release(&rl, &holds[i]);
        }
    }
    range_lock_deinit(&rl);
}

enum { AREA = 64, ROUNDS = 4000, N_THREADS = 6 };
static struct range_lock shared_rl;
static int area[AREA];              /* plain memory: TSan sees a missing lock */

static void *hammer(void *arg)
{
    g_autoptr(GRand) rnd = g_rand_new_with_seed(GPOINTER_TO_UINT(arg));

    for (int round = 0; round < ROUNDS; round++) {
        int offset = g_rand_int_range(rnd, 0, AREA);
        int bytes = g_rand_int_range(rnd, 1, MIN(16, AREA - offset) + 1);
        bool exclusive = g_rand_boolean(rnd);
        struct range_hold h;
        range_lock_acquire(&shared_rl, &h, offset, bytes, exclusive);
        if (exclusive) {
            int stamp = g_rand_int(rnd);
            for (int p = offset; p < offset + bytes; p++) {
                area[p] = stamp;
            }
            for (int p = offset; p < offset + bytes; p++) {
                g_assert_cmpint(area[p], ==, stamp);
            }
            if (bytes > 2) {
                range_lock_shrink(&shared_rl, &h, offset + 1,
                                  offset + bytes - 1);
                g_assert_cmpint(area[offset + 1], ==, stamp);
            }
        } else {
            int copy[AREA];
            memcpy(copy, area + offset, bytes * sizeof(int));
            g_assert_cmpmem(copy, bytes * sizeof(int), area + offset,
                            bytes * sizeof(int));
        }
        range_lock_release(&shared_rl, &h);
    }
    return NULL;
}

static void test_threads(void)
{
    pthread_t threads[N_THREADS];

    range_lock_init(&shared_rl, "test");
    for (int i = 0; i < N_THREADS; i++) {
        g_assert_cmpint(pthread_create(&threads[i], NULL, hammer,
                                       GUINT_TO_POINTER(i + 1)), ==, 0);
    }
    for (int i = 0; i < N_THREADS; i++) {
        pthread_join(threads[i], NULL);
    }
    range_lock_deinit(&shared_rl);
}

/* I2: a waiting writer is not passed by a reader that overlaps it. */
static struct range_hold writer_hold;
static void *waiting_writer(void *unused)
{
    range_lock_acquire(&shared_rl, &writer_hold, 0, 10, true);
    range_lock_release(&shared_rl, &writer_hold);
    return NULL;
}

static void test_no_starvation(void)
{
    struct range_hold reader, late;
    pthread_t thread;
    bool waits = false;

    range_lock_init(&shared_rl, "test");
    range_lock_acquire(&shared_rl, &reader, 0, 5, false);
    pthread_create(&thread, NULL, waiting_writer, NULL);
    while (!waits) {
        lock_acquire(&shared_rl.lock);
        waits = shared_rl.n_waiting == 1;
        lock_release(&shared_rl.lock);
        g_usleep(100);
    }
    g_assert_false(range_lock_try(&shared_rl, &late, 8, 1, false));
    g_assert_true(range_lock_try(&shared_rl, &late, 10, 1, false));
    range_lock_release(&shared_rl, &late);
    range_lock_release(&shared_rl, &reader);
    pthread_join(thread, NULL);
    range_lock_deinit(&shared_rl);
}

static void *passing_writer(void *unused)
{
    struct range_hold h;

    range_lock_acquire_passing(&shared_rl, &h, 0, 10);
    range_lock_release(&shared_rl, &h);
    return NULL;
}

/* Those that only wait are passed, those that are not passing are not; and
 * not for ever. */
static void test_passing(void)
{
    struct range_hold first, late;
    pthread_t thread;
    bool waits = false;

    range_lock_init(&shared_rl, "test");
    range_lock_acquire(&shared_rl, &first, 0, 5, true);
    pthread_create(&thread, NULL, passing_writer, NULL);
    while (!waits) {
        lock_acquire(&shared_rl.lock);
        waits = shared_rl.n_waiting == 1;
        lock_release(&shared_rl.lock);
        g_usleep(100);
    }
    g_assert_false(range_lock_try(&shared_rl, &late, 8, 4, true));
    for (int i = 0; i < RANGE_LOCK_PASSES; i++) {
        range_lock_acquire_passing(&shared_rl, &late, 8, 4);
        range_lock_release(&shared_rl, &late);
    }
    range_lock_release(&shared_rl, &first);
    /* It must let the waiter go first now. */
    range_lock_acquire_passing(&shared_rl, &late, 8, 4);
    range_lock_release(&shared_rl, &late);
    pthread_join(thread, NULL);
    range_lock_deinit(&shared_rl);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/range-lock/basic", test_basic);
    g_test_add_func("/range-lock/lowest", test_lowest);
    g_test_add_func("/range-lock/deadline", test_deadline);
    g_test_add_func("/range-lock/model", test_model);
    g_test_add_func("/range-lock/threads", test_threads);
    g_test_add_func("/range-lock/no-starvation", test_no_starvation);
    g_test_add_func("/range-lock/passing", test_passing);
    return g_test_run();
}
