/* SPDX-License-Identifier: MIT */
/* Values of described types to JSON. */
#include <math.h>

#include "qapi/slot.h"

static json_t *integer_to_json(const struct qapi_type *type,
                               const void *slot)
{
    uint64_t u64;
    int64_t i64;

    switch (type->kind) {
    case QAPI_KIND_INT8:
        return json_integer(*(const int8_t *)slot);
    case QAPI_KIND_INT16:
        return json_integer(*(const int16_t *)slot);
    case QAPI_KIND_INT32:
        return json_integer(*(const int32_t *)slot);
    case QAPI_KIND_UINT8:
        return json_integer(*(const uint8_t *)slot);
    case QAPI_KIND_UINT16:
        return json_integer(*(const uint16_t *)slot);
    case QAPI_KIND_UINT32:
        return json_integer(*(const uint32_t *)slot);
    case QAPI_KIND_UINT64:
    case QAPI_KIND_SIZE:
        memcpy(&u64, slot, sizeof(u64));
        return qapi_json_uint64(u64);
    default:
        memcpy(&i64, slot, sizeof(i64));
        return json_integer(i64);
    }
}

static json_t *scalar_to_json(const struct qapi_type *type, const void *slot)
{
    const char *text;
    json_t *json;
    double number;
    int value;

    switch (type->kind) {
    case QAPI_KIND_STR:
        text = slot_pointer(slot);
        return json_string_nocheck(text ? text : "");
    case QAPI_KIND_BOOL:
        return json_boolean(*(const bool *)slot);
    case QAPI_KIND_NUMBER:
        memcpy(&number, slot, sizeof(number));
        return isfinite(number) ? json_real(number) : json_null();
    case QAPI_KIND_ANY:
        json = slot_pointer(slot);
        return json ? json_incref(json) : json_null();
    case QAPI_KIND_NULL:
        return json_null();
    case QAPI_KIND_ENUM:
        memcpy(&value, slot, sizeof(value));
        return json_string_nocheck(qapi_enum_str(type, value));
    default:
        return integer_to_json(type, slot);
    }
}

json_t *qapi_slot_to_json(const struct qapi_type *type, const void *slot)
{
    if (type->kind >= QAPI_KIND_OBJECT) {
        return qapi_to_json(type, slot_pointer(slot));
    }
    return scalar_to_json(type, slot);
}

static bool member_present(const struct qapi_member *m, const void *value)
{
    if (!m->optional) {
        return true;
    }
    if (m->flag != QAPI_NO_FLAG) {
        return slot_flag(value, m);
    }
    return slot_pointer((const char *)value + m->offset) != NULL;
}

static void members_to_json(const struct qapi_type *type, const void *value,
                            json_t *object)
{
    const struct qapi_type *variant;

    for (size_t i = 0; i < type->n; i++) {
        const struct qapi_member *m = &type->members[i];

        if (member_present(m, value)) {
            json_object_set_new_nocheck(
                object, m->name,
                qapi_slot_to_json(m->type, (const char *)value + m->offset));
        }
    }
    variant = union_variant(type, value);
    if (variant) {
        members_to_json(variant, (const char *)value + type->u, object);
    }
}

static json_t *list_to_json(const struct qapi_type *type, const void *value)
{
    json_t *array = json_array();
    struct qapi_list list;

    memcpy(&list, value, sizeof(list));
    for (size_t i = 0; i < list.n; i++) {
        json_array_append_new(
            array, qapi_slot_to_json(type->element, (const char *)list.v +
                                     i * slot_size(type->element)));
    }
    return array;
}

/* A missing struct is written as an empty one, a missing list likewise. */
json_t *qapi_to_json(const struct qapi_type *type, const void *value)
{
    const struct qapi_type *branch;
    json_t *object;

    if (type->kind == QAPI_KIND_LIST) {
        return value ? list_to_json(type, value) : json_array();
    }
    if (type->kind == QAPI_KIND_ALTERNATE) {
        branch = value ? alternate_branch(type, value) : NULL;
        return branch ? qapi_slot_to_json(branch,
                                          (const char *)value + type->u)
                      : json_null();
    }
    object = json_object();
    if (value) {
        members_to_json(type, value, object);
    }
    return object;
}
