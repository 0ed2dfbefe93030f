/* SPDX-License-Identifier: MIT */
/*
 * The shared pool of workers: see pool.h.
 *
 * Not GThreadPool: GLib's own locks are invisible to ThreadSanitizer, and
 * every task would be reported as a race.
 */
#include "base/pool.h"

#include <pthread.h>
#include <stdlib.h>
#include <glib.h>
#include "base/lock.h"

enum { IDLE_SECONDS = 10 };

struct pool_task {
    struct pool_task *next;
    pool_fn *fn;
    void *arg;
};

/* Protected by pool_lock. */
static struct lock pool_lock = LOCK_INIT("pool", LOCK_POOL);
static struct cond work_cond;   /* a task was queued, or closing */
static struct cond end_cond;    /* a thread ended */
static struct pool_task *queue_head, **queue_tail = &queue_head;
static int n_queued, n_idle, n_threads;
static bool closing;

static void __attribute__((constructor)) pool_setup(void)
{
    cond_init(&work_cond);
    cond_init(&end_cond);
}

static struct pool_task *pool_next(void)
{
    struct pool_task *task;
    bool in_time = true;

    while (!queue_head) {
        if (closing || !in_time) {
            return NULL;
        }
        n_idle++;
        in_time = cond_wait_until(&work_cond, &pool_lock,
                                  clock_ns() + IDLE_SECONDS * 1000000000LL);
        n_idle--;
    }
    task = queue_head;
    queue_head = task->next;
    if (!queue_head) {
        queue_tail = &queue_head;
    }
    n_queued--;
    return task;
}

static void *pool_thread(void *unused)
{
    struct pool_task *task;

    (void)unused;
    lock_acquire(&pool_lock);
    while ((task = pool_next())) {
        lock_release(&pool_lock);
        task->fn(task->arg);
        free(task);
        lock_acquire(&pool_lock);
    }
    n_threads--;
    cond_broadcast(&end_cond);
    lock_release(&pool_lock);
    return NULL;
}

static void pool_grow(void)
{
    pthread_attr_t attr;
    pthread_t thread;

    pthread_attr_init(&attr);
    pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
    pthread_attr_setstacksize(&attr, 1024 * 1024);
    if (pthread_create(&thread, &attr, pool_thread, NULL) == 0) {
        n_threads++;
    } else if (n_threads == 0) {
        g_error("cannot start a worker thread");
    }
    pthread_attr_destroy(&attr);
}

void pool_submit(pool_fn *fn, void *arg)
{
    struct pool_task *task = g_new(struct pool_task, 1);

    task->next = NULL;
    task->fn = fn;
    task->arg = arg;
    LOCK_GUARD(&pool_lock);
    g_assert(!closing);
    *queue_tail = task;
    queue_tail = &task->next;
    n_queued++;
    if (n_queued > n_idle) {
        pool_grow();
    }
    cond_signal(&work_cond);
}

void pool_shutdown(void)
{
    LOCK_GUARD(&pool_lock);
    closing = true;
    cond_broadcast(&work_cond);
    while (n_threads > 0) {
        cond_wait(&end_cond, &pool_lock);
    }
    closing = false;
}
