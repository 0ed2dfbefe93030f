/* SPDX-License-Identifier: MIT */
/* query-qmp-schema of a program that has not all commands: see introspect.h. */
#include "server/introspect.h"

#include <string.h>
#include <glib.h>
#include "server/persona.h"

struct walk {
    GHashTable *entries;        /* name of a type to its entry, borrowed */
    GHashTable *reached;        /* entries, as a set */
    GQueue todo;                /* entries to look into */
};

static bool is_type(const json_t *entry)
{
    const char *meta = json_string_value(json_object_get(entry, "meta-type"));

    return strcmp(meta, "command") != 0 && strcmp(meta, "event") != 0;
}

static const char *entry_name(const json_t *entry)
{
    return json_string_value(json_object_get(entry, "name"));
}

static void reach(struct walk *w, json_t *entry)
{
    if (entry && g_hash_table_add(w->reached, entry)) {
        g_queue_push_tail(&w->todo, entry);
    }
}

static void reach_type(struct walk *w, const json_t *of, const char *key)
{
    const char *name = json_string_value(json_object_get(of, key));

    if (name) {
        reach(w, g_hash_table_lookup(w->entries, name));
    }
}

static void reach_all(struct walk *w, const json_t *entry, const char *key)
{
    const json_t *list = json_object_get(entry, key), *element;
    size_t i;

    json_array_foreach(list, i, element) {
        reach_type(w, element, "type");
    }
}

static void walk_types(struct walk *w)
{
    const json_t *entry;

    while ((entry = g_queue_pop_head(&w->todo))) {
        reach_type(w, entry, "arg-type");
        reach_type(w, entry, "ret-type");
        reach_type(w, entry, "element-type");
        reach_all(w, entry, "members");
        reach_all(w, entry, "variants");
    }
}

static bool is_there(const json_t *entry)
{
    const char *meta = json_string_value(json_object_get(entry, "meta-type"));

    return strcmp(meta, "command") != 0 ||
           persona_has_command(entry_name(entry));
}

json_t *introspect_of_persona(json_t *all)
{
    struct walk w = {
        .entries = g_hash_table_new(g_str_hash, g_str_equal),
        .reached = g_hash_table_new(NULL, NULL),
        .todo = G_QUEUE_INIT,
    };
    json_t *some = json_array(), *entry;
    size_t i;

    json_array_foreach(all, i, entry) {
        if (is_type(entry)) {
            g_hash_table_insert(w.entries, (void *)entry_name(entry), entry);
        }
    }
    json_array_foreach(all, i, entry) {
        if (!is_type(entry) && is_there(entry)) {
            reach(&w, entry);
        }
    }
    walk_types(&w);
    json_array_foreach(all, i, entry) {
        if (g_hash_table_contains(w.reached, entry)) {
            json_array_append(some, entry);
        }
    }
    g_hash_table_destroy(w.entries);
    g_hash_table_destroy(w.reached);
    json_decref(all);
    return some;
}
