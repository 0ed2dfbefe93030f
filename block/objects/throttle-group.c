/* SPDX-License-Identifier: MIT */
/*
 * throttle-group: limits under a name; see block/throttle-group.h.
 *
 * `limits` is one property that can be read and changed at any time; the
 * members of it one by one, as x-..., are for object-add alone.
 */
#include "block/objects/throttle-group.h"

#include <inttypes.h>
#include <string.h>
#include "base/control.h"
#include "qapi/qapi-visit.h"

/* X(kind, QAPI's member, its name on the wire) */
#define LIMITS(X) \
    X(THROTTLE_BPS_TOTAL, x_bps_total, "x-bps-total") \
    X(THROTTLE_BPS_READ, x_bps_read, "x-bps-read") \
    X(THROTTLE_BPS_WRITE, x_bps_write, "x-bps-write") \
    X(THROTTLE_OPS_TOTAL, x_iops_total, "x-iops-total") \
    X(THROTTLE_OPS_READ, x_iops_read, "x-iops-read") \
    X(THROTTLE_OPS_WRITE, x_iops_write, "x-iops-write")

/* Groups of devices that are no objects; control lock. */
static struct throttle_group_object *unlisted;

static struct throttle_group *group_of(struct object *obj)
{
    return &((struct throttle_group_object *)obj)->group;
}

static struct throttle_group_object *find_unlisted(const char *id)
{
    struct throttle_group_object *g = unlisted;

    while (g && strcmp(g->base.id, id) != 0) {
        g = g->next;
    }
    return g;
}

/* ---- object-add --------------------------------------------------------- */

static bool take(int64_t *to, bool has, int64_t value, int64_t max,
                 const char *name, struct error **errp)
{
    if (has && value < 0) {
        error_set(errp, "Property values cannot be negative");
        return false;
    }
    if (has && value > max) {
        error_set(errp, "%s value must be in the range [0, %" PRId64 "]",
                  name, max);
        return false;
    }
    if (has) {
        *to = value;
    }
    return true;
}

static bool take_each(struct throttle_limits *l,
                      const ThrottleGroupProperties *o, struct error **errp)
{
#define TAKE(kind, member, name) \
    if (!take(&l->limit[kind].avg, o->has_##member, o->member, INT64_MAX, \
              name, errp) || \
        !take(&l->limit[kind].max, o->has_##member##_max, \
              o->member##_max, INT64_MAX, name "-max", errp) || \
        !take(&l->limit[kind].length, o->has_##member##_max_length, \
              o->member##_max_length, UINT32_MAX, name "-max-length", \
              errp)) { \
        return false; \
    }
    LIMITS(TAKE)
#undef TAKE
    return take(&l->ops_bytes, o->has_x_iops_size, o->x_iops_size, INT64_MAX,
                "x-iops-size", errp);
}

static bool group_init(struct object *obj, const ObjectOptions *options,
                       struct error **errp)
{
    const ThrottleGroupProperties *o = &options->u.throttle_group;
    struct throttle_limits limits;

    if (find_unlisted(obj->id)) {
        error_set(errp, "A group with this name already exists");
        return false;
    }
    throttle_limits_init(&limits);
    if (!take_each(&limits, o, errp) ||
        (o->limits && !throttle_limits_merge(&limits, o->limits, errp)) ||
        !throttle_limits_check(&limits, errp)) {
        return false;
    }
    throttle_group_init(group_of(obj), &limits);
    return true;
}

static void group_fini(struct object *obj)
{
    for (struct throttle_group_object **p = &unlisted; *p; p = &(*p)->next) {
        if (&(*p)->base == obj) {
            *p = (*p)->next;
            break;
        }
    }
    throttle_group_deinit(group_of(obj));
}

/* ---- properties --------------------------------------------------------- */

static json_t *get_limits(struct object *obj, const char *name,
                          struct error **errp)
{
    struct throttle_limits limits;
    g_autoptr(ThrottleLimits) o = NULL;

    throttle_group_get_limits(group_of(obj), &limits);
    o = throttle_limits_to_qapi(&limits);
    return ThrottleLimits_to_json(o);
}

/* Errors are about "limits" and "limits.X". */
static ThrottleLimits *parse_limits(json_t *value, struct error **errp)
{
    g_autoptr(ThrottleGroupProperties) wrapped = NULL;
    json_t *json = json_pack("{s:O}", "limits", value);

    wrapped = ThrottleGroupProperties_from_json(json, errp);
    json_decref(json);
    return wrapped ? g_steal_pointer(&wrapped->limits) : NULL;
}

static bool set_limits(struct object *obj, const char *name, json_t *value,
                       struct error **errp)
{
    g_autoptr(ThrottleLimits) o = parse_limits(value, errp);
    struct throttle_limits limits;

    throttle_group_get_limits(group_of(obj), &limits);
    if (!o || !throttle_limits_merge(&limits, o, errp) ||
        !throttle_limits_check(&limits, errp)) {
        return false;
    }
    throttle_group_set_limits(group_of(obj), &limits);
    return true;
}

static json_t *get_one(struct object *obj, const char *name,
                       struct error **errp)
{
    struct throttle_limits limits;

    throttle_group_get_limits(group_of(obj), &limits);
#define GET(kind, member, prefix) \
    if (strcmp(name, prefix) == 0) { \
        return json_integer(limits.limit[kind].avg); \
    } \
    if (strcmp(name, prefix "-max") == 0) { \
        return json_integer(limits.limit[kind].max); \
    } \
    if (strcmp(name, prefix "-max-length") == 0) { \
        return json_integer(limits.limit[kind].length); \
    }
    LIMITS(GET)
#undef GET
    return json_integer(limits.ops_bytes);
}

static bool set_one(struct object *obj, const char *name, json_t *value,
                    struct error **errp)
{
    error_set(errp, "Property cannot be set after initialization");
    return false;
}

static const struct object_property properties[] = {
    { "limits", "ThrottleLimits", get_limits, set_limits },
#define PROPERTIES(kind, member, name) \
    { name, "int", get_one, set_one }, \
    { name "-max", "int", get_one, set_one }, \
    { name "-max-length", "int", get_one, set_one },
    LIMITS(PROPERTIES)
#undef PROPERTIES
    { "x-iops-size", "int", get_one, set_one },
    { NULL },
};

const struct object_type throttle_group_object_type = {
    .type = OBJECT_TYPE_THROTTLE_GROUP,
    .size = sizeof(struct throttle_group_object),
    .init = group_init,
    .fini = group_fini,
    .properties = properties,
};

struct throttle_group_object *throttle_group_get(const char *id,
                                                 struct error **errp)
{
    struct throttle_group_object *g = find_unlisted(id);
    struct object *obj = g ? &g->base : object_find(id);

    control_assert();
    if (!obj || obj->type != &throttle_group_object_type) {
        error_set(errp, "Throttle group '%s' does not exist", id);
        return NULL;
    }
    return (struct throttle_group_object *)object_get_again(obj);
}

struct throttle_group_object *throttle_group_get_or_make(const char *id)
{
    struct throttle_group_object *g = throttle_group_get(id, NULL);
    struct throttle_limits none;

    if (g) {
        return g;
    }
    g = g_new0(struct throttle_group_object, 1);
    g->base = (struct object){
        .type = &throttle_group_object_type, .id = g_strdup(id),
        .n_users = 1, .deleted = true,
    };
    throttle_limits_init(&none);
    throttle_group_init(&g->group, &none);
    g->next = unlisted;
    unlisted = g;
    return g;
}
