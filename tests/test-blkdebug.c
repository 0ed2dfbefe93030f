/* SPDX-License-Identifier: MIT */
/*
 * blkdebug from inside: breakpoints, which no QMP command reaches, states and
 * places of rules, inline requests, config files, blkverify's writes.
 */
#include <errno.h>
#include <pthread.h>
#include <string.h>
#include <unistd.h>
#include <glib/gstdio.h>
#include "base/control.h"
#include "base/error.h"
#include "base/pool.h"
#include "block/debug.h"
#include "block/filters/blkdebug.h"
#include "block/root.h"
#include "qapi/qapi-commands.h"
#include "qapi/qapi-visit.h"

#define IMAGE "\"image\": {\"driver\": \"null-co\", \"read-zeroes\": true}"
#define ON_NULL "{\"driver\": \"blkdebug\", \"node-name\": \"d\", " IMAGE "}"
#define RAW_ON_NULL "{\"driver\": \"raw\", \"node-name\": \"n\", \"file\": " \
    ON_NULL "}"

/* ---- helpers ------------------------------------------------------------ */

static bool try_add(const char *json, struct error **errp)
{
    json_t *o = json_loads(json, 0, NULL);
    g_autoptr(BlockdevOptions) options = NULL;

    g_assert_nonnull(o);
    options = BlockdevOptions_from_json(o, errp);
    json_decref(o);
    return options && qmp_blockdev_add(options, errp);
}

static struct node *add(const char *json, const char *name)
{
    AUTO_ERROR(err);

    if (!try_add(json, &err)) {
        g_error("%s: %s", json, error_text(err));
    }
    return node_find(name);
}

static void del(const char *name)
{
    BlockdevDelArgs args = { .node_name = (char *)name };

    g_assert_true(qmp_blockdev_del(&args, NULL));
}

static struct root *root_on(struct node *n)
{
    struct root_options o = {
        .name = "root", .perm = PERM_CONSISTENT_READ | PERM_WRITE,
        .shared = PERM_ALL,
    };
    struct root *r = root_new(n, &o, NULL);

    g_assert_nonnull(r);
    return r;
}

static int read_at(struct root *r, int64_t offset)
{
    uint8_t buf[512];
    int ret = 0;

    CONTROL_YIELD {
        ret = root_pread(r, offset, sizeof(buf), buf, 0);
    }
    return ret;
}

/* A request in a thread of its own. */
struct request {
    struct root *root;
    int64_t offset;
    pthread_t thread;
    int ret;
    _Atomic bool done;
};

static void *run_request(void *opaque)
{
    struct request *q = opaque;
    uint8_t buf[512];

    q->ret = root_pread(q->root, q->offset, sizeof(buf), buf, 0);
    atomic_store(&q->done, true);
    return NULL;
}

static void start_request(struct request *q, struct root *r, int64_t offset)
{
    *q = (struct request){ .root = r, .offset = offset, .ret = 1 };
    g_assert_cmpint(pthread_create(&q->thread, NULL, run_request, q), ==, 0);
}

static int finish_request(struct request *q)
{
    CONTROL_YIELD {
        pthread_join(q->thread, NULL);
    }
    return q->ret;
}

static void wait_suspended(struct node *n, const char *tag)
{
    while (!node_debug_is_suspended(n, tag)) {
        control_wait();
    }
}

/* ---- breakpoints -------------------------------------------------------- */

static void test_break_resume(void)
{
    CONTROL_GUARD();
    struct node *n = add(RAW_ON_NULL, "n");
    struct root *r = root_on(n);
    struct request q;

    g_assert_true(node_debug_breakpoint(n, BLKDEBUG_EVENT_READ_AIO, "A"));
    g_assert_false(node_debug_is_suspended(n, "A"));
    g_assert_false(node_debug_resume(n, "A"));
    start_request(&q, r, 0);
    wait_suspended(n, "A");
    g_assert_false(node_debug_is_suspended(n, "B"));
    /* It stops one request only. */
    g_assert_cmpint(read_at(r, 512), ==, 0);
    g_assert_true(node_debug_is_suspended(n, "A"));
    g_assert_false(node_debug_resume(n, "B"));
    g_assert_true(node_debug_resume(n, "A"));
    g_assert_false(node_debug_resume(n, "A"));
    g_assert_cmpint(finish_request(&q), ==, 0);
    g_assert_false(node_debug_remove_breakpoint(n, "A"));
    root_free(&r);
    del("n");
}

static void test_remove(void)
{
    CONTROL_GUARD();
    struct node *n = add(RAW_ON_NULL, "n");
    struct root *r = root_on(n);
    struct request q[2];

    node_debug_breakpoint(n, BLKDEBUG_EVENT_WRITE_AIO, "B");
    for (int i = 0; i < 2; i++) {
        node_debug_breakpoint(n, BLKDEBUG_EVENT_READ_AIO, "A");
        start_request(&q[i], r, 0);
        while (node_debug_count_suspended(n, "A") < (unsigned)i + 1) {
            control_wait();
        }
    }
    node_debug_breakpoint(n, BLKDEBUG_EVENT_READ_AIO, "A");
    g_assert_true(node_debug_remove_breakpoint(n, "A"));
    g_assert_cmpint(finish_request(&q[0]), ==, 0);
    g_assert_cmpint(finish_request(&q[1]), ==, 0);
    g_assert_cmpint(read_at(r, 0), ==, 0);
    g_assert_false(node_debug_remove_breakpoint(n, "A"));
    g_assert_true(node_debug_remove_breakpoint(n, "B"));
    root_free(&r);
    del("n");
}

/* All breakpoints that an event hits stop the same request. */
static void test_several_at_once(void)
{
    CONTROL_GUARD();
    struct node *n = add(RAW_ON_NULL, "n");
    struct root *r = root_on(n);
    struct request q;

    node_debug_breakpoint(n, BLKDEBUG_EVENT_READ_AIO, "A");
    node_debug_breakpoint(n, BLKDEBUG_EVENT_READ_AIO, "B");
    start_request(&q, r, 0);
    wait_suspended(n, "A");
    g_assert_true(node_debug_is_suspended(n, "B"));
    g_assert_cmpint(read_at(r, 512), ==, 0);
    g_assert_true(node_debug_resume(n, "B"));
    g_assert_false(node_debug_is_suspended(n, "B"));
    CONTROL_YIELD {
        g_usleep(20000);
    }
    g_assert_false(atomic_load(&q.done));
    g_assert_true(node_debug_resume(n, "A"));
    g_assert_cmpint(finish_request(&q), ==, 0);
    root_free(&r);
    del("n");
}

/* The one that was stopped last goes first. */
static void test_resume_newest(void)
{
    CONTROL_GUARD();
    struct node *n = add(RAW_ON_NULL, "n");
    struct root *r = root_on(n);
    struct request q[2];

    for (int i = 0; i < 2; i++) {
        node_debug_breakpoint(n, BLKDEBUG_EVENT_READ_AIO, "A");
        start_request(&q[i], r, 0);
        while (node_debug_count_suspended(n, "A") < (unsigned)i + 1) {
            control_wait();
        }
    }
    g_assert_true(node_debug_resume(n, "A"));
    g_assert_cmpint(finish_request(&q[1]), ==, 0);
    g_assert_false(atomic_load(&q[0].done));
    /* No breakpoint is left, but it goes on. */
    g_assert_false(node_debug_remove_breakpoint(n, "A"));
    g_assert_cmpint(finish_request(&q[0]), ==, 0);
    root_free(&r);
    del("n");
}

/* By their tags, in any order. */
static void test_resume_order(void)
{
    CONTROL_GUARD();
    struct node *n = add(RAW_ON_NULL, "n");
    struct root *r = root_on(n);
    struct request q[2];

    node_debug_breakpoint(n, BLKDEBUG_EVENT_READ_AIO, "A");
    start_request(&q[0], r, 0);
    wait_suspended(n, "A");
    node_debug_breakpoint(n, BLKDEBUG_EVENT_READ_AIO, "B");
    start_request(&q[1], r, 0);
    wait_suspended(n, "B");
    g_assert_true(node_debug_resume(n, "B"));
    g_assert_cmpint(finish_request(&q[1]), ==, 0);
    g_assert_true(node_debug_is_suspended(n, "A"));
    g_assert_true(node_debug_resume(n, "A"));
    g_assert_cmpint(finish_request(&q[0]), ==, 0);
    root_free(&r);
    del("n");
}

static void test_without_blkdebug(void)
{
    CONTROL_GUARD();
    struct node *n = add("{\"driver\": \"null-co\", \"node-name\": \"n\"}",
                         "n");

    g_assert_false(node_debug_breakpoint(n, BLKDEBUG_EVENT_READ_AIO, "A"));
    g_assert_false(node_debug_resume(n, "A"));
    g_assert_false(node_debug_remove_breakpoint(n, "A"));
    g_assert_false(node_debug_is_suspended(n, "A"));
    g_assert_cmpint(n_blkdebug_nodes, ==, 0);
    del("n");
}

struct drainer {
    struct node *node;
    _Atomic bool done;
};

static void drain_task(void *opaque)
{
    struct drainer *dr = opaque;
    struct drain *d;

    CONTROL_GUARD();
    d = drain_begin(&dr->node, 1);
    drain_end(&d);
    atomic_store(&dr->done, true);
    control_notify();
}

/* A drain waits for a stopped request, and for nothing else. */
static void test_drain_waits(void)
{
    CONTROL_GUARD();
    struct node *n = add(RAW_ON_NULL, "n");
    struct root *r = root_on(n);
    struct drainer dr = { .node = n };
    struct request q;

    node_debug_breakpoint(n, BLKDEBUG_EVENT_READ_AIO, "A");
    start_request(&q, r, 0);
    wait_suspended(n, "A");
    pool_submit(drain_task, &dr);
    CONTROL_YIELD {
        g_usleep(50000);
    }
    g_assert_false(atomic_load(&dr.done));
    g_assert_false(node_debug_remove_breakpoint(n, "A"));
    g_assert_cmpint(finish_request(&q), ==, 0);
    while (!atomic_load(&dr.done)) {
        control_wait();
    }
    root_free(&r);
    del("n");
}

static void test_pass(void)
{
    CONTROL_GUARD();
    struct node *n = add(RAW_ON_NULL, "n");
    struct root *r = root_on(n);

    node_debug_breakpoint(n, BLKDEBUG_EVENT_READ_AIO, "A");
    g_assert_false(node_debug_passing());
    node_debug_pass_begin();
    node_debug_pass_begin();
    node_debug_pass_end();
    g_assert_true(node_debug_passing());
    g_assert_cmpint(read_at(r, 0), ==, 0);      /* does not stop */
    node_debug_pass_end();
    /* It is still there for others. */
    g_assert_true(node_debug_remove_breakpoint(n, "A"));
    root_free(&r);
    del("n");
}

/* Many threads meet breakpoints while they are set, resumed and removed. */
enum { N_HAMMERS = 4, N_ROUNDS = 300 };
static _Atomic bool stop;

static void *hammer(void *opaque)
{
    uint8_t buf[512];

    while (!atomic_load(&stop)) {
        g_assert_cmpint(root_pread(opaque, 0, sizeof(buf), buf, 0), ==, 0);
    }
    return NULL;
}

static void test_storm(void)
{
    CONTROL_GUARD();
    struct node *n = add(RAW_ON_NULL, "n");
    struct root *r = root_on(n);
    pthread_t threads[N_HAMMERS];

    atomic_store(&stop, false);
    for (int i = 0; i < N_HAMMERS; i++) {
        pthread_create(&threads[i], NULL, hammer, r);
    }
    for (int i = 0; i < N_ROUNDS; i++) {
        node_debug_breakpoint(n, BLKDEBUG_EVENT_READ_AIO, "A");
        if (i % 3) {
            wait_suspended(n, "A");
        }
        if (i % 2) {
            node_debug_resume(n, "A");
        } else {
            node_debug_remove_breakpoint(n, "A");
        }
    }
    atomic_store(&stop, true);
    node_debug_remove_breakpoint(n, "A");
    CONTROL_YIELD {
        for (int i = 0; i < N_HAMMERS; i++) {
            pthread_join(threads[i], NULL);
        }
    }
    root_free(&r);
    del("n");
}

/* ---- rules -------------------------------------------------------------- */

/* While there is a blkdebug nothing is done inline, so that every request
 * raises its events once. */
static void test_nowait(void)
{
    CONTROL_GUARD();
    struct node *other = add("{\"driver\": \"null-co\", \"node-name\": "
                             "\"o\"}", "o");
    struct root *ro = root_on(other), *r;
    uint8_t buf[512] = { 0 };

    g_assert_cmpint(root_pread(ro, 0, 512, buf, BLK_NOWAIT), ==, 0);
    r = root_on(add("{\"driver\": \"raw\", \"node-name\": \"n\", \"file\": "
                    "{\"driver\": \"blkdebug\", " IMAGE ", \"inject-error\": "
                    "[{\"event\": \"read_aio\", \"state\": 2, \"once\": true"
                    "}], \"set-state\": [{\"event\": \"read_aio\", \"state\":"
                    " 1, \"new_state\": 2}, {\"event\": \"read_aio\", "
                    "\"state\": 2, \"new_state\": 3}]}}", "n"));
    for (int i = 0; i < 3; i++) {
        g_assert_cmpint(root_pread(r, 0, 512, buf, BLK_NOWAIT), ==, -EAGAIN);
        g_assert_cmpint(root_pwrite(r, 0, 512, buf, BLK_NOWAIT), ==, -EAGAIN);
        g_assert_cmpint(root_pwrite_zeroes(r, 0, 512, BLK_NOWAIT), ==,
                        -EAGAIN);
        g_assert_cmpint(read_at(r, 0), ==, i == 1 ? -EIO : 0);
    }
    root_free(&r);
    del("n");
    g_assert_cmpint(root_pread(ro, 0, 512, buf, BLK_NOWAIT), ==, 0);
    root_free(&ro);
    del("o");
}

static void test_sector_edges(void)
{
    CONTROL_GUARD();
    struct node *n = add("{\"driver\": \"blkdebug\", \"node-name\": \"n\", "
                         IMAGE ", \"inject-error\": [{\"event\": \"none\", "
                         "\"sector\": 2}]}", "n");
    struct root *r = root_on(n);
    static const struct {
        int64_t offset, bytes;
        bool fails;
    } cases[] = {
        { 0, 1024, false }, { 0, 1025, true }, { 1023, 1, false },
        { 1024, 1, true }, { 1535, 1, true }, { 1536, 1, false },
        { 1100, 10, true }, { 0, 4096, true },
    };
    uint8_t buf[4096];

    for (size_t i = 0; i < G_N_ELEMENTS(cases); i++) {
        int ret = 0;
        CONTROL_YIELD {
            ret = root_pread(r, cases[i].offset, cases[i].bytes, buf, 0);
        }
        g_assert_cmpint(ret, ==, cases[i].fails ? -EIO : 0);
    }
    root_free(&r);
    del("n");
}

static void test_block_status(void)
{
    CONTROL_GUARD();
    struct node *n = add("{\"driver\": \"raw\", \"node-name\": \"n\", "
                         "\"offset\": 512, \"file\": {\"driver\": "
                         "\"blkdebug\", " IMAGE ", \"inject-error\": "
                         "[{\"event\": \"none\", \"iotype\": "
                         "\"block-status\", \"errno\": 28, \"once\": true}]}}",
                         "n");
    struct root *r = root_on(n);
    struct block_status st;
    int first = 0, second = 0;

    CONTROL_YIELD {
        first = root_block_status_above(r, NULL, true, 0, 4096, &st);
        second = root_block_status_above(r, NULL, true, 0, 4096, &st);
    }
    g_assert_cmpint(first, ==, -ENOSPC);
    g_assert_cmpint(second, ==, 0);
    g_assert_cmpint(st.bytes, ==, 4096);
    root_free(&r);
    del("n");
}

/* ---- config files ------------------------------------------------------- */

static bool parse(const char *text, gsize length, guint *n_rules)
{
    g_autofree char *path = g_strdup_printf("%s/test-blkdebug-%d",
                                            g_get_tmp_dir(), getpid());
    g_autoptr(GPtrArray) rules = g_ptr_array_new_with_free_func(
        (GDestroyNotify)blkdebug_rule_free);
    AUTO_ERROR(err);
    bool ok;

    g_assert_true(g_file_set_contents(path, text, length, NULL));
    ok = blkdebug_read_config(path, rules, &err);
    g_assert_true(ok == !err);
    g_unlink(path);
    if (n_rules) {
        *n_rules = rules->len;
    }
    return ok;
}

static void test_config(void)
{
    static const struct {
        const char *text;
        guint n;                /* rules; G_MAXUINT: refused */
    } cases[] = {
        { "", 0 }, { "\n# x\n\n", 0 },
        { "[suspend]\nevent = \"read_aio\"\ntag = \"A\"\n", 1 },
        { "[suspend]\nevent = \"read_aio\"\n", G_MAXUINT },
        { "[set-state]\nevent=\"read_aio\"\nnew_state=\"3\"", 1 },
        { "[inject-error]\r\nevent = \"none\"\r\n[suspend \"x\"]\n"
          "tag = \"\"\nevent = \"none\" # why\n", 2 },
        { "[inject-error\nevent = \"none\"\n", G_MAXUINT },
        { "[inject-error]\nevent = none\n", G_MAXUINT },
        { "[inject-error]\nevent = \"none\n", G_MAXUINT },
        { "[inject-error]\n= \"none\"\n", G_MAXUINT },
        { "[inject-error]\nevent\n", G_MAXUINT },
        { "[inject-error]\nevent = \"none\"\nerrno = \"4096\"\n",
          G_MAXUINT },
        { "[inject-error]\nevent = \"none\"\nsector = \"-2\"\n", G_MAXUINT },
        { "[inject-error]\nevent = \"none\"\nerrno = "
          "\"99999999999999999999\"\n", G_MAXUINT },
        { "[set-state]\nevent = \"none\"\ntag = \"A\"\n", G_MAXUINT },
        { "[]\n", G_MAXUINT }, { "[", G_MAXUINT }, { "]", G_MAXUINT },
    };

    for (size_t i = 0; i < G_N_ELEMENTS(cases); i++) {
        guint n = 0;
        bool ok = parse(cases[i].text, strlen(cases[i].text), &n);
        g_test_message("%s", cases[i].text);
        g_assert_true(ok == (cases[i].n != G_MAXUINT));
        if (ok) {
            g_assert_cmpuint(n, ==, cases[i].n);
        }
    }
}

/* Whatever is in it: an answer. */
static void test_config_random(void)
{
    static const char *const words[] = {
        "[", "]", "\"", "=", " ", "\n", "inject-error", "set-state",
        "suspend", "event", "none", "read_aio", "errno", "5", "tag", "#",
        "new_state", "sector", "-1", "\t", "\r", "[inject-error]\n",
        "event = \"none\"\n", "tag = \"A\"\n",
    };

    for (int i = 0; i < 2000; i++) {
        g_autoptr(GString) text = g_string_new(NULL);
        int n = g_test_rand_int_range(0, 40);

        while (n-- > 0) {
            if (g_test_rand_int_range(0, 20) == 0) {
                g_string_append_c(text, (char)g_test_rand_int());
            } else {
                g_string_append(text, words[g_test_rand_int_range(
                    0, G_N_ELEMENTS(words))]);
            }
        }
        parse(text->str, text->len, NULL);
    }
}

static void test_config_too_long(void)
{
    g_autofree char *text = g_strnfill(2 << 20, '\n');

    g_assert_false(parse(text, 2 << 20, NULL));
    g_assert_true(parse(text, 1000, NULL));
}

/* Last: nothing is stopped any more. */
static void test_release_all(void)
{
    CONTROL_GUARD();
    struct node *n = add(RAW_ON_NULL, "n");
    struct root *r = root_on(n);
    struct request q[2];

    for (int i = 0; i < 2; i++) {
        node_debug_breakpoint(n, BLKDEBUG_EVENT_READ_AIO, i ? "B" : "A");
        start_request(&q[i], r, 0);
        wait_suspended(n, i ? "B" : "A");
    }
    node_debug_breakpoint(n, BLKDEBUG_EVENT_READ_AIO, "C");
    node_debug_release_all();
    g_assert_cmpint(finish_request(&q[0]), ==, 0);
    g_assert_cmpint(finish_request(&q[1]), ==, 0);
    g_assert_cmpint(read_at(r, 0), ==, 0);
    root_free(&r);
    del("n");
}

int main(int argc, char **argv)
{
    int ret;

    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/blkdebug/break-resume", test_break_resume);
    g_test_add_func("/blkdebug/remove", test_remove);
    g_test_add_func("/blkdebug/resume-order", test_resume_order);
    g_test_add_func("/blkdebug/resume-newest", test_resume_newest);
    g_test_add_func("/blkdebug/several-at-once", test_several_at_once);
    g_test_add_func("/blkdebug/without", test_without_blkdebug);
    g_test_add_func("/blkdebug/drain-waits", test_drain_waits);
    g_test_add_func("/blkdebug/pass", test_pass);
    g_test_add_func("/blkdebug/storm", test_storm);
    g_test_add_func("/blkdebug/nowait", test_nowait);
    g_test_add_func("/blkdebug/sector-edges", test_sector_edges);
    g_test_add_func("/blkdebug/block-status", test_block_status);
    g_test_add_func("/blkdebug/config", test_config);
    g_test_add_func("/blkdebug/config-random", test_config_random);
    g_test_add_func("/blkdebug/config-too-long", test_config_too_long);
    g_test_add_func("/blkdebug/release-all", test_release_all);
    ret = g_test_run();
    {
        CONTROL_GUARD();
        node_wait_closed();
    }
    pool_shutdown();
    return ret;
}
