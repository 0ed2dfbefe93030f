/* SPDX-License-Identifier: MIT */
/*
 * object-add, object-del, and the tree of objects as qom-list and its like
 * show it: /, /objects, and one place for each object.
 *
 * A path that begins with '/' starts at the root; any other is looked for
 * everywhere and must fit one place only.  Empty parts of a path do not
 * count.
 */
#include "block/objects/object.h"

#include <string.h>
#include "qapi/qapi-commands.h"

bool qmp_object_add(const ObjectOptions *args, struct error **errp)
{
    return object_add(args, errp);
}

bool qmp_object_del(const ObjectDelArgs *args, struct error **errp)
{
    return object_del(args->id, errp);
}

/* ---- places ------------------------------------------------------------- */

struct place {
    enum place_kind { PLACE_ROOT, PLACE_OBJECTS, PLACE_OBJECT } kind;
    struct object *obj;         /* PLACE_OBJECT; borrowed */
};

#define OBJECTS_NAME "objects"

static const char *place_type(const struct place *p)
{
    return p->kind == PLACE_OBJECT ? object_type_name(p->obj) : "container";
}

/* One step down. */
static bool place_child(const struct place *p, const char *name,
                        struct place *child)
{
    switch (p->kind) {
    case PLACE_ROOT:
        *child = (struct place){ PLACE_OBJECTS };
        return !strcmp(name, OBJECTS_NAME);
    case PLACE_OBJECTS:
        *child = (struct place){ PLACE_OBJECT, object_find(name) };
        return child->obj != NULL;
    case PLACE_OBJECT:
        return false;
    }
    g_assert_not_reached();
}

static bool place_walk(struct place p, char **parts, struct place *result)
{
    for (; *parts; parts++) {
        struct place child;

        if (**parts == '\0') {
            continue;
        }
        if (!place_child(&p, *parts, &child)) {
            return false;
        }
        p = child;
    }
    *result = p;
    return true;
}

static bool place_find(const char *path, struct place *p, struct error **errp)
{
    static const struct place starts[] = {
        { PLACE_ROOT }, { PLACE_OBJECTS },
    };
    g_auto(GStrv) parts = g_strsplit(path, "/", 0);
    size_t n_starts = *path == '/' ? 1 : G_N_ELEMENTS(starts);
    int n_found = 0;

    for (size_t i = 0; i < n_starts; i++) {
        n_found += place_walk(starts[i], parts, p);
    }
    if (n_found > 1) {
        error_set(errp, "Path '%s' is ambiguous", path);
    } else if (n_found == 0) {
        error_set_class(errp, ERROR_DEVICE_NOT_FOUND,
                        "Device '%s' not found", path);
    }
    return n_found == 1;
}

/* ---- properties --------------------------------------------------------- */

static const struct object_property *
find_property(const struct object_type *type, const char *name)
{
    const struct object_property *p = type->properties;

    while (p->name && strcmp(p->name, name)) {
        p++;
    }
    return p->name ? p : NULL;
}

static void list_add(ObjectPropertyInfoList *list, const char *name,
                     char *type)
{
    ObjectPropertyInfo *info = ObjectPropertyInfo_new0();

    info->name = g_strdup(name);
    info->type = type;
    qapi_list_append(list, info);
}

static void list_add_type(ObjectPropertyInfoList *list,
                          const struct object_type *type)
{
    for (const struct object_property *p = type->properties; p->name; p++) {
        list_add(list, p->name, g_strdup(p->type));
    }
}

ObjectPropertyInfoList *qmp_qom_list(const QomListArgs *args,
                                     struct error **errp)
{
    ObjectPropertyInfoList *list;
    struct place place;

    if (!place_find(args->path, &place, errp)) {
        return NULL;
    }
    list = ObjectPropertyInfoList_new0();
    list_add(list, "type", g_strdup("string"));
    switch (place.kind) {
    case PLACE_ROOT:
        list_add(list, OBJECTS_NAME, g_strdup("child<container>"));
        break;
    case PLACE_OBJECTS:
        for (struct object *obj = object_next(NULL); obj;
             obj = object_next(obj)) {
            list_add(list, obj->id, g_strdup_printf("child<%s>",
                                                    object_type_name(obj)));
        }
        break;
    case PLACE_OBJECT:
        list_add_type(list, place.obj->type);
        break;
    }
    return list;
}

static void set_not_found(struct error **errp, const struct place *place,
                          const char *property)
{
    error_set(errp, "Property '%s.%s' not found", place_type(place),
              property);
}

json_t *qmp_qom_get(const QomGetArgs *args, struct error **errp)
{
    const struct object_property *p;
    struct place place, child;

    if (!place_find(args->path, &place, errp)) {
        return NULL;
    }
    if (!strcmp(args->property, "type")) {
        return json_string(place_type(&place));
    }
    if (place_child(&place, args->property, &child)) {
        return json_sprintf("%s%s", place.kind == PLACE_ROOT
                            ? "/" : "/" OBJECTS_NAME "/", args->property);
    }
    p = place.obj ? find_property(place.obj->type, args->property) : NULL;
    if (!p) {
        set_not_found(errp, &place, args->property);
        return NULL;
    }
    if (!p->get) {
        error_set(errp, "Property '%s.%s' is not readable",
                  place_type(&place), args->property);
        return NULL;
    }
    return p->get(place.obj, p->name, errp);
}

bool qmp_qom_set(const QomSetArgs *args, struct error **errp)
{
    const struct object_property *p;
    struct place place, child;
    bool fixed, ok;

    if (!place_find(args->path, &place, errp)) {
        return false;
    }
    p = place.obj ? find_property(place.obj->type, args->property) : NULL;
    fixed = !strcmp(args->property, "type") ||
        place_child(&place, args->property, &child);
    if (!p && !fixed) {
        set_not_found(errp, &place, args->property);
        return false;
    }
    if (fixed || !p->set) {
        error_set(errp, "Property '%s.%s' is not writable",
                  place_type(&place), args->property);
        return false;
    }
    object_get_again(place.obj);        /* set() may yield */
    ok = p->set(place.obj, p->name, args->value, errp);
    object_put(place.obj);
    return ok;
}

/* ---- types -------------------------------------------------------------- */

/* What is only there to be implemented, and what is not for object-add. */
static const struct plain_type {
    const char *name, *parent;
    bool abstract;
} plain_types[] = {
    { "authz", "object", true },
    { "container", "object", false },
    { "event-loop-base", "object", true },
    { "interface", NULL, true },
    { "object", NULL, true },
    { "secret_common", "object", true },
    { "tls-creds", "object", true },
    { "user-creatable", "interface", true },
};

static const struct plain_type *find_plain(const char *name)
{
    for (size_t i = 0; i < G_N_ELEMENTS(plain_types); i++) {
        if (!strcmp(plain_types[i].name, name)) {
            return &plain_types[i];
        }
    }
    return NULL;
}

/* Is NAME, whose parent is PARENT, an ANCESTOR? */
static bool implements(const char *name, const char *parent,
                       const char *ancestor)
{
    while (strcmp(name, ancestor)) {
        const struct plain_type *above = parent ? find_plain(parent) : NULL;

        if (!above) {
            return false;
        }
        name = above->name;
        parent = above->parent;
    }
    return true;
}

static void types_add(ObjectTypeInfoList *list, const char *name,
                      const char *parent, bool abstract)
{
    ObjectTypeInfo *info = ObjectTypeInfo_new0();

    info->name = g_strdup(name);
    info->parent = g_strdup(parent);
    info->has_abstract = info->abstract = abstract;
    qapi_list_append(list, info);
}

ObjectTypeInfoList *qmp_qom_list_types(const QomListTypesArgs *args,
                                       struct error **errp)
{
    ObjectTypeInfoList *list = ObjectTypeInfoList_new0();
    const char *ancestor = args->implements;

    for (int i = 0; i < OBJECT_TYPE__MAX; i++) {
        const struct object_type *type = object_types[i];
        const char *name = ObjectType_str(i);

        if (type && type->type == (ObjectType)i &&
            (!ancestor || implements(name, type->parent, ancestor) ||
             implements("user-creatable", "interface", ancestor))) {
            types_add(list, name, type->parent ? type->parent : "object",
                      false);
        }
    }
    for (size_t i = 0; i < G_N_ELEMENTS(plain_types); i++) {
        const struct plain_type *t = &plain_types[i];

        if ((!t->abstract || args->abstract) &&
            (!ancestor || implements(t->name, t->parent, ancestor))) {
            types_add(list, t->name, t->parent, t->abstract);
        }
    }
    return list;
}

ObjectPropertyInfoList *
qmp_qom_list_properties(const QomListPropertiesArgs *args, struct error **errp)
{
    const struct object_type *type = NULL;
    ObjectPropertyInfoList *list;
    ObjectType value;

    if (ObjectType_parse(args->typename, &value)) {
        type = object_types[value];
    }
    if (!type && !find_plain(args->typename)) {
        error_set_class(errp, ERROR_DEVICE_NOT_FOUND, "Class '%s' not found",
                        args->typename);
        return NULL;
    }
    list = ObjectPropertyInfoList_new0();
    list_add(list, "type", g_strdup("string"));
    if (type) {
        list_add_type(list, type);
    }
    return list;
}
