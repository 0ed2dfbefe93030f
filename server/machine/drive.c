/* SPDX-License-Identifier: MIT */
/* -drive: see drive.h. */
#include "server/machine/drive.h"

#include <string.h>
#include "base/control.h"
#include "block/driver.h"
#include "block/node-cor.h"
#include "qapi/qapi-commands.h"
#include "server/machine/drive-nodes.h"
#include "server/machine/drive-options.h"
#include "server/machine/drive-snapshot.h"
#include "server/machine/drive-text.h"

/* Oldest first. */
static struct drive *drives;
static GHashTable *by_place;    /* struct drive *, borrowed: one at each */

/* ---- the list ----------------------------------------------------------- */

static guint place_hash(gconstpointer key)
{
    const struct drive *d = key;

    return g_str_hash(d->interface) ^ (guint)d->bus * 31 ^ (guint)d->unit;
}

static gboolean place_equal(gconstpointer a, gconstpointer b)
{
    const struct drive *d = a, *e = b;

    return d->unit == e->unit && d->bus == e->bus &&
           strcmp(d->interface, e->interface) == 0;
}

static bool is_taken(const char *interface, int bus, int unit)
{
    const struct drive at = {
        .interface = interface, .bus = bus, .unit = unit,
    };

    return by_place && g_hash_table_contains(by_place, &at);
}

/* B has lost its name (device_del, drive_del): it is no drive any more. */
static void forget(const struct backend *b)
{
    struct drive **at = &drives, *d;

    while (*at && (*at)->backend != b) {
        at = &(*at)->next;
    }
    d = *at;
    if (d) {
        *at = d->next;
        if (g_hash_table_lookup(by_place, d) == d) {
            g_hash_table_remove(by_place, d);
        }
        g_free(d->id);
        g_free(d);
    }
}

struct drive *drive_next(const struct drive *d)
{
    return d ? d->next : drives;
}

struct drive *drive_of_backend(const struct backend *b)
{
    struct drive *d;

    for (d = drives; d && d->backend != b; d = d->next) {
        /* Look on. */
    }
    return d;
}

static struct drive *list(struct backend *b, const struct drive_place *place)
{
    struct drive **end = &drives;
    struct drive *d = g_new0(struct drive, 1);

    *d = (struct drive){
        .backend = b, .id = g_strdup(backend_name(b)),
        .interface = place->interface, .bus = place->bus, .unit = place->unit,
        .cdrom = place->cdrom,
    };
    while (*end) {
        end = &(*end)->next;
    }
    *end = d;
    if (!by_place) {
        by_place = g_hash_table_new(place_hash, place_equal);
    }
    g_hash_table_add(by_place, d);
    return d;
}

/* ---- adding ------------------------------------------------------------- */

static struct node *open_nodes(struct drive_options *o, struct error **errp)
{
    struct node *n = drive_nodes_open(o->node, o->filename, errp);

    if (n && o->zeroes_unmapped) {
        n->detect_zeroes = n->detect_zeroes_unmap = true;
    }
    if (n && o->snapshot) {
        n = drive_snapshot_over(n, o->read_only, errp);
    }
    if (n && o->copy_on_read && n->driver->supports_backing) {
        node_set_copy_on_read(n);
    }
    return n;
}

static struct backend *make_backend(const struct drive_options *o,
                                    struct node *n, struct error **errp)
{
    struct backend_options options = {
        .name = o->id, .with_dev = true, .writethrough = o->writethrough,
        .read_only = o->read_only, .on_read_error = o->on_read_error,
        .on_write_error = o->on_write_error,
    };
    struct backend *b = backend_new(&options, errp);

    if (!b || (n && !backend_insert(b, n, errp))) {
        if (b) {
            backend_forget(b);
        }
        return NULL;
    }
    if (o->limits.any) {
        backend_set_limits(b, o->limits.group, &o->limits.limits);
    }
    return b;
}

static struct drive *add(struct drive_options *o, struct error **errp)
{
    struct node *n = NULL;
    struct backend *b;

    if (backend_find(o->id)) {
        error_set(errp, "Duplicate ID '%s' for drive", o->id);
        return NULL;
    }
    if (o->node) {
        n = open_nodes(o, errp);
        if (!n) {
            return NULL;
        }
    }
    b = make_backend(o, n, errp);
    node_unref(n);
    return b ? list(b, &o->place) : NULL;
}

struct drive *drive_add(const char *text, const char *default_interface,
                        struct error **errp)
{
    struct drive_options o;
    struct drive *d = NULL;

    control_assert();
    backend_set_forget_hook(forget);
    drive_text_set_current(text);
    if (drive_options_parse(&o, text, default_interface, is_taken, errp)) {
        d = add(&o, errp);
    }
    drive_text_set_current(NULL);
    drive_options_clear(&o);
    return d;
}

bool drive_wants_formats(const char *text)
{
    g_autofree char *format = NULL, *driver = NULL;
    json_t *flat = drive_text_parse(text);

    format = drive_text_take(flat, "format");
    driver = drive_text_take(flat, "driver");
    json_decref(flat);
    return g_strcmp0(format ? format : driver, "help") == 0 ||
           g_strcmp0(format ? format : driver, "?") == 0;
}

bool drive_add_node(const char *text, struct error **errp)
{
    json_t *flat = drive_text_parse(text), *nested;
    g_autoptr(BlockdevOptions) options = NULL;

    control_assert();
    if (!json_object_get(flat, "node-name")) {
        error_set(errp, "'node-name' needs to be specified");
        json_decref(flat);
        return false;
    }
    nested = drive_text_nest(flat, errp);
    json_decref(flat);
    options = nested ? drive_nodes_options(nested, errp) : NULL;
    json_decref(nested);
    return options && qmp_blockdev_add(options, errp);
}

/* ---- the end ------------------------------------------------------------ */

static bool del_node(const char *id, struct error **errp)
{
    BlockdevDelArgs args = { .node_name = (char *)id };

    if (!node_find(id)) {
        error_set_class(errp, ERROR_DEVICE_NOT_FOUND, "Device '%s' not found",
                        id);
        return false;
    }
    return qmp_blockdev_del(&args, errp);
}

bool drive_del(const char *id, struct error **errp)
{
    struct backend *b = backend_find(id);
    struct node *n;

    control_assert();
    if (!b) {
        return del_node(id, errp);
    }
    n = backend_node(b);
    if (n && !node_op_allowed(n, NODE_OP_DELETE, errp)) {
        return false;
    }
    backend_ref(b);
    backend_remove(b);
    if (backend_find(id) == b) {    /* or else it went meanwhile */
        backend_forget(b);
    }
    backend_unref(b);
    return true;
}

void drives_free(void)
{
    control_assert();
    while (drives) {
        struct backend *b = drives->backend;

        backend_ref(b);
        backend_remove(b);
        if (backend_find(drives->id) == b) {
            backend_forget(b);
        }
        backend_unref(b);
    }
    g_clear_pointer(&by_place, g_hash_table_destroy);
}
