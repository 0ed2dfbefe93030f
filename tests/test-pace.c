/* SPDX-License-Identifier: MIT */
/*
 * Pace: a target that serves in order, at a rate, with a latency; a background
 * that would fill it; a guest.
 */
#include <pthread.h>
#include <time.h>
#include "block/copier-pace.h"

enum { KIB = 1024, MIB = 1 << 20, MS = 1000 * 1000, UNIT = 64 * KIB,
       MAX_THREADS = 64 };
#define SECOND_NS INT64_C(1000000000)

struct target {
    pthread_mutex_t lock;
    int64_t free_ns;            /* when all before is served */
    int64_t bytes_per_second;
    int64_t latency_ns;         /* beside it, for all at once */
};

struct world {
    struct pace pace;
    struct target target;
    int n_threads;              /* the engine's part: how many may try */
    /* Atomic. */
    bool stop;
    int64_t copied;
};

static void sleep_until(int64_t ns)
{
    struct timespec ts = { .tv_sec = ns / SECOND_NS,
                           .tv_nsec = ns % SECOND_NS };

    while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &ts, NULL)) {
    }
}

static void target_write(struct target *t, int64_t bytes)
{
    int64_t done;

    pthread_mutex_lock(&t->lock);
    t->free_ns = MAX(t->free_ns, clock_ns()) +
                 bytes * SECOND_NS / t->bytes_per_second;
    done = t->free_ns + t->latency_ns;
    pthread_mutex_unlock(&t->lock);
    sleep_until(done);
}

static bool stopped(struct world *w)
{
    return __atomic_load_n(&w->stop, __ATOMIC_RELAXED);
}

static void *background(void *opaque)
{
    struct world *w = opaque;

    while (!stopped(w)) {
        struct pace_ticket t;
        int64_t bytes = MIB;
        if (pace_begin(&w->pace, &t, &bytes, clock_ns() + 20 * MS) !=
            PACE_GO) {
            sleep_until(clock_ns() + MS);
            continue;
        }
        target_write(&w->target, bytes);
        pace_end(&w->pace, &t, bytes);
        __atomic_add_fetch(&w->copied, bytes, __ATOMIC_RELAXED);
    }
    return NULL;
}

static int64_t guest_write(struct world *w, int64_t bytes)
{
    struct pace_guest g;
    int64_t begun_ns = clock_ns();

    pace_guest_begin(&w->pace, &g);
    target_write(&w->target, bytes);
    pace_guest_end(&w->pace, &g, bytes);
    return clock_ns() - begun_ns;
}

static void world_setup(struct world *w, int64_t rate, int64_t latency_ns)
{
    *w = (struct world){
        .target = { .lock = PTHREAD_MUTEX_INITIALIZER,
                    .bytes_per_second = rate, .latency_ns = latency_ns },
        .n_threads = MAX_THREADS,
    };
    pace_init(&w->pace, UNIT);
}

static void begin(struct world *w, pthread_t *threads)
{
    for (int i = 0; i < w->n_threads; i++) {
        pthread_create(&threads[i], NULL, background, w);
    }
}

static void end(struct world *w, pthread_t *threads)
{
    __atomic_store_n(&w->stop, true, __ATOMIC_RELAXED);
    for (int i = 0; i < w->n_threads; i++) {
        pthread_join(threads[i], NULL);
    }
    g_assert_cmpint(w->pace.background_bytes, ==, 0);
    pace_deinit(&w->pace);
}

static gint compare(gconstpointer a, gconstpointer b)
{
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;

    return (x > y) - (x < y);
}

/* 64 MiB could be before a guest's write, or 1.3 s. */
static void test_guest_first(void)
{
    pthread_t threads[MAX_THREADS];
    int64_t waited[60], copied;
    struct world w;

    world_setup(&w, 50 * MIB, 0);
    begin(&w, threads);
    sleep_until(clock_ns() + 500 * MS);
    copied = __atomic_load_n(&w.copied, __ATOMIC_RELAXED);
    g_assert_cmpint(copied, >, 5 * MIB);
    for (size_t i = 0; i < G_N_ELEMENTS(waited); i++) {
        waited[i] = guest_write(&w, UNIT);
    }
    g_test_message("first %.1f ms", waited[0] / 1e6);
    qsort(waited, G_N_ELEMENTS(waited), sizeof(waited[0]), compare);
    g_test_message("median %.1f ms", waited[G_N_ELEMENTS(waited) / 2] / 1e6);
    g_assert_cmpint(waited[G_N_ELEMENTS(waited) / 2], <, 40 * MS);
    g_assert_cmpint(__atomic_load_n(&w.copied, __ATOMIC_RELAXED), >, copied);
    end(&w, threads);
}

/* Guests who always wait: the background gets on, slowly. */
static void test_no_starvation(void)
{
    struct pace_guest first, other;
    struct pace_ticket t;
    int64_t bytes = MIB;
    struct world w;

    world_setup(&w, 50 * MIB, 0);
    pace_guest_begin(&w.pace, &first);
    pace_guest_begin(&w.pace, &other);
    sleep_until(clock_ns() + 20 * MS);
    pace_guest_end(&w.pace, &other, 0);     /* it suffered */
    for (int i = 0; i < 4; i++) {
        bytes = MIB;
        g_assert_cmpint(pace_begin(&w.pace, &t, &bytes,
                                   clock_ns() + 10 * SECOND_NS), ==, PACE_GO);
        pace_end(&w.pace, &t, bytes);
    }
    g_assert_cmpint(pace_begin(&w.pace, &t, &bytes, clock_ns() + MS), ==,
                    PACE_WAIT);
    pace_guest_end(&w.pace, &first, 0);
    pace_deinit(&w.pace);
}

/* A target that does the more the more it is given, and one that does not. */
static int depth_after(int64_t rate, int64_t latency_ns)
{
    pthread_t threads[MAX_THREADS];
    struct world w;
    int depth;

    world_setup(&w, rate, latency_ns);
    begin(&w, threads);
    sleep_until(clock_ns() + 1800 * MS);
    pthread_mutex_lock(&w.pace.lock.mutex);
    depth = w.pace.depth;
    pthread_mutex_unlock(&w.pace.lock.mutex);
    end(&w, threads);
    return depth;
}

static void test_depth(void)
{
    int far = depth_after(INT64_C(100000) * MIB, 20 * MS);
    int slow = depth_after(300 * MIB, 0);

    g_test_message("%d copies at once, %d", far, slow);
    g_assert_cmpint(far, >=, 16);
    g_assert_cmpint(slow, <, far);
    g_assert_cmpint(slow, <=, 13);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/pace/guest-first", test_guest_first);
    g_test_add_func("/pace/no-starvation", test_no_starvation);
    g_test_add_func("/pace/depth", test_depth);
    return g_test_run();
}
