/* SPDX-License-Identifier: MIT */
/*
 * object-add, object-del, and the tree of objects as qom-list and its like
 * show it: /, /objects with one place for each object, and what others mount.
 *
 * A path that begins with '/' starts at the root; any other is looked for
 * everywhere and must fit one place only.  Empty parts of a path do not
 * count.
 */
#include "block/objects/qom.h"

#include <string.h>
#include "base/control.h"
#include "block/objects/object.h"
#include "qapi/qapi-commands.h"

bool qmp_object_add(const ObjectOptions *args, struct error **errp)
{
    return object_add(args, errp);
}

bool qmp_object_del(const ObjectDelArgs *args, struct error **errp)
{
    return object_del(args->id, errp);
}

void qom_list_append(ObjectPropertyInfoList *list, const char *name,
                     const char *type)
{
    ObjectPropertyInfo *info = ObjectPropertyInfo_new0();

    info->name = g_strdup(name);
    info->type = g_strdup(type);
    qapi_list_append(list, info);
}

/* ---- an object ---------------------------------------------------------- */

static const char *object_place_type(const struct qom_place *p)
{
    return object_type_name(p->opaque);
}

static const struct object_property *
find_property(const struct object_type *type, const char *name)
{
    const struct object_property *p = type->properties;

    while (p->name && strcmp(p->name, name)) {
        p++;
    }
    return p->name ? p : NULL;
}

static void object_type_list(const struct object_type *type,
                             ObjectPropertyInfoList *list)
{
    for (const struct object_property *p = type->properties; p->name; p++) {
        qom_list_append(list, p->name, p->type);
    }
}

static void object_place_list(const struct qom_place *p,
                              ObjectPropertyInfoList *list)
{
    const struct object *obj = p->opaque;

    object_type_list(obj->type, list);
}

static bool object_place_has(const struct qom_place *p, const char *name,
                             bool *readable, bool *writable)
{
    const struct object *obj = p->opaque;
    const struct object_property *property = find_property(obj->type, name);

    *readable = property && property->get;
    *writable = property && property->set;
    return property != NULL;
}

static json_t *object_place_get(const struct qom_place *p, const char *name,
                                struct error **errp)
{
    struct object *obj = p->opaque;
    const struct object_property *property = find_property(obj->type, name);

    return property->get(obj, property->name, errp);
}

static bool object_place_set(const struct qom_place *p, const char *name,
                             json_t *value, struct error **errp)
{
    struct object *obj = p->opaque;
    const struct object_property *property = find_property(obj->type, name);
    bool ok;

    object_get_again(obj);      /* set() may yield */
    ok = property->set(obj, property->name, value, errp);
    object_put(obj);
    return ok;
}

static const struct qom_kind object_kind = {
    .type = object_place_type,
    .list = object_place_list,
    .has = object_place_has,
    .get = object_place_get,
    .set = object_place_set,
};

/* ---- /objects and the root ---------------------------------------------- */

static const char *container_type(const struct qom_place *p)
{
    return "container";
}

static bool objects_below(const struct qom_place *p, size_t i, char **name,
                          struct qom_place *child)
{
    struct object *obj = object_next(NULL);

    while (obj && i-- > 0) {
        obj = object_next(obj);
    }
    if (obj) {
        *name = g_strdup(obj->id);
        *child = (struct qom_place){ &object_kind, obj };
    }
    return obj != NULL;
}

static const struct qom_kind objects_kind = {
    .type = container_type,
    .below = objects_below,
};

enum { MAX_MOUNTS = 8 };

/* Control lock. */
static struct mount {
    const char *name;
    struct qom_place place;
} mounts[MAX_MOUNTS] = { { "objects", { &objects_kind } } };
static size_t n_mounts = 1;
static struct qom_types *others;

void qom_mount(const char *name, struct qom_place place)
{
    control_assert();
    g_assert(n_mounts < MAX_MOUNTS);
    mounts[n_mounts++] = (struct mount){ name, place };
}

static bool root_below(const struct qom_place *p, size_t i, char **name,
                       struct qom_place *child)
{
    if (i < n_mounts) {
        *name = g_strdup(mounts[i].name);
        *child = mounts[i].place;
    }
    return i < n_mounts;
}

static const struct qom_kind root_kind = {
    .type = container_type,
    .below = root_below,
};
static const struct qom_place root_place = { &root_kind };

/* ---- paths -------------------------------------------------------------- */

struct found {
    struct qom_place place;
    char *path;                 /* owned; NULL: nothing was found */
    int n;                      /* how many places fit */
};

static bool child_of(const struct qom_place *p, const char *name,
                     struct qom_place *child)
{
    char *at;

    for (size_t i = 0; p->kind->below && p->kind->below(p, i, &at, child);
         i++) {
        bool same = !strcmp(at, name);

        g_free(at);
        if (same) {
            return true;
        }
    }
    return false;
}

/* Follow PARTS from P, which is at PATH. */
static void walk(struct qom_place p, const char *path, char **parts,
                 struct found *found)
{
    GString *at = g_string_new(path);

    for (; *parts; parts++) {
        struct qom_place child;

        if (**parts == '\0') {
            continue;
        }
        if (!child_of(&p, *parts, &child)) {
            g_string_free(at, TRUE);
            return;
        }
        g_string_append_printf(at, "/%s", *parts);
        p = child;
    }
    found->place = p;
    found->n++;
    g_free(found->path);
    found->path = g_string_free(at, FALSE);
}

/* From P and from everywhere below it. */
static void walk_all(const struct qom_place *p, const char *path,
                     char **parts, struct found *found)
{
    struct qom_place child;
    char *name;

    walk(*p, path, parts, found);
    for (size_t i = 0; p->kind->below &&
         p->kind->below(p, i, &name, &child); i++) {
        g_autofree char *below = g_strdup_printf("%s/%s", path, name);

        g_free(name);
        walk_all(&child, below, parts, found);
    }
}

/* *AT (may be NULL): its path; owned. */
static bool place_find(const char *path, struct qom_place *p, char **at,
                       struct error **errp)
{
    g_auto(GStrv) parts = g_strsplit(path, "/", 0);
    struct found found = { .n = 0 };

    if (*path == '/') {
        walk(root_place, "", parts, &found);
    } else {
        walk_all(&root_place, "", parts, &found);
    }
    if (found.n > 1) {
        error_set(errp, "Path '%s' is ambiguous", path);
    } else if (found.n == 0) {
        error_set_class(errp, ERROR_DEVICE_NOT_FOUND,
                        "Device '%s' not found", path);
    }
    *p = found.place;
    if (found.n == 1 && at) {
        *at = g_steal_pointer(&found.path);
    }
    g_free(found.path);
    return found.n == 1;
}

/* ---- properties --------------------------------------------------------- */

ObjectPropertyInfoList *qmp_qom_list(const QomListArgs *args,
                                     struct error **errp)
{
    ObjectPropertyInfoList *list;
    struct qom_place place, child;
    char *name;

    if (!place_find(args->path, &place, NULL, errp)) {
        return NULL;
    }
    list = ObjectPropertyInfoList_new0();
    qom_list_append(list, "type", "string");
    if (place.kind->list) {
        place.kind->list(&place, list);
    }
    for (size_t i = 0; place.kind->below &&
         place.kind->below(&place, i, &name, &child); i++) {
        g_autofree char *type =
            g_strdup_printf("child<%s>", child.kind->type(&child));

        qom_list_append(list, name, type);
        g_free(name);
    }
    return list;
}

static void set_not_found(struct error **errp, const struct qom_place *place,
                          const char *property)
{
    error_set(errp, "Property '%s.%s' not found", place->kind->type(place),
              property);
}

json_t *qmp_qom_get(const QomGetArgs *args, struct error **errp)
{
    struct qom_place place, child;
    bool readable, writable;
    g_autofree char *path = NULL;

    if (!place_find(args->path, &place, &path, errp)) {
        return NULL;
    }
    if (!strcmp(args->property, "type")) {
        return json_string(place.kind->type(&place));
    }
    if (child_of(&place, args->property, &child)) {
        return json_sprintf("%s/%s", path, args->property);
    }
    if (!place.kind->has ||
        !place.kind->has(&place, args->property, &readable, &writable)) {
        set_not_found(errp, &place, args->property);
        return NULL;
    }
    if (!readable) {
        error_set(errp, "Property '%s.%s' is not readable",
                  place.kind->type(&place), args->property);
        return NULL;
    }
    return place.kind->get(&place, args->property, errp);
}

bool qmp_qom_set(const QomSetArgs *args, struct error **errp)
{
    struct qom_place place, child;
    bool readable, writable = false, fixed, there;

    if (!place_find(args->path, &place, NULL, errp)) {
        return false;
    }
    fixed = !strcmp(args->property, "type") ||
        child_of(&place, args->property, &child);
    there = !fixed && place.kind->has &&
        place.kind->has(&place, args->property, &readable, &writable);
    if (!fixed && !there) {
        set_not_found(errp, &place, args->property);
        return false;
    }
    if (!writable) {
        error_set(errp, "Property '%s.%s' is not writable",
                  place.kind->type(&place), args->property);
        return false;
    }
    return place.kind->set(&place, args->property, args->value, errp);
}

/* ---- types -------------------------------------------------------------- */

/* What is only there to be implemented, and what is not for object-add. */
static const struct qom_type plain_types[] = {
    { "authz", "object", true },
    { "container", "object", false },
    { "event-loop-base", "object", true },
    { "interface", NULL, true },
    { "object", NULL, true },
    { "secret_common", "object", true },
    { "tls-creds", "object", true },
    { "user-creatable", "interface", true },
    { NULL },
};

static const struct qom_type *plain_at(size_t i)
{
    return i + 1 < G_N_ELEMENTS(plain_types) ? &plain_types[i] : NULL;
}

static struct qom_types plain = { .at = plain_at };

void qom_add_types(struct qom_types *types)
{
    control_assert();
    types->next = others;
    others = types;
}

/* All but those of object-add; NULL: there is none. */
static const struct qom_type *find_type(const char *name,
                                        struct qom_types **source)
{
    plain.next = others;
    for (struct qom_types *s = &plain; s; s = s->next) {
        const struct qom_type *t;

        for (size_t i = 0; (t = s->at(i)); i++) {
            if (!strcmp(t->name, name)) {
                *source = s;
                return t;
            }
        }
    }
    return NULL;
}

static const struct object_type *find_object_type(const char *name)
{
    ObjectType value;

    return ObjectType_parse(name, &value) ? object_types[value] : NULL;
}

bool qom_type_exists(const char *name)
{
    struct qom_types *source;

    return find_object_type(name) || find_type(name, &source);
}

/* Is NAME, whose parent is PARENT, an ANCESTOR? */
static bool implements(const char *name, const char *parent,
                       const char *ancestor)
{
    while (strcmp(name, ancestor)) {
        struct qom_types *source;
        const struct qom_type *above = parent ? find_type(parent, &source)
            : NULL;

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

static void add_object_types(ObjectTypeInfoList *list, const char *ancestor)
{
    for (int i = 0; i < OBJECT_TYPE__MAX; i++) {
        const struct object_type *type = object_types[i];
        const char *name = ObjectType_str(i);
        const char *parent;

        if (!type || type->type != (ObjectType)i) {
            continue;
        }
        parent = type->parent ? type->parent : "object";
        if (!ancestor || implements(name, parent, ancestor) ||
            implements("user-creatable", "interface", ancestor)) {
            types_add(list, name, parent, false);
        }
    }
}

ObjectTypeInfoList *qmp_qom_list_types(const QomListTypesArgs *args,
                                       struct error **errp)
{
    ObjectTypeInfoList *list = ObjectTypeInfoList_new0();

    add_object_types(list, args->implements);
    plain.next = others;
    for (struct qom_types *s = &plain; s; s = s->next) {
        const struct qom_type *t;

        for (size_t i = 0; (t = s->at(i)); i++) {
            if ((!t->abstract || args->abstract) &&
                (!args->implements ||
                 implements(t->name, t->parent, args->implements))) {
                types_add(list, t->name, t->parent, t->abstract);
            }
        }
    }
    return list;
}

ObjectPropertyInfoList *
qmp_qom_list_properties(const QomListPropertiesArgs *args, struct error **errp)
{
    const struct object_type *type = find_object_type(args->typename);
    ObjectPropertyInfoList *list;
    struct qom_types *source = NULL;
    const struct qom_type *other = find_type(args->typename, &source);

    if (!type && !other) {
        error_set_class(errp, ERROR_DEVICE_NOT_FOUND, "Class '%s' not found",
                        args->typename);
        return NULL;
    }
    list = ObjectPropertyInfoList_new0();
    qom_list_append(list, "type", "string");
    if (type) {
        object_type_list(type, list);
    } else if (source->list) {
        source->list(other, list);
    }
    return list;
}
