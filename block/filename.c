/* SPDX-License-Identifier: MIT */
/* File names in: see filename.h. */
#include "block/filename.h"

#include <string.h>
#include <sys/stat.h>
#include "base/error.h"
#include "block/nbd/filename.h"
#include "qapi/qapi-visit.h"

enum { MAX_JSON_DEPTH = 100 };

static const char blkdebug_prefix[] = "blkdebug:";
static const char blkverify_prefix[] = "blkverify:";
static const char json_prefix[] = "json:";
static const char file_prefix[] = "file:";
static const char device_prefix[] = "host_device:";
static const char null_prefix[] = "null-co:";
static const char null_aio_prefix[] = "null-aio:";

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

/* A node that NAME alone names, as an option.  Owned, NULL: an error. */
static BlockdevRef *ref_to_name(const char *name, struct error **errp)
{
    g_autoptr(BlockdevRef) ref = BlockdevRef_new0();
    json_t *object;

    ref->type = QAPI_TYPE_OBJECT;
    if (!filename_is_json(name)) {
        ref->u.definition = filename_protocol_options(name, errp);
    } else {
        object = filename_parse_json(name, errp);
        if (object) {
            ref->u.definition = BlockdevOptions_from_json(object, errp);
            json_decref(object);
        }
    }
    return ref->u.definition ? g_steal_pointer(&ref) : NULL;
}

/* Names in names are followed by recursion. */
static bool is_nested_too_deeply(const char *name, struct error **errp)
{
    int n_colons = 0;

    for (; *name; name++) {
        n_colons += *name == ':';
    }
    if (n_colons > MAX_JSON_DEPTH) {
        error_set(errp, "File name is nested too deeply");
    }
    return n_colons > MAX_JSON_DEPTH;
}

/* blkdebug:[CONFIG]:FILE */
static BlockdevOptions *blkdebug_options(const char *name,
                                         struct error **errp)
{
    g_autoptr(BlockdevOptions) o = BlockdevOptions_new0();
    const char *config = name + strlen(blkdebug_prefix);
    const char *colon = strchr(config, ':');

    o->driver = BLOCKDEV_DRIVER_BLKDEBUG;
    if (!colon) {
        error_set(errp, "blkdebug requires both config file and image path");
        return NULL;
    }
    if (is_nested_too_deeply(name, errp)) {
        return NULL;
    }
    if (colon > config) {
        o->u.blkdebug.config = g_strndup(config, colon - config);
    }
    o->u.blkdebug.image = ref_to_name(colon + 1, errp);
    return o->u.blkdebug.image ? g_steal_pointer(&o) : NULL;
}

/* blkverify:RAW:TEST */
static BlockdevOptions *blkverify_options(const char *name,
                                          struct error **errp)
{
    g_autoptr(BlockdevOptions) o = BlockdevOptions_new0();
    const char *raw = name + strlen(blkverify_prefix);
    const char *colon = strchr(raw, ':');
    g_autofree char *raw_name = NULL;

    o->driver = BLOCKDEV_DRIVER_BLKVERIFY;
    if (!colon) {
        error_set(errp, "blkverify requires raw copy and original image "
                  "path");
        return NULL;
    }
    if (is_nested_too_deeply(name, errp)) {
        return NULL;
    }
    raw_name = g_strndup(raw, colon - raw);
    o->u.blkverify.raw = ref_to_name(raw_name, errp);
    o->u.blkverify.test = o->u.blkverify.raw ? ref_to_name(colon + 1, errp)
                                             : NULL;
    return o->u.blkverify.test ? g_steal_pointer(&o) : NULL;
}

/* A plain path may be a device's. */
static bool is_device(const char *path)
{
    struct stat st;

    return stat(path, &st) == 0 &&
           (S_ISBLK(st.st_mode) || S_ISCHR(st.st_mode));
}

/* null-co:// */
static BlockdevOptions *null_options(const char *name, BlockdevDriver driver,
                                     struct error **errp)
{
    g_autofree char *allowed = g_strconcat(BlockdevDriver_str(driver), "://",
                                           NULL);
    BlockdevOptions *o;

    if (strcmp(name, allowed) != 0) {
        error_set(errp, "The only allowed filename for this driver is '%s'",
                  allowed);
        return NULL;
    }
    o = BlockdevOptions_new0();
    o->driver = driver;
    return o;
}

BlockdevOptions *filename_protocol_options(const char *name,
                                           struct error **errp)
{
    g_autoptr(BlockdevOptions) o = BlockdevOptions_new0();
    const char *path = filename_local_path(name);

    if ((path == name && is_device(path)) ||
        g_str_has_prefix(name, device_prefix)) {
        o->driver = BLOCKDEV_DRIVER_HOST_DEVICE;
        o->u.host_device.filename =
            g_strdup(path ? path : name + strlen(device_prefix));
        return g_steal_pointer(&o);
    }
    if (path) {
        o->driver = BLOCKDEV_DRIVER_FILE;
        o->u.file.filename = g_strdup(path);
        return g_steal_pointer(&o);
    }
    if (g_str_has_prefix(name, null_prefix)) {
        return null_options(name, BLOCKDEV_DRIVER_NULL_CO, errp);
    }
    if (g_str_has_prefix(name, null_aio_prefix)) {
        return null_options(name, BLOCKDEV_DRIVER_NULL_AIO, errp);
    }
    if (g_str_has_prefix(name, blkdebug_prefix)) {
        return blkdebug_options(name, errp);
    }
    if (g_str_has_prefix(name, blkverify_prefix)) {
        return blkverify_options(name, errp);
    }
    if (nbd_filename_matches(name)) {
        return nbd_filename_parse(name, errp);
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
    if (n == 0) {
        error_set(errp, "A json: file name has a member without a name");
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

static json_t *nest_dotted(json_t *flat, int depth, struct error **errp);

/* New reference. */
static json_t *nest_value(json_t *value, int depth, struct error **errp)
{
    json_t *list, *item;
    size_t i;

    if (json_is_object(value)) {
        return nest_dotted(value, depth, errp);
    }
    if (!json_is_array(value)) {
        return json_incref(value);
    }
    list = json_array();
    json_array_foreach(value, i, item) {
        item = nest_value(item, depth + 1, errp);
        if (!item) {
            json_decref(list);
            return NULL;
        }
        json_array_append_new(list, item);
    }
    return list;
}

static int count_dots(const char *key)
{
    int n = 0;

    for (; *key; key++) {
        n += *key == '.';
    }
    return n;
}

/* Members are moved from dotted keys into objects, plain ones first.  DEPTH:
 * how deep FLAT is in the whole. */
static json_t *nest_dotted(json_t *flat, int depth, struct error **errp)
{
    json_t *nested = json_object();
    const char *key;
    json_t *value;

    for (int dotted = 0; dotted < 2; dotted++) {
        json_object_foreach(flat, key, value) {
            int n_dots = count_dots(key);
            json_t *own;
            bool ok;

            if ((n_dots == 0) == (dotted == 1)) {
                continue;
            }
            if (depth + n_dots > MAX_JSON_DEPTH) {
                error_set(errp, "Could not parse the JSON options: nested "
                          "too deeply");
                json_decref(nested);
                return NULL;
            }
            own = nest_value(value, depth + n_dots + 1, errp);
            ok = own && put_dotted(nested, key, own, errp);
            json_decref(own);
            if (!ok) {
                json_decref(nested);
                return NULL;
            }
        }
    }
    return nested;
}

/* An object with the members 0, 1, 2... is meant as an array. */
static json_t *as_array(json_t *object)
{
    size_t n = json_object_size(object);
    json_t *list = json_array();

    for (size_t i = 0; i < n; i++) {
        char key[24];
        json_t *item;

        g_snprintf(key, sizeof(key), "%zu", i);
        item = json_object_get(object, key);
        if (!item) {
            json_decref(list);
            return NULL;
        }
        json_array_append(list, item);
    }
    return list;
}

static void number_arrays(json_t *nested)
{
    json_t *value, *list;
    const char *key;
    size_t i;
    void *next;

    json_array_foreach(nested, i, value) {
        number_arrays(value);
    }
    json_object_foreach_safe(nested, next, key, value) {
        number_arrays(value);
        list = json_object_get(value, "0") ? as_array(value) : NULL;
        if (list) {
            json_object_set_new(nested, key, list);
        }
    }
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
        bool is_cut = !flat && json_error_code(&where) ==
                      json_error_premature_end_of_input;

        if (flat) {
            error_set(errp, "Invalid JSON object given");
        } else {
            error_set(errp, "Could not parse the JSON options: JSON parse "
                      "error, %s", is_cut ? "premature EOI" : where.text);
        }
        json_decref(flat);
        return NULL;
    }
    nested = nest_dotted(flat, 0, errp);
    json_decref(flat);
    number_arrays(nested);
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
    if (leaf->driver->type != BLOCKDEV_DRIVER_FILE &&
        leaf->driver->type != BLOCKDEV_DRIVER_HOST_DEVICE) {
        error_set(errp, "Cannot use relative backing file names for '%s'",
                  node_name(n));
        return NULL;
    }
    return filename_resolve(leaf->filename, name);
}
