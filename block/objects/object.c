/* SPDX-License-Identifier: MIT */
/* The list of objects and the table of their types: see object.h. */
#include "block/objects/object.h"

#include <string.h>
#include "base/control.h"
#include "base/id.h"
#include "base/trace.h"

static struct object *objects;      /* newest first */

/* ---- names -------------------------------------------------------------- */

struct object *object_find(const char *id)
{
    control_assert();
    for (struct object *obj = objects; obj; obj = obj->next) {
        if (!strcmp(obj->id, id)) {
            return obj;
        }
    }
    return NULL;
}

struct object *object_next(const struct object *obj)
{
    control_assert();
    return obj ? obj->next : objects;
}

const char *object_type_name(const struct object *obj)
{
    return ObjectType_str(obj->type->type);
}

/* ---- life --------------------------------------------------------------- */

static void object_free(struct object *obj)
{
    obj->type->fini(obj);
    g_free(obj->id);
    g_free(obj);
}

static bool id_is_free(const char *id, struct error **errp)
{
    if (object_find(id)) {
        error_set(errp, "attempt to add duplicate property '%s' to object "
                  "(type 'container')", id);
        return false;
    }
    return true;
}

bool object_add(const ObjectOptions *options, struct error **errp)
{
    const struct object_type *type = object_types[options->qom_type];
    struct object *obj;

    control_assert();
    if (!id_is_well_formed(options->id)) {
        error_set(errp, "Parameter 'id' expects an identifier");
        return false;
    }
    if (!type) {
        error_set(errp, "Object type '%s' is not supported",
                  ObjectType_str(options->qom_type));
        return false;
    }
    if (!id_is_free(options->id, errp)) {
        return false;
    }
    obj = g_malloc0(type->size);
    obj->type = type;
    obj->id = g_strdup(options->id);
    if (!type->init(obj, options, errp)) {
        g_free(obj->id);
        g_free(obj);
        return false;
    }
    if (!id_is_free(obj->id, errp)) {       /* while init() yielded */
        object_free(obj);
        return false;
    }
    obj->next = objects;
    objects = obj;
    trace(GRAPH, "object-add id=%s qom-type=%s", obj->id,
          object_type_name(obj));
    return true;
}

bool object_del(const char *id, struct error **errp)
{
    struct object **p = &objects;
    struct object *obj;

    control_assert();
    while (*p && strcmp((*p)->id, id)) {
        p = &(*p)->next;
    }
    obj = *p;
    if (!obj) {
        error_set(errp, "object '%s' not found", id);
        return false;
    }
    if (obj->n_users > 0 && !obj->type->del_in_use) {
        error_set(errp, "object '%s' is in use, can not be deleted", id);
        return false;
    }
    *p = obj->next;
    trace(GRAPH, "object-del id=%s", id);
    obj->deleted = true;
    if (obj->n_users == 0) {
        object_free(obj);
    }
    return true;
}

struct object *object_get(const char *id, ObjectType type,
                          struct error **errp)
{
    struct object *obj = object_find(id);

    if (!obj) {
        error_set(errp, "object '%s' not found", id);
        return NULL;
    }
    if (obj->type->type != type) {
        error_set(errp, "object '%s' is a %s, not a %s", id,
                  object_type_name(obj), ObjectType_str(type));
        return NULL;
    }
    return object_get_again(obj);
}

struct object *object_get_again(struct object *obj)
{
    control_assert();
    obj->n_users++;
    return obj;
}

void object_put(struct object *obj)
{
    control_assert();
    if (!obj) {
        return;
    }
    g_assert(obj->n_users > 0);
    if (--obj->n_users == 0 && obj->deleted) {
        object_free(obj);
    }
}

void objects_free(void)
{
    control_assert();
    while (objects) {
        struct object *obj = objects;

        objects = obj->next;
        object_free(obj);
    }
}
