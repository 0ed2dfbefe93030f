/* SPDX-License-Identifier: MIT */
/* Locks with a name and a rank: see lock.h. */
#include "base/lock.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

enum { MAX_NESTING = 16 };

#ifndef NDEBUG
static _Thread_local struct lock *held_stack[MAX_NESTING];
static _Thread_local int n_held;

static void witness_push(struct lock *l)
{
    for (int i = 0; i < n_held; i++) {
        if (held_stack[i]->rank >= l->rank) {
            fprintf(stderr, "lock order: '%s' (%d) taken while '%s' (%d) "
                    "is held\n", l->name, l->rank, held_stack[i]->name,
                    held_stack[i]->rank);
            abort();
        }
    }
    g_assert(n_held < MAX_NESTING);
    held_stack[n_held++] = l;
}

static void witness_pop(struct lock *l)
{
    for (int i = n_held - 1; i >= 0; i--) {
        if (held_stack[i] == l) {
            for (n_held--; i < n_held; i++) {
                held_stack[i] = held_stack[i + 1];
            }
            return;
        }
    }
    g_assert_not_reached();
}
#else
static void witness_push(struct lock *l) { (void)l; }
static void witness_pop(struct lock *l) { (void)l; }
#endif

void lock_init(struct lock *l, const char *name, enum lock_rank rank)
{
    pthread_mutex_init(&l->mutex, NULL);
    l->name = name;
    l->rank = rank;
    l->held = false;
}

void lock_deinit(struct lock *l)
{
    g_assert(!l->held);
    pthread_mutex_destroy(&l->mutex);
}

static void lock_own(struct lock *l)
{
    l->owner = pthread_self();
    __atomic_store_n(&l->held, true, __ATOMIC_RELAXED);
}

static void lock_disown(struct lock *l)
{
    __atomic_store_n(&l->held, false, __ATOMIC_RELAXED);
}

void lock_acquire(struct lock *l)
{
    witness_push(l);
    pthread_mutex_lock(&l->mutex);
    lock_own(l);
}

void lock_release(struct lock *l)
{
    g_assert(lock_held(l));
    lock_disown(l);
    pthread_mutex_unlock(&l->mutex);
    witness_pop(l);
}

__attribute__((no_sanitize("thread")))
bool lock_held(const struct lock *l)
{
    /* Another thread's store cannot make this true for us. */
    return __atomic_load_n(&l->held, __ATOMIC_RELAXED) &&
           pthread_equal(l->owner, pthread_self());
}

struct lock *lock_guard_begin(struct lock *l)
{
    lock_acquire(l);
    return l;
}

void lock_guard_end(struct lock **l)
{
    lock_release(*l);
}

void cond_init(struct cond *c)
{
    pthread_condattr_t attr;

    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&c->cond, &attr);
    pthread_condattr_destroy(&attr);
}

void cond_deinit(struct cond *c)
{
    pthread_cond_destroy(&c->cond);
}

void cond_wait(struct cond *c, struct lock *l)
{
    lock_assert_held(l);
    lock_disown(l);
    pthread_cond_wait(&c->cond, &l->mutex);
    lock_own(l);
}

bool cond_wait_until(struct cond *c, struct lock *l, int64_t deadline_ns)
{
    struct timespec ts = {
        .tv_sec = deadline_ns / 1000000000,
        .tv_nsec = deadline_ns % 1000000000,
    };
    int ret;

    lock_assert_held(l);
    lock_disown(l);
    ret = pthread_cond_timedwait(&c->cond, &l->mutex, &ts);
    lock_own(l);
    return ret != ETIMEDOUT;
}

void cond_signal(struct cond *c)
{
    pthread_cond_signal(&c->cond);
}

void cond_broadcast(struct cond *c)
{
    pthread_cond_broadcast(&c->cond);
}

int64_t clock_ns(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return ts.tv_sec * INT64_C(1000000000) + ts.tv_nsec;
}
