/* SPDX-License-Identifier: MIT */
/* Converge: see converge.h. */
#include "blockjobs/converge.h"

#include <glib.h>

enum {
    SECOND_NS = 1000 * 1000 * 1000,
    FIRST_STEPS = 5,            /* rates are not known before */
};

static const double
    step = 1.25,                /* of the delay, up and down (I1) */
    first_part = 1 / 16.0,      /* the first delay, of a byte's time */
    least_part = 1 / 32.0,      /* less than that is none */
    margin = 0.9,               /* of the whole time */
    ease = 0.8,                 /* ...enough to let go a little */
    guests_part = 0.05,         /* of the copy rate: what is left to guests */
    newest_part = 0.2,          /* of the averages */
    least_left_s = 1,
    end_s = 0.5,                /* what is left can be copied in: the end */
    end_part = 0.5;             /* of the copy rate: what guests have then */

void converge_begin(struct converge *c, int64_t now_ns, int64_t deadline_ns)
{
    *c = (struct converge){ .begun_ns = now_ns, .deadline_ns = deadline_ns,
                            .stepped_ns = now_ns };
}

static void set_delay(struct converge *c, double ns_per_byte)
{
    double per_mib = ns_per_byte * (1 << 20);

    c->delay_per_byte = ns_per_byte;
    __atomic_store_n(&c->delay_per_mib_ns,
                     per_mib >= 1e15 ? INT64_C(1000000000000000)
                                     : (int64_t)per_mib, __ATOMIC_RELAXED);
}

void converge_end(struct converge *c)
{
    set_delay(c, 0);
}

static void average(double *old, double rate, bool first)
{
    *old = first ? rate : *old + (rate - *old) * newest_part;
}

static void measure(struct converge *c, int64_t now_ns, int64_t remaining,
                    int64_t copied, int64_t dirtied)
{
    double seconds = (double)(now_ns - c->stepped_ns) / SECOND_NS;
    double rate = (copied - c->copied_bytes) / seconds;
    bool first = c->n_steps == 0;

    /* With little left, little is copied: that is not what can be. */
    if (rate > c->copy_rate || remaining / 2 > copied - c->copied_bytes) {
        average(&c->copy_rate, rate, first);
    }
    average(&c->dirty_rate, (dirtied - c->dirtied_bytes) / seconds, first);
    c->stepped_ns = now_ns;
    c->copied_bytes = copied;
    c->dirtied_bytes = dirtied;
    c->n_steps++;
}

/*
 * To be ready nothing may be dirty for a moment.  A guest that dirties as much
 * as is copied never lets that happen, though what is left stays small.
 */
static bool must_find_end(const struct converge *c, double remaining,
                          double left_ns)
{
    return remaining < c->copy_rate * end_s &&
           (c->delay_per_byte > 0 ||
            left_ns < (c->deadline_ns - c->begun_ns) * (1 - ease));
}

/* Bytes per second that guests may dirty, if PART of the whole time is to
 * do. */
static double allowed_rate(const struct converge *c, double remaining,
                           double part)
{
    double passed_ns = c->stepped_ns - c->begun_ns;
    double left_ns = (c->deadline_ns - c->begun_ns) * part - passed_ns;
    double rate = c->copy_rate -
                  remaining / MAX(left_ns / SECOND_NS, least_left_s);

    if (c->stepped_ns > c->deadline_ns) {
        rate = 0;
    } else if (must_find_end(c, remaining, left_ns)) {
        rate = MIN(rate, c->copy_rate * end_part * part);
    }
    return MAX(rate, c->copy_rate * guests_part);
}

/* I1: with a delay d, a byte takes t + d; d grows by a quarter at most, or
 * from none to a part of t. */
static void slow_down(struct converge *c)
{
    double byte_ns = SECOND_NS / MAX(c->dirty_rate, 1);

    set_delay(c, MAX(c->delay_per_byte * step, byte_ns * first_part));
}

static void let_go(struct converge *c)
{
    double byte_ns = SECOND_NS / MAX(c->dirty_rate, 1);
    double delay = c->delay_per_byte / step;

    set_delay(c, delay < byte_ns * least_part ? 0 : delay);
}

void converge_update(struct converge *c, int64_t now_ns, int64_t remaining,
                     int64_t copied, int64_t dirtied)
{
    if (now_ns - c->stepped_ns < CONVERGE_STEP_NS) {
        return;
    }
    measure(c, now_ns, remaining, copied, dirtied);
    if (c->n_steps < FIRST_STEPS) {
        return;
    }
    if (c->dirty_rate > allowed_rate(c, remaining, margin)) {
        slow_down(c);
    } else if (c->delay_per_byte > 0 &&
               c->dirty_rate < allowed_rate(c, remaining, ease)) {
        let_go(c);
    }
}

int64_t converge_delay_ns(const struct converge *c, int64_t bytes)
{
    int64_t per_mib = __atomic_load_n(&c->delay_per_mib_ns, __ATOMIC_RELAXED);
    double ns;

    if (G_LIKELY(per_mib == 0)) {
        return 0;
    }
    ns = (double)per_mib * bytes / (1 << 20);
    return ns >= CONVERGE_MAX_DELAY_NS ? CONVERGE_MAX_DELAY_NS : (int64_t)ns;
}
