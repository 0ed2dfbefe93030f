/* SPDX-License-Identifier: MIT */
/*
 * Objects: what object-add makes (secrets, TLS credentials, throttle groups,
 * iothreads, authorization lists), found by id.
 *
 * Threads     Control lock held for all functions here.
 * Lifetime    An object lives until object-del and its last use has gone;
 *             object-del of one in use is refused.
 */
#pragma once

#include "base/error.h"
#include "qapi/qapi-types.h"

struct object;

struct object_type {
    ObjectType type;
    size_t size;                /* of the struct that starts with .base */
    /* Check OPTIONS, fill OBJ (zeroed but for .base).  May yield (files).
     * On failure frees what it made except OBJ itself. */
    bool (*init)(struct object *obj, const ObjectOptions *options,
                 struct error **errp);
    void (*fini)(struct object *obj);
    /* qom-get, qom-set, qom-list; a NULL-terminated table. */
    const struct object_property *properties;
};

struct object_property {
    const char *name;
    const char *type;           /* as qom-list shows it: "int", "string",
                                   "bool", or a QAPI type */
    /* New reference; NULL and errp.  NULL function: cannot be read. */
    json_t *(*get)(struct object *obj, const char *name, struct error **errp);
    bool (*set)(struct object *obj, const char *name, json_t *value,
                struct error **errp);
};

struct object {
    const struct object_type *type;
    char *id;                   /* owned */
    int n_users;
    struct object *next;        /* newest first */
};

/* As object-add. */
bool object_add(const ObjectOptions *options, struct error **errp);
/* As object-del: QEMU's texts. */
bool object_del(const char *id, struct error **errp);
/* Borrowed; NULL: there is none. */
struct object *object_find(const char *id);
/* The object ID if it is of TYPE, in use from now on (object_put()); NULL and
 * errp otherwise. */
struct object *object_get(const char *id, ObjectType type,
                          struct error **errp);
/* An object from code, not from options (a throttle group that a name
 * implies); in use from now on. */
struct object *object_get_again(struct object *obj);
void object_put(struct object *obj);
/* Delete all, at exit. */
void objects_free(void);
