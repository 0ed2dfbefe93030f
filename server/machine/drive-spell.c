/* SPDX-License-Identifier: MIT */
/* Options of -drive as they are spelled: see drive-spell.h. */
#include "server/machine/drive-spell.h"

#include <string.h>
#include "block/filename.h"
#include "qapi/qapi-visit.h"

/* ---- objects ------------------------------------------------------------ */

const char *drive_get_text(const json_t *o, const char *key)
{
    return json_string_value(json_object_get(o, key));
}

void drive_set_text(json_t *o, const char *key, const char *value)
{
    json_object_set_new_nocheck(o, key, json_string_nocheck(value));
}

/* The object called KEY in O, made if there is none; NULL: it is none. */
json_t *drive_get_object(json_t *o, const char *key)
{
    json_t *below = json_object_get(o, key);

    if (!below) {
        below = json_object();
        json_object_set_new_nocheck(o, key, below);
    }
    return json_is_object(below) ? below : NULL;
}

/* A scalar as it is written on a command line.  New reference. */
static json_t *as_text(const json_t *value)
{
    g_autofree char *text = NULL;

    if (json_is_boolean(value)) {
        return json_string(json_is_true(value) ? "on" : "off");
    }
    if (json_is_integer(value)) {
        text = g_strdup_printf("%" JSON_INTEGER_FORMAT,
                               json_integer_value(value));
        return json_string(text);
    }
    return json_deep_copy(value);
}

static void make_text(json_t *json)
{
    const char *key;
    json_t *value;
    size_t i;
    void *next;

    json_array_foreach(json, i, value) {
        make_text(value);
        if (!json_is_object(value) && !json_is_array(value)) {
            json_array_set_new(json, i, as_text(value));
        }
    }
    json_object_foreach_safe(json, next, key, value) {
        make_text(value);
        if (!json_is_object(value) && !json_is_array(value)) {
            json_object_set_new_nocheck(json, key, as_text(value));
        }
    }
}

/* What FROM (of a file name) says and O does not. */
static void merge(json_t *o, json_t *from)
{
    const char *key;
    json_t *value, *own;

    json_object_foreach(from, key, value) {
        own = json_object_get(o, key);
        if (!own) {
            json_object_set_nocheck(o, key, value);
        } else if (json_is_object(own) && json_is_object(value)) {
            merge(own, value);
        }
    }
}

/* What a name says (FROM, taken; NULL: nothing, false) into O. */
static bool merge_name(json_t *o, json_t *from)
{
    if (!from) {
        return false;
    }
    make_text(from);
    merge(o, from);
    json_decref(from);
    return true;
}

bool drive_merge_json_name(json_t *o, const char *name, struct error **errp)
{
    return merge_name(o, filename_parse_json(name, errp));
}

/* Two names in one: what comes after them is still to be completed, as with
 * blkdebug:CONFIG:FILE.  NULL: NAME is not one of those. */
static json_t *split_name(const char *name)
{
    static const struct {
        const char *prefix, *driver, *first, *second;
    } known[] = {
        { "blkdebug:", "blkdebug", "config", "image" },
        { "blkverify:", "blkverify", "raw", "test" },
    };

    for (size_t i = 0; i < G_N_ELEMENTS(known); i++) {
        const char *first = name + strlen(known[i].prefix);
        const char *colon = g_str_has_prefix(name, known[i].prefix)
                            ? strchr(first, ':') : NULL;
        g_autofree char *text = NULL;
        json_t *o;

        if (!colon) {
            continue;
        }
        o = json_object();
        text = g_strndup(first, colon - first);
        drive_set_text(o, "driver", known[i].driver);
        drive_set_text(drive_get_object(o, known[i].second), "filename",
                       colon + 1);
        if (strcmp(known[i].first, "config")) {
            drive_set_text(drive_get_object(o, known[i].first), "filename",
                           text);
        } else if (text[0]) {
            drive_set_text(o, known[i].first, text);
        }
        return o;
    }
    return NULL;
}

/* What the protocol in NAME makes of it; NULL: an error. */
static json_t *options_of_name(const char *name, struct error **errp)
{
    g_autoptr(BlockdevOptions) options = NULL;
    json_t *o = split_name(name);

    if (!o) {
        options = filename_protocol_options(name, errp);
        o = options ? BlockdevOptions_to_json(options) : NULL;
    }
    return o;
}

bool drive_merge_protocol_name(json_t *o, const char *name,
                                struct error **errp)
{
    return merge_name(o, options_of_name(name, errp));
}

/* ---- spelling ----------------------------------------------------------- */

/* 1M and its like, where the schema has a plain number. */
static const char *const sizes[] = {
    "size", "offset", "cache-size", "l2-cache-size", "l2-cache-entry-size",
    "refcount-cache-size", "prealloc-size", "prealloc-align", "align",
    "max-transfer", "opt-write-zero", "max-write-zero", "opt-discard",
    "max-discard", "min-cluster-size",
};

/* TEXT as a size; false: it is none. */
static bool parse_size(const char *text, uint64_t *size)
{
    static const char suffixes[] = "BKMGTPE";
    const char *suffix;
    char *end;
    double value;

    if (!g_ascii_isdigit(text[0])) {
        return false;
    }
    *size = g_ascii_strtoull(text, &end, 0);
    if (!*end) {
        return true;
    }
    value = g_ascii_strtod(text, &end);
    suffix = *end ? strchr(suffixes, g_ascii_toupper(*end)) : NULL;
    if (!suffix || end[1]) {
        return false;
    }
    for (const char *s = suffixes; s < suffix; s++) {
        value *= 1024;
    }
    *size = value;
    return value < 9.2e18;
}

static bool spell_sizes(json_t *o, struct error **errp)
{
    for (size_t i = 0; i < G_N_ELEMENTS(sizes); i++) {
        const char *text = drive_get_text(o, sizes[i]);
        g_autofree char *digits = NULL;
        uint64_t size;

        if (!text) {
            continue;
        }
        if (!parse_size(text, &size)) {
            error_set(errp, "Parameter '%s' expects a non-negative number "
                      "below 2^64", sizes[i]);
            error_append_hint(errp, "Optional suffix k, M, G, T, P or E means "
                              "kilo-, mega-, giga-, tera-, peta-\n"
                              "and exabytes, respectively.");
            return false;
        }
        digits = g_strdup_printf("%" G_GUINT64_FORMAT, size);
        drive_set_text(o, sizes[i], digits);
    }
    return true;
}

static bool spell_discard(json_t *o, struct error **errp)
{
    const char *text = drive_get_text(o, "discard");

    if (!text || !strcmp(text, "ignore") || !strcmp(text, "unmap")) {
        return true;
    }
    if (strcmp(text, "on") && strcmp(text, "off")) {
        error_set(errp, "Invalid discard option");
        return false;
    }
    drive_set_text(o, "discard", strcmp(text, "on") ? "ignore" : "unmap");
    return true;
}

/* A key's name without a format is used if the image turns out to be
 * encrypted; which is refused then. */
void drive_spell_encrypt(json_t *o)
{
    json_t *encrypt = json_object_get(o, "encrypt");

    if (json_is_object(encrypt) && !drive_get_text(encrypt, "format")) {
        json_object_del(o, "encrypt");
    }
}

/* An NBD server the short way. */
void drive_spell_nbd(json_t *o)
{
    static const struct {
        const char *key, *type;
    } where[] = { { "path", "unix" }, { "host", "inet" } };

    for (size_t i = 0; i < G_N_ELEMENTS(where); i++) {
        json_t *value = json_object_get(o, where[i].key);
        json_t *server = value ? drive_get_object(o, "server") : NULL;

        if (!server) {
            continue;
        }
        drive_set_text(server, "type", where[i].type);
        json_object_set_nocheck(server, where[i].key, value);
        json_object_del(o, where[i].key);
        if (i == 1) {
            value = json_object_get(o, "port");
            drive_set_text(server, "port", value ? json_string_value(value)
                                           : "10809");
            json_object_del(o, "port");
        }
    }
}

bool drive_spell(json_t *o, struct error **errp)
{
    return spell_discard(o, errp) && spell_sizes(o, errp);
}
