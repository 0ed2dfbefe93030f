/* SPDX-License-Identifier: MIT */
/* Copy engine: see engine.h.  Here: the speed limit. */
#include "blockjobs/engine-priv.h"

enum {
    SLICE_NS = 100 * 1000 * 1000,       /* what the limit may save up */
};

/*
 * A request is let through when its predecessors have been paid for at the
 * limit's rate; the first one always is.  Up to a slice is saved up, so that
 * the average holds although sleeps are never exact.
 */
bool engine_limit_lets_through(struct engine *e, int64_t now)
{
    int64_t speed = job_speed(e->o.job);

    if (speed != e->limit) {
        e->limit = speed;
        e->next_ns = now;       /* what was owed was owed to the old limit */
    }
    return speed == 0 || now >= e->next_ns;
}

void engine_limit_charge(struct engine *e, int64_t now, int64_t bytes)
{
    double cost_ns;

    if (e->limit > 0) {
        cost_ns = (double)bytes * 1e9 / e->limit;
        e->next_ns = MAX(e->next_ns, now - SLICE_NS);
        e->next_ns = cost_ns >= (double)(INT64_MAX - e->next_ns)
                     ? INT64_MAX : e->next_ns + (int64_t)cost_ns;
    }
}

void engine_refund(struct engine *e, int64_t bytes)
{
    LOCK_GUARD(&e->lock);
    if (e->limit > 0 && e->next_ns < INT64_MAX) {
        e->next_ns -= (int64_t)MIN((double)bytes * 1e9 / e->limit,
                                   (double)e->next_ns);
    }
}

void engine_set_speed(struct engine *e)
{
    job_kick(e->o.job);
}
