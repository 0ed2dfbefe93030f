/* SPDX-License-Identifier: MIT */
/*
 * Backends: names, front ends and permissions, requests, limits on a virtual
 * clock that stands still, media that go while requests are under way, and
 * what becomes of requests that fail.
 */
#include <errno.h>
#include <string.h>
#include <unistd.h>
#include "base/control.h"
#include "base/pool.h"
#include "block/backend.h"
#include "block/graph-priv.h"
#include "block/objects/throttle-group.h"
#include "block/stats.h"
#include "qapi/qapi-visit.h"

#define SECOND INT64_C(1000000000)

/* ---- vocabulary --------------------------------------------------------- */

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

static struct backend *make(const char *name)
{
    struct backend_options o = {
        .name = name,
        .on_read_error = BLOCKDEV_ON_ERROR_AUTO,
        .on_write_error = BLOCKDEV_ON_ERROR_AUTO,
    };
    struct backend *b = backend_new(&o, NULL);

    g_assert_nonnull(b);
    return b;
}

/* With a disk of 1 MiB of nothing, called NODE. */
static struct backend *make_filled(const char *name, const char *node)
{
    g_autofree char *text = g_strdup_printf(
        "driver=null-co,size=1048576,read-zeroes=on,node-name=%s", node);
    struct backend *b = make(name);
    struct node *n = open_keyval(text);

    g_assert_true(backend_insert(b, n, NULL));
    node_unref(n);
    return b;
}

static void expect(struct error **err, const char *text)
{
    g_assert_nonnull(*err);
    g_assert_cmpstr(error_text(*err), ==, text);
    g_clear_pointer(err, error_free);
}

static const unsigned disk_perm = PERM_CONSISTENT_READ | PERM_WRITE;
static const unsigned disk_shared =
    PERM_ALL & ~(unsigned)(PERM_WRITE | PERM_RESIZE);

/* ---- names -------------------------------------------------------------- */

static void check_job_id(const char *device, const char *id)
{
    g_autofree char *got = backend_job_id(NULL, device);
    g_autofree char *wanted = backend_job_id("w", device);

    g_assert_cmpstr(got, ==, id);
    g_assert_cmpstr(wanted, ==, "w");
}

static void test_names(void)
{
    struct backend_options twice = { .name = "d0" }, node = { .name = "n" },
                           bad = { .name = "1x" };
    struct backend *b, *empty;
    AUTO_ERROR(err);

    CONTROL_GUARD();
    b = make_filled("d0", "n");
    empty = make("e0");
    g_assert_true(backend_find("d0") == b);
    g_assert_null(backend_find(""));
    g_assert_null(backend_find(NULL));
    g_assert_null(backend_new(&twice, &err));
    g_clear_pointer(&err, error_free);
    g_assert_null(backend_new(&node, &err));
    g_clear_pointer(&err, error_free);
    g_assert_null(backend_new(&bad, &err));
    g_clear_pointer(&err, error_free);
    g_assert_false(node_check_name("d0", &err));
    expect(&err, "node-name=d0 is conflicting with a device id");
    g_assert_true(node_lookup("d0", NULL, NULL) == node_find("n"));
    g_assert_true(node_lookup("n", "n", NULL) == node_find("n"));
    g_assert_null(node_lookup("e0", "e0", &err));
    expect(&err, "Device 'e0' has no medium");
    g_assert_null(node_lookup("x", "x", &err));
    expect(&err, "Cannot find device='x' nor node-name='x'");
    g_assert_true(backend_of_node(node_find("n")) == b);
    check_job_id("d0", "d0");
    check_job_id("n", "d0");
    check_job_id("x", "");
    g_assert_null(backend_lookup("d0", "d0", &err));
    expect(&err, "Need exactly one of 'device' and 'id'");
    g_assert_null(backend_lookup("x", NULL, &err));
    expect(&err, "Device 'x' not found");
    backend_unref(empty);
    backend_unref(b);
    g_assert_null(node_find("n"));
    node_wait_closed();
}

/* ---- front ends --------------------------------------------------------- */

static int n_changed;

static void changed(struct backend_dev *dev)
{
    n_changed++;
}

static struct backend_dev disk = {
    .id = "disk", .path = "/machine/peripheral/disk", .qdev = "disk",
    .medium_changed = changed,
};
static struct backend_dev other_disk = { .id = "other", .qdev = "other" };

static void test_dev(void)
{
    struct backend *b, *unnamed;
    struct node *n;
    AUTO_ERROR(err);

    CONTROL_GUARD();
    b = make_filled("d0", "n");
    n = node_find("n");
    g_assert_cmpuint(n->perm, ==, PERM_CONSISTENT_READ);
    g_assert_true(backend_attach_dev(b, &disk, disk_perm, disk_shared, NULL));
    g_assert_cmpuint(n->perm, ==, disk_perm);
    g_assert_false(backend_attach_dev(b, &other_disk, 0, PERM_ALL, &err));
    expect(&err, "Drive 'd0' is already in use by another block device");
    g_assert_true(backend_find_by_dev("disk") == b);
    g_assert_true(backend_find_by_dev(disk.path) == b);
    g_assert_null(backend_find_by_dev("other"));

    /* Nobody else writes it; the message names the drive. */
    unnamed = make(NULL);
    g_assert_true(backend_insert(unnamed, n, NULL));
    g_assert_false(backend_attach_dev(unnamed, &other_disk, disk_perm,
                                      disk_shared, &err));
    expect(&err, "Permission conflict on node 'n': permissions 'write' are "
           "both required by block device 'd0' (uses node 'n' as 'root' "
           "child) and unshared by block device 'other' (uses node 'n' as "
           "'root' child).");
    backend_unref(unnamed);

    /* It keeps what it wants while there is no medium. */
    n_changed = 0;
    node_ref(n);
    backend_remove(b);
    g_assert_cmpint(n_changed, ==, 1);
    g_assert_cmpuint(n->perm, ==, 0);
    g_assert_false(backend_enter(b));
    g_assert_true(backend_insert(b, n, NULL));
    g_assert_cmpuint(n->perm, ==, disk_perm);
    g_assert_cmpint(n_changed, ==, 2);
    backend_detach_dev(b);
    g_assert_cmpuint(n->perm, ==, PERM_CONSISTENT_READ);
    node_unref(n);
    backend_unref(b);
    node_wait_closed();
}

/* What -drive made goes with its device. */
static void test_with_dev(void)
{
    struct backend_options o = { .name = "d0", .with_dev = true };
    struct backend *b;
    struct node *n;

    CONTROL_GUARD();
    b = backend_new(&o, NULL);
    n = open_keyval("driver=null-co,node-name=n");
    g_assert_true(backend_insert(b, n, NULL));
    node_unref(n);
    g_assert_true(backend_attach_dev(b, &disk, disk_perm, disk_shared, NULL));
    backend_detach_dev(b);
    g_assert_null(backend_find("d0"));
    g_assert_null(node_find("n"));

    /* drive_del first: the device has it until it goes. */
    b = backend_new(&o, NULL);
    g_assert_true(backend_attach_dev(b, &disk, disk_perm, disk_shared, NULL));
    backend_forget(b);
    g_assert_null(backend_find("d0"));
    g_assert_true(backend_find_by_dev("disk") == b);
    g_assert_cmpstr(backend_name(b), ==, "");
    g_assert_cmpstr(backend_shown_name(b), ==, "disk");
    backend_detach_dev(b);
    g_assert_null(backend_next(NULL));
    node_wait_closed();
}

/* ---- requests ----------------------------------------------------------- */

static void test_requests(void)
{
    g_autoptr(BlockDeviceStats) stats = NULL;
    uint8_t buf[4096];
    struct backend *b;

    CONTROL_GUARD();
    b = make_filled("d0", "n");
    g_assert_true(backend_enter(b));
    g_assert_cmpint(backend_pread(b, 0, sizeof(buf), buf), ==, 0);
    g_assert_cmpint(backend_pread(b, 1 << 20, 1, buf), ==, -EIO);
    g_assert_cmpint(backend_pread(b, -1, 1, buf), ==, -EINVAL);
    g_assert_cmpint(backend_pwrite(b, 0, 512, buf, 0), ==, -EPERM);
    g_assert_true(backend_set_perm(b, disk_perm, PERM_ALL, NULL));
    g_assert_cmpint(backend_pwrite(b, 0, 512, buf, 0), ==, 0);
    g_assert_cmpint(backend_pwrite_zeroes(b, 0, 512, 0), ==, 0);
    g_assert_cmpint(backend_flush(b), ==, 0);
    backend_leave(b);
    stats = block_stats_query(backend_stats(b));
    g_assert_cmpint(stats->rd_bytes, ==, sizeof(buf));
    g_assert_cmpint(stats->rd_operations, ==, 1);
    g_assert_cmpint(stats->wr_operations, ==, 2);
    g_assert_cmpint(stats->flush_operations, ==, 1);
    backend_unref(b);
    node_wait_closed();
}

struct guest {
    struct backend *b;
    int n;                      /* requests; -1: until there is no medium */
    _Atomic int n_done, n_refused;
    pthread_t thread;
};

static void *guest_thread(void *opaque)
{
    struct guest *g = opaque;
    uint8_t buf[4096];

    for (int i = 0; i != g->n; i++) {
        if (!backend_enter(g->b)) {
            atomic_fetch_add(&g->n_refused, 1);
            g_usleep(50);
            continue;
        }
        g_assert_cmpint(backend_pread(g->b, 0, sizeof(buf), buf), ==, 0);
        backend_leave(g->b);
        atomic_fetch_add(&g->n_done, 1);
    }
    return NULL;
}

static void guest_start(struct guest *g, struct backend *b, int n)
{
    *g = (struct guest){ .b = b, .n = n };
    pthread_create(&g->thread, NULL, guest_thread, g);
}

static void guest_join(struct guest *g)
{
    CONTROL_YIELD {
        pthread_join(g->thread, NULL);
    }
}

static void await_done(struct guest *g, int n)
{
    CONTROL_YIELD {
        while (atomic_load(&g->n_done) < n) {
            g_usleep(200);
        }
        g_usleep(5000);         /* would it go on? */
    }
    g_assert_cmpint(atomic_load(&g->n_done), ==, n);
}

/* Media come and go under guests; nobody is lost. */
static void test_removal(void)
{
    struct guest guests[4];
    struct backend *b;
    struct node *nodes[2];

    CONTROL_GUARD();
    b = make("d0");
    nodes[0] = open_keyval("driver=null-co,size=65536,node-name=a");
    nodes[1] = open_keyval("driver=null-co,size=65536,node-name=b");
    for (int i = 0; i < 4; i++) {
        guest_start(&guests[i], b, 3000);
    }
    for (int i = 0; i < 300; i++) {
        g_assert_true(backend_insert(b, nodes[i % 2], NULL));
        CONTROL_YIELD {
            g_usleep(50);
        }
        g_assert_true(backend_replace(b, nodes[(i + 1) % 2], NULL));
        g_assert_true(backend_node(b) == nodes[(i + 1) % 2]);
        backend_remove(b);
        g_assert_null(backend_node(b));
        g_assert_null(nodes[0]->parents);
        g_assert_null(nodes[1]->parents);
    }
    for (int i = 0; i < 4; i++) {
        guest_join(&guests[i]);
        g_assert_cmpint(guests[i].n_done + guests[i].n_refused, ==, 3000);
    }
    node_unref(nodes[0]);
    node_unref(nodes[1]);
    backend_unref(b);
    node_wait_closed();
}

struct watcher {
    struct backend_watcher watcher;
    int n_told;
};

static void watch_told(struct backend_watcher *w)
{
    ((struct watcher *)w)->n_told++;
}

static void test_watchers(void)
{
    struct watcher a = { { watch_told } }, b = { { watch_told } };
    struct backend *be;

    CONTROL_GUARD();
    be = make_filled("d0", "n");
    backend_watch(be, &a.watcher);
    backend_watch(be, &b.watcher);
    backend_unwatch(be, &b.watcher);
    backend_unwatch(be, &b.watcher);
    backend_remove(be);
    backend_remove(be);
    g_assert_cmpint(a.n_told, ==, 1);
    g_assert_cmpint(b.n_told, ==, 0);
    backend_unref(be);
    node_wait_closed();
}

/* ---- limits ------------------------------------------------------------- */

static struct throttle_limits reads_per_second(int64_t n)
{
    struct throttle_limits l;

    throttle_limits_init(&l);
    l.limit[THROTTLE_OPS_READ].avg = n;
    return l;
}

static void set_reads(struct backend *b, const char *group, int64_t n)
{
    struct throttle_limits l = reads_per_second(n);

    backend_set_limits(b, group, &l);
}

static void check_group(struct backend *b, const char *group)
{
    struct throttle_limits l;
    const char *got = NULL;

    g_assert_cmpint(backend_get_limits(b, &got, &l), ==, group != NULL);
    g_assert_cmpstr(got, ==, group);
}

static void test_limits(void)
{
    struct guest g;
    struct backend *b;
    struct node *n;
    struct drain *d;

    CONTROL_GUARD();
    clock_virtual_stop();
    b = make_filled("d0", "n");
    n = node_find("n");
    check_group(b, NULL);
    set_reads(b, NULL, 1);
    check_group(b, "d0");
    g_assert_true(backend_is_limited(b));
    guest_start(&g, b, 5);
    await_done(&g, 1);
    clock_virtual_step(SECOND);
    await_done(&g, 2);
    d = drain_begin(&n, 1);     /* what waits goes, the next stays out */
    await_done(&g, 3);
    drain_end(&d);
    await_done(&g, 3);
    set_reads(b, NULL, 0);      /* none: it goes on by itself */
    check_group(b, NULL);
    guest_join(&g);
    g_assert_cmpint(g.n_done, ==, 5);

    /* They are the drive's, whatever its medium. */
    set_reads(b, NULL, 1);
    node_ref(n);
    backend_remove(b);
    check_group(b, "d0");
    g_assert_true(backend_insert(b, n, NULL));
    node_unref(n);
    guest_start(&g, b, 3);
    await_done(&g, 1);
    backend_remove(b);          /* does not wait for the clock */
    guest_join(&g);
    g_assert_cmpint(g.n_done + g.n_refused, ==, 3);
    backend_unref(b);
    g_assert_null(throttle_group_get("d0", NULL));
    clock_virtual_run();
    node_wait_closed();
}

static void test_groups(void)
{
    ObjectOptions o = {
        .qom_type = OBJECT_TYPE_THROTTLE_GROUP, .id = (char *)"g",
    };
    struct guest ga, gb;
    struct backend *a, *b;
    AUTO_ERROR(err);

    CONTROL_GUARD();
    clock_virtual_stop();
    a = make_filled("a", "na");
    b = make_filled("b", "nb");
    set_reads(a, "g", 1);
    g_assert_false(object_add(&o, &err));
    expect(&err, "A group with this name already exists");
    set_reads(b, "g", 1);
    guest_start(&ga, a, 4);
    await_done(&ga, 1);
    guest_start(&gb, b, 4);
    await_done(&gb, 0);         /* they share */
    clock_virtual_step(SECOND);
    CONTROL_YIELD {
        while (ga.n_done + gb.n_done < 2) {
            g_usleep(200);
        }
    }
    set_reads(a, NULL, 0);      /* leaves the other where it is */
    guest_join(&ga);
    check_group(a, NULL);
    check_group(b, "g");
    g_assert_cmpint(gb.n_done, <=, 1);
    set_reads(b, "h", 1);       /* another group: buckets of its own */
    check_group(b, "h");
    set_reads(b, NULL, 0);
    guest_join(&gb);
    g_assert_true(object_add(&o, NULL));
    set_reads(a, "g", 7);       /* the object's limits, too */
    g_assert_false(object_del("g", &err));
    expect(&err, "object 'g' is in use, can not be deleted");
    set_reads(a, NULL, 0);
    g_assert_true(object_del("g", NULL));
    backend_unref(a);
    backend_unref(b);
    clock_virtual_run();
    node_wait_closed();
}

/* Real time; everything at once.  For ThreadSanitizer. */
static void test_limits_crowd(void)
{
    struct guest guests[4];
    struct backend *b[2];

    CONTROL_GUARD();
    b[0] = make_filled("a", "na");
    b[1] = make_filled("b", "nb");
    for (int i = 0; i < 4; i++) {
        guest_start(&guests[i], b[i % 2], 400);
    }
    for (int i = 0; i < 60; i++) {
        struct node *n = backend_node(b[i % 2]);
        struct drain *d;

        set_reads(b[i % 2], i % 3 ? "g" : "h", i % 5 ? 4000 : 0);
        CONTROL_YIELD {
            g_usleep(300);
        }
        d = drain_begin(&n, 1);
        set_reads(b[i % 2], i % 4 ? NULL : "h", 3000);
        drain_end(&d);
    }
    set_reads(b[0], NULL, 0);
    set_reads(b[1], NULL, 0);
    for (int i = 0; i < 4; i++) {
        guest_join(&guests[i]);
        g_assert_cmpint(guests[i].n_done, ==, 400);
    }
    backend_unref(b[0]);
    backend_unref(b[1]);
    node_wait_closed();
}

/* ---- policy ------------------------------------------------------------- */

static int n_stopped;

static void stopped(void)
{
    n_stopped++;
}

struct waiter {
    struct backend *b;
    _Atomic bool waiting;
    bool result;
    pthread_t thread;
};

static void *waiter_thread(void *opaque)
{
    struct waiter *w = opaque;

    CONTROL_GUARD();
    w->waiting = true;
    w->result = backend_wait_resumed(w->b, NULL, NULL);
    return NULL;
}

static bool wait_then(struct backend *b, void (*what)(struct backend *b))
{
    struct waiter w = { .b = b };

    pthread_create(&w.thread, NULL, waiter_thread, &w);
    CONTROL_YIELD {
        while (!w.waiting) {
            g_usleep(100);
        }
    }
    what(b);
    CONTROL_YIELD {
        pthread_join(w.thread, NULL);
    }
    return w.result;
}

static void resume(struct backend *b)
{
    backend_resume_all();
}

static void test_policy(void)
{
    struct backend *b;

    CONTROL_GUARD();
    backend_set_stop_hook(stopped);
    b = make_filled("d0", "n");
    g_assert_false(backend_on_error_set(b));
    g_assert_cmpint(backend_guest_error(b, true, EIO), ==,
                    BLOCK_ERROR_ACTION_REPORT);
    g_assert_cmpint(backend_guest_error(b, false, EIO), ==,
                    BLOCK_ERROR_ACTION_REPORT);
    g_assert_cmpint(n_stopped, ==, 0);
    g_assert_cmpint(backend_guest_error(b, false, ENOSPC), ==,
                    BLOCK_ERROR_ACTION_STOP);
    g_assert_cmpint(n_stopped, ==, 1);
    g_assert_cmpint(backend_io_status(b), ==, BLOCK_DEVICE_IO_STATUS_NOSPACE);
    backend_resume_all();
    g_assert_cmpint(backend_io_status(b), ==, BLOCK_DEVICE_IO_STATUS_OK);
    backend_set_on_error(b, BLOCKDEV_ON_ERROR_STOP, BLOCKDEV_ON_ERROR_IGNORE);
    g_assert_true(backend_on_error_set(b));
    g_assert_cmpint(backend_guest_error(b, false, ENOSPC), ==,
                    BLOCK_ERROR_ACTION_IGNORE);
    g_assert_cmpint(backend_guest_error(b, true, EIO), ==,
                    BLOCK_ERROR_ACTION_STOP);
    g_assert_cmpint(backend_io_status(b), ==, BLOCK_DEVICE_IO_STATUS_FAILED);
    g_assert_true(wait_then(b, resume));
    g_assert_false(wait_then(b, backend_remove));
    backend_unref(b);
    backend_set_stop_hook(NULL);
    node_wait_closed();
}

int main(int argc, char **argv)
{
    int ret;

    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/backend/names", test_names);
    g_test_add_func("/backend/dev", test_dev);
    g_test_add_func("/backend/with-dev", test_with_dev);
    g_test_add_func("/backend/requests", test_requests);
    g_test_add_func("/backend/removal", test_removal);
    g_test_add_func("/backend/watchers", test_watchers);
    g_test_add_func("/backend/limits", test_limits);
    g_test_add_func("/backend/groups", test_groups);
    g_test_add_func("/backend/limits-crowd", test_limits_crowd);
    g_test_add_func("/backend/policy", test_policy);
    ret = g_test_run();
    pool_shutdown();
    return ret;
}
