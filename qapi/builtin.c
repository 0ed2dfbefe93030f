/* SPDX-License-Identifier: MIT */
/*
 * Builtin types: their descriptions and lists; names of enum values; the
 * form in which integers above INT64_MAX live in a json_t.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "qapi/descr.h"

#define BUILTIN(name_, kind_, c_type)                                       \
    const struct qapi_type qapi_type_##name_ = {                            \
        .name = #name_, .kind = QAPI_KIND_##kind_, .size = sizeof(c_type),  \
    };
BUILTIN(str, STR, char *)
BUILTIN(bool, BOOL, bool)
BUILTIN(number, NUMBER, double)
BUILTIN(int, INT64, int64_t)
BUILTIN(int8, INT8, int8_t)
BUILTIN(int16, INT16, int16_t)
BUILTIN(int32, INT32, int32_t)
BUILTIN(int64, INT64, int64_t)
BUILTIN(uint8, UINT8, uint8_t)
BUILTIN(uint16, UINT16, uint16_t)
BUILTIN(uint32, UINT32, uint32_t)
BUILTIN(uint64, UINT64, uint64_t)
BUILTIN(size, SIZE, uint64_t)
BUILTIN(any, ANY, json_t *)
BUILTIN(null, NULL, QapiNull)

/* strList -> qapi_type_str by the names in QAPI_BUILTIN_LISTS. */
#define ELEMENT_strList qapi_type_str
#define ELEMENT_boolList qapi_type_bool
#define ELEMENT_numberList qapi_type_number
#define ELEMENT_intList qapi_type_int
#define ELEMENT_int8List qapi_type_int8
#define ELEMENT_int16List qapi_type_int16
#define ELEMENT_int32List qapi_type_int32
#define ELEMENT_int64List qapi_type_int64
#define ELEMENT_uint8List qapi_type_uint8
#define ELEMENT_uint16List qapi_type_uint16
#define ELEMENT_uint32List qapi_type_uint32
#define ELEMENT_uint64List qapi_type_uint64
#define ELEMENT_sizeList qapi_type_size
#define ELEMENT_anyList qapi_type_any

#define DEFINE_LIST(name_, type)                                            \
    const struct qapi_type qapi_type_##name_ = {                            \
        .name = #name_, .kind = QAPI_KIND_LIST, .size = sizeof(name_),      \
        .element = &ELEMENT_##name_,                                        \
    };                                                                      \
    void name_##_free(name_ *value)                                         \
    {                                                                       \
        qapi_free(&qapi_type_##name_, value);                               \
    }                                                                       \
    name_ *name_##_clone(const name_ *value)                                \
    {                                                                       \
        return qapi_clone(&qapi_type_##name_, value);                       \
    }                                                                       \
    name_ *name_##_from_json(json_t *json, struct error **errp)             \
    {                                                                       \
        return qapi_from_json(&qapi_type_##name_, json, errp);              \
    }                                                                       \
    name_ *name_##_from_keyval(json_t *json, struct error **errp)           \
    {                                                                       \
        return qapi_from_keyval(&qapi_type_##name_, json, errp);            \
    }                                                                       \
    json_t *name_##_to_json(const name_ *value)                             \
    {                                                                       \
        return qapi_to_json(&qapi_type_##name_, value);                     \
    }
QAPI_BUILTIN_LISTS(DEFINE_LIST)

const char *qapi_enum_str(const struct qapi_type *type, int value)
{
    g_assert(value >= 0 && (size_t)value < type->n);
    return type->values[value];
}

bool qapi_enum_parse(const struct qapi_type *type, const char *text,
                     int *value)
{
    for (size_t i = 0; i < type->n; i++) {
        if (strcmp(type->values[i], text) == 0) {
            *value = i;
            return true;
        }
    }
    return false;
}

/* A string: NUL, "u64:", digits. */
static const char uint64_prefix[] = { '\0', 'u', '6', '4', ':' };

json_t *qapi_json_uint64(uint64_t value)
{
    char text[sizeof(uint64_prefix) + 21];
    int digits;

    if (value <= INT64_MAX) {
        return json_integer(value);
    }
    memcpy(text, uint64_prefix, sizeof(uint64_prefix));
    digits = g_snprintf(text + sizeof(uint64_prefix), 21, "%" PRIu64, value);
    return json_stringn_nocheck(text, sizeof(uint64_prefix) + digits);
}

bool qapi_json_is_uint64(const json_t *json, uint64_t *value)
{
    const char *text;

    if (json_is_integer(json)) {
        *value = json_integer_value(json);
        return json_integer_value(json) >= 0;
    }
    if (!json_is_string(json) ||
        json_string_length(json) <= sizeof(uint64_prefix)) {
        return false;
    }
    text = json_string_value(json);
    if (memcmp(text, uint64_prefix, sizeof(uint64_prefix)) != 0) {
        return false;
    }
    *value = g_ascii_strtoull(text + sizeof(uint64_prefix), NULL, 10);
    return true;
}
