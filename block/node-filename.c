/* SPDX-License-Identifier: MIT */
/*
 * File names out: how a node is reported.
 *
 * A node that its file's name alone would open again, with the backing file
 * that its header names, has that name; any other is "json:" with the options
 * that make a difference.
 *
 * Cost        A name depends on the names of all nodes below.  Names are kept
 *             until the graph changes, and computed from the leaves up, so a
 *             query of all nodes is linear.
 */
#include "block/graph-priv.h"

#include <string.h>
#include "base/control.h"
#include "block/filename.h"
#include "qapi/qapi-visit.h"

enum {
    MAX_JSON_NAME = 4095,       /* longer ones end in "..." as QEMU's do */
    /* Each node takes twelve characters at least. */
    MAX_JSON_NODES = MAX_JSON_NAME / 12 + 1,
};

static uint64_t generation = 1;

void node_filenames_changed(void)
{
    generation++;
}

static bool is_strong(const struct node *n, const char *key)
{
    for (const char *const *s = n->driver->strong_options; s && *s; s++) {
        if (strcmp(*s, key) == 0) {
            return true;
        }
    }
    return false;
}

/* As json: file names have it: "inject-error.0.event". */
static void put_flat(json_t *o, const char *key, json_t *value)
{
    const char *name;
    json_t *item;
    size_t i;

    if (json_is_array(value)) {
        json_array_foreach(value, i, item) {
            g_autofree char *below = g_strdup_printf("%s.%zu", key, i);
            put_flat(o, below, item);
        }
    } else if (json_is_object(value)) {
        json_object_foreach(value, name, item) {
            g_autofree char *below = g_strdup_printf("%s.%s", key, name);
            put_flat(o, below, item);
        }
    } else {
        json_object_set(o, key, value);
    }
}

/* N's own options that matter; a new object, NULL if it has none. */
static json_t *strong_options(const struct node *n)
{
    json_t *all, *strong = NULL, *value;
    const char *key;

    if (!n->driver->strong_options || !n->options) {
        return NULL;
    }
    all = BlockdevOptions_to_json(n->options);
    json_object_foreach(all, key, value) {
        if (is_strong(n, key)) {
            strong = strong ? strong : json_object();
            put_flat(strong, key, value);
        }
    }
    json_decref(all);
    return strong;
}

/* Is N's backing child another one than its header names? */
static bool backing_overridden(const struct node *n)
{
    struct node *backing = node_backing(n);

    backing = backing ? node_skip_implicit_filters(backing) : NULL;
    if (!backing || !n->auto_backing_file) {
        return backing || n->auto_backing_file;
    }
    return strcmp(n->auto_backing_file, backing->json_filename) != 0;
}

static bool is_implicit_filter(const struct node *n)
{
    return n->implicit && n->driver->is_filter && node_filtered(n);
}

static json_t *full_options(const struct node *n, int *n_nodes);

/* Where C's options go in its parent's O: "children.0" into an array. */
static void put_child(json_t *o, const struct child *c, json_t *options)
{
    const char *dot = strchr(c->name, '.');
    g_autofree char *key = NULL;
    json_t *list;

    if (!dot) {
        json_object_set_new(o, c->name, options);
        return;
    }
    key = g_strndup(c->name, dot - c->name);
    list = json_object_get(o, key);
    if (!list) {
        list = json_array();
        json_object_set_new(o, key, list);
    }
    json_array_append_new(list, options);
}

/* N_NODES counts those in all of the name: a node may be below in many ways,
 * and what is too long is cut. */
static json_t *full_options(const struct node *n, int *n_nodes)
{
    json_t *o;

    while (is_implicit_filter(n)) {
        n = node_filtered(n);
    }
    o = strong_options(n);
    o = o ? o : json_object();
    json_object_set_new(o, "driver", json_string(n->driver->name));
    if (++*n_nodes >= MAX_JSON_NODES) {
        return o;
    }
    for (const struct child *c = n->children; c; c = c->next_sibling) {
        if (!(c->role & ROLE_COW) || backing_overridden(n)) {
            put_child(o, c, full_options(c->node, n_nodes));
        }
    }
    if (!n->backing && n->auto_backing_file) {
        json_object_set_new(o, "backing", json_null());
    }
    return o;
}

static char *json_name(const struct node *n)
{
    int n_nodes = 0;
    json_t *o = full_options(n, &n_nodes);
    g_autofree char *text = qapi_json_dump(o, false, NULL);
    char *name = g_strconcat("json:", text, NULL);

    json_decref(o);
    if (strlen(name) > MAX_JSON_NAME) {
        strcpy(name + MAX_JSON_NAME - 3, "...");
    }
    return name;
}

/* The name that N has without what is on it, borrowed, or NULL. */
static const char *own_name(const struct node *n)
{
    if (n->driver->is_protocol) {
        return n->filename[0] ? n->filename : NULL;
    }
    return n->driver->legacy_name && !filename_is_json(n->json_filename)
           ? n->json_filename : NULL;
}

/* The path that says it all, borrowed, or NULL. */
static const char *exact_name(const struct node *n)
{
    const struct node *file;
    json_t *strong;

    if (is_implicit_filter(n)) {
        return node_filtered(n)->json_filename;
    }
    if (n->driver->is_protocol) {
        return n->filename[0] ? n->filename : NULL;
    }
    file = n->file ? node_skip_implicit_filters(n->file->node) : NULL;
    if (n->driver->is_filter || !file || !own_name(file) ||
        backing_overridden(n)) {
        return NULL;
    }
    strong = strong_options(n);
    json_decref(strong);
    return strong ? NULL : own_name(file);
}

/* All below N have their names. */
static void name_node(struct node *n)
{
    const char *exact = exact_name(n);
    char *name = exact ? g_strdup(exact)
                 : n->driver->legacy_name ? n->driver->legacy_name(n) : NULL;

    name = name ? name : json_name(n);

    n->filename_generation = generation;
    if (g_strcmp0(name, n->json_filename) == 0) {
        g_free(name);       /* who borrowed the old one may keep it */
        return;
    }
    g_free(n->json_filename);
    n->json_filename = name;
}

/* A child whose name is not up to date, or NULL. */
static struct node *stale_child(const struct node *n)
{
    for (const struct child *c = n->children; c; c = c->next_sibling) {
        if (c->node->filename_generation != generation) {
            return c->node;
        }
    }
    return NULL;
}

const char *node_filename(struct node *n)
{
    struct node *top = n, *below;

    control_assert();
    n->walk_next = NULL;
    while (top && n->filename_generation != generation) {
        below = stale_child(top);
        if (below) {
            below->walk_next = top;
            top = below;
        } else {
            name_node(top);
            top = top->walk_next;
        }
    }
    return n->json_filename;
}

void node_set_header_text(struct node *n, const char *file,
                          const char *format)
{
    char *own_file = g_strdup(file), *own_format = g_strdup(format);

    control_assert();
    g_free(n->header_backing_file);
    g_free(n->header_backing_format);
    g_free(n->auto_backing_file);
    n->header_backing_file = own_file;
    n->header_backing_format = own_format;
    n->auto_backing_file = g_strdup(file);
    node_filenames_changed();
}

void node_set_header_backing(struct node *n, const char *file,
                             const char *format)
{
    struct node *backing = node_backing(n);
    char *own_file = g_strdup(file), *own_format = g_strdup(format);

    control_assert();
    g_free(n->header_backing_file);
    g_free(n->header_backing_format);
    g_free(n->auto_backing_file);
    n->header_backing_file = own_file;
    n->header_backing_format = own_format;
    n->auto_backing_file = NULL;
    backing = backing ? node_skip_implicit_filters(backing) : NULL;
    if (file) {
        n->auto_backing_file = g_strdup(backing ? node_filename(backing)
                                                : file);
    }
    node_filenames_changed();
}
