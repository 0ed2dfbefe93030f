/* SPDX-License-Identifier: MIT */
/* The control lock: see control.h. */
#include "base/control.h"

static struct lock the_lock = LOCK_INIT("control", LOCK_CONTROL);

/*
 * A wake-up must not be lost between a waiter's test of its condition and its
 * sleep, though a notifier need not hold the control lock: each holder
 * remembers the count of wake-ups it saw when it took the lock, before any
 * test; control_wait() returns at once if the count has moved since.
 */
static struct lock wake_lock = LOCK_INIT("control-wake", LOCK_LEAF);
static struct cond wake_cond;
static uint64_t n_wakes;                /* under wake_lock; read atomically */
static _Thread_local uint64_t n_seen;
static _Thread_local bool in_loop_thread;

static void __attribute__((constructor)) control_setup(void)
{
    cond_init(&wake_cond);
}

void control_lock(void)
{
    lock_acquire(&the_lock);
    n_seen = __atomic_load_n(&n_wakes, __ATOMIC_ACQUIRE);
}

void control_unlock(void)
{
    lock_release(&the_lock);
}

bool control_held(void)
{
    return lock_held(&the_lock);
}

bool control_wait_until(int64_t deadline_ns)
{
    bool in_time = true;

    control_assert();
    g_assert(!in_loop_thread);
    lock_release(&the_lock);
    lock_acquire(&wake_lock);
    while (n_wakes == n_seen && in_time) {
        if (deadline_ns == INT64_MAX) {
            cond_wait(&wake_cond, &wake_lock);
        } else {
            in_time = cond_wait_until(&wake_cond, &wake_lock, deadline_ns);
        }
    }
    lock_release(&wake_lock);
    control_lock();
    return in_time;
}

void control_wait(void)
{
    control_wait_until(INT64_MAX);
}

void control_notify(void)
{
    LOCK_GUARD(&wake_lock);
    __atomic_store_n(&n_wakes, n_wakes + 1, __ATOMIC_RELEASE);
    cond_broadcast(&wake_cond);
}

void control_set_loop_thread(void)
{
    in_loop_thread = true;
}

bool control_in_loop_thread(void)
{
    return in_loop_thread;
}

bool control_guard_begin(void)
{
    control_lock();
    return true;
}

void control_guard_end(bool *unused)
{
    (void)unused;
    control_unlock();
}

bool control_yield_begin(void)
{
    control_unlock();
    return true;
}

bool control_yield_end(void)
{
    control_lock();
    return false;
}
