/* SPDX-License-Identifier: MIT */
/*
 * Range lock: see range-lock.h.
 *
 * Holds and waiters stand in one list in order of arrival.  A hold may run
 * when no earlier entry overlaps it, unless both are shared; that gives I1
 * (an earlier entry is either granted or must be waited for) and I2 (a later
 * entry never passes one that it overlaps).  One that was passed waits for the
 * later entries that have, too.
 */
#include "block/range-lock.h"

#include <glib.h>

void range_lock_init(struct range_lock *rl, const char *name)
{
    lock_init(&rl->lock, name, LOCK_RANGE);
    cond_init(&rl->changed);
    rl->first = rl->last = NULL;
    rl->n_waiting = 0;
}

void range_lock_deinit(struct range_lock *rl)
{
    g_assert(!rl->first && rl->n_waiting == 0);
    cond_deinit(&rl->changed);
    lock_deinit(&rl->lock);
}

static void link_last(struct range_lock *rl, struct range_hold *h)
{
    h->next = NULL;
    h->prev = rl->last;
    if (rl->last) {
        rl->last->next = h;
    } else {
        rl->first = h;
    }
    rl->last = h;
}

static void unlink_hold(struct range_lock *rl, struct range_hold *h)
{
    if (h->prev) {
        h->prev->next = h->next;
    } else {
        rl->first = h->next;
    }
    if (h->next) {
        h->next->prev = h->prev;
    } else {
        rl->last = h->prev;
    }
}

static bool excludes(const struct range_hold *a, const struct range_hold *b)
{
    return MAX(a->offset, b->offset) < MIN(a->end, b->end) &&
           (a->exclusive || b->exclusive);
}

/* OTHER came before H. */
static bool may_pass(const struct range_hold *h,
                     const struct range_hold *other)
{
    return h->passing && other->passing && !other->granted &&
           other->n_passed < RANGE_LOCK_PASSES;
}

/* Does an entry before H, or one that has passed it, keep it from running? */
static bool must_wait(const struct range_lock *rl, const struct range_hold *h)
{
    const struct range_hold *other;

    for (other = rl->first; other != h; other = other->next) {
        if (excludes(other, h) && !may_pass(h, other)) {
            return true;
        }
    }
    for (other = h->n_passed > 0 ? h->next : NULL; other;
         other = other->next) {
        if (other->granted && excludes(other, h)) {
            return true;
        }
    }
    return false;
}

static void grant(struct range_lock *rl, struct range_hold *h)
{
    struct range_hold *other = h->passing ? rl->first : h;

    for (; other != h; other = other->next) {
        if (excludes(other, h)) {
            other->n_passed++;
        }
    }
    h->granted = true;
}

static void hold_init(struct range_hold *h, int64_t offset, int64_t bytes,
                      bool exclusive)
{
    g_assert(offset >= 0 && bytes >= 0 && bytes <= INT64_MAX - offset);
    h->offset = offset;
    h->end = offset + bytes;
    h->exclusive = exclusive;
    h->granted = false;
    h->passing = false;
    h->n_passed = 0;
}

static bool wait_until(struct range_lock *rl, struct range_hold *h,
                       int64_t deadline_ns)
{
    LOCK_GUARD(&rl->lock);
    link_last(rl, h);
    while (must_wait(rl, h)) {
        bool in_time = true;

        rl->n_waiting++;
        if (deadline_ns == INT64_MAX) {
            cond_wait(&rl->changed, &rl->lock);
        } else {
            in_time = cond_wait_until(&rl->changed, &rl->lock, deadline_ns);
        }
        rl->n_waiting--;
        if (!in_time && must_wait(rl, h)) {
            unlink_hold(rl, h);
            if (rl->n_waiting > 0) {
                cond_broadcast(&rl->changed);   /* who stood behind it */
            }
            return false;
        }
    }
    grant(rl, h);
    return true;
}

void range_lock_acquire(struct range_lock *rl, struct range_hold *h,
                        int64_t offset, int64_t bytes, bool exclusive)
{
    range_lock_acquire_until(rl, h, offset, bytes, exclusive, INT64_MAX);
}

void range_lock_acquire_passing(struct range_lock *rl, struct range_hold *h,
                                int64_t offset, int64_t bytes)
{
    hold_init(h, offset, bytes, true);
    h->passing = true;
    wait_until(rl, h, INT64_MAX);
}

bool range_lock_acquire_until(struct range_lock *rl, struct range_hold *h,
                              int64_t offset, int64_t bytes, bool exclusive,
                              int64_t deadline_ns)
{
    hold_init(h, offset, bytes, exclusive);
    return wait_until(rl, h, deadline_ns);
}

bool range_lock_try(struct range_lock *rl, struct range_hold *h,
                    int64_t offset, int64_t bytes, bool exclusive)
{
    hold_init(h, offset, bytes, exclusive);
    LOCK_GUARD(&rl->lock);
    link_last(rl, h);
    if (must_wait(rl, h)) {
        unlink_hold(rl, h);
        return false;
    }
    grant(rl, h);
    return true;
}

void range_lock_release(struct range_lock *rl, struct range_hold *h)
{
    LOCK_GUARD(&rl->lock);
    g_assert(h->granted);
    h->granted = false;
    unlink_hold(rl, h);
    if (rl->n_waiting > 0) {
        cond_broadcast(&rl->changed);
    }
}

void range_lock_shrink(struct range_lock *rl, struct range_hold *h,
                       int64_t offset, int64_t end)
{
    LOCK_GUARD(&rl->lock);
    g_assert(h->granted && offset >= h->offset && end <= h->end &&
             offset <= end);
    h->offset = offset;
    h->end = end;
    if (rl->n_waiting > 0) {
        cond_broadcast(&rl->changed);
    }
}

int64_t range_lock_lowest(struct range_lock *rl)
{
    int64_t lowest = INT64_MAX;

    LOCK_GUARD(&rl->lock);
    for (const struct range_hold *h = rl->first; h; h = h->next) {
        lowest = MIN(lowest, h->offset);
    }
    return lowest;
}
