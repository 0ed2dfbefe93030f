/* SPDX-License-Identifier: MIT */
/*
 * qemu-io: reopen.  What is not given stays as it is, unlike with
 * blockdev-reopen; "backing.X" is an option of the node's backing child.
 */
#include "server/hmp/qemu-io-priv.h"

#include <string.h>
#include "block/open-priv.h"
#include "block/reopen.h"
#include "qapi/qapi-visit.h"

/* A node with the options it is to have. */
struct item {
    struct node *node;          /* borrowed */
    json_t *options;            /* owned; scalars as text */
};

/* ---- options as they are ------------------------------------------------ */

/* JSON as key=value has it: text is all there is.  Owned. */
static json_t *as_text(json_t *value)
{
    json_t *copy, *member;
    const char *key;
    size_t i;

    switch (json_typeof(value)) {
    case JSON_OBJECT:
        copy = json_object();
        json_object_foreach(value, key, member) {
            json_object_set_new_nocheck(copy, key, as_text(member));
        }
        return copy;
    case JSON_ARRAY:
        copy = json_array();
        json_array_foreach(value, i, member) {
            json_array_append_new(copy, as_text(member));
        }
        return copy;
    case JSON_TRUE:
    case JSON_FALSE:
        return json_string_nocheck(json_is_true(value) ? "on" : "off");
    case JSON_INTEGER:
    case JSON_REAL: {
        g_autofree char *text = json_dumps(value, JSON_ENCODE_ANY);

        return json_string_nocheck(text);
    }
    default:
        return json_incref(value);
    }
}

/* What N was told itself; its children by name, as they are now. */
static json_t *options_of(struct node *n)
{
    BlockdevOptions *o = BlockdevOptions_clone(n->options);
    json_t *json, *text;

    options_forget(o, n->inherited);
    json = BlockdevOptions_to_json(o);
    BlockdevOptions_free(o);
    text = as_text(json);
    json_decref(json);
    for (struct child *c = n->children; c; c = c->next_sibling) {
        if (json_object_get(text, c->name) || c == n->backing) {
            json_object_set_new_nocheck(text, c->name,
                json_string_nocheck(node_name(c->node)));
        }
    }
    if (!n->backing && json_object_get(text, "backing")) {
        json_object_set_new_nocheck(text, "backing", json_null());
    }
    json_object_set_new_nocheck(text, "node-name",
                                json_string_nocheck(node_name(n)));
    return text;
}

static void item_free(void *arg)
{
    struct item *it = arg;

    json_decref(it->options);
    g_free(it);
}

/* The item of N in ITEMS, or a new one; NULL and errp: N cannot. */
static struct item *item_of(GPtrArray *items, struct node *n,
                            struct error **errp)
{
    struct item *it;

    for (guint i = 0; i < items->len; i++) {
        it = items->pdata[i];
        if (it->node == n) {
            return it;
        }
    }
    if (!n->options) {
        const struct backend *b = backend_of_node(n);

        error_set(errp, "Block format '%s' used by node '%s' does not "
                  "support reopening files", node_driver_name(n),
                  b ? backend_name(b) : node_name(n));
        return NULL;
    }
    it = g_new0(struct item, 1);
    it->node = n;
    it->options = options_of(n);
    g_ptr_array_add(items, it);
    return it;
}

/* ---- changes ------------------------------------------------------------ */

/* A size may have a suffix. */
static json_t *option_value(const char *key, const char *value)
{
    static const char *const sizes[] = {
        "cache-size", "l2-cache-entry-size", "l2-cache-size", "offset",
        "prealloc-align", "prealloc-size", "refcount-cache-size", "size", NULL
    };
    int64_t number;

    if (g_strv_contains(sizes, key) && io_size(value, &number)) {
        g_autofree char *digits = g_strdup_printf("%" PRId64, number);

        return json_string_nocheck(digits);
    }
    return json_string(value);
}

static struct node *child_called(struct node *n, const char *name, size_t len)
{
    for (struct child *c = n->children; c; c = c->next_sibling) {
        if (strlen(c->name) == len && memcmp(c->name, name, len) == 0) {
            return c->node;
        }
    }
    return NULL;
}

/* KEY of N is VALUE: down to whom it concerns. */
static bool set_option(GPtrArray *items, struct node *n, const char *key,
                       const char *value, struct error **errp)
{
    struct item *it = item_of(items, n, errp);
    const char *point = strchr(key, '.');
    struct node *below;
    json_t *object;

    if (!it) {
        return false;
    }
    if (!point) {
        if (strcmp(key, "driver") == 0 &&
            strcmp(value, node_driver_name(n)) != 0) {
            error_set(errp, "Cannot change the option 'driver'");
            return false;
        }
        json_object_set_new_nocheck(it->options, key,
                                    option_value(key, value));
        return true;
    }
    below = child_called(n, key, point - key);
    if (below && below->options) {
        return set_option(items, below, point + 1, value, errp);
    }
    if (below || g_str_has_prefix(key, "backing.") ||
        g_str_has_prefix(key, "file.")) {
        error_set(errp, "Cannot change the option '%s'", key);
        return false;
    }
    object = it->options;
    while (point) {
        g_autofree char *part = g_strndup(key, point - key);
        json_t *next = json_object_get(object, part);

        if (!json_is_object(next)) {
            next = json_object();
            json_object_set_new_nocheck(object, part, next);
        }
        object = next;
        key = point + 1;
        point = strchr(key, '.');
    }
    json_object_set_new_nocheck(object, key, option_value(key, value));
    return true;
}

/* The next key and value at *TEXT, which goes behind them; owned.  A comma
 * in a value is written twice. */
static void next_option(const char **text, char **key, char **value)
{
    GString *v = g_string_new(NULL);
    size_t length = strcspn(*text, "=,");

    *key = g_strndup(*text, length);
    *text += length;
    if (**text == '=') {
        ++*text;
        while (**text && (**text != ',' || (*text)[1] == ',')) {
            *text += **text == ',';
            g_string_append_c(v, *(*text)++);
        }
    } else {
        g_string_append(v, "on");
    }
    *text += **text == ',';
    *value = g_string_free(v, FALSE);
}

struct wishes {
    int read_only;              /* 1, 0; -1: not said */
    bool has_cache, direct, no_flush, writethrough;
    char *options;              /* owned; NULL: none */
};

static bool concerns(const char *key, const struct wishes *w,
                     struct error **errp)
{
    if (w->read_only >= 0 && strcmp(key, "read-only") == 0) {
        error_set(errp, "Cannot set both -r/-w and 'read-only'");
        return true;
    }
    if (w->has_cache && (strcmp(key, "cache.direct") == 0 ||
                         strcmp(key, "cache.no-flush") == 0)) {
        error_set(errp, "Cannot set both -c and the cache options");
        return true;
    }
    return false;
}

static bool set_all(GPtrArray *items, struct node *n, const struct wishes *w,
                    struct error **errp)
{
    const char *text = w->options ? w->options : "";

    while (*text) {
        g_autofree char *key = NULL, *value = NULL;

        next_option(&text, &key, &value);
        if (concerns(key, w, errp) ||
            !set_option(items, n, key, value, errp)) {
            return false;
        }
    }
    if (!item_of(items, n, errp)) {
        return false;
    }
    if (w->read_only >= 0 &&
        !set_option(items, n, "read-only", w->read_only ? "on" : "off",
                    errp)) {
        return false;
    }
    return !w->has_cache ||
           (set_option(items, n, "cache.direct", w->direct ? "on" : "off",
                       errp) &&
            set_option(items, n, "cache.no-flush",
                       w->no_flush ? "on" : "off", errp));
}

/* An option that there is none of cannot change: "unexpected" to others. */
static struct error *as_reopen_says(struct error *err)
{
    static const char head[] = "Parameter '", tail[] = "' is unexpected";
    const char *text = error_text(err);
    struct error *said = NULL;

    if (!g_str_has_prefix(text, head) || !g_str_has_suffix(text, tail)) {
        return err;
    }
    error_set(&said, "Cannot change the option '%.*s'",
              (int)(strlen(text) - strlen(head) - strlen(tail)),
              text + strlen(head));
    error_free(err);
    return said;
}

static bool reopen(struct node *n, const struct wishes *w,
                   struct error **errp)
{
    g_autoptr(GPtrArray) items = g_ptr_array_new_with_free_func(item_free);
    g_autoptr(BlockdevOptionsList) list = BlockdevOptionsList_new0();
    struct error *err = NULL;

    /* First, so that children have from it what they do not say. */
    if (!item_of(items, n, errp) || !set_all(items, n, w, errp)) {
        return false;
    }
    for (guint i = 0; i < items->len; i++) {
        const struct item *it = items->pdata[i];
        BlockdevOptions *o = BlockdevOptions_from_keyval(it->options, &err);

        if (!o) {
            error_propagate(errp, as_reopen_says(err));
            return false;
        }
        qapi_list_append(list, o);
    }
    return nodes_reopen(list, errp);
}

/* ---- the command -------------------------------------------------------- */

static bool parse_cache(struct wishes *w, const char *mode,
                        struct error **errp)
{
    static const struct {
        const char *name;
        bool direct, no_flush, writethrough;
    } modes[] = {
        { "none", true, false, false }, { "off", true, false, false },
        { "directsync", true, false, true },
        { "writeback", false, false, false },
        { "unsafe", false, true, false },
        { "writethrough", false, false, true },
    };

    for (size_t i = 0; i < G_N_ELEMENTS(modes); i++) {
        if (strcmp(mode, modes[i].name) == 0) {
            w->has_cache = true;
            w->direct = modes[i].direct;
            w->no_flush = modes[i].no_flush;
            w->writethrough = modes[i].writethrough;
            return true;
        }
    }
    error_set(errp, "Invalid cache option: %s", mode);
    return false;
}

/* All of several -o count. */
static void add_options(struct wishes *w, const char *more)
{
    char *old = w->options;

    w->options = old ? g_strconcat(old, ",", more, NULL) : g_strdup(more);
    g_free(old);
}

static bool take_wishes(struct qemu_io *io, struct wishes *w,
                        struct error **errp)
{
    struct io_options o;
    int letter;

    io_options_begin(&o, io, "c:o:rw");
    while ((letter = io_options_next(&o, io)) != 0) {
        switch (letter) {
        case 'c':
            if (!parse_cache(w, o.value, errp)) {
                return false;
            }
            break;
        case 'o':
            add_options(w, o.value);
            break;
        case 'r':
        case 'w':
            if (w->read_only >= 0) {
                error_set(errp, "Only one -r/-w option may be given");
                return false;
            }
            w->read_only = letter == 'r';
            break;
        default:
            return false;
        }
    }
    if (o.n_words > 0) {
        io_usage(io);
        return false;
    }
    return true;
}

void io_reopen(struct qemu_io *io)
{
    struct wishes w = { .read_only = -1 };
    struct node *n = target_node(io->target);
    struct error *err = NULL;
    bool ok = take_wishes(io, &w, &err);

    if (ok && !n) {
        error_set(&err, "No medium inserted");
        ok = false;
    }
    if (ok) {
        node_ref(n);
        if (w.read_only == 1) {
            target_stop_writing(io->target);
        }
        ok = reopen(n, &w, &err);
        if (ok && w.has_cache && io->target->backend) {
            backend_set_writethrough(io->target->backend, w.writethrough);
        }
        node_unref(n);
    }
    g_free(w.options);
    io_say_error(io, err);
}
