/* SPDX-License-Identifier: MIT */
/* The server's own schema: see schema.h. */
#include "tools/schema.h"

#include <errno.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

struct schema {
    json_t *entities;           /* owned: query-qmp-schema's answer */
    GHashTable *by_name;        /* name -> entity, borrowed */
    GPtrArray *commands;        /* names, borrowed, sorted; NULL at the end */
};

static const char *str(json_t *object, const char *key)
{
    const char *s = json_string_value(json_object_get(object, key));

    return s ? s : "";
}

static bool is_meta(json_t *type, const char *meta)
{
    return strcmp(str(type, "meta-type"), meta) == 0;
}

static int compare_names(gconstpointer a, gconstpointer b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

struct schema *schema_load(struct client *c, struct error **errp)
{
    json_t *list = client_execute(c, "query-qmp-schema", NULL, errp);
    struct schema *s;
    json_t *e;
    size_t i;

    if (!list) {
        return NULL;
    }
    s = g_new0(struct schema, 1);
    s->entities = list;
    s->by_name = g_hash_table_new(g_str_hash, g_str_equal);
    s->commands = g_ptr_array_new();
    json_array_foreach(list, i, e) {
        g_hash_table_insert(s->by_name, (char *)str(e, "name"), e);
        if (is_meta(e, "command")) {
            g_ptr_array_add(s->commands, (char *)str(e, "name"));
        }
    }
    g_ptr_array_sort(s->commands, compare_names);
    g_ptr_array_add(s->commands, NULL);
    return s;
}

void schema_free(struct schema *s)
{
    if (s) {
        g_ptr_array_free(s->commands, TRUE);
        g_hash_table_destroy(s->by_name);
        json_decref(s->entities);
        g_free(s);
    }
}

json_t *schema_entity(const struct schema *s, const char *name)
{
    return g_hash_table_lookup(s->by_name, name);
}

const char *const *schema_commands(const struct schema *s)
{
    return (const char *const *)s->commands->pdata;
}

json_t *schema_arguments(const struct schema *s, const char *command)
{
    json_t *cmd = schema_entity(s, command);

    return cmd && is_meta(cmd, "command")
        ? schema_entity(s, str(cmd, "arg-type")) : NULL;
}

static json_t *find_member(json_t *type, const char *name)
{
    json_t *m;
    size_t i;

    json_array_foreach(json_object_get(type, "members"), i, m) {
        if (strcmp(str(m, "name"), name) == 0) {
            return m;
        }
    }
    return NULL;
}

bool schema_member_optional(json_t *type, const char *name)
{
    json_t *m = find_member(type, name);

    return m && json_object_get(m, "default");
}

json_t *schema_member(const struct schema *s, json_t *type, const char *name)
{
    json_t *m, *found = NULL;
    size_t i;

    if (is_meta(type, "array")) {
        return schema_member(s, schema_entity(s, str(type, "element-type")),
                             name);
    }
    if (is_meta(type, "alternate")) {
        json_array_foreach(json_object_get(type, "members"), i, m) {
            json_t *t = schema_entity(s, str(m, "type"));

            if (!found && t && is_meta(t, "object")) {
                found = schema_member(s, t, name);
            }
        }
        return found;
    }
    m = find_member(type, name);
    if (m) {
        return schema_entity(s, str(m, "type"));
    }
    json_array_foreach(json_object_get(type, "variants"), i, m) {
        json_t *t = schema_entity(s, str(m, "type"));

        if (!found && t) {
            found = schema_member(s, t, name);
        }
    }
    return found;
}

void schema_each_member(const struct schema *s, json_t *type,
                        void (*fn)(const char *name, json_t *type,
                                   bool optional, void *arg),
                        void *arg)
{
    json_t *m;
    size_t i;

    json_array_foreach(json_object_get(type, "members"), i, m) {
        if (is_meta(type, "object")) {
            fn(str(m, "name"), schema_entity(s, str(m, "type")),
               json_object_get(m, "default") != NULL, arg);
        }
    }
    json_array_foreach(json_object_get(type, "variants"), i, m) {
        json_t *t = schema_entity(s, str(m, "type"));

        if (t) {
            schema_each_member(s, t, fn, arg);
        }
    }
}

json_t *schema_enum_values(json_t *type)
{
    return is_meta(type, "enum") ? json_object_get(type, "values") : NULL;
}

char *schema_describe(const struct schema *s, json_t *type)
{
    if (!type) {
        return g_strdup("value");
    }
    if (is_meta(type, "builtin")) {
        return g_strdup(str(type, "json-type"));
    }
    if (is_meta(type, "array")) {
        g_autofree char *element = schema_describe(
            s, schema_entity(s, str(type, "element-type")));

        return g_strconcat("list of ", element, NULL);
    }
    if (is_meta(type, "enum")) {
        GString *text = g_string_new("one of");
        json_t *v;
        size_t i;

        json_array_foreach(schema_enum_values(type), i, v) {
            g_string_append_printf(text, "%s %s", i ? "," : "",
                                   json_string_value(v));
        }
        return g_string_free(text, FALSE);
    }
    if (is_meta(type, "alternate")) {
        return g_strdup("name or object");
    }
    return g_strdup("object");
}

/* ---- values -------------------------------------------------------------------- */

static json_t *parse_int(const char *word)
{
    static const char suffixes[] = "KMGTPE";
    char *end;
    long long v;

    errno = 0;
    v = strtoll(word, &end, 0);
    if (errno || end == word) {
        return NULL;
    }
    if (*end) {
        const char *suffix = strchr(suffixes, g_ascii_toupper(*end));
        int shift = suffix ? 10 * (int)(suffix - suffixes + 1) : 0;

        if (!suffix || end[1] || v > (INT64_MAX >> shift) ||
            v < (INT64_MIN >> shift)) {
            return NULL;
        }
        v *= 1LL << shift;
    }
    return json_integer(v);
}

static json_t *parse_bool(const char *word)
{
    if (!strcmp(word, "on") || !strcmp(word, "true") || !strcmp(word, "yes")) {
        return json_true();
    }
    if (!strcmp(word, "off") || !strcmp(word, "false") ||
        !strcmp(word, "no")) {
        return json_false();
    }
    return NULL;
}

static json_t *alternate_value(const struct schema *s, json_t *type,
                               const char *word)
{
    json_t *m, *v = NULL;
    size_t i;

    if (!strcmp(word, "null")) {
        json_array_foreach(json_object_get(type, "members"), i, m) {
            if (!strcmp(str(m, "type"), "null")) {
                return json_null();
            }
        }
    }
    json_array_foreach(json_object_get(type, "members"), i, m) {
        json_t *t = schema_entity(s, str(m, "type"));

        if (!v && t && !is_meta(t, "object") && strcmp(str(m, "type"), "null")) {
            v = schema_value(s, t, word, NULL);
        }
    }
    return v;
}

json_t *schema_value(const struct schema *s, json_t *type, const char *word,
                     struct error **errp)
{
    const char *json_type = type ? str(type, "json-type") : "value";
    g_autofree char *wanted = NULL;
    json_t *v = NULL;

    if ((word[0] == '{' || word[0] == '[') &&
        (v = json_loads(word, 0, NULL))) {
        return v;
    }
    if (!type || !strcmp(json_type, "value")) {
        v = json_loads(word, JSON_DECODE_ANY, NULL);
        return v ? v : json_string(word);
    }
    if (is_meta(type, "enum") || !strcmp(json_type, "string")) {
        v = json_string(word);
    } else if (!strcmp(json_type, "int")) {
        v = parse_int(word);
    } else if (!strcmp(json_type, "boolean")) {
        v = parse_bool(word);
    } else if (!strcmp(json_type, "number")) {
        v = json_loads(word, JSON_DECODE_ANY, NULL);
    } else if (!strcmp(json_type, "null") && !strcmp(word, "null")) {
        v = json_null();
    } else if (is_meta(type, "alternate")) {
        v = alternate_value(s, type, word);
    } else if (is_meta(type, "array")) {
        json_t *element = schema_value(
            s, schema_entity(s, str(type, "element-type")), word, NULL);

        v = element ? json_pack("[o]", element) : NULL;
    }
    if (!v) {
        wanted = schema_describe(s, type);
        error_set(errp, "'%s' is not what is expected here: %s", word, wanted);
    }
    return v;
}
