/* SPDX-License-Identifier: MIT */
/*
 * Objects: what object-add makes (secrets, TLS credentials, throttle groups,
 * iothreads, authorization lists), found by id.
 *
 * Threads     Control lock held for all functions here.
 * Lifetime    An object lives until object-del and its last use has gone.
 *             object-del of one in use is refused; or, if its type says so,
 *             takes its name away and leaves it to those that use it.
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
    const char *parent;         /* the abstract type above it */
    bool del_in_use;            /* object-del of one in use is fine */
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
    bool deleted;               /* out of the list: the last user frees it */
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
/* OBJ, that the caller has found, in use (once more) from now on. */
struct object *object_get_again(struct object *obj);
void object_put(struct object *obj);    /* NULL is fine */

/* Newest first; NULL starts. */
struct object *object_next(const struct object *obj);
const char *object_type_name(const struct object *obj);     /* static */
/* Delete all, at exit. */
void objects_free(void);

/* The types, by ObjectType; NULL: not supported (types.c, or a test's).
 * Another spelling of a type has the type that .type names. */
extern const struct object_type *const object_types[OBJECT_TYPE__MAX];
extern const struct object_type authz_list_file_object_type,
    authz_list_object_type, authz_simple_object_type, iothread_object_type,
    secret_object_type, throttle_group_object_type,
    tls_creds_anon_object_type, tls_creds_psk_object_type,
    tls_creds_x509_object_type;
