/* SPDX-License-Identifier: MIT */
/* Throttle: see throttle.h. */
#include "block/throttle.h"

#include <inttypes.h>
#include <math.h>

#define MAX_VALUE INT64_C(1000000000000000)
#define SECOND_NS 1000000000.0

/* What concerns a read, a write. */
static const enum throttle_kind concerned[2][4] = {
    { THROTTLE_BPS_TOTAL, THROTTLE_BPS_READ,
      THROTTLE_OPS_TOTAL, THROTTLE_OPS_READ },
    { THROTTLE_BPS_TOTAL, THROTTLE_BPS_WRITE,
      THROTTLE_OPS_TOTAL, THROTTLE_OPS_WRITE },
};

/* ---- limits ------------------------------------------------------------- */

void throttle_limits_init(struct throttle_limits *l)
{
    *l = (struct throttle_limits){ .ops_bytes = 0 };
    for (int i = 0; i < THROTTLE__MAX; i++) {
        l->limit[i].length = 1;
    }
}

static bool total_with_others(const struct throttle_limits *l,
                              enum throttle_kind total)
{
    const struct throttle_limit *t = &l->limit[total];

    /* READ and WRITE follow TOTAL. */
    return (t[0].avg && (t[1].avg || t[2].avg)) ||
           (t[0].max && (t[1].max || t[2].max));
}

static const char *limit_fault(const struct throttle_limit *l)
{
    if (l->avg < 0 || l->max < 0 || l->avg > MAX_VALUE || l->max > MAX_VALUE) {
        return "bps/iops/max values must be within [0, 1000000000000000]";
    }
    if (l->length == 0) {
        return "the burst length cannot be 0";
    }
    if (l->length > 1 && !l->max) {
        return "burst length set without burst rate";
    }
    if (l->max && l->length > MAX_VALUE / l->max) {
        return "burst length too high for this burst rate";
    }
    if (l->max && !l->avg) {
        return "bps_max/iops_max require corresponding bps/iops values";
    }
    if (l->max && l->max < l->avg) {
        return "bps_max/iops_max cannot be lower than bps/iops";
    }
    return NULL;
}

static const char *limits_fault(const struct throttle_limits *l)
{
    if (total_with_others(l, THROTTLE_BPS_TOTAL) ||
        total_with_others(l, THROTTLE_OPS_TOTAL)) {
        return "bps/iops/max total values and read/write values cannot be "
               "used at the same time";
    }
    if (l->ops_bytes && !l->limit[THROTTLE_OPS_TOTAL].avg &&
        !l->limit[THROTTLE_OPS_READ].avg &&
        !l->limit[THROTTLE_OPS_WRITE].avg) {
        return "iops size requires an iops value to be set";
    }
    for (int i = 0; i < THROTTLE__MAX; i++) {
        const char *fault = limit_fault(&l->limit[i]);

        if (fault) {
            return fault;
        }
    }
    return NULL;
}

bool throttle_limits_check(const struct throttle_limits *l,
                           struct error **errp)
{
    const char *fault = limits_fault(l);

    if (fault) {
        error_set(errp, "%s", fault);
    }
    return !fault;
}

bool throttle_limits_any(const struct throttle_limits *l)
{
    for (int i = 0; i < THROTTLE__MAX; i++) {
        if (l->limit[i].avg > 0) {
            return true;
        }
    }
    return false;
}

static bool merge_length(int64_t *length, bool has, int64_t value,
                         const char *name, struct error **errp)
{
    if (has && (value < 0 || value > UINT32_MAX)) {
        error_set(errp, "%s-max-length value must be in the range [0, %u]",
                  name, UINT32_MAX);
        return false;
    }
    if (has) {
        *length = value;
    }
    return true;
}

/* X(kind, QAPI's member, its name on the wire) */
#define LIMITS(X) \
    X(THROTTLE_BPS_TOTAL, bps_total, "bps-total") \
    X(THROTTLE_BPS_READ, bps_read, "bps-read") \
    X(THROTTLE_BPS_WRITE, bps_write, "bps-write") \
    X(THROTTLE_OPS_TOTAL, iops_total, "iops-total") \
    X(THROTTLE_OPS_READ, iops_read, "iops-read") \
    X(THROTTLE_OPS_WRITE, iops_write, "iops-write")

bool throttle_limits_merge(struct throttle_limits *l, const ThrottleLimits *o,
                           struct error **errp)
{
#define MERGE(kind, member, name) \
    if (o->has_##member) { \
        l->limit[kind].avg = o->member; \
    } \
    if (o->has_##member##_max) { \
        l->limit[kind].max = o->member##_max; \
    } \
    if (!merge_length(&l->limit[kind].length, o->has_##member##_max_length, \
                      o->member##_max_length, name, errp)) { \
        return false; \
    }
    LIMITS(MERGE)
#undef MERGE
    if (o->has_iops_size) {
        l->ops_bytes = o->iops_size;
    }
    return true;
}

ThrottleLimits *throttle_limits_to_qapi(const struct throttle_limits *l)
{
    ThrottleLimits *o = ThrottleLimits_new0();

#define GIVE(kind, member, name) \
    o->has_##member = o->has_##member##_max = \
        o->has_##member##_max_length = true; \
    o->member = l->limit[kind].avg; \
    o->member##_max = l->limit[kind].max; \
    o->member##_max_length = l->limit[kind].length;
    LIMITS(GIVE)
#undef GIVE
    o->has_iops_size = true;
    o->iops_size = l->ops_bytes;
    return o;
}

/* ---- buckets ------------------------------------------------------------ */

void throttle_set_limits(struct throttle *t,
                         const struct throttle_limits *limits, int64_t now_ns)
{
    *t = (struct throttle){ .limits = *limits, .leaked_ns = now_ns };
}

bool throttle_has_limit(const struct throttle *t, bool is_write)
{
    for (size_t i = 0; i < G_N_ELEMENTS(concerned[is_write]); i++) {
        if (t->limits.limit[concerned[is_write][i]].avg > 0) {
            return true;
        }
    }
    return false;
}

static void leak(struct throttle *t, int64_t now_ns)
{
    double seconds = (now_ns - t->leaked_ns) / SECOND_NS;

    if (seconds <= 0) {
        return;
    }
    t->leaked_ns = now_ns;
    for (int i = 0; i < THROTTLE__MAX; i++) {
        const struct throttle_limit *l = &t->limits.limit[i];

        t->level[i] = MAX(t->level[i] - l->avg * seconds, 0);
        t->burst_level[i] = MAX(t->burst_level[i] - l->max * seconds, 0);
    }
}

/* Until a bucket that leaks at RATE is no longer over SIZE. */
static double seconds_over(double level, double size, double rate)
{
    return level > size ? (level - size) / rate : 0;
}

static double limit_wait(const struct throttle *t, enum throttle_kind kind)
{
    const struct throttle_limit *l = &t->limits.limit[kind];
    double size = l->max ? (double)l->max * l->length : l->avg / 10.0;
    double wait;

    if (!l->avg) {
        return 0;
    }
    wait = seconds_over(t->level[kind], size, l->avg);
    if (l->length > 1) {
        wait = MAX(wait, seconds_over(t->burst_level[kind], l->max / 10.0,
                                      l->max));
    }
    return wait;
}

int64_t throttle_wait_ns(struct throttle *t, bool is_write, int64_t now_ns)
{
    double seconds = 0, ns;

    leak(t, now_ns);
    for (size_t i = 0; i < G_N_ELEMENTS(concerned[is_write]); i++) {
        seconds = MAX(seconds, limit_wait(t, concerned[is_write][i]));
    }
    ns = ceil(seconds * SECOND_NS);
    return ns < (double)(INT64_MAX / 2) ? (int64_t)ns : INT64_MAX / 2;
}

void throttle_account(struct throttle *t, bool is_write, int64_t bytes)
{
    int64_t unit = t->limits.ops_bytes;
    double ops = unit > 0 && bytes > unit ? (double)bytes / unit : 1;

    for (size_t i = 0; i < G_N_ELEMENTS(concerned[is_write]); i++) {
        enum throttle_kind kind = concerned[is_write][i];
        double units = kind < THROTTLE_OPS_TOTAL ? bytes : ops;

        if (t->limits.limit[kind].avg) {
            t->level[kind] += units;
            t->burst_level[kind] += units;
        }
    }
}
