/* SPDX-License-Identifier: MIT */
/*
 * authz-simple, authz-list, authz-list-file: one name, a list of rules, a
 * list of rules in a file.
 *
 * All three come down to a list.  What is in doubt is refused.
 */
#include "block/objects/authz.h"

#include <errno.h>
#include <fnmatch.h>
#include <string.h>
#include <sys/stat.h>
#include "base/control.h"
#include "block/objects/read-file.h"
#include "qapi/qapi-visit.h"

enum { MAX_FILE_BYTES = 4 << 20 };

struct authz {
    struct object base;
    char *identity;                 /* owned; authz-simple */
    AuthZListProperties *list;      /* owned; NULL: nobody is let in */

    /* authz-list-file. */
    char *filename;                 /* owned */
    bool refresh;
    struct stat loaded;             /* of what .list was read from */
};

/* ---- lists -------------------------------------------------------------- */

static bool rule_matches(const QAuthZListRule *rule, const char *identity)
{
    if (rule->format == Q_AUTH_Z_LIST_FORMAT_GLOB) {
        return fnmatch(rule->match, identity, 0) == 0;
    }
    return !strcmp(rule->match, identity);
}

static bool list_allows(const AuthZListProperties *list, const char *identity)
{
    for (size_t i = 0; list->rules && i < list->rules->n; i++) {
        if (rule_matches(list->rules->v[i], identity)) {
            return list->rules->v[i]->policy == Q_AUTH_Z_LIST_POLICY_ALLOW;
        }
    }
    return list->policy == Q_AUTH_Z_LIST_POLICY_ALLOW;
}

static bool same_file(const struct stat *a, const struct stat *b)
{
    return a->st_dev == b->st_dev && a->st_ino == b->st_ino &&
        a->st_size == b->st_size &&
        a->st_mtim.tv_sec == b->st_mtim.tv_sec &&
        a->st_mtim.tv_nsec == b->st_mtim.tv_nsec;
}

/* No lock held. */
static AuthZListProperties *read_list(const char *filename,
                                      struct error **errp)
{
    g_autofree char *text = NULL;
    AuthZListProperties *list;
    json_error_t where;
    json_t *json;
    size_t bytes;

    text = object_read_file(filename, MAX_FILE_BYTES, &bytes, errp);
    if (!text) {
        return NULL;
    }
    json = json_loadb(text, bytes, JSON_REJECT_DUPLICATES, &where);
    if (!json) {
        error_set(errp, "Unable to parse %s: line %d: %s", filename,
                  where.line, where.text);
        return NULL;
    }
    list = AuthZListProperties_from_json(json, errp);
    json_decref(json);
    if (!list) {
        error_prepend(errp, "%s: ", filename);
    }
    return list;
}

/* Have what is in the file now.  Yields; A is in use. */
static bool file_reload(struct authz *a, struct error **errp)
{
    AuthZListProperties *list = NULL;
    struct stat st = { 0 };
    struct stat loaded = a->loaded;
    bool changed = true;

    CONTROL_YIELD {
        /* Looked at before it is read: what is newer is seen next time. */
        if (stat(a->filename, &st) < 0) {
            error_set_errno(errp, errno, "Unable to read %s", a->filename);
        } else {
            changed = !same_file(&st, &loaded);
            list = changed ? read_list(a->filename, errp) : NULL;
        }
    }
    if (!changed) {
        return true;
    }
    AuthZListProperties_free(a->list);
    a->list = list;
    a->loaded = list ? st : (struct stat){ 0 };
    return list != NULL;
}

/* ---- asking ------------------------------------------------------------- */

static bool is_authz(const struct object *obj)
{
    return obj->type == &authz_simple_object_type ||
        obj->type == &authz_list_object_type ||
        obj->type == &authz_list_file_object_type;
}

static bool ask(struct authz *a, const char *identity, struct error **errp)
{
    if (a->identity) {
        return !strcmp(a->identity, identity);
    }
    if (a->filename && a->refresh && !file_reload(a, errp)) {
        return false;
    }
    return a->list && list_allows(a->list, identity);
}

bool authz_allows(const char *id, const char *identity, struct error **errp)
{
    struct object *obj = object_find(id);
    bool allowed;
    AUTO_ERROR(err);

    if (!obj) {
        error_set(errp, "Cannot find authorization object '%s'", id);
        return false;
    }
    if (!is_authz(obj)) {
        error_set(errp, "Object '%s' is not an authorization object", id);
        return false;
    }
    object_get_again(obj);
    allowed = ask((struct authz *)obj, identity, &err);
    object_put(obj);
    if (!allowed && !err) {
        error_set(&err, "Authorization object '%s' denies access to '%s'",
                  id, identity);
    }
    error_propagate(errp, g_steal_pointer(&err));
    return allowed;
}

/* ---- life --------------------------------------------------------------- */

static bool simple_init(struct object *obj, const ObjectOptions *options,
                        struct error **errp)
{
    struct authz *a = (struct authz *)obj;

    a->identity = g_strdup(options->u.authz_simple.identity);
    return true;
}

static bool list_init(struct object *obj, const ObjectOptions *options,
                      struct error **errp)
{
    struct authz *a = (struct authz *)obj;

    a->list = AuthZListProperties_clone(&options->u.authz_list);
    return true;
}

static bool list_file_init(struct object *obj, const ObjectOptions *options,
                           struct error **errp)
{
    const AuthZListFileProperties *o =
        options->qom_type == OBJECT_TYPE_AUTHZ_LISTFILE
        ? &options->u.authz_listfile : &options->u.authz_list_file;
    struct authz *a = (struct authz *)obj;

    a->filename = g_strdup(o->filename);
    a->refresh = !o->has_refresh || o->refresh;
    if (!file_reload(a, errp)) {
        g_free(a->filename);
        return false;
    }
    return true;
}

static void authz_fini(struct object *obj)
{
    struct authz *a = (struct authz *)obj;

    g_free(a->identity);
    g_free(a->filename);
    AuthZListProperties_free(a->list);
}

/* ---- properties --------------------------------------------------------- */

static json_t *get_identity(struct object *obj, const char *name,
                            struct error **errp)
{
    return json_string(((struct authz *)obj)->identity);
}

static json_t *get_filename(struct object *obj, const char *name,
                            struct error **errp)
{
    return json_string(((struct authz *)obj)->filename);
}

static json_t *get_refresh(struct object *obj, const char *name,
                           struct error **errp)
{
    return json_boolean(((struct authz *)obj)->refresh);
}

static json_t *get_policy(struct object *obj, const char *name,
                          struct error **errp)
{
    return json_string(QAuthZListPolicy_str(
        ((struct authz *)obj)->list->policy));
}

static json_t *get_rules(struct object *obj, const char *name,
                         struct error **errp)
{
    const AuthZListProperties *list = ((struct authz *)obj)->list;

    return list->rules ? QAuthZListRuleList_to_json(list->rules)
        : json_array();
}

static const struct object_property simple_properties[] = {
    { "identity", "string", get_identity },
    { NULL },
};

static const struct object_property list_properties[] = {
    { "policy", "QAuthZListPolicy", get_policy },
    { "rules", "QAuthZListRule", get_rules },
    { NULL },
};

static const struct object_property list_file_properties[] = {
    { "filename", "string", get_filename },
    { "refresh", "bool", get_refresh },
    { NULL },
};

const struct object_type authz_simple_object_type = {
    .type = OBJECT_TYPE_AUTHZ_SIMPLE,
    .size = sizeof(struct authz),
    .init = simple_init,
    .fini = authz_fini,
    .parent = "authz",
    .del_in_use = true,
    .properties = simple_properties,
};

const struct object_type authz_list_object_type = {
    .type = OBJECT_TYPE_AUTHZ_LIST,
    .size = sizeof(struct authz),
    .init = list_init,
    .fini = authz_fini,
    .parent = "authz",
    .del_in_use = true,
    .properties = list_properties,
};

const struct object_type authz_list_file_object_type = {
    .type = OBJECT_TYPE_AUTHZ_LIST_FILE,
    .size = sizeof(struct authz),
    .init = list_file_init,
    .fini = authz_fini,
    .parent = "authz",
    .del_in_use = true,
    .properties = list_file_properties,
};
