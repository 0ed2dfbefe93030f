/* SPDX-License-Identifier: MIT */
/* Words of a command line to a command's arguments: see args.h. */
#include "tools/args.h"

#include <string.h>

/* Keys of an object that are 0, 1, 2 … make it a list. */
static json_t *lists_from_numbers(json_t *v)
{
    const char *key;
    json_t *member, *list;
    void *tmp;

    if (!json_is_object(v)) {
        return json_incref(v);
    }
    json_object_foreach_safe(v, tmp, key, member) {
        json_object_set_new(v, key, lists_from_numbers(member));
    }
    list = json_array();
    for (size_t i = 0; i < json_object_size(v); i++) {
        g_autofree char *index = g_strdup_printf("%zu", i);

        member = json_object_get(v, index);
        if (!member) {
            json_decref(list);
            return json_incref(v);
        }
        json_array_append(list, member);
    }
    if (json_array_size(list) == 0) {
        json_decref(list);
        return json_incref(v);
    }
    return list;
}

static bool set_dotted(const struct schema *s, json_t *root, json_t *type,
                       const char *word, struct error **errp)
{
    const char *equals = strchr(word, '=');
    g_auto(GStrv) keys = NULL;
    g_autofree char *path = NULL;
    json_t *at = root, *value;

    if (!equals || equals == word) {
        error_set(errp, "'%s' is neither key=value nor a JSON object", word);
        return false;
    }
    path = g_strndup(word, equals - word);
    keys = g_strsplit(path, ".", -1);
    for (int i = 0; keys[i]; i++) {
        bool number = strspn(keys[i], "0123456789") == strlen(keys[i]);

        if (!*keys[i] || (json_object_get(at, keys[i]) && !keys[i + 1])) {
            error_set(errp, *keys[i] ? "'%s' is given twice"
                                     : "'%s' has an empty part", path);
            return false;
        }
        if (type && !(number && i > 0)) {
            type = schema_member(s, type, keys[i]);
        } else if (type && number &&
                   json_object_get(type, "element-type")) {
            type = schema_entity(s, json_string_value(
                                     json_object_get(type, "element-type")));
        }
        if (!keys[i + 1]) {
            break;
        }
        if (!json_object_get(at, keys[i])) {
            json_object_set_new(at, keys[i], json_object());
        }
        at = json_object_get(at, keys[i]);
        if (!json_is_object(at)) {
            error_set(errp, "'%s' is given both as a value and as an object",
                      keys[i]);
            return false;
        }
    }
    value = schema_value(s, type, equals + 1, errp);
    if (!value) {
        error_prepend(errp, "%s: ", path);
        return false;
    }
    json_object_set_new(at, keys[g_strv_length(keys) - 1], value);
    return true;
}

json_t *args_parse(const struct schema *s, const char *command,
                   char *const *words, size_t n, struct error **errp)
{
    json_t *type = schema_arguments(s, command);
    json_t *root, *ret;

    if (n == 1 && words[0][0] == '{') {
        json_error_t jerr;

        root = json_loads(words[0], JSON_REJECT_DUPLICATES, &jerr);
        if (!root) {
            error_set(errp, "Arguments are not JSON: %s (column %d)",
                      jerr.text, jerr.column);
        }
        return root;
    }
    root = json_object();
    for (size_t i = 0; i < n; i++) {
        if (!set_dotted(s, root, type, words[i], errp)) {
            json_decref(root);
            return NULL;
        }
    }
    ret = lists_from_numbers(root);
    json_decref(root);
    return ret;
}

/* ---- splitting ----------------------------------------------------------------- */

char **args_split(const char *line, struct error **errp)
{
    g_autoptr(GPtrArray) words = g_ptr_array_new_with_free_func(g_free);
    const char *p = line;

    for (;;) {
        g_autoptr(GString) word = NULL;
        int depth = 0;
        char quote = 0;

        p += strspn(p, " \t");
        if (!*p) {
            break;
        }
        word = g_string_new(NULL);
        for (; *p && (quote || depth || !strchr(" \t", *p)); p++) {
            /* Inside braces the text is JSON: kept as it is. */
            if (*p == '\\' && p[1]) {
                if (depth) {
                    g_string_append_c(word, *p);
                }
                g_string_append_c(word, *++p);
            } else if (quote ? *p == quote : (*p == '"' || *p == '\'')) {
                quote = quote ? 0 : *p;
                if (depth) {
                    g_string_append_c(word, *p);
                }
            } else {
                if (!quote) {
                    depth += (*p == '{' || *p == '[') -
                             (*p == '}' || *p == ']');
                }
                g_string_append_c(word, *p);
            }
        }
        if (quote || depth > 0) {
            error_set(errp, quote ? "A quote is not closed"
                                  : "A brace is not closed");
            return NULL;
        }
        g_ptr_array_add(words, g_strdup(word->str));
    }
    g_ptr_array_add(words, NULL);
    return (char **)g_ptr_array_free(g_steal_pointer(&words), FALSE);
}
