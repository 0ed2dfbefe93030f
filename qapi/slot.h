/* SPDX-License-Identifier: MIT */
/*
 * Slots: places in a generated struct or list where a value of a described
 * type is stored.  Read and written with memcpy(), since their C types are
 * known to the tables only.
 */
#pragma once

#include <string.h>

#include "qapi/descr.h"

/* The layout of every generated list. */
struct qapi_list {
    void *v;
    size_t n;
};

static inline void *slot_pointer(const void *slot)
{
    void *pointer;

    memcpy(&pointer, slot, sizeof(pointer));
    return pointer;
}

static inline void slot_set_pointer(void *slot, void *pointer)
{
    memcpy(slot, &pointer, sizeof(pointer));
}

static inline bool slot_flag(const void *value, const struct qapi_member *m)
{
    return *(const bool *)((const char *)value + m->flag);
}

static inline bool kind_is_pointer(enum qapi_kind kind)
{
    return kind >= QAPI_KIND_OBJECT || kind == QAPI_KIND_STR ||
           kind == QAPI_KIND_ANY;
}

/* What a slot of this type takes. */
static inline size_t slot_size(const struct qapi_type *type)
{
    return kind_is_pointer(type->kind) ? sizeof(void *) : type->size;
}

/* The branch of a union that its tag selects, or NULL. */
static inline const struct qapi_type *
union_variant(const struct qapi_type *type, const void *value)
{
    int tag;

    if (!type->variants) {
        return NULL;
    }
    memcpy(&tag, (const char *)value + type->members[type->tag].offset,
           sizeof(tag));
    return tag >= 0 && (size_t)tag < type->n_variants ?
           type->variants[tag] : NULL;
}

/* The type that an alternate holds, or NULL. */
static inline const struct qapi_type *
alternate_branch(const struct qapi_type *type, const void *value)
{
    QapiType held;

    memcpy(&held, value, sizeof(held));
    return held < type->n_variants ? type->variants[held] : NULL;
}
