/* SPDX-License-Identifier: MIT */
/* I/O limits of -drive: see drive-limits.h. */
#include "server/machine/drive-limits.h"

#include "server/machine/drive-text.h"

static const struct {
    const char *old, *now;
} old_names[] = {
    { "iops", "throttling.iops-total" },
    { "iops_rd", "throttling.iops-read" },
    { "iops_wr", "throttling.iops-write" },
    { "bps", "throttling.bps-total" },
    { "bps_rd", "throttling.bps-read" },
    { "bps_wr", "throttling.bps-write" },
    { "iops_max", "throttling.iops-total-max" },
    { "iops_rd_max", "throttling.iops-read-max" },
    { "iops_wr_max", "throttling.iops-write-max" },
    { "bps_max", "throttling.bps-total-max" },
    { "bps_rd_max", "throttling.bps-read-max" },
    { "bps_wr_max", "throttling.bps-write-max" },
    { "iops_size", "throttling.iops-size" },
    { "group", "throttling.group" },
    { "readonly", "read-only" },
};

static const struct {
    const char *name;
    enum throttle_kind kind;
} kinds[] = {
    { "iops-total", THROTTLE_OPS_TOTAL },
    { "iops-read", THROTTLE_OPS_READ },
    { "iops-write", THROTTLE_OPS_WRITE },
    { "bps-total", THROTTLE_BPS_TOTAL },
    { "bps-read", THROTTLE_BPS_READ },
    { "bps-write", THROTTLE_BPS_WRITE },
};

bool drive_limits_rename_old(json_t *flat, struct error **errp)
{
    for (size_t i = 0; i < G_N_ELEMENTS(old_names); i++) {
        json_t *value = json_object_get(flat, old_names[i].old);

        if (!value) {
            continue;
        }
        if (json_object_get(flat, old_names[i].now)) {
            error_set(errp, "'%s' and its alias '%s' can't be used at the "
                      "same time", old_names[i].now, old_names[i].old);
            return false;
        }
        json_object_set_nocheck(flat, old_names[i].now, value);
        json_object_del(flat, old_names[i].old);
    }
    return true;
}

static bool take(json_t *flat, const char *name, const char *what,
                 int64_t *value, struct error **errp)
{
    g_autofree char *key = g_strconcat("throttling.", name, what, NULL);

    return drive_text_take_number(flat, key, value, errp);
}

bool drive_limits_take(json_t *flat, struct drive_limits *l,
                       struct error **errp)
{
    throttle_limits_init(&l->limits);
    l->any = false;
    for (size_t i = 0; i < G_N_ELEMENTS(kinds); i++) {
        struct throttle_limit *limit = &l->limits.limit[kinds[i].kind];

        if (!take(flat, kinds[i].name, "", &limit->avg, errp) ||
            !take(flat, kinds[i].name, "-max", &limit->max, errp) ||
            !take(flat, kinds[i].name, "-max-length", &limit->length, errp)) {
            return false;
        }
        l->any |= limit->avg != 0;
    }
    if (!drive_text_take_number(flat, "throttling.iops-size",
                                &l->limits.ops_bytes, errp) ||
        !throttle_limits_check(&l->limits, errp)) {
        return false;
    }
    g_free(l->group);
    l->group = drive_text_take(flat, "throttling.group");
    return true;
}
