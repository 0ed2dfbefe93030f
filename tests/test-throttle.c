/* SPDX-License-Identifier: MIT */
/*
 * Throttling: the buckets' arithmetic in made-up time, groups on a virtual
 * clock that stands still, and drains that let requests go.
 *
 * Nothing here measures real time, so nothing depends on the machine.
 */
#include <errno.h>
#include <string.h>
#include <unistd.h>
#include "base/control.h"
#include "base/error.h"
#include "base/pool.h"
#include "block/graph-priv.h"
#include "block/objects/throttle-group.h"
#include "qapi/qapi-visit.h"

#define SECOND INT64_C(1000000000)
#define KIB INT64_C(1024)

static const ThrottleLimits no_limits;

static struct throttle_limits limits_of(ThrottleLimits o)
{
    struct throttle_limits l;

    throttle_limits_init(&l);
    g_assert_true(throttle_limits_merge(&l, &o, NULL));
    g_assert_true(throttle_limits_check(&l, NULL));
    return l;
}

/* ---- limits that make no sense ------------------------------------------ */

static void check_text(ThrottleLimits o, const char *text)
{
    struct throttle_limits l;
    AUTO_ERROR(err);

    throttle_limits_init(&l);
    if (throttle_limits_merge(&l, &o, &err)) {
        g_assert_cmpint(throttle_limits_check(&l, &err), ==, !text);
    }
    g_assert_cmpstr(err ? error_text(err) : NULL, ==, text);
}

#define SET(member, value) .has_##member = true, .member = (value)
#define LIMITS(...) (ThrottleLimits){ __VA_ARGS__ }

static void test_limits(void)
{
    static const char both[] = "bps/iops/max total values and read/write "
        "values cannot be used at the same time";
    static const char range[] = "bps/iops/max values must be within "
        "[0, 1000000000000000]";

    check_text(no_limits, NULL);
    check_text(LIMITS(SET(iops_total, 10), SET(iops_read, 5)), both);
    check_text(LIMITS(SET(bps_total, 10), SET(bps_write, 5)), both);
    check_text(LIMITS(SET(iops_total_max, 10), SET(iops_read_max, 5)), both);
    check_text(LIMITS(SET(iops_total, 10), SET(bps_read, 5)), NULL);
    check_text(LIMITS(SET(iops_total, -1)), range);
    check_text(LIMITS(SET(iops_total, 1000000000000001)), range);
    check_text(LIMITS(SET(iops_total, 1000000000000000)), NULL);
    check_text(LIMITS(SET(iops_total, 10), SET(iops_total_max, 9)),
               "bps_max/iops_max cannot be lower than bps/iops");
    check_text(LIMITS(SET(iops_total, 10), SET(iops_total_max, 10)), NULL);
    check_text(LIMITS(SET(iops_total_max, 10)),
               "bps_max/iops_max require corresponding bps/iops values");
    check_text(LIMITS(SET(iops_total, 10), SET(iops_total_max_length, 0)),
               "the burst length cannot be 0");
    check_text(LIMITS(SET(iops_total, 10), SET(iops_total_max_length, 5)),
               "burst length set without burst rate");
    check_text(LIMITS(SET(iops_total, 10), SET(iops_total_max_length, -1)),
               "iops-total-max-length value must be in the range "
               "[0, 4294967295]");
    check_text(LIMITS(SET(iops_total, 10), SET(iops_total_max, 1000000000000),
                      SET(iops_total_max_length, 1001)),
               "burst length too high for this burst rate");
    check_text(LIMITS(SET(iops_size, 512)),
               "iops size requires an iops value to be set");
}

static void test_limits_merge(void)
{
    struct throttle_limits l = limits_of(LIMITS(SET(iops_total, 20),
                                                SET(bps_read, 7)));
    ThrottleLimits change = LIMITS(SET(bps_read, 9)), *all;

    g_assert_true(throttle_limits_merge(&l, &change, NULL));
    all = throttle_limits_to_qapi(&l);
    g_assert_cmpint(all->iops_total, ==, 20);
    g_assert_cmpint(all->bps_read, ==, 9);
    g_assert_cmpint(all->bps_write_max_length, ==, 1);
    g_assert_true(all->has_iops_size && all->has_iops_write_max);
    ThrottleLimits_free(all);
}

/* ---- buckets in made-up time -------------------------------------------- */

/* Requests of BYTES as fast as may be, until UNTIL_NS; how many. */
static int run_until(struct throttle *t, int64_t *now_ns, int64_t until_ns,
                     bool is_write, int64_t bytes)
{
    int n = 0;

    for (;;) {
        int64_t wait_ns = throttle_wait_ns(t, is_write, *now_ns);

        if (wait_ns == 0) {
            throttle_account(t, is_write, bytes);
            n++;
        } else if (*now_ns + wait_ns > until_ns) {
            *now_ns = until_ns;
            return n;
        }
        *now_ns += wait_ns;
    }
}

static void assert_near(double value, double expected, double part)
{
    if (value < expected * (1 - part) || value > expected * (1 + part)) {
        g_error("%g is not %g +- %g%%", value, expected, part * 100);
    }
}

/* Within a tenth in every slice of five seconds, for requests of all sizes. */
static void test_rate(void)
{
    static const int64_t sizes[] = { 512, 4096, 65536, 1 << 20 };
    const int64_t rate = 1 << 20;
    struct throttle_limits l = limits_of(LIMITS(SET(bps_write, rate)));

    for (size_t i = 0; i < G_N_ELEMENTS(sizes); i++) {
        struct throttle t;
        int64_t now = 77;
        double all = 0;

        throttle_set_limits(&t, &l, now);
        g_assert_true(throttle_has_limit(&t, true));
        g_assert_false(throttle_has_limit(&t, false));
        for (int slice = 1; slice <= 4; slice++) {
            double done = (double)sizes[i] *
                run_until(&t, &now, 77 + slice * 5 * SECOND, true, sizes[i]);

            /* The first has the tenth of a second that was free. */
            assert_near(done, 5.0 * rate, slice == 1 ? 0.22 : 0.1);
            all += done;
        }
        assert_near(all, 20.0 * rate, 0.06);
        /* Reads have no limit, and use nothing up. */
        g_assert_cmpint(throttle_wait_ns(&t, false, now), ==, 0);
        throttle_account(&t, false, 1 << 30);
    }
}

static void test_burst(void)
{
    struct throttle_limits l = limits_of(LIMITS(SET(iops_total, 10),
                                                SET(iops_total_max, 100)));
    struct throttle t;
    int64_t now = 0;

    /* Length 1: a hundred at once, then ten a second. */
    throttle_set_limits(&t, &l, now);
    assert_near(run_until(&t, &now, 1, false, 512), 100, 0.02);
    assert_near(run_until(&t, &now, 10 * SECOND, true, 512), 100, 0.02);
    /* It fills again while nothing comes, but not beyond. */
    now += 5 * SECOND;
    assert_near(run_until(&t, &now, now + 1, true, 512), 50, 0.05);
    now += 100 * SECOND;
    assert_near(run_until(&t, &now, now + 1, true, 512), 100, 0.02);
}

static void test_burst_length(void)
{
    struct throttle_limits l =
        limits_of(LIMITS(SET(bps_total, 1000), SET(bps_total_max, 5000),
                         SET(bps_total_max_length, 4)));
    struct throttle t;
    int64_t now = 0;
    int n;

    /* Five times as fast until 20000 are over: 4000 more leak meanwhile. */
    throttle_set_limits(&t, &l, now);
    assert_near(run_until(&t, &now, 4 * SECOND, false, 100), 200, 0.05);
    n = run_until(&t, &now, 5 * SECOND, false, 100);
    assert_near(n, 50, 0.1);
    run_until(&t, &now, 10 * SECOND, false, 100);
    assert_near(run_until(&t, &now, 20 * SECOND, false, 100), 100, 0.05);
}

static void test_ops_size(void)
{
    struct throttle_limits l = limits_of(LIMITS(SET(iops_write, 100),
                                                SET(iops_size, 4096)));
    struct throttle t;
    int64_t now = 0;

    throttle_set_limits(&t, &l, now);
    run_until(&t, &now, SECOND, true, 512);
    assert_near(run_until(&t, &now, 2 * SECOND, true, 4096), 100, 0.05);
    assert_near(run_until(&t, &now, 3 * SECOND, true, 16384), 25, 0.05);
    /* Not rounded up. */
    assert_near(run_until(&t, &now, 5 * SECOND, true, 6144), 133, 0.05);
}

/* A request larger than the bucket goes, and is paid for afterwards. */
static void test_large_request(void)
{
    struct throttle_limits l = limits_of(LIMITS(SET(bps_total, 1000)));
    struct throttle t;

    throttle_set_limits(&t, &l, 0);
    throttle_account(&t, true, 60000);
    g_assert_cmpint(throttle_wait_ns(&t, false, 0), >, 59 * SECOND);
    g_assert_cmpint(throttle_wait_ns(&t, false, 30 * SECOND), >, 29 * SECOND);
    g_assert_cmpint(throttle_wait_ns(&t, false, 60 * SECOND), ==, 0);
    /* Time that goes back changes nothing. */
    throttle_account(&t, true, 1000);
    g_assert_cmpint(throttle_wait_ns(&t, false, 10), ==,
                    throttle_wait_ns(&t, false, 60 * SECOND));
}

/* ---- groups ------------------------------------------------------------- */

enum { MAX_WAITERS = 64 };

static struct {
    pthread_t thread[MAX_WAITERS];
    int n;
} waiters;

struct waiter {
    struct throttle_member *member;
    bool is_write;
    _Atomic int *n_done;
};

static void *wait_once(void *opaque)
{
    struct waiter *w = opaque;

    g_assert_cmpint(throttle_member_wait(w->member, w->is_write, 4096, false),
                    ==, 0);
    atomic_fetch_add(w->n_done, 1);
    g_free(w);
    return NULL;
}

static int n_queued(struct throttle_member *m)
{
    LOCK_GUARD(&m->group->lock);
    return m->n_waiting;
}

/* N more requests of M wait. */
static void start_waiters(struct throttle_member *m, bool is_write, int n,
                          _Atomic int *n_done)
{
    int before = n_queued(m);

    for (int i = 0; i < n; i++) {
        struct waiter *w = g_new(struct waiter, 1);

        *w = (struct waiter){ m, is_write, n_done };
        pthread_create(&waiters.thread[waiters.n++], NULL, wait_once, w);
    }
    while (n_queued(m) < before + n) {
        g_usleep(200);
    }
}

static void join_waiters(void)
{
    while (waiters.n > 0) {
        pthread_join(waiters.thread[--waiters.n], NULL);
    }
}

static void await(_Atomic int *value, int expected)
{
    while (atomic_load(value) < expected) {
        g_usleep(200);
    }
    g_usleep(2000);     /* one too many would show */
    g_assert_cmpint(atomic_load(value), ==, expected);
}

static void step(int64_t ns)
{
    CONTROL_GUARD();
    clock_virtual_step(ns);
}

static void group_start(struct throttle_group *g, ThrottleLimits o)
{
    struct throttle_limits l = limits_of(o);

    CONTROL_GUARD();
    clock_virtual_stop();
    throttle_group_init(g, &l);
}

static void group_end(struct throttle_group *g)
{
    CONTROL_GUARD();
    throttle_group_deinit(g);
}

/* What may go at once. */
static void use_up(struct throttle_member *m, int n)
{
    for (int i = 0; i < n; i++) {
        throttle_member_wait(m, false, 4096, false);
    }
}

/* Ten a second: the bucket holds one. */
static void test_group_steps(void)
{
    struct throttle_group g;
    struct throttle_member m;
    _Atomic int n_done = 0;

    group_start(&g, LIMITS(SET(iops_total, 10)));
    throttle_member_init(&m, &g);
    use_up(&m, 2);
    start_waiters(&m, false, 5, &n_done);
    g_assert_cmpint(n_done, ==, 0);
    g_assert_cmpint(throttle_member_wait(&m, false, 1, true), ==, -EAGAIN);
    step(SECOND / 10 - 1000);
    await(&n_done, 0);
    step(2000);
    await(&n_done, 1);
    step(SECOND * 2 / 10);
    await(&n_done, 3);
    step(SECOND);
    await(&n_done, 5);
    join_waiters();
    group_end(&g);
}

static void test_group_fair(void)
{
    struct throttle_group g;
    struct throttle_member m[3];
    _Atomic int n_done[3] = { 0, 0, 0 };

    group_start(&g, LIMITS(SET(iops_total, 10)));
    for (int i = 0; i < 3; i++) {
        throttle_member_init(&m[i], &g);
    }
    use_up(&m[0], 2);
    /* The first has many before the others have any. */
    start_waiters(&m[0], true, 20, &n_done[0]);
    start_waiters(&m[1], true, 6, &n_done[1]);
    start_waiters(&m[2], true, 6, &n_done[2]);
    for (int i = 0; i < 9; i++) {
        step(SECOND / 10 + 1000);
        while (n_done[0] + n_done[1] + n_done[2] < i + 1) {
            g_usleep(200);
        }
    }
    for (int i = 0; i < 3; i++) {
        await(&n_done[i], 3);
    }
    for (int i = 0; i < 3; i++) {
        throttle_member_flush(&m[i]);
    }
    join_waiters();
    group_end(&g);
}

static void test_group_directions(void)
{
    struct throttle_group g;
    struct throttle_member m;
    _Atomic int n_reads = 0, n_writes = 0;

    group_start(&g, LIMITS(SET(iops_total, 10)));
    throttle_member_init(&m, &g);
    use_up(&m, 2);
    start_waiters(&m, false, 8, &n_reads);
    start_waiters(&m, true, 8, &n_writes);
    for (int i = 0; i < 8; i++) {
        step(SECOND / 10 + 1000);
        while (n_reads + n_writes < i + 1) {
            g_usleep(200);
        }
    }
    await(&n_reads, 4);
    await(&n_writes, 4);
    throttle_member_flush(&m);
    await(&n_reads, 8);
    await(&n_writes, 8);
    join_waiters();
    group_end(&g);
}

/* One member is let go, the other is not. */
static void test_group_let_go(void)
{
    struct throttle_group g;
    struct throttle_member a, b;
    _Atomic int n_a = 0, n_b = 0;

    group_start(&g, LIMITS(SET(bps_total, 4096)));
    throttle_member_init(&a, &g);
    throttle_member_init(&b, &g);
    use_up(&a, 1);
    start_waiters(&a, true, 4, &n_a);
    start_waiters(&b, true, 4, &n_b);
    throttle_member_let_go_begin(&a);
    await(&n_a, 4);
    throttle_member_wait(&a, true, 1 << 20, false);     /* does not wait */
    throttle_member_let_go_begin(&a);
    throttle_member_let_go_end(&a);
    throttle_member_wait(&a, false, 1, false);
    throttle_member_let_go_end(&a);
    await(&n_b, 0);
    start_waiters(&a, false, 1, &n_a);
    throttle_member_flush(&a);
    await(&n_a, 5);
    /* What went without waiting was counted all the same. */
    step(SECOND);
    await(&n_b, 0);
    step(300 * SECOND);
    await(&n_b, 1);
    throttle_member_flush(&b);
    await(&n_b, 4);
    join_waiters();
    group_end(&g);
}

static void test_group_new_limits(void)
{
    struct throttle_group g;
    struct throttle_member m;
    struct throttle_limits l = limits_of(LIMITS(SET(iops_total, 1000)));
    _Atomic int n_done = 0;

    group_start(&g, LIMITS(SET(bps_read, 1)));
    throttle_member_init(&m, &g);
    use_up(&m, 1);
    start_waiters(&m, false, 3, &n_done);
    control_lock();
    throttle_group_set_limits(&g, &l);
    control_unlock();
    await(&n_done, 3);
    l = limits_of(LIMITS(SET(bps_read, 1)));
    control_lock();
    throttle_group_set_limits(&g, &l);
    control_unlock();
    throttle_member_wait(&m, false, 4096, false);
    start_waiters(&m, false, 3, &n_done);
    l = limits_of(no_limits);
    control_lock();
    throttle_group_set_limits(&g, &l);
    control_unlock();
    await(&n_done, 6);
    g_assert_cmpint(throttle_member_wait(&m, false, 4096, true), ==, 0);
    join_waiters();
    group_end(&g);
}

static void *wait_many(void *opaque)
{
    struct throttle_member *m = opaque;

    for (int i = 0; i < 300; i++) {
        throttle_member_wait(m, i % 2, 512, false);
    }
    return NULL;
}

/* Real time, many threads and members: everybody gets through.  For
 * ThreadSanitizer. */
static void test_group_crowd(void)
{
    struct throttle_group g;
    struct throttle_member m[4];
    pthread_t threads[8];

    group_start(&g, LIMITS(SET(iops_total, 4000), SET(bps_read, 100000000)));
    control_lock();
    clock_virtual_run();
    control_unlock();
    for (int i = 0; i < 4; i++) {
        throttle_member_init(&m[i], &g);
    }
    for (int i = 0; i < 8; i++) {
        pthread_create(&threads[i], NULL, wait_many, &m[i % 4]);
    }
    for (int i = 0; i < 50; i++) {
        throttle_member_let_go_begin(&m[i % 4]);
        g_usleep(500);
        throttle_member_let_go_end(&m[i % 4]);
        throttle_member_flush(&m[(i + 1) % 4]);
    }
    for (int i = 0; i < 8; i++) {
        pthread_join(threads[i], NULL);
    }
    group_end(&g);
}

static void test_clock(void)
{
    int64_t at, real;

    CONTROL_GUARD();
    clock_virtual_run();
    at = clock_virtual_ns();
    g_assert_cmpint(clock_virtual_ns(), >=, at);
    g_assert_cmpint(clock_virtual_deadline(at), <=, clock_ns());
    g_assert_cmpint(clock_virtual_deadline(INT64_MAX), ==, INT64_MAX);
    clock_virtual_stop();
    at = clock_virtual_ns();
    g_usleep(2000);
    g_assert_cmpint(clock_virtual_ns(), ==, at);
    g_assert_cmpint(clock_virtual_deadline(at + 1), ==, INT64_MAX);
    g_assert_cmpint(clock_virtual_deadline(at), <=, clock_ns());
    g_assert_cmpint(clock_virtual_step(5), ==, at + 5);
    clock_virtual_step(1000 * SECOND);
    at = clock_virtual_ns();
    real = clock_ns();
    clock_virtual_run();
    g_assert_cmpint(clock_virtual_ns(), >=, at);
    g_assert_cmpint(clock_virtual_deadline(at + SECOND), >=, real + SECOND);
}

/* ---- in the graph ------------------------------------------------------- */

static struct node *open_keyval(const char *text)
{
    json_t *json = qapi_keyval_parse(text, NULL, NULL);
    BlockdevOptions *o = BlockdevOptions_from_keyval(json, NULL);
    struct node *n;

    g_assert_nonnull(o);
    n = node_open(o, NULL);
    g_assert_nonnull(n);
    BlockdevOptions_free(o);
    json_decref(json);
    return n;
}

/* Group g0, one byte a second; node "t" over null-co "below". */
static struct node *open_throttled(void)
{
    ThrottleLimits limits = LIMITS(SET(bps_total, 1));
    ObjectOptions o = {
        .qom_type = OBJECT_TYPE_THROTTLE_GROUP, .id = (char *)"g0",
        .u.throttle_group.limits = &limits,
    };

    clock_virtual_stop();
    g_assert_true(object_add(&o, NULL));
    return open_keyval("driver=throttle,node-name=t,throttle-group=g0,"
                       "file.driver=null-co,file.node-name=below");
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

struct reader {
    struct root *root;
    int n;                      /* requests to make */
    _Atomic int n_done;
    pthread_t thread;
};

static void *read_some(void *opaque)
{
    struct reader *r = opaque;
    uint8_t buf[4096];

    for (int i = 0; i < r->n; i++) {
        g_assert_cmpint(root_pread(r->root, 0, sizeof(buf), buf, 0), ==, 0);
        atomic_fetch_add(&r->n_done, 1);
    }
    return NULL;
}

static void reader_start(struct reader *r, struct root *root, int n)
{
    *r = (struct reader){ .root = root, .n = n };
    pthread_create(&r->thread, NULL, read_some, r);
}

/* The throttle's first request goes, the second waits. */
static void reader_wait_stuck(struct reader *r, int n_done)
{
    CONTROL_YIELD {
        await(&r->n_done, n_done);
        g_usleep(5000);
    }
}

static void throttled_end(struct node *n)
{
    node_unref(n);
    node_wait_closed();
    g_assert_true(object_del("g0", NULL));
    clock_virtual_run();
}

static void test_drain(void)
{
    struct node *t, *below;
    struct root *root;
    struct reader r;
    struct drain *d;
    uint8_t byte;

    CONTROL_GUARD();
    t = open_throttled();
    below = node_find("below");
    root = root_on(t);
    reader_start(&r, root, 3);
    reader_wait_stuck(&r, 1);
    CONTROL_YIELD {
        g_assert_cmpint(node_pread(t, 0, 1, &byte, BLK_NOWAIT), ==, -EAGAIN);
    }
    /* Of the node below: the request in flight goes, the next stays out. */
    d = drain_begin(&below, 1);
    reader_wait_stuck(&r, 2);
    g_assert_true(t->drain_told);
    drain_end(&d);
    g_assert_false(t->drain_told);
    reader_wait_stuck(&r, 2);
    node_cancel_in_flight(t);
    CONTROL_YIELD {
        pthread_join(r.thread, NULL);
    }
    g_assert_false(object_del("g0", NULL));
    root_free(&root);
    throttled_end(t);
}

/* A root that goes away does not wait for the clock. */
static void test_root_free(void)
{
    struct node *t;
    struct root *root, *other;
    struct reader r;

    CONTROL_GUARD();
    t = open_throttled();
    root = root_on(t);
    other = root_on(t);
    reader_start(&r, root, 2);
    reader_wait_stuck(&r, 1);
    root_free(&root);
    CONTROL_YIELD {
        pthread_join(r.thread, NULL);
    }
    g_assert_cmpint(r.n_done, ==, 2);
    g_assert_false(t->drain_told);
    reader_start(&r, other, 2);
    reader_wait_stuck(&r, 0);
    root_hurry(other);
    CONTROL_YIELD {
        pthread_join(r.thread, NULL);
    }
    root_free(&other);
    g_assert_false(t->drain_told);
    throttled_end(t);
}

/* ---- whom a drain tells ------------------------------------------------- */

struct told_state {
    int n_begin, n_end;
};

static void told_begin(struct node *n)
{
    struct told_state *s = n->state;

    s->n_begin++;
    g_assert_cmpint(s->n_begin, ==, s->n_end + 1);
}

static void told_end(struct node *n)
{
    struct told_state *s = n->state;

    s->n_end++;
    g_assert_cmpint(s->n_begin, ==, s->n_end);
}

static const struct driver told_driver = {
    .name = "told", .type = -1, .is_filter = true,
    .state_size = sizeof(struct told_state),
    .drained_begin = told_begin, .drained_end = told_end,
};
static const struct driver plain_driver = {
    .name = "plain", .type = -1, .is_filter = true,
};
static const struct driver leaf_driver = {
    .name = "leaf", .type = -1, .is_protocol = true,
};

static struct node *over(const struct driver *driver, struct node *below)
{
    struct node *n = node_new_filter(driver, NULL, false, NULL);

    g_assert_nonnull(n);
    if (below) {
        g_assert_nonnull(node_attach_child(n, below, "file",
                                           ROLE_FILTERED | ROLE_PRIMARY,
                                           NULL));
        node_unref(below);
    }
    return n;
}

static int n_told(const struct node *n)
{
    const struct told_state *s = n->state;

    g_assert_cmpint(s->n_begin - s->n_end, ==, n->drain_told);
    return s->n_begin;
}

static void test_told(void)
{
    struct node *leaf, *told, *top, *other, *side, *new;
    struct root *root, *other_root, *late;
    struct drain *d, *e;

    CONTROL_GUARD();
    leaf = over(&leaf_driver, NULL);
    told = over(&told_driver, leaf);
    top = over(&plain_driver, told);
    other = over(&told_driver, over(&leaf_driver, NULL));
    root = root_on(top);
    other_root = root_on(other);
    /* Above, at and below it: once. */
    d = drain_begin(&top, 1);
    g_assert_cmpint(n_told(told), ==, 1);
    e = drain_begin(&leaf, 1);
    drain_end(&d);
    g_assert_true(told->drain_told);
    drain_end(&e);
    g_assert_false(told->drain_told);
    g_assert_cmpint(n_told(told), ==, 1);
    g_assert_cmpint(n_told(other), ==, 0);
    d = drain_all_begin();
    g_assert_true(told->drain_told && other->drain_told);
    drain_end(&d);
    g_assert_cmpint(n_told(told) + n_told(other), ==, 3);
    /* A root that comes while it holds; a node put in between. */
    root_free(&root);
    d = drain_begin(&leaf, 1);
    g_assert_cmpint(n_told(told), ==, 2);
    late = root_on(top);
    g_assert_cmpint(n_told(told), ==, 3);
    new = node_new_filter(&told_driver, NULL, false, NULL);
    g_assert_true(node_insert_filter(new, top, NULL));
    g_assert_cmpint(n_told(new), ==, 1);
    node_remove_filter(new);
    g_assert_false(new->drain_told);
    drain_end(&d);
    g_assert_cmpint(n_told(new), ==, 1);
    g_assert_false(told->drain_told);
    /* Beside what is drained, below the same root. */
    side = over(&leaf_driver, NULL);
    d = drain_begin(&top, 1);
    g_assert_nonnull(node_attach_child(top, side, "side", ROLE_DATA, NULL));
    drain_end(&d);
    d = drain_begin(&side, 1);
    g_assert_true(told->drain_told);
    g_assert_false(other->drain_told);
    drain_end(&d);
    g_assert_false(told->drain_told);
    root_free(&late);
    root_free(&other_root);
    node_unref(new);
    node_unref(side);
    node_unref(top);
    node_unref(other);
    node_wait_closed();
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/throttle/limits", test_limits);
    g_test_add_func("/throttle/limits-merge", test_limits_merge);
    g_test_add_func("/throttle/rate", test_rate);
    g_test_add_func("/throttle/burst", test_burst);
    g_test_add_func("/throttle/burst-length", test_burst_length);
    g_test_add_func("/throttle/ops-size", test_ops_size);
    g_test_add_func("/throttle/large-request", test_large_request);
    g_test_add_func("/throttle/clock", test_clock);
    g_test_add_func("/throttle/group-steps", test_group_steps);
    g_test_add_func("/throttle/group-fair", test_group_fair);
    g_test_add_func("/throttle/group-directions", test_group_directions);
    g_test_add_func("/throttle/group-let-go", test_group_let_go);
    g_test_add_func("/throttle/group-new-limits", test_group_new_limits);
    g_test_add_func("/throttle/group-crowd", test_group_crowd);
    g_test_add_func("/throttle/drain", test_drain);
    g_test_add_func("/throttle/root-free", test_root_free);
    g_test_add_func("/throttle/told", test_told);
    return g_test_run();
}
