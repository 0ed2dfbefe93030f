/* SPDX-License-Identifier: MIT */
/*
 * Copier: see copier.h.  Here: who meets copies in flight, the guest that is
 * about to write and the reader of the point in time.
 *
 * A copy with a deadline is made by a worker, which owns the hold of its
 * range: who waited for it may leave.
 */
#include "block/copier-priv.h"

#include <errno.h>
#include "base/pool.h"

/* Copies under way with a deadline, those given up included: a target that
 * hangs must not cost a thread per write. */
enum { MAX_WORKERS = 64 };

/* ---- a copy that may be left behind ------------------------------------- */

struct task {
    struct copier *c;
    struct range_hold hold;
    int64_t start, end;

    /* Protected by c->lock. */
    bool done, abandoned;
    int ret;
};

/* Takes one of MAX_WORKERS. */
static bool worker_begin(struct copier *c, int64_t deadline_ns)
{
    LOCK_GUARD(&c->lock);
    while (c->n_workers >= MAX_WORKERS) {
        if (!cond_wait_until(&c->worker_done, &c->lock, deadline_ns) &&
            c->n_workers >= MAX_WORKERS) {
            return false;
        }
    }
    c->n_workers++;
    if (c->o.owner) {
        node_inc_in_flight(c->o.owner);
    }
    return true;
}

static void work(void *opaque)
{
    struct task *t = opaque;
    struct copier *c = t->c;
    struct copier_result result;
    int ret = copier_copy_held(c, t->start, t->end, &result);
    struct task *garbage = NULL;

    range_lock_release(&c->in_flight, &t->hold);
    /* First: who waits for the last worker may be in a drained section. */
    if (c->o.owner) {
        node_dec_in_flight(c->o.owner);
    }
    lock_acquire(&c->lock);
    t->ret = ret;
    t->done = true;
    if (t->abandoned) {
        c->n_abandoned--;
        garbage = t;
    }
    c->n_workers--;
    cond_broadcast(&c->worker_done);
    lock_release(&c->lock);
    g_free(garbage);
}

/* 0 or -errno of the copy; -ETIMEDOUT: it goes on without us. */
static int wait_for_task(struct task *t, int64_t deadline_ns)
{
    struct copier *c = t->c;
    int ret;

    LOCK_GUARD(&c->lock);
    while (!t->done) {
        if (!cond_wait_until(&c->worker_done, &c->lock, deadline_ns) &&
            !t->done) {
            t->abandoned = true;
            c->n_abandoned++;
            return -ETIMEDOUT;
        }
    }
    ret = t->ret;
    g_free(t);
    return ret;
}

static int copy_until(struct copier *c, int64_t start, int64_t end,
                      int64_t deadline_ns)
{
    struct task *t = g_new0(struct task, 1);

    t->c = c;
    t->start = start;
    t->end = end;
    if (!range_lock_acquire_until(&c->in_flight, &t->hold, start, end - start,
                                  true, deadline_ns)) {
        g_free(t);
        return -ETIMEDOUT;
    }
    if (!worker_begin(c, deadline_ns)) {
        range_lock_release(&c->in_flight, &t->hold);
        g_free(t);
        return -ETIMEDOUT;
    }
    pool_submit(work, t);
    return wait_for_task(t, deadline_ns);
}

void copier_wait_workers(struct copier *c)
{
    LOCK_GUARD(&c->lock);
    while (c->n_workers > 0) {
        cond_wait(&c->worker_done, &c->lock);
    }
}

bool copier_was_left(struct copier *c)
{
    LOCK_GUARD(&c->lock);
    return c->n_abandoned > 0;
}

/* ---- before a write ----------------------------------------------------- */

static bool any_todo(struct copier *c, int64_t offset, int64_t end)
{
    int64_t last = copier_cluster_behind(c, end);

    return bits_next_set(c->todo, copier_cluster_at(c, offset), last) < last;
}

/* Nobody copies [start, end) any more. */
static int settle_until(struct copier *c, int64_t start, int64_t end,
                        int64_t deadline_ns)
{
    struct range_hold hold;

    if (!range_lock_acquire_until(&c->in_flight, &hold, start, end - start,
                                  false, deadline_ns)) {
        return -ETIMEDOUT;
    }
    range_lock_release(&c->in_flight, &hold);
    return 0;
}

static bool is_settled(struct copier *c, int64_t start, int64_t end)
{
    struct range_hold hold;

    if (!range_lock_try(&c->in_flight, &hold, start, end - start, false)) {
        return false;
    }
    range_lock_release(&c->in_flight, &hold);
    /* A copy that failed has put its bits back. */
    return !any_todo(c, start, end);
}

/* As copier_before_write(), whole clusters, there is something to wait for.
 * *BYTES: what was to be copied. */
static int wait_or_copy(struct copier *c, int64_t start, int64_t end,
                        int64_t deadline_ns, int64_t *bytes)
{
    struct copier_result result;
    int ret;

    *bytes = 0;
    if (!any_todo(c, start, end)) {
        ret = settle_until(c, start, end, deadline_ns);
        if (ret < 0 || !any_todo(c, start, end)) {
            return ret;
        }
    }
    *bytes = end - start;
    return deadline_ns == COPIER_FOREVER
           ? copier_copy(c, start, end - start, &result)
           : copy_until(c, start, end, deadline_ns);
}

int copier_before_write(struct copier *c, int64_t offset, int64_t bytes,
                        int64_t deadline_ns)
{
    int64_t start = offset & -(int64_t)c->o.cluster_bytes;
    int64_t end = MIN(offset + bytes, c->o.length);
    struct pace_guest guest;
    int ret;

    if (start >= end) {
        return 0;
    }
    end = copier_end_of(c, copier_cluster_behind(c, end));
    /* Mostly done already: then only what is in flight matters, and others
     * who write here need not wait for us. */
    if (!any_todo(c, start, end) && is_settled(c, start, end)) {
        return 0;
    }
    if (deadline_ns == COPIER_NOWAIT) {
        return -EAGAIN;
    }
    pace_guest_begin(&c->pace, &guest);
    ret = wait_or_copy(c, start, end, deadline_ns, &bytes);
    pace_guest_end(&c->pace, &guest, bytes);
    return ret;
}

/* ---- the point in time -------------------------------------------------- */

bool copier_hold_run(struct copier *c, struct range_hold *hold,
                     int64_t offset, int64_t *bytes, bool *copied,
                     int64_t deadline_ns)
{
    int64_t first = copier_cluster_at(c, offset);
    int64_t end = MIN(offset + *bytes, c->o.length), last;

    g_assert(offset < end);
    if (!range_lock_acquire_until(&c->in_flight, hold, offset, end - offset,
                                  false, deadline_ns)) {
        return false;
    }
    last = copier_cluster_behind(c, end);
    *copied = !bits_test(c->todo, first);
    last = *copied ? bits_next_set(c->todo, first, last)
                   : bits_next_clear(c->todo, first, last);
    end = MIN(end, copier_end_of(c, last));
    *bytes = end - offset;
    range_lock_shrink(&c->in_flight, hold, offset, end);
    return true;
}

void copier_hold(struct copier *c, struct range_hold *hold, int64_t offset,
                 int64_t bytes)
{
    struct pace_guest guest;

    if (range_lock_try(&c->in_flight, hold, offset, bytes, true)) {
        return;
    }
    pace_guest_begin(&c->pace, &guest);
    range_lock_acquire_passing(&c->in_flight, hold, offset, bytes);
    pace_guest_end(&c->pace, &guest, 0);
}

void copier_release_run(struct copier *c, struct range_hold *hold)
{
    range_lock_release(&c->in_flight, hold);
}

bool copier_drop(struct copier *c, int64_t offset, int64_t bytes,
                 void (*fn)(void *opaque, int64_t first, int64_t n),
                 void *opaque, int64_t deadline_ns)
{
    int64_t first = copier_cluster_at(c, offset);
    int64_t n = copier_cluster_behind(c, offset + bytes) - first;
    struct range_hold hold;

    if (!range_lock_acquire_until(&c->in_flight, &hold, offset, bytes, true,
                                  deadline_ns)) {
        return false;
    }
    fn(opaque, first, n);
    bits_clear(c->todo, first, n);
    range_lock_release(&c->in_flight, &hold);
    return true;
}
