/* SPDX-License-Identifier: MIT */
/* File names in: see filename.h. */
#include "block/filename.h"

#include <string.h>
#include "base/error.h"

enum { MAX_JSON_DEPTH = 100 };

static const char json_prefix[] = "json:";
static const char file_prefix[] = "file:";
static const char null_prefix[] = "null-co:";

/* ---- protocols and paths ------------------------------------------------ */

/* The colon that ends a protocol's name, or NULL: a plain path. */
static const char *protocol_end(const char *name)
{
    const char *p = name + strcspn(name, ":/");

    return *p == ':' ? p : NULL;
}

bool filename_is_json(const char *name)
{
    return g_str_has_prefix(name, json_prefix);
}

const char *filename_local_path(const char *name)
{
    if (g_str_has_prefix(name, file_prefix)) {
        return name + strlen(file_prefix);
    }
    return protocol_end(name) ? NULL : name;
}

char *filename_resolve(const char *base, const char *name)
{
    const char *slash;

    if (name[0] == '/' || protocol_end(name)) {
        return g_strdup(name);
    }
    slash = strrchr(base, '/');
    return slash ? g_strdup_printf("%.*s%s", (int)(slash + 1 - base), base,
                                   name)
                 : g_strdup(name);
}

BlockdevOptions *filename_protocol_options(const char *name,
                                           struct error **errp)
{
    g_autoptr(BlockdevOptions) o = BlockdevOptions_new0();
    const char *path = filename_local_path(name);

    if (path) {
        o->driver = BLOCKDEV_DRIVER_FILE;
        o->u.file.filename = g_strdup(path);
        return g_steal_pointer(&o);
    }
    if (g_str_has_prefix(name, null_prefix)) {
        if (strcmp(name, "null-co://") != 0) {
            error_set(errp, "The only allowed filename for this driver is "
                      "'null-co://'");
            return NULL;
        }
        o->driver = BLOCKDEV_DRIVER_NULL_CO;
        return g_steal_pointer(&o);
    }
    error_set(errp, "Unknown protocol '%.*s'",
              (int)(protocol_end(name) - name), name);
    return NULL;
}

/* ---- json: -------------------------------------------------------------- */

/* Put VALUE (borrowed) at the dotted KEY of OBJECT. */
static bool put_dotted(json_t *object, const char *key, json_t *value,
                       struct error **errp)
{
    g_auto(GStrv) parts = g_strsplit(key, ".", MAX_JSON_DEPTH + 1);
    guint n = g_strv_length(parts);

    if (n > MAX_JSON_DEPTH) {
        error_set(errp, "Could not parse the JSON options: nested too "
                  "deeply");
        return false;
    }
    for (guint i = 0; i + 1 < n; i++) {
        json_t *below = json_object_get(object, parts[i]);

        if (!below) {
            below = json_object();
            json_object_set_new(object, parts[i], below);
        } else if (!json_is_object(below)) {
            error_set(errp, "'%s' is given as a value and with members in a "
                      "json: file name", parts[i]);
            return false;
        }
        object = below;
    }
    if (json_object_get(object, parts[n - 1])) {
        error_set(errp, "'%s' is given twice in a json: file name", key);
        return false;
    }
    json_object_set(object, parts[n - 1], value);
    return true;
}

/* Members are moved from dotted keys into objects, at the top only: who
 * writes nested objects does not write dots in them. */
static json_t *nest_dotted(json_t *flat, struct error **errp)
{
    json_t *nested = json_object();
    const char *key;
    json_t *value;

    json_object_foreach(flat, key, value) {
        if (!strchr(key, '.')) {
            json_object_set(nested, key, value);
        }
    }
    json_object_foreach(flat, key, value) {
        if (strchr(key, '.') && !put_dotted(nested, key, value, errp)) {
            json_decref(nested);
            return NULL;
        }
    }
    return nested;
}

/* Objects in objects are followed by recursion. */
static bool is_too_deep(const char *text)
{
    int depth = 0;

    for (bool quoted = false; *text; text++) {
        if (*text == '"') {
            quoted = !quoted;
        } else if (quoted) {
            text += *text == '\\' && text[1];
        } else if (strchr("{[", *text)) {
            depth++;
        } else if (strchr("}]", *text)) {
            depth--;
        }
        if (depth > MAX_JSON_DEPTH) {
            return true;
        }
    }
    return false;
}

json_t *filename_parse_json(const char *name, struct error **errp)
{
    json_error_t where;
    json_t *flat, *nested;

    g_assert(filename_is_json(name));
    if (is_too_deep(name)) {
        error_set(errp, "Could not parse the JSON options: nested too "
                  "deeply");
        return NULL;
    }
    flat = json_loads(name + strlen(json_prefix), JSON_REJECT_DUPLICATES,
                      &where);
    if (!json_is_object(flat)) {
        if (flat) {
            error_set(errp, "Could not parse the JSON options: an object is "
                      "expected");
        } else {
            error_set(errp, "Could not parse the JSON options: %s",
                      where.text);
        }
        json_decref(flat);
        return NULL;
    }
    nested = nest_dotted(flat, errp);
    json_decref(flat);
    return nested;
}

/* ---- the backing name in a header --------------------------------------- */

char *node_resolved_backing_name(struct node *n, struct error **errp)
{
    const char *name = n->header_backing_file;
    const struct node *leaf = n;

    if (!name) {
        return NULL;
    }
    if (name[0] == '/' || protocol_end(name)) {
        return g_strdup(name);
    }
    while (leaf->file) {
        leaf = leaf->file->node;
    }
    if (leaf->driver->type != BLOCKDEV_DRIVER_FILE) {
        error_set(errp, "Cannot use relative backing file names for '%s'",
                  node_name(n));
        return NULL;
    }
    return filename_resolve(leaf->filename, name);
}
