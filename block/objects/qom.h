/* SPDX-License-Identifier: MIT */
/*
 * The tree of objects, as qom-list, qom-get and qom-set see it.
 *
 * Problem     /objects is known here; /machine is not, it stands above.
 * Answer      A place is a kind and what the kind makes of it; who has a
 *             part of the tree mounts a place below the root, and who has
 *             types of its own tells of them.
 * Threads     Control lock held.
 */
#pragma once

#include "base/error.h"
#include "qapi/qapi-types.h"

struct qom_place {
    const struct qom_kind *kind;
    void *opaque;               /* the kind's */
    int64_t number;             /* the kind's */
};

struct qom_kind {
    /* Borrowed. */
    const char *(*type)(const struct qom_place *p);
    /* The I-th place below: true and *NAME (owned by the caller) and *CHILD;
     * false: there are no more.  NULL: there is nothing below. */
    bool (*below)(const struct qom_place *p, size_t i, char **name,
                  struct qom_place *child);
    /* Append the properties, but for "type" and what is below.  The rest NULL
     * too, if there are none. */
    void (*list)(const struct qom_place *p, ObjectPropertyInfoList *list);
    /* Can NAME be read (*READABLE)?  False: there is none. */
    bool (*has)(const struct qom_place *p, const char *name, bool *readable,
                bool *writable);
    json_t *(*get)(const struct qom_place *p, const char *name,
                   struct error **errp);
    /* May yield. */
    bool (*set)(const struct qom_place *p, const char *name, json_t *value,
                struct error **errp);
};

/* Constant. */
struct qom_type {
    const char *name, *parent;  /* parent NULL: it has none */
    bool abstract;
};

struct qom_types {
    /* The I-th; NULL: there are no more. */
    const struct qom_type *(*at)(size_t i);
    /* Append the properties of T, but for "type".  May be NULL. */
    void (*list)(const struct qom_type *t, ObjectPropertyInfoList *list);
    struct qom_types *next;
};

/* PLACE is /NAME (static) from now on. */
void qom_mount(const char *name, struct qom_place place);
/* TYPES (static) exist, too. */
void qom_add_types(struct qom_types *types);
/* Is there a type of that name, be it abstract or not? */
bool qom_type_exists(const char *name);

/* Append NAME, of TYPE (copied). */
void qom_list_append(ObjectPropertyInfoList *list, const char *name,
                     const char *type);
