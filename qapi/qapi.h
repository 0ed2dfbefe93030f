/* SPDX-License-Identifier: MIT */
/*
 * QAPI runtime: what generated types are made of, and JSON as QMP writes it.
 *
 * Every C type that the schema makes has, generated beside it:
 *   Foo_new0()          empty, as g_new0()
 *   Foo_free(x)         with all it owns; NULL is fine; also g_autoptr(Foo)
 *   Foo_clone(x)        a deep copy
 *   Foo_from_json()     checked against the schema, NULL + error if not valid
 *   Foo_from_keyval()   as that, scalars as the text of a command line
 *   Foo_to_json()       a new reference
 * Memory is GLib's: strings are g_strdup()ed, lists grow by
 * qapi_list_append() only.
 *
 * Threads     No state but qapi_event_set_emit()'s function; values belong
 *             to one thread at a time.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <glib.h>
#include <jansson.h>

struct error;

/* What an alternate holds. */
typedef enum QapiType {
    QAPI_TYPE_NULL,
    QAPI_TYPE_STRING,
    QAPI_TYPE_NUMBER,
    QAPI_TYPE_BOOL,
    QAPI_TYPE_OBJECT,
    QAPI_TYPE_ARRAY,
    QAPI_TYPE_INTEGER,
} QapiType;

/* JSON's null as a value. */
typedef struct QapiNull {
    char nothing;
} QapiNull;

/*
 * Append ITEM (taken) to *LIST, any generated list.  The capacity is the
 * smallest power of two that holds n, so it needs no field.
 */
#define qapi_list_append(list, item)                                        \
    do {                                                                    \
        __typeof__(list) list_ = (list);                                    \
        if ((list_->n & (list_->n - 1)) == 0) {                             \
            list_->v = g_realloc_n(list_->v, list_->n ? list_->n * 2 : 1,   \
                                   sizeof(list_->v[0]));                    \
        }                                                                   \
        list_->v[list_->n++] = (item);                                      \
    } while (0)

/* Lists of builtin types. */
#define QAPI_BUILTIN_LIST(name, type)                                       \
    typedef struct name {                                                   \
        type *v;                                                            \
        size_t n;                                                           \
    } name;                                                                 \
    static inline name *name##_new0(void)                                   \
    {                                                                       \
        return g_new0(name, 1);                                             \
    }                                                                       \
    void name##_free(name *value);                                          \
    name *name##_clone(const name *value);                                  \
    G_DEFINE_AUTOPTR_CLEANUP_FUNC(name, name##_free)                        \
    name *name##_from_json(json_t *json, struct error **errp);              \
    name *name##_from_keyval(json_t *json, struct error **errp);            \
    json_t *name##_to_json(const name *value);

#define QAPI_BUILTIN_LISTS(LIST)                                            \
    LIST(strList, char *)                                                   \
    LIST(boolList, bool)                                                    \
    LIST(numberList, double)                                                \
    LIST(intList, int64_t)                                                  \
    LIST(int8List, int8_t)                                                  \
    LIST(int16List, int16_t)                                                \
    LIST(int32List, int32_t)                                                \
    LIST(int64List, int64_t)                                                \
    LIST(uint8List, uint8_t)                                                \
    LIST(uint16List, uint16_t)                                              \
    LIST(uint32List, uint32_t)                                              \
    LIST(uint64List, uint64_t)                                              \
    LIST(sizeList, uint64_t)                                                \
    LIST(anyList, json_t *)
QAPI_BUILTIN_LISTS(QAPI_BUILTIN_LIST)

/*
 * Integers above INT64_MAX, which jansson cannot hold: a string that begins
 * with NUL and can therefore come from no client.
 */
json_t *qapi_json_uint64(uint64_t value);
/* Is JSON an integer from 0 to UINT64_MAX, in either form? */
bool qapi_json_is_uint64(const json_t *json, uint64_t *value);

/*
 * JSON as QMP writes it: keys in QEMU's order, ASCII only.  PRETTY indents
 * by 4.  No newline at the end.  *LEN (may be NULL) is strlen() of it.
 * Owned by the caller (g_free).  Never fails.
 */
char *qapi_json_dump(const json_t *json, bool pretty, size_t *len);

/*
 * "driver=file,node-name=x,a.b=c,l.0=d" as nested objects of strings, lists
 * where the keys are 0, 1, 2...; ",," stands for a comma in a value.
 * IMPLIED_KEY (or NULL) is the key of a first value without "key=".
 * A new reference for Foo_from_keyval(), or NULL and *errp.
 */
json_t *qapi_keyval_parse(const char *text, const char *implied_key,
                          struct error **errp);
