/* SPDX-License-Identifier: MIT */
/* The text of -drive: see drive-text.h. */
#include "server/machine/drive-text.h"

#include <errno.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

enum {
    MAX_DEPTH = 64,             /* of dotted keys */
};

static const char *current;     /* control lock */

void drive_text_set_current(const char *text)
{
    current = text;
}

void drive_text_warn(const char *fmt, ...)
{
    g_autofree char *text = NULL;
    va_list args;

    va_start(args, fmt);
    text = g_strdup_vprintf(fmt, args);
    va_end(args);
    if (current) {
        error_report_text("-drive %s: warning: %s", current, text);
    } else {
        error_report_text("warning: %s", text);
    }
}

/* ---- to key and value --------------------------------------------------- */

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

static void set_text(json_t *flat, const char *key, const char *value)
{
    json_object_set_new_nocheck(flat, key, json_string_nocheck(value));
}

/* "readonly" and "noreadonly", as people wrote it once. */
static void set_short_form(json_t *flat, const char *key)
{
    bool off = g_str_has_prefix(key, "no");
    const char *name = off ? key + 2 : key;

    drive_text_warn("short-form boolean option '%s' deprecated\n"
                    "Please use %s=%s instead", key, name, off ? "off" : "on");
    set_text(flat, name, off ? "off" : "on");
}

json_t *drive_text_parse(const char *text)
{
    json_t *flat = json_object();
    const char *at = text;

    while (*at) {
        size_t n = strcspn(at, "=,");
        g_autofree char *key = g_strndup(at, n);
        g_autofree char *value = NULL;

        at += n;
        if (*at == '=') {
            at++;
            value = take_value(&at);
            set_text(flat, key, value);
        } else {
            at += *at == ',';
            set_short_form(flat, key);
        }
    }
    return flat;
}

char *drive_text_take(json_t *flat, const char *key)
{
    char *value = g_strdup(json_string_value(json_object_get(flat, key)));

    json_object_del(flat, key);
    return value;
}

bool drive_text_is_bool(const char *text, bool *value)
{
    static const char *const words[][2] = {
        { "off", "on" }, { "no", "yes" }, { "false", "true" }, { "n", "y" },
    };

    for (size_t i = 0; i < G_N_ELEMENTS(words); i++) {
        for (int v = 0; v < 2; v++) {
            if (strcmp(text, words[i][v]) == 0) {
                *value = v;
                return true;
            }
        }
    }
    return false;
}

bool drive_text_take_bool(json_t *flat, const char *key, bool *value,
                          struct error **errp)
{
    g_autofree char *text = drive_text_take(flat, key);

    if (text && !drive_text_is_bool(text, value)) {
        error_set(errp, "Parameter '%s' expects 'on' or 'off'", key);
        return false;
    }
    return true;
}

bool drive_text_take_number(json_t *flat, const char *key, int64_t *value,
                            struct error **errp)
{
    g_autofree char *text = drive_text_take(flat, key);
    char *end;
    int64_t number;

    if (!text) {
        return true;
    }
    errno = 0;
    number = strtoll(text, &end, 0);
    if (errno || end == text || *end) {
        error_set(errp, "Parameter '%s' expects a number", key);
        return false;
    }
    *value = number;
    return true;
}

/* ---- nesting ------------------------------------------------------------ */

static bool put(json_t *top, const char *key, json_t *value,
                struct error **errp)
{
    g_auto(GStrv) parts = g_strsplit(key, ".", MAX_DEPTH + 1);
    guint n = g_strv_length(parts);
    json_t *object = top, *below;

    if (n > MAX_DEPTH) {
        error_set(errp, "Parameter '%s' is nested too deeply", key);
        return false;
    }
    for (guint i = 0; i + 1 < n; i++) {
        below = json_object_get(object, parts[i]);
        if (!below) {
            below = json_object();
            json_object_set_new_nocheck(object, parts[i], below);
        }
        if (!json_is_object(below)) {
            error_set(errp, "Cannot reference an existing block device with "
                      "additional options or a new filename");
            return false;
        }
        object = below;
    }
    below = json_object_get(object, n ? parts[n - 1] : "");
    if (below && json_is_object(below)) {
        error_set(errp, "Cannot reference an existing block device with "
                  "additional options or a new filename");
        return false;
    }
    json_object_set_nocheck(object, n ? parts[n - 1] : "", value);
    return true;
}

static bool is_number(const char *key)
{
    return *key && strspn(key, "0123456789") == strlen(key);
}

/* All its keys are numbers. */
static bool is_array(json_t *object)
{
    const char *key;
    json_t *value;

    json_object_foreach(object, key, value) {
        if (!is_number(key)) {
            return false;
        }
    }
    return json_object_size(object) > 0;
}

/* A new reference. */
static json_t *to_array(json_t *object, const char *name,
                        struct error **errp)
{
    json_t *array = json_array();

    for (size_t i = 0; i < json_object_size(object); i++) {
        char key[24];
        json_t *item;

        g_snprintf(key, sizeof(key), "%zu", i);
        item = json_object_get(object, key);
        if (!item) {
            error_set(errp, "Option %s is not a valid array", name);
            json_decref(array);
            return NULL;
        }
        json_array_append(array, item);
    }
    return array;
}

static bool make_arrays(json_t *object, struct error **errp)
{
    const char *key;
    json_t *value, *array;
    void *next;

    json_object_foreach_safe(object, next, key, value) {
        if (!json_is_object(value)) {
            continue;
        }
        if (!make_arrays(value, errp)) {
            return false;
        }
        if (is_array(value)) {
            array = to_array(value, key, errp);
            if (!array) {
                return false;
            }
            json_object_set_new_nocheck(object, key, array);
        }
    }
    return true;
}

json_t *drive_text_nest(const json_t *flat, struct error **errp)
{
    json_t *top = json_object();
    const char *key;
    json_t *value;

    json_object_foreach((json_t *)flat, key, value) {
        if (!put(top, key, value, errp)) {
            json_decref(top);
            return NULL;
        }
    }
    if (!make_arrays(top, errp)) {
        json_decref(top);
        return NULL;
    }
    return top;
}
