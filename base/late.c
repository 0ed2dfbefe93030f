/* SPDX-License-Identifier: MIT */
/* What requests leave for later: see late.h. */
#include "base/late.h"

#include <glib.h>
#include "base/lock.h"

struct late {
    struct late *next;
    pool_fn *fn;
    void *arg;
};

/* Protected by late_lock. */
static struct lock late_lock = LOCK_INIT("late", LOCK_LEAF);
static struct cond done_cond;
static struct late *head, **tail = &head;
static bool running;            /* a worker is at it */
static uint64_t n_submitted, n_done;

static void __attribute__((constructor)) late_setup(void)
{
    cond_init(&done_cond);
}

static struct late *take(void)
{
    LOCK_GUARD(&late_lock);
    struct late *l = head;

    if (!l) {
        running = false;
        return NULL;
    }
    head = l->next;
    if (!head) {
        tail = &head;
    }
    return l;
}

static void run_all(void *opaque)
{
    struct late *l;

    while ((l = take())) {
        l->fn(l->arg);
        g_free(l);
        LOCK_GUARD(&late_lock);
        n_done++;
        cond_broadcast(&done_cond);
    }
}

void late_submit(pool_fn *fn, void *arg)
{
    struct late *l = g_new(struct late, 1);
    bool start;

    *l = (struct late){ .fn = fn, .arg = arg };
    {
        LOCK_GUARD(&late_lock);
        *tail = l;
        tail = &l->next;
        n_submitted++;
        start = !running;
        running = true;
    }
    if (start) {
        pool_submit(run_all, NULL);
    }
}

void late_wait(void)
{
    LOCK_GUARD(&late_lock);
    uint64_t last = n_submitted;

    while (n_done < last) {
        cond_wait(&done_cond, &late_lock);
    }
}
