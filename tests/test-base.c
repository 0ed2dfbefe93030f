/* SPDX-License-Identifier: MIT */
/* base/: error objects, lock ranks, control lock, worker pool. */
#include <signal.h>
#include <string.h>
#include <unistd.h>
#include "base/control.h"
#include "base/error.h"
#include "base/pool.h"
#include "base/trace.h"

static void test_error_text(void)
{
    AUTO_ERROR(err);

    error_set_errno(&err, ENOSPC, "Could not write '%s'", "f");
    g_assert_cmpstr(error_text(err), ==,
                    "Could not write 'f': No space left on device");
    g_assert_cmpint(error_get_errno(err), ==, ENOSPC);
    error_prepend(&err, "job '%s': ", "j");
    g_assert_cmpstr(error_text(err), ==,
                    "job 'j': Could not write 'f': No space left on device");
    g_assert_null(error_hint(err));
    error_append_hint(&err, "Free some space\n");
    g_assert_cmpstr(error_hint(err), ==, "Free some space\n");
}

/* What an error is about: the first to know says it. */
static void test_error_data(void)
{
    AUTO_ERROR(err);
    struct error *copy;
    const struct error_data *d;

    error_add_node(NULL, "nobody");
    error_add_node(&err, "nothing is set yet");
    g_assert_null(err);
    error_set(&err, "no");
    g_assert_null(error_get_data(err));
    error_add_node(&err, NULL);
    error_add_node(&err, "");
    error_add_node(&err, "inner");
    error_add_node(&err, "outer");
    error_add_range(&err, 512, 1024);
    error_add_range(&err, 0, 1);
    error_add_job(&err, "j");
    error_add_errno(&err, EIO);
    error_add_errno(&err, EPERM);
    error_prepend(&err, "well: ");
    copy = error_copy(err);
    error_free(g_steal_pointer(&err));
    d = error_get_data(copy);
    g_assert_cmpstr(d->node_name, ==, "inner");
    g_assert_null(d->filename);
    g_assert_cmpstr(d->job, ==, "j");
    g_assert_cmpint(d->offset, ==, 512);
    g_assert_cmpint(d->bytes, ==, 1024);
    g_assert_cmpint(error_get_errno(copy), ==, EIO);
    g_assert_cmpstr(error_text(copy), ==, "well: no");
    error_free(copy);
    g_assert_cmpstr(error_errno_name(ENOSPC), ==, "ENOSPC");
    g_assert_cmpstr(error_errno_name(123456), ==, "EUNKNOWN");
    g_assert_nonnull(error_errno_hint(ENOSPC));
    g_assert_null(error_errno_hint(EDOM));
}

static void test_error_propagate(void)
{
    struct error *a = NULL, *b = NULL;
    AUTO_ERROR(dst);

    error_set_class(&a, ERROR_DEVICE_NOT_FOUND, "first");
    error_set(&b, "second");
    error_propagate(&dst, a);
    error_propagate(&dst, b);
    g_assert_cmpstr(error_text(dst), ==, "first");
    g_assert_cmpstr(error_class_name(error_get_class(dst)), ==,
                    "DeviceNotFound");
    error_set(NULL, "nobody listens");
}

static void test_lock_order(void)
{
    struct lock a, b;

    lock_init(&a, "a", LOCK_JOB);
    lock_init(&b, "b", LOCK_ROOT);
    lock_acquire(&a);
    lock_acquire(&b);
    g_assert_true(lock_held(&a));
    lock_release(&a);
    lock_release(&b);
    g_assert_false(lock_held(&a));
    lock_deinit(&a);
    lock_deinit(&b);
}

static void test_lock_order_violation(void)
{
    struct lock a, b;

#ifdef NDEBUG
    g_test_skip("the witness is not in this build");
    return;
#endif
    if (g_test_subprocess()) {
        lock_init(&a, "outer", LOCK_JOB);
        lock_init(&b, "inner", LOCK_ROOT);
        lock_acquire(&b);
        lock_acquire(&a);
        return;
    }
    g_test_trap_subprocess(NULL, 0, G_TEST_SUBPROCESS_DEFAULT);
    g_test_trap_assert_failed();
    g_test_trap_assert_stderr("*lock order*outer*inner*");
}

static int counter;     /* control lock */

static void notify_task(void *arg)
{
    int *flag = arg;

    g_usleep(2000);
    __atomic_store_n(flag, 1, __ATOMIC_RELEASE);
    control_notify();
}

static void test_control_wait(void)
{
    for (int i = 0; i < 50; i++) {
        int flag = 0;

        CONTROL_GUARD();
        pool_submit(notify_task, &flag);
        while (!__atomic_load_n(&flag, __ATOMIC_ACQUIRE)) {
            control_wait();
        }
        g_assert_true(control_held());
    }
    CONTROL_GUARD();
    g_assert_false(control_wait_until(clock_ns() + 1000000));
}

static void count_task(void *unused)
{
    (void)unused;
    for (int i = 0; i < 1000; i++) {
        CONTROL_GUARD();
        counter++;
        CONTROL_YIELD {
            g_assert_false(control_held());
        }
    }
}

static void test_control_excludes(void)
{
    counter = 0;
    for (int i = 0; i < 8; i++) {
        pool_submit(count_task, NULL);
    }
    pool_shutdown();
    g_assert_cmpint(counter, ==, 8000);
}

static int n_started;   /* atomic */

static void rendezvous_task(void *arg)
{
    int want = GPOINTER_TO_INT(arg);

    __atomic_add_fetch(&n_started, 1, __ATOMIC_ACQ_REL);
    while (__atomic_load_n(&n_started, __ATOMIC_ACQUIRE) < want) {
        g_usleep(100);
    }
}

/* Tasks that wait for each other: the pool must grow to run all of them. */
static void test_pool_grows(void)
{
    n_started = 0;
    for (int i = 0; i < 40; i++) {
        pool_submit(rendezvous_task, GINT_TO_POINTER(40));
    }
    pool_shutdown();
    g_assert_cmpint(n_started, ==, 40);
}

static void test_trace_names(void)
{
    const char *bad = NULL;

    g_assert_true(trace_enable("job,nbd", &bad));
    g_assert_true(trace_on[TRACE_JOB]);
    g_assert_false(trace_on[TRACE_QCOW2]);
    g_assert_false(trace_enable("job,nosuch", &bad));
    g_assert_cmpstr(bad, ==, "nosuch");
    trace_on[TRACE_JOB] = trace_on[TRACE_NBD] = false;
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/base/error/text", test_error_text);
    g_test_add_func("/base/error/data", test_error_data);
    g_test_add_func("/base/error/propagate", test_error_propagate);
    g_test_add_func("/base/lock/order", test_lock_order);
    g_test_add_func("/base/lock/violation", test_lock_order_violation);
    g_test_add_func("/base/control/wait", test_control_wait);
    g_test_add_func("/base/control/excludes", test_control_excludes);
    g_test_add_func("/base/pool/grows", test_pool_grows);
    g_test_add_func("/base/trace/names", test_trace_names);
    return g_test_run();
}
