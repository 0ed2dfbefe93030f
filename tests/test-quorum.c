/* SPDX-License-Identifier: MIT */
/*
 * quorum over children in memory that differ, fail, and take their time: votes
 * and ties, errors, what is corrected, and that overlapping requests of many
 * threads leave the children equal.  Run with -Db_sanitize=thread.
 */
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <string.h>
#include "base/control.h"
#include "base/error.h"
#include "base/pool.h"
#include "block/drivers.h"
#include "block/root.h"
#include "qapi/qapi-commands.h"
#include "qapi/qapi-visit.h"

enum { MEM_BYTES = 64 * 1024, MAX_CHILDREN = 5 };

/* ---- children ----------------------------------------------------------- */

struct mem_state {
    uint8_t data[MEM_BYTES];
    _Atomic int fail_read, fail_write, n_writes;
};

/* Bytes are atomic and slow: who lets requests overlap is found out by what
 * is in the end, not by a race that is the test's own. */
static int mem_pread(struct node *n, int64_t offset, int64_t bytes, void *buf,
                     unsigned flags)
{
    struct mem_state *s = n->state;

    for (int64_t i = 0; i < bytes; i++) {
        ((uint8_t *)buf)[i] = __atomic_load_n(&s->data[offset + i],
                                              __ATOMIC_RELAXED);
        if (i % 97 == 0) {
            sched_yield();
        }
    }
    return atomic_load(&s->fail_read);
}

static int mem_pwrite(struct node *n, int64_t offset, int64_t bytes,
                      const void *buf, unsigned flags)
{
    struct mem_state *s = n->state;

    atomic_fetch_add(&s->n_writes, 1);
    if (atomic_load(&s->fail_write)) {
        return atomic_load(&s->fail_write);
    }
    for (int64_t i = 0; i < bytes; i++) {
        __atomic_store_n(&s->data[offset + i], ((const uint8_t *)buf)[i],
                         __ATOMIC_RELAXED);
        if (i % 89 == 0) {
            sched_yield();
        }
    }
    return 0;
}

static const struct driver mem_driver = {
    .name = "mem", .type = -1, .is_protocol = true,
    .state_size = sizeof(struct mem_state),
    .pread = mem_pread, .pwrite = mem_pwrite,
};

/* ---- helpers ------------------------------------------------------------ */

static struct node *mem[MAX_CHILDREN];
static struct node *quorum;
static struct root *root;

static struct mem_state *mem_state(int i)
{
    return mem[i]->state;
}

static void make(int n_children, const char *options)
{
    struct root_options ro = {
        .name = "root", .perm = PERM_CONSISTENT_READ | PERM_WRITE,
        .shared = PERM_ALL,
    };
    g_autoptr(BlockdevOptions) o = NULL;
    g_autoptr(GString) json = g_string_new(NULL);
    AUTO_ERROR(err);
    json_t *object;

    g_string_printf(json, "{\"driver\": \"quorum\", \"node-name\": \"q\", %s, "
                    "\"children\": [", options);
    for (int i = 0; i < n_children; i++) {
        g_autofree char *name = g_strdup_printf("m%d", i);
        mem[i] = node_new_filter(&mem_driver, name, false, NULL);
        atomic_store(&mem[i]->length_bytes, MEM_BYTES);
        mem[i]->limits.request_alignment = 1;
        g_string_append_printf(json, "%s\"%s\"", i ? ", " : "", name);
    }
    g_string_append(json, "]}");
    object = json_loads(json->str, 0, NULL);
    o = BlockdevOptions_from_json(object, NULL);
    json_decref(object);
    g_assert_nonnull(o);
    quorum = node_open(o, &err);
    if (!quorum) {
        g_error("%s", error_text(err));
    }
    root = root_new(quorum, &ro, NULL);
    g_assert_nonnull(root);
}

static void unmake(int n_children)
{
    root_free(&root);
    g_clear_pointer(&quorum, node_unref);
    for (int i = 0; i < n_children; i++) {
        g_clear_pointer(&mem[i], node_unref);
    }
}

static int do_read(int64_t offset, int64_t bytes, void *buf)
{
    int ret = 0;

    CONTROL_YIELD {
        ret = root_pread(root, offset, bytes, buf, 0);
    }
    return ret;
}

static int do_write(int64_t offset, int64_t bytes, const void *buf)
{
    int ret = 0;

    CONTROL_YIELD {
        ret = root_pwrite(root, offset, bytes, buf, 0);
    }
    return ret;
}

/* ---- votes -------------------------------------------------------------- */

/* Each child's version as a letter, or a digit for an error; the winner, or
 * '!' for an I/O error, or the digit. */
static void test_votes(void)
{
    static const struct {
        const char *children;
        int threshold;
        char result;
    } cases[] = {
        { "A", 1, 'A' }, { "AA", 2, 'A' }, { "AB", 2, '!' },
        { "AB", 1, 'B' }, { "AAB", 2, 'A' }, { "ABA", 2, 'A' },
        { "BAA", 2, 'A' }, { "ABC", 2, '!' }, { "ABC", 1, 'C' },
        { "ABBA", 2, 'B' }, { "ABAB", 2, 'B' }, { "AABB", 2, 'B' },
        { "ABACA", 3, 'A' }, { "ABCAB", 3, '!' }, { "1AA", 2, 'A' },
        { "1A2", 2, '2' }, { "11A", 2, '1' }, { "112A2", 2, '2' },
        { "122A1", 2, '2' }, { "1AB", 2, '!' }, { "1BA", 1, 'A' },
        { "12", 1, '2' }, { "121", 1, '1' }, { "AAAA1", 5, '1' },
    };
    CONTROL_GUARD();

    for (size_t i = 0; i < G_N_ELEMENTS(cases); i++) {
        int n = strlen(cases[i].children);
        g_autofree char *options = g_strdup_printf("\"vote-threshold\": %d",
                                                   cases[i].threshold);
        char buf[512];
        int ret;

        make(n, options);
        for (int k = 0; k < n; k++) {
            char c = cases[i].children[k];
            memset(mem_state(k)->data, c, MEM_BYTES);
            atomic_store(&mem_state(k)->fail_read,
                         g_ascii_isdigit(c) ? -(c - '0' + 20) : 0);
        }
        ret = do_read(1024, sizeof(buf), buf);
        g_test_message("%s of %d", cases[i].children, cases[i].threshold);
        if (g_ascii_isalpha(cases[i].result)) {
            g_assert_cmpint(ret, ==, 0);
            g_assert_cmpint(buf[0], ==, cases[i].result);
            g_assert_cmpint(buf[511], ==, cases[i].result);
        } else if (cases[i].result == '!') {
            g_assert_cmpint(ret, ==, -EIO);
        } else {
            g_assert_cmpint(ret, ==, -(cases[i].result - '0' + 20));
        }
        unmake(n);
    }
}

static void test_writes(void)
{
    CONTROL_GUARD();
    static const uint8_t data[512] = { 7 };

    make(3, "\"vote-threshold\": 2");
    atomic_store(&mem_state(1)->fail_write, -ENOSPC);
    g_assert_cmpint(do_write(0, 512, data), ==, 0);
    g_assert_cmpint(mem_state(0)->data[0], ==, 7);
    g_assert_cmpint(mem_state(1)->data[0], ==, 0);
    g_assert_cmpint(mem_state(2)->data[0], ==, 7);
    atomic_store(&mem_state(2)->fail_write, -ENOSPC);
    g_assert_cmpint(do_write(0, 512, data), ==, -ENOSPC);
    unmake(3);
}

/* Only those that differ are written, and only where it was read. */
static void test_correction(void)
{
    CONTROL_GUARD();
    uint8_t buf[1024];

    make(3, "\"vote-threshold\": 2, \"rewrite-corrupted\": true");
    memset(mem_state(1)->data, 9, 4096);
    atomic_store(&mem_state(2)->fail_read, -EIO);
    g_assert_cmpint(do_read(0, sizeof(buf), buf), ==, -EIO);
    g_assert_cmpint(atomic_load(&mem_state(1)->n_writes), ==, 0);
    atomic_store(&mem_state(2)->fail_read, 0);
    g_assert_cmpint(do_read(1024, sizeof(buf), buf), ==, 0);
    g_assert_cmpint(buf[0], ==, 0);
    g_assert_cmpint(mem_state(1)->data[1023], ==, 9);
    g_assert_cmpint(mem_state(1)->data[1024], ==, 0);
    g_assert_cmpint(mem_state(1)->data[2047], ==, 0);
    g_assert_cmpint(mem_state(1)->data[2048], ==, 9);
    for (int i = 0; i < 3; i++) {
        g_assert_cmpint(atomic_load(&mem_state(i)->n_writes), ==, i == 1);
    }
    unmake(3);
}

static void test_inline(void)
{
    CONTROL_GUARD();
    uint8_t buf[512] = { 0 };

    make(2, "\"vote-threshold\": 1");
    g_assert_cmpint(root_pread(root, 0, 512, buf, BLK_NOWAIT), ==, -EAGAIN);
    g_assert_cmpint(root_pwrite(root, 0, 512, buf, BLK_NOWAIT), ==, -EAGAIN);
    g_assert_cmpint(root_pwrite_zeroes(root, 0, 512, BLK_NOWAIT), ==,
                    -EAGAIN);
    unmake(2);
}

/* ---- many threads ------------------------------------------------------- */

enum { N_THREADS = 4, N_REQUESTS = 150, BLOCK = 700 };

static void *mixed(void *opaque)
{
    GRand *rand = g_rand_new_with_seed(GPOINTER_TO_UINT(opaque));
    uint8_t buf[BLOCK];

    for (int i = 0; i < N_REQUESTS; i++) {
        int64_t offset = g_rand_int_range(rand, 0, 2000);
        if (g_rand_boolean(rand)) {
            memset(buf, g_rand_int(rand), sizeof(buf));
            g_assert_cmpint(root_pwrite(root, offset, BLOCK, buf, 0), ==, 0);
        } else {
            g_assert_cmpint(root_pread(root, offset, BLOCK, buf, 0), ==, 0);
        }
    }
    g_rand_free(rand);
    return NULL;
}

/* No read fails for a write under way (all must agree), and in the end all
 * are equal. */
static void test_overlapping(void)
{
    CONTROL_GUARD();
    pthread_t threads[N_THREADS];

    make(3, "\"vote-threshold\": 3");
    CONTROL_YIELD {
        for (uintptr_t i = 0; i < N_THREADS; i++) {
            pthread_create(&threads[i], NULL, mixed, (void *)(i + 1));
        }
        for (int i = 0; i < N_THREADS; i++) {
            pthread_join(threads[i], NULL);
        }
    }
    for (int i = 1; i < 3; i++) {
        g_assert_cmpint(memcmp(mem_state(0)->data, mem_state(i)->data,
                               MEM_BYTES), ==, 0);
    }
    unmake(3);
}

static void *spoil(void *opaque)
{
    struct mem_state *s = opaque;

    for (int i = 0; i < 200; i++) {
        __atomic_store_n(&s->data[i * 10], 0xee, __ATOMIC_RELAXED);
        g_usleep(200);
    }
    return NULL;
}

/* One child rots while guests write: corrections never bring old data back,
 * and one pass at the end makes all equal. */
static void test_rot(void)
{
    CONTROL_GUARD();
    pthread_t threads[N_THREADS + 1];
    g_autofree uint8_t *all = g_malloc(MEM_BYTES);

    make(3, "\"vote-threshold\": 2, \"rewrite-corrupted\": true");
    CONTROL_YIELD {
        pthread_create(&threads[N_THREADS], NULL, spoil, mem_state(2));
        for (uintptr_t i = 0; i < N_THREADS; i++) {
            pthread_create(&threads[i], NULL, mixed, (void *)(i + 1));
        }
        for (int i = 0; i <= N_THREADS; i++) {
            pthread_join(threads[i], NULL);
        }
    }
    g_assert_cmpint(do_read(0, MEM_BYTES, all), ==, 0);
    for (int i = 0; i < 3; i++) {
        g_assert_cmpint(memcmp(mem_state(i)->data, all, MEM_BYTES), ==, 0);
    }
    unmake(3);
}

/* ---- children come and go ----------------------------------------------- */

static _Atomic bool stop;

static void *until_stopped(void *opaque)
{
    uint8_t buf[512];

    memset(buf, 5, sizeof(buf));
    while (!atomic_load(&stop)) {
        g_assert_cmpint(root_pwrite(root, 0, sizeof(buf), buf, 0), ==, 0);
        g_assert_cmpint(root_pread(root, 0, sizeof(buf), buf, 0), ==, 0);
    }
    return NULL;
}

static void test_change(void)
{
    CONTROL_GUARD();
    pthread_t threads[N_THREADS];

    make(2, "\"vote-threshold\": 1");
    mem[2] = node_new_filter(&mem_driver, "m2", false, NULL);
    atomic_store(&mem[2]->length_bytes, MEM_BYTES);
    atomic_store(&stop, false);
    for (int i = 0; i < N_THREADS; i++) {
        pthread_create(&threads[i], NULL, until_stopped, NULL);
    }
    for (int i = 0; i < 100; i++) {
        XBlockdevChangeArgs args = { .parent = (char *)"q" };
        AUTO_ERROR(err);

        args.node = (char *)"m2";
        g_assert_true(qmp_x_blockdev_change(&args, &err));
        args.node = NULL;
        args.child = (char *)"children.2";
        g_assert_true(qmp_x_blockdev_change(&args, &err));
    }
    atomic_store(&stop, true);
    CONTROL_YIELD {
        for (int i = 0; i < N_THREADS; i++) {
            pthread_join(threads[i], NULL);
        }
    }
    unmake(3);
}

int main(int argc, char **argv)
{
    int ret;

    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/quorum/votes", test_votes);
    g_test_add_func("/quorum/writes", test_writes);
    g_test_add_func("/quorum/correction", test_correction);
    g_test_add_func("/quorum/inline", test_inline);
    g_test_add_func("/quorum/overlapping", test_overlapping);
    g_test_add_func("/quorum/rot", test_rot);
    g_test_add_func("/quorum/change", test_change);
    ret = g_test_run();
    {
        CONTROL_GUARD();
        node_wait_closed();
    }
    pool_shutdown();
    return ret;
}
