/* SPDX-License-Identifier: MIT */
/*
 * Roots and drains: threads hammer requests through roots while drains come
 * and go, nested and at the same time, and change the graph under them.
 *
 * Run with -Db_sanitize=thread: requests read, without a lock, plain fields
 * that drained sections write.
 */
#include <errno.h>
#include <string.h>
#include <unistd.h>
#include "base/control.h"
#include "base/error.h"
#include "base/pool.h"
#include "block/graph-priv.h"

enum { N_HAMMERS = 4, N_DRAINERS = 2, RUN_MS = 1500 };

/* ---- a node that knows when nobody may be in it ------------------------- */

struct quiet_state {
    int n_quiet;                /* plain on purpose: drains that hold it */
    uint64_t plain;             /* written by drained sections only */
    _Atomic int n_inside;
    _Atomic uint64_t n_requests;
};

static int quiet_pread(struct node *n, int64_t offset, int64_t bytes,
                       void *buf, unsigned flags)
{
    struct quiet_state *s = n->state;

    atomic_fetch_add(&s->n_inside, 1);
    atomic_fetch_add(&s->n_requests, 1);
    g_assert_cmpint(s->n_quiet, ==, 0);
    memcpy(buf, &s->plain, MIN(bytes, (int64_t)sizeof(s->plain)));
    atomic_fetch_sub(&s->n_inside, 1);
    return 0;
}

static const struct driver quiet_driver = {
    .name = "quiet", .type = -1, .is_protocol = true,
    .state_size = sizeof(struct quiet_state), .pread = quiet_pread,
};
static const struct driver filter_driver = {
    .name = "filter", .type = -1, .is_filter = true,
};

static struct node *new_quiet(const char *name)
{
    struct node *n = node_new_filter(&quiet_driver, name, false, NULL);

    g_assert_nonnull(n);
    atomic_store(&n->length_bytes, 1 << 20);
    return n;
}

static struct root *new_root(struct node *n)
{
    struct root_options o = {
        .name = "root", .perm = PERM_CONSISTENT_READ, .shared = PERM_ALL,
    };
    struct root *r = root_new(n, &o, NULL);

    g_assert_nonnull(r);
    return r;
}

/* ---- hammering ---------------------------------------------------------- */

static struct node *leaf;
static _Atomic bool stop;

static void *hammer(void *opaque)
{
    struct root *r = opaque;
    uint64_t value;

    for (int i = 0; !atomic_load(&stop); i++) {
        if (i % 64 == 63 && root_try_enter(r)) {
            root_leave(r);
        }
        g_assert_cmpint(root_pread(r, 0, sizeof(value), &value, 0), ==, 0);
    }
    return NULL;
}

static void in_section(struct quiet_state *s)
{
    g_assert_cmpint(atomic_load(&s->n_inside), ==, 0);
    s->plain++;
    CONTROL_YIELD {
        g_usleep(300);
    }
    s->plain++;
    g_assert_cmpint(atomic_load(&s->n_inside), ==, 0);
}

/* Roots that come and go, also while a drain holds. */
static void come_and_go(void)
{
    struct root *r = new_root(leaf);
    struct quiet_state *s = leaf->state;

    /* A drain that waits for quiet closes it, too. */
    g_assert(root_is_drained(r) || s->n_quiet == 0);
    if (root_try_enter(r)) {
        g_assert_cmpint(s->n_quiet, ==, 0);
        root_leave(r);
    } else {
        g_assert_true(root_is_drained(r));
    }
    root_free(&r);
}

static void *drainer(void *opaque)
{
    struct quiet_state *s = leaf->state;
    bool filters = opaque;

    CONTROL_GUARD();
    while (!atomic_load(&stop)) {
        struct node *list[2] = { leaf, leaf };
        struct drain *outer = drain_begin(list, 2), *inner;
        struct node *filter = NULL;

        s->n_quiet++;
        in_section(s);
        come_and_go();
        if (filters) {
            filter = node_new_filter(&filter_driver, NULL, true, NULL);
            g_assert_true(node_insert_filter(filter, leaf, NULL));
        }
        inner = drain_all_begin();
        in_section(s);
        drain_end(&inner);
        g_assert_cmpint(atomic_load(&s->n_inside), ==, 0);
        s->n_quiet--;
        drain_end(&outer);
        come_and_go();
        CONTROL_YIELD {
            g_usleep(filters ? 500 : 900);
        }
        if (filters) {
            outer = drain_begin(&filter, 1);
            s->n_quiet++;
            node_remove_filter(filter);
            s->n_quiet--;
            drain_end(&outer);
            node_unref(filter);
        }
    }
    return NULL;
}

static void test_hammer(void)
{
    pthread_t hammers[N_HAMMERS], drainers[N_DRAINERS];
    struct root *roots[N_HAMMERS];
    struct quiet_state *s;

    control_lock();
    leaf = new_quiet("leaf");
    s = leaf->state;
    for (int i = 0; i < N_HAMMERS; i++) {
        roots[i] = new_root(leaf);
        pthread_create(&hammers[i], NULL, hammer, roots[i]);
    }
    control_unlock();
    for (int i = 0; i < N_DRAINERS; i++) {
        pthread_create(&drainers[i], NULL, drainer, GINT_TO_POINTER(i == 0));
    }
    g_usleep(RUN_MS * 1000);
    atomic_store(&stop, true);
    for (int i = 0; i < N_DRAINERS; i++) {
        pthread_join(drainers[i], NULL);
    }
    for (int i = 0; i < N_HAMMERS; i++) {
        pthread_join(hammers[i], NULL);
    }
    g_test_message("%" G_GUINT64_FORMAT " requests, %" G_GUINT64_FORMAT
                   " drained sections", atomic_load(&s->n_requests),
                   s->plain / 4);
    g_assert_cmpuint(atomic_load(&s->n_requests), >, 1000);
    g_assert_cmpuint(s->plain, >, 100);
    control_lock();
    for (int i = 0; i < N_HAMMERS; i++) {
        root_free(&roots[i]);
    }
    node_unref(leaf);
    node_wait_closed();
    control_unlock();
}

/* ---- single properties -------------------------------------------------- */

struct owner {
    int n_begin, n_end, n_resized;
    _Atomic bool busy;
};

static void owner_begin(void *opaque)
{
    ((struct owner *)opaque)->n_begin++;
}

static void owner_end(void *opaque)
{
    ((struct owner *)opaque)->n_end++;
}

static bool owner_poll(void *opaque)
{
    return atomic_load(&((struct owner *)opaque)->busy);
}

static void owner_resized(void *opaque)
{
    ((struct owner *)opaque)->n_resized++;
}

static const struct root_ops owner_ops = {
    .drained_begin = owner_begin, .drained_end = owner_end,
    .drained_poll = owner_poll, .resized = owner_resized,
};

static void *become_quiet(void *opaque)
{
    struct owner *o = opaque;

    g_usleep(20000);
    atomic_store(&o->busy, false);
    control_notify();
    return NULL;
}

/* A job: no gate, quiet when it says so; told once however many drains. */
static void test_owner(void)
{
    struct owner o = { .busy = true };
    struct root_options options = {
        .name = "source", .ops = &owner_ops, .opaque = &o, .no_gate = true,
        .perm = PERM_CONSISTENT_READ, .shared = PERM_ALL,
    };
    struct drain *a, *b;
    struct root *r, *late;
    struct node *n;
    pthread_t t;

    CONTROL_GUARD();
    n = new_quiet("n");
    r = root_new(n, &options, NULL);
    pthread_create(&t, NULL, become_quiet, &o);
    a = drain_begin(&n, 1);
    g_assert_false(atomic_load(&o.busy));
    b = drain_begin(&n, 1);
    g_assert_cmpint(o.n_begin, ==, 1);
    g_assert_true(root_is_drained(r));
    g_assert_true(root_try_enter(r));       /* no gate */
    root_leave(r);
    late = root_new(n, &options, NULL);     /* closed from its start */
    g_assert_cmpint(o.n_begin, ==, 2);
    drain_end(&a);
    g_assert_null(a);
    g_assert_cmpint(o.n_end, ==, 0);        /* I3 */
    root_free(&late);
    g_assert_cmpint(o.n_end, ==, 1);        /* balanced for the owner */
    drain_end(&b);
    g_assert_cmpint(o.n_end, ==, 2);
    node_notify_resized(n);
    g_assert_cmpint(o.n_resized, ==, 1);
    root_free(&r);
    node_unref(n);
    pthread_join(t, NULL);
}

static void *enter_and_leave(void *opaque)
{
    root_enter(opaque);
    root_leave(opaque);
    return NULL;
}

/* A waiter at the gate goes on when the last drain has ended; a new link
 * above a drained node closes the roots that it brings. */
static void test_gate(void)
{
    struct node *below, *above;
    struct drain *a, *b;
    struct root *r;
    pthread_t t;

    CONTROL_GUARD();
    below = new_quiet("below");
    above = node_new_filter(&filter_driver, "above", false, NULL);
    r = new_root(above);
    a = drain_begin(&below, 1);
    g_assert_true(root_try_enter(r));
    root_leave(r);
    node_attach_child(above, below, "file", ROLE_FILTERED | ROLE_PRIMARY,
                      NULL);
    g_assert_cmpint(root_length(r), ==, 1 << 20);
    g_assert_false(root_try_enter(r));
    b = drain_begin(&above, 1);
    pthread_create(&t, NULL, enter_and_leave, r);
    drain_end(&a);
    g_assert_false(root_try_enter(r));
    drain_end(&b);
    pthread_join(t, NULL);
    g_assert_true(root_try_enter(r));
    root_leave(r);
    root_free(&r);
    node_unref(above);
    node_unref(below);
}

static void *leave_later(void *opaque)
{
    g_usleep(20000);
    root_leave(opaque);
    return NULL;
}

/* root_free() waits for what is in flight; ranges and permissions. */
static void test_requests(void)
{
    struct node *n;
    struct root *r;
    uint8_t buf[16];
    pthread_t t;

    CONTROL_GUARD();
    n = new_quiet("n");
    r = new_root(n);
    g_assert_cmpint(root_pread(r, -1, 1, buf, 0), ==, -EINVAL);
    g_assert_cmpint(root_pread(r, 0, -1, buf, 0), ==, -EINVAL);
    g_assert_cmpint(root_pread(r, 1 << 20, 1, buf, 0), ==, -EIO);
    g_assert_cmpint(root_pread(r, INT64_MAX, 1, buf, 0), ==, -EIO);
    g_assert_cmpint(root_pread(r, 1, INT64_MAX, buf, 0), ==, -EIO);
    g_assert_cmpint(root_pread(r, 1 << 20, 0, buf, 0), ==, 0);
    g_assert_cmpint(root_pwrite(r, 0, 1, buf, 0), ==, -EPERM);
    g_assert_cmpint(root_pwrite_zeroes(r, 0, 1, 0), ==, -EPERM);
    g_assert_cmpint(root_pdiscard(r, 0, 1), ==, -EPERM);
    root_enter(r);
    pthread_create(&t, NULL, leave_later, r);
    root_free(&r);
    g_assert_null(r);
    pthread_join(t, NULL);
    node_unref(n);
}

static void test_speed(void)
{
    enum { N = 5000000 };
    struct node *n;
    struct root *r;
    int64_t start;

    CONTROL_GUARD();
    n = new_quiet("n");
    r = new_root(n);
    start = clock_ns();
    for (int i = 0; i < N; i++) {
        root_enter(r);
        root_leave(r);
    }
    g_test_message("enter and leave: %.1f ns",
                   (double)(clock_ns() - start) / N);
    root_free(&r);
    node_unref(n);
}

int main(int argc, char **argv)
{
    int ret;

    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/root/owner", test_owner);
    g_test_add_func("/root/gate", test_gate);
    g_test_add_func("/root/requests", test_requests);
    g_test_add_func("/root/speed", test_speed);
    g_test_add_func("/root/hammer", test_hammer);
    ret = g_test_run();
    pool_shutdown();
    return ret;
}
