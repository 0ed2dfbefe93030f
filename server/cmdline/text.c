/* SPDX-License-Identifier: MIT */
/* Texts of options, "a=b,c=d" or JSON: see text.h. */
#include "server/cmdline/text.h"

#include <string.h>
#include "qapi/qapi.h"
#include "server/wire.h"

bool text_is_json(const char *text)
{
    return text[strspn(text, " \t\r\n")] == '{';
}

/* The end of the word that P begins: a comma alone, or the end. */
static const char *word_end(const char *p)
{
    while (*p && (*p != ',' || p[1] == ',')) {
        p += *p == ',' ? 2 : 1;
    }
    return p;
}

char *text_expand_switches(const char *text)
{
    GString *out = g_string_new(NULL);
    const char *p = text;

    while (*p) {
        const char *end = word_end(p);

        if (p == text || memchr(p, '=', end - p)) {
            g_string_append_len(out, p, end - p);
        } else if (!strncmp(p, "no", 2) && strncmp(p, "nodelay", 7)) {
            g_string_append_printf(out, "%.*s=off", (int)(end - p - 2),
                                   p + 2);
        } else {
            g_string_append_printf(out, "%.*s=on", (int)(end - p), p);
        }
        if (*end) {
            g_string_append_c(out, ',');
            end++;
        }
        p = end;
    }
    return g_string_free(out, FALSE);
}

json_t *text_parse(const char *text, const char *implied_key,
                   struct error **errp)
{
    return text_is_json(text) ? wire_parse(text, errp)
        : qapi_keyval_parse(text, implied_key, errp);
}

bool text_check(const char *text, const char *implied_key,
                struct error **errp)
{
    g_autofree char *expanded = text_expand_switches(text);
    bool first_is_switch = !implied_key && *expanded &&
        !memchr(expanded, '=', word_end(expanded) - expanded);
    json_t *object;

    if (first_is_switch) {
        g_autofree char *word = g_strndup(text, strcspn(text, ","));

        error_set(errp, "Invalid parameter '%s'", word);
        return false;
    }
    object = text_is_json(text) ? wire_parse(text, errp)
        : qapi_keyval_parse(expanded, implied_key, errp);
    json_decref(object);
    return object != NULL;
}

bool text_asks_help(const char *text, char **first)
{
    const char *p = text, *first_end = word_end(text);
    bool asks = false;

    if (first) {
        *first = NULL;
    }
    while (*p && !asks) {
        const char *end = word_end(p);
        size_t len = end - p;

        asks = (len == 4 && !memcmp(p, "help", 4)) || (len == 1 && *p == '?');
        if (asks && p != text && first) {
            *first = g_strndup(text, first_end - text);
        }
        p = *end ? end + 1 : end;
    }
    return asks;
}

char *text_value(const char *text, const char *key)
{
    size_t key_len = strlen(key);
    char *value = NULL;

    for (const char *p = text; *p;) {
        const char *end = word_end(p);

        if (!strncmp(p, key, key_len) && p[key_len] == '=') {
            GString *out = g_string_new(NULL);

            for (const char *q = p + key_len + 1; q < end; q++) {
                g_string_append_c(out, *q);
                q += *q == ',';         /* the first of two */
            }
            g_free(value);              /* the last one counts */
            value = g_string_free(out, FALSE);
        }
        p = *end ? end + 1 : end;
    }
    return value;
}

char *text_quote(const char *text)
{
    GString *out = g_string_new(NULL);

    for (; *text; text++) {
        g_string_append(out, *text == ',' ? "," : "");
        g_string_append_c(out, *text);
    }
    return g_string_free(out, FALSE);
}
