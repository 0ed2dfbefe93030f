/* SPDX-License-Identifier: MIT */
/*
 * Opening by file name: a backing file that a header names, or the target of
 * a drive-* command.  The format is given, or found by looking at the start
 * of the file.
 */
#include "block/open-priv.h"

#include <stdio.h>
#include <string.h>
#include "base/control.h"
#include "qapi/qapi-visit.h"
#include "block/filename.h"
#include "block/foreign-format.h"

enum { PROBE_BYTES = 2048 };

/* ---- probing ------------------------------------------------------------ */

static const struct driver *best_driver(const uint8_t *buf, size_t len,
                                        const char *filename)
{
    const struct driver *best = NULL;
    int best_score = 0;

    for (size_t i = 0; block_drivers[i]; i++) {
        const struct driver *drv = block_drivers[i];
        int score = drv->probe ? drv->probe(buf, len, filename) : 0;

        if (score > best_score) {
            best_score = score;
            best = drv;
        }
    }
    return best;
}

const struct driver *probe_format(struct node *file, struct error **errp)
{
    const struct driver *drv;
    const char *foreign;
    uint8_t buf[PROBE_BYTES];
    int64_t length;
    int ret = 0;

    CONTROL_YIELD {
        ret = node_pread(file, 0, sizeof(buf), buf, 0);
    }
    if (ret < 0) {
        error_set_errno(errp, -ret, "Could not read image for determining its "
                        "format");
        return NULL;
    }
    length = MIN(sizeof(buf), node_length(file));
    drv = best_driver(buf, length, file->filename);
    foreign = drv && drv->type == BLOCKDEV_DRIVER_RAW
        ? foreign_format(buf, length) : NULL;
    if (foreign) {
        /* A guest that takes it for its disk destroys it. */
        error_set(errp, "'%s' looks like an image of format '%s', which is "
                  "not supported; specify format 'raw' to use the file as "
                  "it is", node_filename(file), foreign);
        return NULL;
    }
    if (!drv) {
        error_set(errp, "Could not determine image format: No compatible "
                  "driver found");
    }
    return drv;
}

void warn_guessed_raw(const struct node *n)
{
    const struct node *file = n->file ? n->file->node : n;

    fprintf(stderr,
            "WARNING: Image format was not specified for '%s' and probing "
            "guessed raw.\n"
            "         Automatically detecting the format is dangerous for raw "
            "images, write operations on block 0 will be restricted.\n"
            "         Specify the 'raw' format explicitly to remove the "
            "restrictions.\n", node_filename((struct node *)file));
}

/* ---- putting options together ------------------------------------------- */

static void set_file(BlockdevOptions *o, const BlockdevOptions *file)
{
    BlockdevRef **ref = driver_by_type(o->driver)->file_option(o);

    BlockdevRef_free(*ref);
    *ref = BlockdevRef_new0();
    (*ref)->type = QAPI_TYPE_OBJECT;
    (*ref)->u.definition = BlockdevOptions_clone(file);
}

/* What json: says itself counts. */
static void set_modes(BlockdevOptions *o, const struct node *like)
{
    if (!o->cache) {
        o->cache = BlockdevCacheOptions_new0();
    }
    if (!o->cache->has_direct) {
        o->cache->has_direct = true;
        o->cache->direct = like->cache_direct;
    }
    if (!o->cache->has_no_flush) {
        o->cache->has_no_flush = true;
        o->cache->no_flush = like->cache_no_flush;
    }
    if (!o->has_discard) {
        o->has_discard = true;
        o->discard = like->discard_unmap ? BLOCKDEV_DISCARD_OPTIONS_UNMAP
                                         : BLOCKDEV_DISCARD_OPTIONS_IGNORE;
    }
}

/* What the node has and, opened first to probe, its file. */
static void set_common(BlockdevOptions *o, const struct open_name *name)
{
    const struct driver *drv = driver_by_type(o->driver);

    if (name->has_read_only) {
        o->has_read_only = true;
        o->read_only = name->read_only;
    }
    if (name->force_share) {
        o->has_force_share = true;
        o->force_share = true;
    }
    if (name->backing && drv && drv->backing_option) {
        BlockdevRefOrNull_free(*drv->backing_option(o));
        *drv->backing_option(o) = BlockdevRefOrNull_clone(name->backing);
    }
    if (name->like) {
        set_modes(o, name->like);
    }
}

/* What the node that is asked for has. */
static void set_all(BlockdevOptions *o, const struct open_name *name)
{
    set_common(o, name);
    if (name->node_name) {
        g_free(o->node_name);
        o->node_name = g_strdup(name->node_name);
    }
}

static struct node *open_format(struct open_session *s,
                                const struct driver *drv,
                                const BlockdevOptions *file_options,
                                const struct open_name *name,
                                const struct open_place *place,
                                struct error **errp)
{
    g_autoptr(BlockdevOptions) o = BlockdevOptions_new0();

    o->driver = drv->type;
    set_file(o, file_options);
    set_all(o, name);
    return open_one(s, o, place, errp);
}

/* FILE_OPTIONS are a protocol's; the format on it is to be found. */
static struct node *open_probed(struct open_session *s,
                                BlockdevOptions *file_options,
                                const struct open_name *name,
                                const struct open_place *place,
                                struct error **errp)
{
    struct open_place with_file = *place;
    const struct driver *drv;
    struct node *file, *n = NULL;

    set_common(file_options, name);
    file = open_tree(s, file_options, place, errp);
    if (!file) {
        return NULL;
    }
    drv = probe_format(file, errp);
    if (drv) {
        with_file.file = file;
        with_file.probed = true;
        n = open_format(s, drv, file_options, name, &with_file, errp);
    }
    if (n && drv->type == BLOCKDEV_DRIVER_RAW && !n->read_only) {
        warn_guessed_raw(n);
    }
    node_unref(file);
    return n;
}

static struct node *open_on_protocol(struct open_session *s,
                                     BlockdevOptions *file_options,
                                     const struct open_name *name,
                                     const struct open_place *place,
                                     struct error **errp)
{
    const struct driver *drv;

    if (!name->format) {
        return open_probed(s, file_options, name, place, errp);
    }
    drv = driver_find(name->format);
    if (!drv) {
        error_set(errp, "Unknown driver '%s'", name->format);
        return NULL;
    }
    if (!drv->is_format) {
        if (drv->type != file_options->driver) {
            error_set(errp, "'%s' is no name for driver '%s'",
                      name->filename, name->format);
            return NULL;
        }
        set_all(file_options, name);
        return open_one(s, file_options, place, errp);
    }
    return open_format(s, drv, file_options, name, place, errp);
}

/* ---- json: -------------------------------------------------------------- */

static struct node *open_json(struct open_session *s, json_t *object,
                              const struct open_name *name,
                              const struct open_place *place,
                              struct error **errp)
{
    const char *driver = json_string_value(json_object_get(object, "driver"));
    g_autoptr(BlockdevOptions) o = NULL;
    const struct driver *drv;

    if (!driver && !name->format && json_object_get(object, "file")) {
        /* Only the format is missing: it is what the file tells. */
        o = BlockdevOptions_from_json(json_object_get(object, "file"), errp);
        return o ? open_probed(s, o, name, place, errp) : NULL;
    }
    drv = driver ? driver_find(driver) : NULL;
    if (name->format && (!driver || (drv && drv->is_format))) {
        /* The format that is given is what counts. */
        json_object_set_new(object, "driver", json_string(name->format));
    }
    o = BlockdevOptions_from_json(object, errp);
    if (!o) {
        return NULL;
    }
    drv = driver_by_type(o->driver);
    if (drv && !drv->is_format && name->format &&
        strcmp(name->format, drv->name) != 0) {
        return open_on_protocol(s, o, name, place, errp);
    }
    set_all(o, name);
    return open_one(s, o, place, errp);
}

struct node *open_by_name(struct open_session *s, const struct open_name *name,
                          const struct open_place *place, struct error **errp)
{
    g_autoptr(BlockdevOptions) o = NULL;
    struct node *n;
    json_t *object;

    if (filename_is_json(name->filename)) {
        object = filename_parse_json(name->filename, errp);
        n = object ? open_json(s, object, name, place, errp) : NULL;
        json_decref(object);
        return n;
    }
    o = filename_protocol_options(name->filename, errp);
    return o ? open_on_protocol(s, o, name, place, errp) : NULL;
}
