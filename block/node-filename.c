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
#include "qapi/qapi-visit.h"

enum {
    MAX_JSON_NAME = 4095,       /* longer ones end in "..." as QEMU's do */
    /* Each level takes twelve characters at least before the next one. */
    MAX_JSON_DEPTH = MAX_JSON_NAME / 12 + 1,
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
            json_object_set(strong, key, value);
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

static json_t *full_options(const struct node *n, int depth)
{
    json_t *o;

    while (is_implicit_filter(n)) {
        n = node_filtered(n);
    }
    o = strong_options(n);
    o = o ? o : json_object();
    json_object_set_new(o, "driver", json_string(n->driver->name));
    if (depth == MAX_JSON_DEPTH) {
        return o;
    }
    for (const struct child *c = n->children; c; c = c->next_sibling) {
        if (!(c->role & ROLE_COW) || backing_overridden(n)) {
            json_object_set_new(o, c->name, full_options(c->node, depth + 1));
        }
    }
    if (!n->backing && n->auto_backing_file) {
        json_object_set_new(o, "backing", json_null());
    }
    return o;
}

static char *json_name(const struct node *n)
{
    json_t *o = full_options(n, 1);
    g_autofree char *text = qapi_json_dump(o, false, NULL);
    char *name = g_strconcat("json:", text, NULL);

    json_decref(o);
    if (strlen(name) > MAX_JSON_NAME) {
        strcpy(name + MAX_JSON_NAME - 3, "...");
    }
    return name;
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
    if (n->driver->is_filter || !file || !file->driver->is_protocol ||
        !file->filename[0] || backing_overridden(n)) {
        return NULL;
    }
    strong = strong_options(n);
    json_decref(strong);
    return strong ? NULL : file->filename;
}

/* All below N have their names. */
static void name_node(struct node *n)
{
    const char *exact = exact_name(n);
    char *name = exact ? g_strdup(exact) : json_name(n);

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
