/* SPDX-License-Identifier: MIT */
/*
 * Bits: every operation against a plain array of bools, after each of many
 * random ones; edges of words and groups; threads that set and clear at once.
 */
#include "bitmaps/bits.h"

#include <inttypes.h>
#include <pthread.h>
#include <string.h>
#include <glib.h>

#define GROUP_BITS (512 * 64)

/* ---- shadow model ------------------------------------------------------- */

struct model {
    int64_t n;
    uint8_t *bit;
    struct bits *b;
};

static void model_init(struct model *m, int64_t n)
{
    m->n = n;
    m->bit = g_malloc0(n + 1);
    m->b = bits_new(n);
    g_assert_nonnull(m->b);
}

static void model_free(struct model *m)
{
    g_free(m->bit);
    bits_free(m->b);
}

static int64_t model_change(struct model *m, int64_t start, int64_t n,
                            uint8_t to)
{
    int64_t changed = 0;

    for (int64_t i = start; i < start + n; i++) {
        changed += m->bit[i] != to;
        m->bit[i] = to;
    }
    return changed;
}

static int64_t model_next(const struct model *m, int64_t start, int64_t end,
                          uint8_t want)
{
    while (start < end && m->bit[start] != want) {
        start++;
    }
    return start;
}

static void model_check_range(const struct model *m, int64_t start,
                              int64_t end)
{
    int64_t count = 0, first, run = 0, run_start = -1, len;

    for (int64_t i = start; i < end; i++) {
        count += m->bit[i];
    }
    g_assert_cmpint(bits_count(m->b, start, end - start), ==, count);
    first = model_next(m, start, end, 1);
    g_assert_cmpint(bits_next_set(m->b, start, end), ==, first);
    g_assert_cmpint(bits_next_clear(m->b, start, end), ==,
                    model_next(m, start, end, 0));
    if (first < end) {
        run = model_next(m, first, end, 0) - first;
    }
    len = bits_next_run(m->b, start, end, INT64_MAX, &run_start);
    g_assert_cmpint(len, ==, run);
    if (run) {
        g_assert_cmpint(run_start, ==, first);
        g_assert_cmpint(bits_next_run(m->b, start, end, 3, &run_start), ==,
                        MIN(run, 3));
    }
}

/* All of it, by every way of looking. */
static void model_check(const struct model *m)
{
    int64_t count = 0;

    g_assert_cmpint(bits_size(m->b), ==, m->n);
    for (int64_t i = 0; i < m->n; i++) {
        count += m->bit[i];
        g_assert_cmpint(bits_test(m->b, i), ==, m->bit[i]);
    }
    g_assert_cmpint(bits_total(m->b), ==, count);
    g_assert_cmpint(bits_empty(m->b), ==, count == 0);
    model_check_range(m, 0, m->n);
}

static void random_range(GRand *r, int64_t size, int64_t *start, int64_t *n)
{
    *start = g_rand_int_range(r, 0, size + 1);
    *n = size - *start;
    if (*n && g_rand_int_range(r, 0, 8)) {
        *n = g_rand_int_range(r, 0, MIN(*n, 200) + 1);
    }
}

static void test_shadow(gconstpointer data)
{
    int64_t size = *(const int64_t *)data, start, n;
    GRand *r = g_rand_new_with_seed(size);
    struct model m;

    model_init(&m, size);
    model_check(&m);
    for (int i = 0; i < 400; i++) {
        random_range(r, size, &start, &n);
        if (g_rand_int_range(r, 0, 5) < 3) {
            g_assert_cmpint(bits_set(m.b, start, n), ==,
                            model_change(&m, start, n, 1));
        } else {
            g_assert_cmpint(bits_clear(m.b, start, n), ==,
                            model_change(&m, start, n, 0));
        }
        if (i % 20 == 0) {
            model_check(&m);
        }
        random_range(r, size, &start, &n);
        model_check_range(&m, start, start + n);
    }
    g_assert_cmpint(bits_clear(m.b, 0, size), ==,
                    model_change(&m, 0, size, 0));
    model_check(&m);
    model_free(&m);
    g_rand_free(r);
}

/* ---- whole sets --------------------------------------------------------- */

static void test_merge_clone_resize(void)
{
    GRand *r = g_rand_new_with_seed(7);
    struct model a, c;
    int64_t size = 3 * GROUP_BITS + 77, start, n;

    model_init(&a, size);
    model_init(&c, size);
    for (int i = 0; i < 50; i++) {
        random_range(r, size, &start, &n);
        n = MIN(n, 3000);
        bits_set(a.b, start, n);
        model_change(&a, start, n, 1);
        random_range(r, size, &start, &n);
        n = MIN(n, 3000);
        bits_set(c.b, start, n);
        model_change(&c, start, n, 1);
    }
    bits_merge(a.b, c.b, 0, size);
    for (int64_t i = 0; i < size; i++) {
        a.bit[i] |= c.bit[i];
    }
    model_check(&a);
    model_check(&c);

    bits_free(c.b);
    c.b = bits_clone(a.b);
    memcpy(c.bit, a.bit, size);
    model_check(&c);
    bits_clear(a.b, 0, size);
    model_check(&c);                        /* a copy, not a share */

    /* Cut in the middle of a word; what was behind does not come back. */
    g_assert_true(bits_resize(c.b, GROUP_BITS + 5));
    c.n = GROUP_BITS + 5;
    model_check(&c);
    g_assert_true(bits_resize(c.b, size));
    memset(c.bit + c.n, 0, size - c.n);
    c.n = size;
    model_check(&c);
    g_assert_true(bits_resize(c.b, 0));
    c.n = 0;
    model_check(&c);
    model_free(&a);
    model_free(&c);
    g_rand_free(r);
}

static void test_stored_bytes(void)
{
    const int64_t size = 3 * GROUP_BITS + 13;
    const int64_t n_bytes = (size + 7) / 8;
    g_autofree uint8_t *buf = g_malloc(n_bytes + 40);
    struct bits *b = bits_new(size), *c = bits_new(size);

    bits_set(b, 0, 1);
    bits_set(b, 10, 3);
    bits_set(b, GROUP_BITS - 1, 2);
    bits_set(b, size - 1, 1);
    memset(buf, 0xee, n_bytes + 40);
    bits_store_bytes(b, 0, n_bytes + 32, buf);
    g_assert_cmphex(buf[0], ==, 0x01);
    g_assert_cmphex(buf[1], ==, 0x1c);
    g_assert_cmphex(buf[GROUP_BITS / 8 - 1], ==, 0x80);
    g_assert_cmphex(buf[GROUP_BITS / 8], ==, 0x01);
    g_assert_cmphex(buf[n_bytes - 1], ==, 0x10);
    g_assert_cmphex(buf[n_bytes], ==, 0);
    g_assert_cmphex(buf[n_bytes + 31], ==, 0);
    g_assert_cmphex(buf[n_bytes + 32], ==, 0xee);   /* not a byte more */
    bits_store_bytes(b, 8, 3, buf + n_bytes + 32);  /* part of a word */
    g_assert_cmphex(buf[n_bytes + 35], ==, 0xee);

    /* In pieces of an odd length; trailing rubbish is not let in (I2). */
    memset(buf + n_bytes, 0xff, 8);
    buf[n_bytes - 1] |= 0xe0;
    for (int64_t at = 0; at < n_bytes; at += 4096) {
        bits_load_bytes(c, at, MIN(4096, n_bytes + 8 - at), buf + at);
    }
    g_assert_cmpint(bits_total(c), ==, bits_total(b));
    g_assert_cmpint(bits_total(c), ==, 7);
    for (int64_t i = 0; i < size; i++) {
        g_assert_cmpint(bits_test(c, i), ==, bits_test(b, i));
    }
    bits_free(b);
    bits_free(c);
}

static void test_huge(void)
{
    const int64_t size = INT64_C(1) << 37;  /* 8 PiB at 64 KiB */
    struct bits *b;
    int64_t start = g_get_monotonic_time(), run;

    g_assert_null(bits_new(BITS_MAX + 1));
    g_assert_null(bits_new(INT64_MAX));
    b = bits_new(size);
    g_assert_nonnull(b);
    g_assert_true(bits_empty(b));
    bits_set(b, size - 1, 1);
    bits_set(b, size / 2 - 1, 2);
    g_assert_cmpint(bits_next_set(b, 0, size), ==, size / 2 - 1);
    g_assert_cmpint(bits_next_run(b, size / 2 + 1, size, size, &run), ==, 1);
    g_assert_cmpint(run, ==, size - 1);
    g_assert_cmpint(bits_count(b, 0, size), ==, 3);
    g_assert_cmpint(bits_clear(b, 0, size), ==, 3);
    g_assert_true(bits_empty(b));
    bits_free(b);
    /* It skips: 16 GiB of words could not be read in that time. */
    g_assert_cmpint(g_get_monotonic_time() - start, <, 5 * G_USEC_PER_SEC);
}

/* ---- threads ------------------------------------------------------------ */

#define N_THREADS 4
#define N_SHARED  (2 * GROUP_BITS)

struct thread_arg {
    struct bits *b;
    int me;
    int64_t net;                /* set minus cleared, by what was returned */
};

/*
 * Each thread owns every N_THREADSth bit, so all share every word and group;
 * what it set it must find, whatever the others do.
 */
static void *own_bits_thread(void *opaque)
{
    struct thread_arg *t = opaque;
    GRand *r = g_rand_new_with_seed(t->me);

    for (int i = 0; i < 60000; i++) {
        int64_t bit = g_rand_int_range(r, 0, 3000) * N_THREADS + t->me;

        g_assert_cmpint(bits_set(t->b, bit, 1), ==, 1);
        t->net++;
        g_assert_cmpint(bits_next_set(t->b, bit, N_SHARED), ==, bit);
        g_assert_false(bits_empty(t->b));
        g_assert_true(bits_test(t->b, bit));
        g_assert_cmpint(bits_clear(t->b, bit, 1), ==, 1);
        t->net--;
    }
    g_rand_free(r);
    return NULL;
}

/* Everybody sets and clears the same ranges. */
static void *ranges_thread(void *opaque)
{
    struct thread_arg *t = opaque;
    GRand *r = g_rand_new_with_seed(100 + t->me);

    for (int i = 0; i < 1500; i++) {
        int64_t start = g_rand_int_range(r, 0, N_SHARED);
        int64_t n = g_rand_int_range(r, 0, N_SHARED - start + 1);

        if (g_rand_boolean(r)) {
            t->net += bits_set(t->b, start, n);
        } else {
            t->net -= bits_clear(t->b, start, n);
        }
    }
    g_rand_free(r);
    return NULL;
}

/* Looks at bits while they grow: what is set stays to be seen. */
static void *reader_thread(void *opaque)
{
    struct thread_arg *t = opaque;
    int64_t size;

    do {
        size = bits_size(t->b);
        g_assert_cmpint(bits_next_set(t->b, 0, size), ==, 5);
        g_assert_cmpint(bits_count(t->b, 0, 63), ==, 1);
    } while (size < 40 * GROUP_BITS);
    return NULL;
}

static void test_threads_grow(void)
{
    struct bits *b = bits_new(64);
    struct thread_arg arg = { .b = b };
    pthread_t thread;

    bits_set(b, 5, 1);
    g_assert_cmpint(pthread_create(&thread, NULL, reader_thread, &arg), ==, 0);
    for (int64_t size = 64; size < 41 * GROUP_BITS; size += 777) {
        g_assert_true(bits_grow(b, size));
        g_assert_true(bits_grow(b, 1));
        g_assert_cmpint(bits_size(b), ==, size);
        bits_set(b, size - 1, 1);
    }
    pthread_join(thread, NULL);
    g_assert_cmpint(bits_total(b), ==, 1 + (41 * GROUP_BITS - 64 + 776) / 777);
    g_assert_false(bits_grow(b, BITS_MAX + 1));
    bits_free(b);
}

static void run_threads(void *(*fn)(void *))
{
    struct bits *b = bits_new(N_SHARED);
    struct thread_arg args[N_THREADS];
    pthread_t threads[N_THREADS];
    int64_t net = 0, n;

    for (int i = 0; i < N_THREADS; i++) {
        args[i] = (struct thread_arg) { .b = b, .me = i };
        g_assert_cmpint(pthread_create(&threads[i], NULL, fn, &args[i]), ==,
                        0);
    }
    for (int i = 0; i < N_THREADS; i++) {
        pthread_join(threads[i], NULL);
        net += args[i].net;
    }
    /* Each bit that is set was reported set once more than cleared. */
    n = bits_count(b, 0, N_SHARED);
    g_assert_cmpint(n, ==, net);
    g_assert_cmpint(bits_total(b), ==, net);
    /* I1 with nobody at work: exact, so clearing all makes it empty. */
    g_assert_cmpint(bits_empty(b), ==, n == 0);
    g_assert_cmpint(bits_clear(b, 0, N_SHARED), ==, n);
    g_assert_true(bits_empty(b));
    bits_free(b);
}

static void test_threads_own(void)
{
    run_threads(own_bits_thread);
}

static void test_threads_ranges(void)
{
    run_threads(ranges_thread);
}

int main(int argc, char **argv)
{
    static const int64_t sizes[] = {
        0, 1, 63, 64, 65, 1000, GROUP_BITS - 1, GROUP_BITS, GROUP_BITS + 1,
        2 * GROUP_BITS + 1234,
    };

    g_test_init(&argc, &argv, NULL);
    for (size_t i = 0; i < G_N_ELEMENTS(sizes); i++) {
        g_autofree char *path = g_strdup_printf("/bits/shadow/%" PRId64,
                                                sizes[i]);

        g_test_add_data_func(path, &sizes[i], test_shadow);
    }
    g_test_add_func("/bits/merge-clone-resize", test_merge_clone_resize);
    g_test_add_func("/bits/stored-bytes", test_stored_bytes);
    g_test_add_func("/bits/huge", test_huge);
    g_test_add_func("/bits/threads-grow", test_threads_grow);
    g_test_add_func("/bits/threads-own", test_threads_own);
    g_test_add_func("/bits/threads-ranges", test_threads_ranges);
    return g_test_run();
}
