/* SPDX-License-Identifier: MIT */
/*
 * "key=value,key=value" of a command line to JSON.
 *
 * First every dotted key becomes nested objects, then objects whose keys are
 * numbers become arrays.  A key given twice: the last one counts.  A key used
 * both for a value and for more keys below it is refused, and so is an array
 * with holes.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "qapi/qapi.h"

/* Bounds the recursion below; far more than any schema has. */
enum { MAX_DEPTH = 64 };

/* The length of the part of a key at TEXT: a name or a number. */
static size_t part_length(const char *text)
{
    size_t n = 0;

    if (g_ascii_isdigit(text[0])) {
        while (g_ascii_isdigit(text[n])) {
            n++;
        }
        return n;
    }
    if (!g_ascii_isalpha(text[0]) && text[0] != '_') {
        return 0;
    }
    while (g_ascii_isalnum(text[n]) || text[n] == '-' || text[n] == '_') {
        n++;
    }
    return n;
}

static bool key_set(json_t *top, const char *key, const char *value,
                    struct error **errp)
{
    json_t *object = top, *next;
    const char *at = key;
    unsigned depth = 0;

    for (;;) {
        const size_t n = part_length(at);
        g_autofree char *part = g_strndup(at, n);

        if (n == 0 || (at[n] && at[n] != '.') || n > 127 ||
            (at == key && g_ascii_isdigit(at[0])) || ++depth > MAX_DEPTH) {
            error_set(errp, "Invalid parameter '%s'", key);
            return false;
        }
        next = json_object_get(object, part);
        if (next && json_is_object(next) != (at[n] == '.')) {
            error_set(errp, "Parameters '%.*s.*' used inconsistently",
                      (int)(at + n - key), key);
            return false;
        }
        if (!at[n]) {
            json_object_set_new_nocheck(object, part,
                                        json_string_nocheck(value));
            return true;
        }
        if (!next) {
            next = json_object();
            json_object_set_new_nocheck(object, part, next);
        }
        object = next;
        at += n + 1;
    }
}

/* The value at *TEXT, which is moved behind it and its comma. */
static char *take_value(const char **text)
{
    GString *value = g_string_new(NULL);
    const char *at = *text;

    while (*at && (*at != ',' || at[1] == ',')) {
        at += *at == ',';
        g_string_append_c(value, *at++);
    }
    *text = at + (*at == ',');
    return g_string_free(value, FALSE);
}

static bool take_pair(const char **text, const char *implied_key,
                      json_t *top, struct error **errp)
{
    const size_t n = strcspn(*text, "=,");
    g_autofree char *key = g_strndup(*text, n);
    g_autofree char *value = NULL;

    if ((*text)[n] == '=') {
        *text += n + 1;
        value = take_value(text);
        return key_set(top, key, value, errp);
    }
    if (implied_key && n) {
        *text += n + ((*text)[n] == ',');
        return key_set(top, implied_key, key, errp);
    }
    if (n) {
        error_set(errp, "Expected '=' after parameter '%s'", key);
    } else {
        error_set(errp, "Invalid parameter ''");
    }
    return false;
}

/* The array that OBJECT, with nothing but numbers for keys, stands for. */
static json_t *array_from_object(json_t *object, const char *path,
                                 struct error **errp)
{
    const size_t n = json_object_size(object);
    g_autofree json_t **elements = g_new0(json_t *, n);
    json_t *array, *value;
    const char *key;

    json_object_foreach(object, key, value) {
        const uint64_t index = g_ascii_strtoull(key, NULL, 10);

        if (index < n) {
            elements[index] = value;
        }
    }
    array = json_array();
    for (size_t i = 0; i < n; i++) {
        if (!elements[i]) {
            error_set(errp, "Parameter '%s.%zu' missing", path, i);
            json_decref(array);
            return NULL;
        }
        json_array_append(array, elements[i]);
    }
    return array;
}

/* JSON (owned) with arrays where they are meant; NULL: *errp is set. */
static json_t *make_arrays(json_t *json, const char *path,
                           struct error **errp)
{
    size_t n_numbers = 0;
    const char *key;
    json_t *value, *array;
    void *next;

    if (!json_is_object(json)) {
        return json;
    }
    json_object_foreach_safe(json, next, key, value) {
        g_autofree char *below = path ? g_strdup_printf("%s.%s", path, key)
                                      : g_strdup(key);

        value = make_arrays(json_incref(value), below, errp);
        if (!value) {
            json_decref(json);
            return NULL;
        }
        n_numbers += g_ascii_isdigit(key[0]);
        json_object_set_new_nocheck(json, key, value);
    }
    if (n_numbers == 0) {
        return json;
    }
    array = NULL;
    if (n_numbers < json_object_size(json)) {
        error_set(errp, "Parameters '%s.*' used inconsistently", path);
    } else {
        array = array_from_object(json, path, errp);
    }
    json_decref(json);
    return array;
}

json_t *qapi_keyval_parse(const char *text, const char *implied_key,
                          struct error **errp)
{
    json_t *top = json_object();

    while (*text) {
        if (!take_pair(&text, implied_key, top, errp)) {
            json_decref(top);
            return NULL;
        }
        implied_key = NULL;
    }
    return make_arrays(top, NULL, errp);
}
