/* SPDX-License-Identifier: MIT */
/* From the options of -drive to nodes: see drive-nodes.h. */
#include "server/machine/drive-nodes.h"

#include <string.h>
#include "block/driver.h"
#include "block/inactive.h"
#include "block/open-drive.h"
#include "qapi/qapi-visit.h"
#include "server/machine/drive-complete.h"
#include "server/machine/drive-text.h"

/* ---- texts -------------------------------------------------------------- */

/* 'P' in "Parameter 'P' is unexpected", owned; NULL: another text. */
static char *quoted(const char *text, const char *before, const char *behind)
{
    size_t n = strlen(before);
    const char *end;

    if (strncmp(text, before, n) != 0) {
        return NULL;
    }
    end = strstr(text + n, behind);
    return end ? g_strndup(text + n, end - text - n) : NULL;
}

static json_t *step(json_t *o, const char *key)
{
    return json_is_array(o)
           ? json_array_get(o, g_ascii_strtoull(key, NULL, 10))
           : json_object_get(o, key);
}

/*
 * The options of a node that PATH goes through last; *REST is what comes
 * behind, *BACKING how many times it went down to a backing file.
 */
static json_t *find_owner(json_t *top, const char *path, const char **rest,
                          int *backing)
{
    g_auto(GStrv) parts = g_strsplit(path, ".", 0);
    json_t *o = top, *owner = top;
    const char *at = path;

    *rest = path;
    *backing = 0;
    for (guint i = 0; parts[i] && parts[i + 1]; i++) {
        o = step(o, parts[i]);
        at += strlen(parts[i]) + 1;
        if (!o) {
            break;
        }
        if (json_object_get(o, "driver")) {
            owner = o;
            *rest = at;
            *backing += strcmp(parts[i], "backing") == 0;
        }
    }
    return owner;
}

static bool is_protocol(const char *driver)
{
    static const char *const others[] = { "blkdebug", "blkverify", "nbd" };
    const struct driver *drv = driver_find(driver);

    for (size_t i = 0; i < G_N_ELEMENTS(others); i++) {
        if (strcmp(driver, others[i]) == 0) {
            return true;
        }
    }
    return drv && drv->is_protocol;
}

/* The first that is below KEY of O: "throttling.foo.bar".  Owned. */
static char *first_below(json_t *o, const char *key)
{
    g_auto(GStrv) parts = g_strsplit(key, ".", 0);
    char *path = g_strdup(key);
    json_t *value = o;

    for (guint i = 0; value && parts[i]; i++) {
        value = step(value, parts[i]);
    }
    while (json_is_object(value) && json_object_size(value) > 0) {
        void *first = json_object_iter(value);
        char *longer = g_strconcat(path, ".", json_object_iter_key(first),
                                   NULL);

        g_free(path);
        path = longer;
        value = json_object_iter_value(first);
    }
    return path;
}

static void tell_bad_value(const char *name, const char *bad, size_t n,
                           struct error **errp)
{
    if (strcmp(name, "overlap-check") == 0) {
        error_set(errp, "Unsupported value '%.*s' for qcow2 option '%s'. "
                  "Allowed are any of the following: none, constant, cached, "
                  "all", (int)n, bad, name);
    } else {
        error_set(errp, "invalid parameter value: %.*s", (int)n, bad);
    }
}

static void tell_unexpected(json_t *owner, const char *rest,
                            struct error **errp)
{
    const char *driver = json_string_value(json_object_get(owner, "driver"));
    g_autofree char *key = first_below(owner, rest);

    if (is_protocol(driver)) {
        error_set(errp, "Block protocol '%s' doesn't support the option '%s'",
                  driver, key);
    } else {
        error_set(errp, "Block format '%s' does not support the option '%s'",
                  driver, key);
    }
}

/* ERR, as blockdev-add says it, as -drive does. */
static void retell(json_t *top, struct error *err, struct error **errp)
{
    const char *text = error_text(err), *rest, *what;
    g_autofree char *unexpected = quoted(text, "Parameter '",
                                         "' is unexpected");
    g_autofree char *value = quoted(text, "Parameter '",
                                    "' does not accept value '");
    g_autofree char *name = quoted(text, "Parameter '", "' expects ");
    int backing = 0;
    json_t *owner;

    unexpected = unexpected ? unexpected
                            : quoted(text, "Parameters '", ".*' are unexp");
    if (unexpected) {
        owner = find_owner(top, unexpected, &rest, &backing);
        tell_unexpected(owner, rest, errp);
    } else if (value) {
        what = strstr(text, "value '") + strlen("value '");
        tell_bad_value(value, what, strlen(what) - 1, errp);
    } else if (name) {
        find_owner(top, name, &rest, &backing);
        what = strstr(text, "' expects ") + strlen("' expects ");
        error_set(errp, "Parameter '%s' expects %s", rest,
                  strcmp(what, "integer") ? what : "a number");
    } else {
        error_set(errp, "%s", text);
    }
    for (; backing > 0; backing--) {
        error_prepend(errp, "Could not open backing file: ");
    }
    error_free(err);
}

BlockdevOptions *drive_options_typed(json_t *o, struct error **errp)
{
    BlockdevOptions *options;
    AUTO_ERROR(err);

    options = BlockdevOptions_from_keyval(o, &err);
    if (!options) {
        retell(o, g_steal_pointer(&err), errp);
    }
    return options;
}

/* ---- opening ------------------------------------------------------------ */

struct opening {
    struct drive_completion completion;
    json_t *options;            /* borrowed */
};

static struct child *find_child(const struct node *n, const char *name)
{
    struct child *c = n->children;

    while (c && strcmp(c->name, name) != 0) {
        c = c->next_sibling;
    }
    return c;
}

static struct node *follow(struct node *n, const char *path)
{
    g_auto(GStrv) parts = g_strsplit(path, "/", 0);

    for (guint i = 0; n && parts[i]; i++) {
        struct child *c = find_child(n, parts[i]);

        n = c ? c->node : NULL;
    }
    return n;
}

/* What options cannot say. */
static void set_guessed(const struct drive_completion *c, struct node *top)
{
    for (guint i = 0; i < c->guessed->len; i++) {
        struct node *n = follow(top, c->guessed->pdata[i]);

        if (n) {
            node_set_guessed(n);
        }
    }
}

static BlockdevOptions *guessed_options(const char *driver, void *opaque,
                                        struct error **errp)
{
    struct opening *o = opaque;

    json_object_set_new(o->options, "driver", json_string(driver));
    return drive_complete_below(&o->completion, o->options, errp)
           ? drive_options_typed(o->options, errp) : NULL;
}

static bool get_bool(json_t *o, const char *key)
{
    const char *text = json_string_value(json_object_get(o, key));
    bool value = false;

    return text && drive_text_is_bool(text, &value) && value;
}

static struct node *open_guessed(struct opening *o, struct error **errp)
{
    json_t *cache = json_object_get(o->options, "cache");
    g_autoptr(BlockdevOptions) file =
        drive_options_typed(json_object_get(o->options, "file"), errp);
    struct node_guess guess = {
        .file = file, .options = guessed_options, .opaque = o,
        .read_only = get_bool(o->options, "read-only"),
        .auto_read_only = get_bool(o->options, "auto-read-only"),
        .force_share = get_bool(o->options, "force-share"),
        .inactive = json_object_get(o->options, "active")
                    ? !get_bool(o->options, "active") : inactive_is_default(),
        .cache_direct = get_bool(cache, "direct"),
        .cache_no_flush = get_bool(cache, "no-flush"),
    };

    return file ? node_open_guessed(&guess, errp) : NULL;
}

static struct node *open_known(struct opening *o, struct error **errp)
{
    g_autoptr(BlockdevOptions) options = drive_options_typed(o->options,
                                                             errp);

    return options ? node_open(options, errp) : NULL;
}

struct node *drive_nodes_open(json_t *options, const char *filename,
                              struct error **errp)
{
    struct opening o = { .options = options };
    struct node *n = NULL;

    drive_completion_init(&o.completion);
    if (drive_complete(&o.completion, options, filename, errp)) {
        n = o.completion.top_unguessed ? open_guessed(&o, errp)
                                       : open_known(&o, errp);
    }
    if (n) {
        set_guessed(&o.completion, n);
    }
    drive_completion_clear(&o.completion);
    return n;
}

BlockdevOptions *drive_nodes_options(json_t *options, struct error **errp)
{
    BlockdevOptions *typed = NULL;
    struct drive_completion c;

    drive_completion_init(&c);
    if (drive_complete(&c, options, NULL, errp)) {
        if (c.top_unguessed) {
            error_set(errp, "Parameter 'driver' is missing");
        } else {
            typed = drive_options_typed(options, errp);
        }
    }
    drive_completion_clear(&c);
    return typed;
}
