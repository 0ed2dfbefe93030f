/* SPDX-License-Identifier: MIT */
/* Free and copy values of described types. */
#include "qapi/slot.h"

static void contents_clear(const struct qapi_type *type, void *value);
static void contents_copy(const struct qapi_type *type, void *to,
                          const void *from);

void qapi_free(const struct qapi_type *type, void *value)
{
    if (value) {
        contents_clear(type, value);
        g_free(value);
    }
}

void qapi_slot_clear(const struct qapi_type *type, void *slot)
{
    switch (type->kind) {
    case QAPI_KIND_STR:
        g_free(slot_pointer(slot));
        break;
    case QAPI_KIND_ANY:
        json_decref(slot_pointer(slot));
        break;
    case QAPI_KIND_OBJECT:
    case QAPI_KIND_ALTERNATE:
    case QAPI_KIND_LIST:
        qapi_free(type, slot_pointer(slot));
        break;
    default:
        break;
    }
}

static void list_clear(const struct qapi_type *type, void *value)
{
    struct qapi_list list;

    memcpy(&list, value, sizeof(list));
    for (size_t i = 0; i < list.n; i++) {
        qapi_slot_clear(type->element,
                        (char *)list.v + i * slot_size(type->element));
    }
    g_free(list.v);
}

static void contents_clear(const struct qapi_type *type, void *value)
{
    const struct qapi_type *inner;

    if (type->kind == QAPI_KIND_LIST) {
        list_clear(type, value);
        return;
    }
    if (type->kind == QAPI_KIND_ALTERNATE) {
        inner = alternate_branch(type, value);
        if (inner) {
            qapi_slot_clear(inner, (char *)value + type->u);
        }
        return;
    }
    for (size_t i = 0; i < type->n; i++) {
        qapi_slot_clear(type->members[i].type,
                        (char *)value + type->members[i].offset);
    }
    inner = union_variant(type, value);
    if (inner) {
        contents_clear(inner, (char *)value + type->u);
    }
}

static void slot_copy(const struct qapi_type *type, void *to,
                      const void *from)
{
    switch (type->kind) {
    case QAPI_KIND_STR:
        slot_set_pointer(to, g_strdup(slot_pointer(from)));
        break;
    case QAPI_KIND_ANY:
        slot_set_pointer(to, json_deep_copy(slot_pointer(from)));
        break;
    case QAPI_KIND_OBJECT:
    case QAPI_KIND_ALTERNATE:
    case QAPI_KIND_LIST:
        slot_set_pointer(to, qapi_clone(type, slot_pointer(from)));
        break;
    default:
        memcpy(to, from, type->size);
        break;
    }
}

static void list_copy(const struct qapi_type *type, void *to,
                      const void *from)
{
    const size_t step = slot_size(type->element);
    struct qapi_list old, new = { NULL, 0 };
    size_t capacity = 1;

    memcpy(&old, from, sizeof(old));
    while (capacity < old.n) {
        capacity *= 2;      /* what qapi_list_append() expects */
    }
    if (old.n) {
        new.v = g_malloc_n(capacity, step);
    }
    for (new.n = 0; new.n < old.n; new.n++) {
        slot_copy(type->element, (char *)new.v + new.n * step,
                  (char *)old.v + new.n * step);
    }
    memcpy(to, &new, sizeof(new));
}

static void contents_copy(const struct qapi_type *type, void *to,
                          const void *from)
{
    const struct qapi_type *inner;

    if (type->kind == QAPI_KIND_LIST) {
        list_copy(type, to, from);
        return;
    }
    if (type->kind == QAPI_KIND_ALTERNATE) {
        memcpy(to, from, sizeof(QapiType));
        inner = alternate_branch(type, from);
        if (inner) {
            slot_copy(inner, (char *)to + type->u,
                      (const char *)from + type->u);
        }
        return;
    }
    for (size_t i = 0; i < type->n; i++) {
        const struct qapi_member *m = &type->members[i];

        slot_copy(m->type, (char *)to + m->offset,
                  (const char *)from + m->offset);
        if (m->flag != QAPI_NO_FLAG) {
            *((bool *)((char *)to + m->flag)) = slot_flag(from, m);
        }
    }
    inner = union_variant(type, from);
    if (inner) {
        contents_copy(inner, (char *)to + type->u,
                      (const char *)from + type->u);
    }
}

void *qapi_clone(const struct qapi_type *type, const void *value)
{
    void *copy;

    if (!value) {
        return NULL;
    }
    copy = g_malloc0(type->size);
    contents_copy(type, copy, value);
    return copy;
}
