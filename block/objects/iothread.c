/* SPDX-License-Identifier: MIT */
/*
 * iothread: a name that nodes and exports can be given.
 *
 * Which thread serves a request is the pool's business (base/pool.h), so an
 * iothread has no thread of its own: it keeps its numbers for who asks.
 */
#include "block/objects/iothread.h"

#include <inttypes.h>
#include <string.h>

enum { DEFAULT_POLL_MAX_NS = 32768, DEFAULT_THREAD_POOL_MAX = 64 };

/* The numbers, and the name of each. */
static const struct number {
    const char *name;
    size_t offset;
} numbers[] = {
    { "thread-pool-min", G_STRUCT_OFFSET(struct iothread, thread_pool_min) },
    { "aio-max-batch", G_STRUCT_OFFSET(struct iothread, aio_max_batch) },
    { "thread-pool-max", G_STRUCT_OFFSET(struct iothread, thread_pool_max) },
    { "poll-max-ns", G_STRUCT_OFFSET(struct iothread, poll_max_ns) },
    { "poll-grow", G_STRUCT_OFFSET(struct iothread, poll_grow) },
    { "poll-shrink", G_STRUCT_OFFSET(struct iothread, poll_shrink) },
};

static int64_t *number_at(struct iothread *t, const struct number *n)
{
    return (int64_t *)((char *)t + n->offset);
}

static const struct number *find_number(const char *name)
{
    for (size_t i = 0; i < G_N_ELEMENTS(numbers); i++) {
        if (!strcmp(numbers[i].name, name)) {
            return &numbers[i];
        }
    }
    g_assert_not_reached();     /* names are those of the table below */
}

static bool check_numbers(struct iothread *t, struct error **errp)
{
    for (size_t i = 0; i < G_N_ELEMENTS(numbers); i++) {
        if (*number_at(t, &numbers[i]) < 0) {
            error_set(errp, "%s value must be in range [0, %" PRId64 "]",
                      numbers[i].name, INT64_MAX);
            return false;
        }
    }
    if (t->thread_pool_max == 0 || t->thread_pool_min > t->thread_pool_max) {
        error_set(errp, "bad thread-pool-min/thread-pool-max values");
        return false;
    }
    return true;
}

static bool iothread_init(struct object *obj, const ObjectOptions *options,
                          struct error **errp)
{
    const IothreadProperties *o = &options->u.iothread;
    struct iothread *t = (struct iothread *)obj;

    t->aio_max_batch = o->aio_max_batch;
    t->thread_pool_min = o->thread_pool_min;
    t->thread_pool_max = o->has_thread_pool_max ? o->thread_pool_max
        : DEFAULT_THREAD_POOL_MAX;
    t->poll_max_ns = o->has_poll_max_ns ? o->poll_max_ns
        : DEFAULT_POLL_MAX_NS;
    t->poll_grow = o->poll_grow;
    t->poll_shrink = o->poll_shrink;
    return check_numbers(t, errp);
}

static void iothread_fini(struct object *obj)
{
}

static json_t *get_number(struct object *obj, const char *name,
                          struct error **errp)
{
    return json_integer(*number_at((struct iothread *)obj,
                                   find_number(name)));
}

static bool set_number(struct object *obj, const char *name, json_t *value,
                       struct error **errp)
{
    struct iothread *t = (struct iothread *)obj;
    int64_t *at = number_at(t, find_number(name));
    int64_t old = *at;

    if (!json_is_integer(value)) {
        error_set(errp, "Invalid parameter type for '%s', expected: integer",
                  name);
        return false;
    }
    *at = json_integer_value(value);
    if (!check_numbers(t, errp)) {
        *at = old;
        return false;
    }
    return true;
}

static const struct object_property properties[] = {
    { "thread-pool-min", "int", get_number, set_number },
    { "aio-max-batch", "int", get_number, set_number },
    { "thread-pool-max", "int", get_number, set_number },
    { "poll-max-ns", "int", get_number, set_number },
    { "poll-grow", "int", get_number, set_number },
    { "poll-shrink", "int", get_number, set_number },
    { NULL },
};

const struct object_type iothread_object_type = {
    .type = OBJECT_TYPE_IOTHREAD,
    .size = sizeof(struct iothread),
    .init = iothread_init,
    .fini = iothread_fini,
    .parent = "event-loop-base",
    .del_in_use = true,
    .properties = properties,
};

struct iothread *iothread_find(const char *id)
{
    struct object *obj = object_find(id);

    return obj && obj->type == &iothread_object_type ? (struct iothread *)obj
                                                     : NULL;
}
