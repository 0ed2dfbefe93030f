/* SPDX-License-Identifier: MIT */
/*
 * Descriptions of QAPI types: tables from which the runtime reads, writes,
 * copies and frees values.  Written by the generator, for its output only;
 * others use the functions named after the type.
 */
#pragma once

#include <stddef.h>

#include "qapi/qapi.h"

enum qapi_kind {
    QAPI_KIND_STR,
    QAPI_KIND_BOOL,
    QAPI_KIND_NUMBER,
    QAPI_KIND_INT8,
    QAPI_KIND_INT16,
    QAPI_KIND_INT32,
    QAPI_KIND_INT64,
    QAPI_KIND_UINT8,
    QAPI_KIND_UINT16,
    QAPI_KIND_UINT32,
    QAPI_KIND_UINT64,
    QAPI_KIND_SIZE,
    QAPI_KIND_ANY,
    QAPI_KIND_NULL,
    QAPI_KIND_ENUM,
    QAPI_KIND_OBJECT,       /* from here on: a pointer to a struct */
    QAPI_KIND_ALTERNATE,
    QAPI_KIND_LIST,
};

#define QAPI_NO_FLAG ((size_t)-1)

struct qapi_member {
    const char *name;
    const struct qapi_type *type;
    size_t offset;              /* of the value in the struct */
    size_t flag;                /* of has_<name>, or QAPI_NO_FLAG */
    bool optional;
};

struct qapi_type {
    const char *name;
    enum qapi_kind kind;
    size_t size;                /* of the struct, or of the scalar */
    size_t n;                   /* members or values */
    /* OBJECT: all members, those of the base first. */
    const struct qapi_member *members;
    /* Union: by value of the tag; alternate: by QapiType; NULL: none. */
    const struct qapi_type *const *variants;
    size_t n_variants;
    size_t tag;                 /* union: index of the tag's member */
    size_t u;                   /* offset of the C union */
    const char *const *values;  /* ENUM */
    const struct qapi_type *element;    /* LIST */
};

extern const struct qapi_type qapi_type_str, qapi_type_bool, qapi_type_number,
    qapi_type_int, qapi_type_int8, qapi_type_int16, qapi_type_int32,
    qapi_type_int64, qapi_type_uint8, qapi_type_uint16, qapi_type_uint32,
    qapi_type_uint64, qapi_type_size, qapi_type_any, qapi_type_null;

#define QAPI_DECLARE_LIST(name, type) \
    extern const struct qapi_type qapi_type_##name;
QAPI_BUILTIN_LISTS(QAPI_DECLARE_LIST)
#undef QAPI_DECLARE_LIST

const char *qapi_enum_str(const struct qapi_type *type, int value);
bool qapi_enum_parse(const struct qapi_type *type, const char *text,
                     int *value);

/* Of a struct, alternate or list. */
void qapi_free(const struct qapi_type *type, void *value);
void *qapi_clone(const struct qapi_type *type, const void *value);
void *qapi_from_json(const struct qapi_type *type, json_t *json,
                     struct error **errp);
void *qapi_from_keyval(const struct qapi_type *type, json_t *json,
                       struct error **errp);
json_t *qapi_to_json(const struct qapi_type *type, const void *value);

/* As qapi_to_json(), for a value of any type stored at SLOT. */
json_t *qapi_slot_to_json(const struct qapi_type *type, const void *slot);
/* Free what the slot owns and leave the slot itself. */
void qapi_slot_clear(const struct qapi_type *type, void *slot);
