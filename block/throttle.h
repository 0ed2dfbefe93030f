/* SPDX-License-Identifier: MIT */
/*
 * Throttle: when may the next request go?  Leaky buckets, arithmetic only.
 *
 * Each limit is a bucket that requests fill (with bytes, or with their
 * number) and that leaks at the average rate.  A request may go while no
 * bucket that concerns it is over its size; then it is poured in, however
 * large it is: what is too much has to leak before the next.  The size is
 * what may come in a burst: max * length, or a tenth of a second's worth.  A
 * burst longer than one second has its own rate: a second, small bucket that
 * leaks at max.
 *
 * Threads     No locking; time is what the caller says it is.
 */
#pragma once

#include "base/error.h"
#include "qapi/qapi-types.h"

enum throttle_kind {
    THROTTLE_BPS_TOTAL, THROTTLE_BPS_READ, THROTTLE_BPS_WRITE,
    THROTTLE_OPS_TOTAL, THROTTLE_OPS_READ, THROTTLE_OPS_WRITE,
    THROTTLE__MAX
};

struct throttle_limit {
    int64_t avg;            /* per second; 0: no limit */
    int64_t max;            /* per second in a burst; 0: none given */
    int64_t length;         /* of a burst, seconds; 1 unless given */
};

struct throttle_limits {
    struct throttle_limit limit[THROTTLE__MAX];
    int64_t ops_bytes;      /* a request counts once for each; 0: once */
};

struct throttle {
    struct throttle_limits limits;
    double level[THROTTLE__MAX];        /* in the bucket */
    double burst_level[THROTTLE__MAX];  /* in that of the burst's rate */
    int64_t leaked_ns;                  /* until when it has leaked */
};

/* No limits, lengths of 1. */
void throttle_limits_init(struct throttle_limits *l);
/* Do they make sense?  Texts are QEMU's. */
bool throttle_limits_check(const struct throttle_limits *l,
                           struct error **errp);
/* Is there any? */
bool throttle_limits_any(const struct throttle_limits *l);
/* What O says replaces what L has; the rest stays. */
bool throttle_limits_merge(struct throttle_limits *l, const ThrottleLimits *o,
                           struct error **errp);
/* All of them; owned by the caller. */
ThrottleLimits *throttle_limits_to_qapi(const struct throttle_limits *l);

/* LIMITS (checked) from NOW_NS on, with empty buckets. */
void throttle_set_limits(struct throttle *t,
                         const struct throttle_limits *limits, int64_t now_ns);
/* Is there a limit for reads, or for writes? */
bool throttle_has_limit(const struct throttle *t, bool is_write);
/* How long the next request has to wait; 0: it may go. */
int64_t throttle_wait_ns(struct throttle *t, bool is_write, int64_t now_ns);
/* A request goes. */
void throttle_account(struct throttle *t, bool is_write, int64_t bytes);
