/* SPDX-License-Identifier: MIT */
/* What a device was told, and what it is unless told. */
#include <string.h>
#include "block/objects/iothread.h"
#include "qapi/qapi.h"
#include "server/machine/device-priv.h"

json_t *device_get_value(const struct device *d, const char *name)
{
    const struct device_prop *p = device_type_prop(d->type, name);
    json_t *told = json_object_get(d->values, name);

    if (told) {
        return json_incref(told);
    }
    return p ? device_prop_default(p) : NULL;
}

const char *device_get_string(const struct device *d, const char *name)
{
    const char *text = json_string_value(json_object_get(d->values, name));

    return text ? text : "";
}

bool device_get_bool(const struct device *d, const char *name)
{
    json_t *value = device_get_value(d, name);
    bool on = json_is_true(value);

    json_decref(value);
    return on;
}

int64_t device_get_int(const struct device *d, const char *name)
{
    json_t *value = device_get_value(d, name);
    uint64_t number = 0;

    if (value && !qapi_json_is_uint64(value, &number)) {
        number = json_integer_value(value);
    }
    json_decref(value);
    return number;
}

bool device_was_told(const struct device *d, const char *name)
{
    return json_object_get(d->values, name) != NULL;
}

void device_set_int(struct device *d, const char *name, int64_t value)
{
    json_object_set_new(d->values, name, json_integer(value));
}

void device_set_string(struct device *d, const char *name,
                       const char *value)
{
    json_object_set_new(d->values, name, json_string(value));
}

const char *device_prop_owner(const struct device_type *t, const char *name)
{
    for (const struct device_prop *const *table = t->props; *table; table++) {
        for (const struct device_prop *p = *table; p->name; p++) {
            if (!strcmp(p->name, name)) {
                return t->name;
            }
        }
    }
    return t->inner ? t->inner : t->name;
}

static bool take_iothread(struct device *d, const char *id,
                          struct error **errp)
{
    if (!iothread_find(id) && (object_find(id) || device_find(id))) {
        error_set(errp, "Invalid parameter type for 'iothread', expected: "
                  "iothread");
        return false;
    }
    if (!iothread_find(id)) {
        error_set_class(errp, ERROR_DEVICE_NOT_FOUND,
                        "Device '%s' not found", id);
        return false;
    }
    object_put(d->iothread);
    d->iothread = object_get_again(object_find(id));
    return true;
}

static bool take_option(struct device *d, const char *name, json_t *value,
                        struct error **errp)
{
    const struct device_prop *p = device_type_prop(d->type, name);
    json_t *parsed;

    if (!p) {
        if (!device_type_takes(d->type, name)) {
            error_set(errp, "Property '%s.%s' not found", d->type->name,
                      name);
            return false;
        }
        json_object_set(d->values, name, value);
        return true;
    }
    parsed = device_prop_parse(p, device_prop_owner(d->type, name), value,
                               errp);
    if (!parsed) {
        return false;
    }
    json_object_set_new(d->values, name, parsed);
    return strcmp(p->type, "link<iothread>") ||
        !*json_string_value(parsed) ||
        take_iothread(d, json_string_value(parsed), errp);
}

bool device_take_options(struct device *d, const json_t *options,
                         struct error **errp)
{
    const char *key;
    json_t *value;

    json_object_foreach((json_t *)options, key, value) {
        if (strcmp(key, "driver") && strcmp(key, "id") &&
            strcmp(key, "bus") && !take_option(d, key, value, errp)) {
            return false;
        }
    }
    return true;
}
