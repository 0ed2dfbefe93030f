/* SPDX-License-Identifier: MIT */
/*
 * Values of described types from JSON, checked.
 *
 * Problem     A client's arguments are hostile.  What the schema does not
 *             allow is refused, with the words that QEMU uses, since
 *             managers and tests compare them.
 * Order       As QEMU: members in the schema's order, those of the base and
 *             the variant, each checked deep down; then members that should
 *             not be there.
 * Names       Most texts name the member by its path from the arguments
 *             (`options[0].file.filename`), or `options.0.file.filename`
 *             on the command line.  Range, enum and alternate texts have
 *             the last name alone.
 * Modes       JSON has types.  On the command line every scalar is a string
 *             and is read as what the schema says.
 * Depth       Reading, copying, freeing and opening follow the nesting by
 *             recursion, on workers' small stacks; MAX_DEPTH bounds it.
 */
#include "base/error.h"
#include "qapi/from-json.h"
#include "qapi/slot.h"

enum { MAX_DEPTH = 256 };

static void path_append(const struct input *in, const struct path *at,
                        GString *text)
{
    if (at->up) {
        path_append(in, at->up, text);
    }
    if (!at->name) {
        if (at->up) {
            g_string_append_printf(text, in->keyval ? ".%zu" : "[%zu]",
                                   at->index);
        }
        return;
    }
    if (text->len) {
        g_string_append_c(text, '.');
    }
    g_string_append(text, at->name);
}

char *path_text(const struct input *in, const struct path *at)
{
    GString *text = g_string_new(NULL);

    path_append(in, at, text);
    return g_string_free(text, FALSE);
}

char *path_last(const struct input *in, const struct path *at)
{
    return at->name ? g_strdup(at->name) : path_text(in, at);
}

bool input_bad_type(const struct input *in, const struct path *at,
                    const json_t *json, const char *expected)
{
    g_autofree char *name = path_text(in, at);

    if (in->keyval && expected_is_scalar(expected) && !json_is_string(json)) {
        error_set(in->errp, "Parameters '%s.*' are unexpected", name);
    } else {
        error_set(in->errp, "Invalid parameter type for '%s', expected: %s",
                  name, expected);
    }
    return false;
}

/* A string with NUL inside is no string but an integer in disguise. */
static bool string_is_plain(const json_t *json)
{
    return json_is_string(json) &&
           strlen(json_string_value(json)) == json_string_length(json);
}

static bool enum_from_json(const struct input *in, const struct path *at,
                           const struct qapi_type *type, json_t *json,
                           void *slot)
{
    g_autofree char *name = NULL;
    int value;

    if (!string_is_plain(json)) {
        return input_bad_type(in, at, json, "string");
    }
    if (!qapi_enum_parse(type, json_string_value(json), &value)) {
        name = path_last(in, at);
        error_set(in->errp, "Parameter '%s' does not accept value '%s'",
                  name, json_string_value(json));
        return false;
    }
    memcpy(slot, &value, sizeof(value));
    return true;
}

static bool string_from_json(const struct input *in, const struct path *at,
                             json_t *json, void *slot)
{
    if (!string_is_plain(json)) {
        return input_bad_type(in, at, json, "string");
    }
    slot_set_pointer(slot, g_strdup(json_string_value(json)));
    return true;
}

static bool slot_from_json(const struct input *in, const struct path *at,
                           const struct qapi_type *type, json_t *json,
                           void *slot);

static bool list_from_json(const struct input *in, const struct path *at,
                           const struct qapi_type *type, json_t *json,
                           void *value)
{
    const size_t step = slot_size(type->element);
    struct path here = { .up = at, .depth = at->depth + 1 };
    struct qapi_list list = { NULL, 0 };
    size_t n, capacity = 1;
    bool ok = true;

    if (!json_is_array(json)) {
        return input_bad_type(in, at, json, "array");
    }
    n = json_array_size(json);
    while (capacity < n) {
        capacity *= 2;          /* what qapi_list_append() expects */
    }
    if (n) {
        list.v = g_malloc0_n(capacity, step);
    }
    for (here.index = 0; ok && here.index < n; here.index++) {
        ok = slot_from_json(in, &here, type->element,
                            json_array_get(json, here.index),
                            (char *)list.v + here.index * step);
        list.n = here.index + 1;
    }
    memcpy(value, &list, sizeof(list));
    return ok;
}

/* Read members of TYPE; *N_TAKEN counts those that were there. */
static bool members_from_json(const struct input *in, const struct path *at,
                              const struct qapi_type *type, json_t *json,
                              void *value, size_t *n_taken)
{
    const struct qapi_type *variant;

    for (size_t i = 0; i < type->n; i++) {
        const struct qapi_member *m = &type->members[i];
        struct path here = {
            .up = at, .name = m->name, .depth = at->depth + 1,
        };
        json_t *member = json_object_get(json, m->name);

        if (!member) {
            g_autofree char *name = NULL;

            if (m->optional) {
                continue;
            }
            name = path_text(in, &here);
            error_set(in->errp, "Parameter '%s' is missing", name);
            return false;
        }
        *n_taken += 1;
        if (!slot_from_json(in, &here, m->type, member,
                            (char *)value + m->offset)) {
            return false;
        }
        if (m->flag != QAPI_NO_FLAG) {
            *((bool *)((char *)value + m->flag)) = true;
        }
    }
    variant = union_variant(type, value);
    return !variant || members_from_json(in, at, variant, json,
                                         (char *)value + type->u, n_taken);
}

static bool has_member(const struct qapi_type *type, const void *value,
                       const char *name)
{
    const struct qapi_type *variant;

    for (size_t i = 0; i < type->n; i++) {
        if (strcmp(type->members[i].name, name) == 0) {
            return true;
        }
    }
    variant = union_variant(type, value);
    return variant && has_member(variant, (const char *)value + type->u,
                                 name);
}

bool input_unexpected(const struct input *in, const struct path *at,
                      const char *name)
{
    struct path here = { .up = at, .name = name };
    g_autofree char *text = path_text(in, &here);

    error_set(in->errp, "Parameter '%s' is unexpected", text);
    return false;
}

static bool object_from_json(const struct input *in, const struct path *at,
                             const struct qapi_type *type, json_t *json,
                             void *value)
{
    size_t n_taken = 0;
    const char *name;
    json_t *member;

    if (!json_is_object(json)) {
        return input_bad_type(in, at, json, "object");
    }
    if (!members_from_json(in, at, type, json, value, &n_taken)) {
        return false;
    }
    if (n_taken == json_object_size(json)) {
        return true;
    }
    json_object_foreach(json, name, member) {
        if (!has_member(type, value, name)) {
            return input_unexpected(in, at, name);
        }
    }
    return true;
}

static QapiType qapi_type_of(const json_t *json)
{
    uint64_t big;

    switch (json_typeof(json)) {
    case JSON_OBJECT:
        return QAPI_TYPE_OBJECT;
    case JSON_ARRAY:
        return QAPI_TYPE_ARRAY;
    case JSON_STRING:
        return qapi_json_is_uint64(json, &big) ? QAPI_TYPE_INTEGER
                                               : QAPI_TYPE_STRING;
    case JSON_INTEGER:
        return QAPI_TYPE_INTEGER;
    case JSON_REAL:
        return QAPI_TYPE_NUMBER;
    case JSON_NULL:
        return QAPI_TYPE_NULL;
    default:
        return QAPI_TYPE_BOOL;
    }
}

/* Which branch takes a command line's string; scalars that it could mean. */
static QapiType keyval_type(const struct qapi_type *type)
{
    static const QapiType order[] = { QAPI_TYPE_STRING, QAPI_TYPE_BOOL,
                                      QAPI_TYPE_INTEGER, QAPI_TYPE_NUMBER };

    for (size_t i = 0; i < G_N_ELEMENTS(order); i++) {
        if (order[i] < type->n_variants && type->variants[order[i]]) {
            return order[i];
        }
    }
    return QAPI_TYPE_STRING;
}

static bool alternate_from_json(const struct input *in,
                                const struct path *at,
                                const struct qapi_type *type, json_t *json,
                                void *value)
{
    g_autofree char *name = NULL;
    QapiType held = qapi_type_of(json);

    if (in->keyval && held == QAPI_TYPE_STRING) {
        held = keyval_type(type);
    }
    if (held == QAPI_TYPE_INTEGER &&
        (held >= type->n_variants || !type->variants[held])) {
        held = QAPI_TYPE_NUMBER;
    }
    if (held >= type->n_variants || !type->variants[held]) {
        name = path_last(in, at);
        error_set(in->errp, "Invalid parameter type for '%s', expected: %s",
                  name, type->name);
        return false;
    }
    memcpy(value, &held, sizeof(held));
    return slot_from_json(in, at, type->variants[held], json,
                          (char *)value + type->u);
}

static bool struct_from_json(const struct input *in, const struct path *at,
                             const struct qapi_type *type, json_t *json,
                             void *slot)
{
    void *value;

    if (at->depth > MAX_DEPTH) {
        error_set(in->errp, "Parameters are nested more than %d deep",
                  MAX_DEPTH);
        return false;
    }
    value = g_malloc0(type->size);
    slot_set_pointer(slot, value);      /* freed from there on failure */
    switch (type->kind) {
    case QAPI_KIND_OBJECT:
        return object_from_json(in, at, type, json, value);
    case QAPI_KIND_ALTERNATE:
        return alternate_from_json(in, at, type, json, value);
    default:
        return list_from_json(in, at, type, json, value);
    }
}

static bool slot_from_json(const struct input *in, const struct path *at,
                           const struct qapi_type *type, json_t *json,
                           void *slot)
{
    switch (type->kind) {
    case QAPI_KIND_STR:
        return string_from_json(in, at, json, slot);
    case QAPI_KIND_ENUM:
        return enum_from_json(in, at, type, json, slot);
    case QAPI_KIND_ANY:
        slot_set_pointer(slot, json_incref(json));
        return true;
    case QAPI_KIND_NULL:
        return json_is_null(json) || input_bad_type(in, at, json, "null");
    case QAPI_KIND_BOOL:
        return bool_from_json(in, at, json, slot);
    case QAPI_KIND_NUMBER:
        return number_from_json(in, at, json, slot);
    case QAPI_KIND_OBJECT:
    case QAPI_KIND_ALTERNATE:
    case QAPI_KIND_LIST:
        return struct_from_json(in, at, type, json, slot);
    default:
        return integer_from_json(in, at, type, json, slot);
    }
}

static void *from_json(const struct qapi_type *type, json_t *json,
                       bool keyval, struct error **errp)
{
    const struct input in = { .keyval = keyval, .errp = errp };
    const struct path top = { 0 };
    void *value = NULL;

    if (!slot_from_json(&in, &top, type, json, &value)) {
        qapi_free(type, value);
        return NULL;
    }
    return value;
}

void *qapi_from_json(const struct qapi_type *type, json_t *json,
                     struct error **errp)
{
    return from_json(type, json, false, errp);
}

void *qapi_from_keyval(const struct qapi_type *type, json_t *json,
                       struct error **errp)
{
    return from_json(type, json, true, errp);
}
