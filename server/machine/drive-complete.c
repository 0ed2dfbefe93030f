/* SPDX-License-Identifier: MIT */
/* Completing the options of -drive: see drive-nodes.h. */
#include "server/machine/drive-complete.h"

#include <string.h>
#include "block/filename.h"
#include "block/open-drive.h"
#include "qapi/qapi-visit.h"
#include "server/machine/drive-spell.h"
#include "server/machine/drive-text.h"

enum { MAX_NESTED = 64 };

/* What stands in a place: a protocol, which a name alone tells; or a format,
 * which may be told by what it is in; or that, with a name. */
enum level { LEVEL_PROTOCOL, LEVEL_FORMAT, LEVEL_NAMED_FORMAT };

static const struct {
    BlockdevDriver driver;
    const char *name;
    enum level level;
} other_children[] = {
    { BLOCKDEV_DRIVER_BLKVERIFY, "test", LEVEL_NAMED_FORMAT },
    { BLOCKDEV_DRIVER_COPY_BEFORE_WRITE, "target", LEVEL_FORMAT },
    { BLOCKDEV_DRIVER_QCOW2, "data-file", LEVEL_PROTOCOL },
};

/* One level of options. */
struct place {
    struct drive_completion *c;
    const char *path;           /* "" at the top */
    enum level level;
    int depth;
};

static bool complete(const struct place *at, json_t *o, const char *filename,
                     struct error **errp);

void drive_completion_init(struct drive_completion *c)
{
    *c = (struct drive_completion){
        .guessed = g_ptr_array_new_with_free_func(g_free),
    };
}

void drive_completion_clear(struct drive_completion *c)
{
    g_ptr_array_free(c->guessed, TRUE);
}

/* ---- below a driver ----------------------------------------------------- */

static bool complete_child(const struct place *at, const char *name,
                           enum level level, json_t *below,
                           const char *filename, struct error **errp)
{
    g_autofree char *path = at->path[0]
        ? g_strconcat(at->path, "/", name, NULL) : g_strdup(name);
    struct place there = { .c = at->c, .path = path, .level = level,
                           .depth = at->depth + 1 };

    return complete(&there, below, filename, errp);
}

/* The child NAME of O: an object that is to be completed, the name of a node,
 * or nothing. */
static bool complete_member(const struct place *at, json_t *o,
                            const char *name, enum level level,
                            struct error **errp)
{
    json_t *below = json_object_get(o, name);

    return !json_is_object(below) ||
           complete_child(at, name, level, below, NULL, errp);
}

static bool complete_quorum(const struct place *at, json_t *o,
                            struct error **errp)
{
    json_t *children = json_object_get(o, "children"), *child;
    size_t i;

    if (!children) {
        error_set(errp, "Number of provided children must be 1 or more");
        return false;
    }
    json_array_foreach(children, i, child) {
        g_autofree char *name = g_strdup_printf("children.%zu", i);

        if (json_is_object(child) &&
            !complete_child(at, name, LEVEL_FORMAT, child, NULL, errp)) {
            return false;
        }
    }
    return true;
}

/* O without what concerns its users and what is below, to be looked at. */
static json_t *to_look_at(const json_t *o)
{
    json_t *copy = json_deep_copy(o), *value;
    const char *key;
    void *next;

    json_object_del(copy, "node-name");
    json_object_foreach_safe(copy, next, key, value) {
        if (json_is_object(value)) {
            json_object_set_new_nocheck(copy, key, to_look_at(value));
        }
    }
    return copy;
}

/* What the header of O, a complete image but for "backing", names. */
static bool look_at_backing(json_t *o, char **name, char **format,
                            struct error **errp)
{
    json_t *copy = to_look_at(o);
    g_autoptr(BlockdevOptions) options = NULL;

    json_object_set_new(copy, "backing", json_null());
    drive_set_text(copy, "read-only", "on");
    drive_set_text(copy, "force-share", "on");
    options = drive_options_typed(copy, errp);
    json_decref(copy);
    return options && node_look_at_backing(options, name, format, errp);
}

/* Is an image of DRV one in a file that a name may tell? */
static bool needs_file(const struct driver *drv)
{
    return drv->file_option && drv->type != BLOCKDEV_DRIVER_BLKDEBUG &&
           drv->type != BLOCKDEV_DRIVER_BLKVERIFY;
}

/* Does O say where the file of the image is? */
static bool says_file(const json_t *o)
{
    const json_t *file = json_object_get(o, "file");

    return file && (!json_is_object(file) || drive_get_text(file, "filename") ||
                    drive_get_text(file, "driver"));
}

/* Options of the backing file that say less than all of it. */
static bool complete_backing(const struct place *at, json_t *o,
                             struct error **errp)
{
    json_t *backing = json_object_get(o, "backing");
    g_autofree char *name = NULL, *format = NULL;
    g_autofree char *path = at->path[0]
        ? g_strconcat(at->path, "/backing", NULL) : g_strdup("backing");
    struct place there = { .c = at->c, .path = path, .level = LEVEL_FORMAT,
                           .depth = at->depth + 1 };
    const char *driver;

    if (backing && !g_strcmp0(json_string_value(backing), "")) {
        drive_text_warn("Use of \"backing\": \"\" is deprecated; use "
                        "\"backing\": null instead");
    }
    if (!json_is_object(backing)) {
        return true;
    }
    driver = drive_get_text(backing, "driver");
    if (!driver || (!says_file(backing) && driver_find(driver) &&
                    needs_file(driver_find(driver)))) {
        if (!look_at_backing(o, &name, &format, errp)) {
            return false;
        }
        if (format && !driver) {
            drive_set_text(backing, "driver", format);
        }
    }
    if (says_file(backing)) {
        g_clear_pointer(&name, g_free);
    }
    if (!complete(&there, backing, name, errp)) {
        error_prepend(errp, "Could not open backing file: ");
        return false;
    }
    return true;
}

static bool check_child(const json_t *o, const char *name,
                        struct error **errp)
{
    if (json_object_get(o, name)) {
        return true;
    }
    error_set(errp, "A block device must be specified for \"%s\"", name);
    return false;
}

/* What O, of DRV, is on; FILENAME is its name, NULL: O says it. */
static bool complete_file(const struct place *at, const struct driver *drv,
                          json_t *o, const char *filename,
                          struct error **errp)
{
    const char *name = drv->file_child_name ? drv->file_child_name : "file";
    json_t *file = json_object_get(o, name);

    return check_child(o, name, errp) &&
           (!json_is_object(file) ||
            complete_child(at, name, LEVEL_PROTOCOL, file, filename, errp));
}

/* O, of DRV, but for what is above it. */
static bool complete_below(const struct place *at, const struct driver *drv,
                           json_t *o, const char *filename,
                           struct error **errp)
{
    if (drv->type == BLOCKDEV_DRIVER_NBD) {
        drive_spell_nbd(o);
    }
    if (drv->type == BLOCKDEV_DRIVER_QCOW2) {
        drive_spell_encrypt(o);
    }
    if (drv->type == BLOCKDEV_DRIVER_QUORUM) {
        return complete_quorum(at, o, errp);
    }
    if (drv->file_option && !complete_file(at, drv, o, filename, errp)) {
        return false;
    }
    for (size_t i = 0; i < G_N_ELEMENTS(other_children); i++) {
        if (other_children[i].driver == drv->type &&
            !complete_member(at, o, other_children[i].name,
                             other_children[i].level, errp)) {
            return false;
        }
    }
    if (drv->backing_option) {
        return complete_backing(at, o, errp);
    }
    if (json_object_get(o, "backing")) {
        error_set(errp, "Driver doesn't support backing files");
        return false;
    }
    return true;
}

/* ---- a level ------------------------------------------------------------ */

/* Is there room for the name of a file in O?  It gets an object for it. */
static bool make_file(json_t *o, struct error **errp)
{
    json_t *file = drive_get_object(o, "file");

    if (!file) {
        error_set(errp, "Cannot reference an existing block device with "
                  "additional options or a new filename");
        return false;
    }
    if (json_object_get(file, "filename")) {
        error_set(errp, "Can't specify 'file' and 'filename' options at the "
                  "same time");
        return false;
    }
    return true;
}

/* FILENAME, and the driver is DRV, a protocol that reads it its own way. */
static bool use_filename(const struct driver *drv, json_t *o,
                         const char *filename, struct error **errp)
{
    bool has_prefix;

    if (drv->type == BLOCKDEV_DRIVER_QUORUM) {
        error_set(errp, "Block format 'quorum' does not support the option "
                  "'filename'");
        return false;
    }
    has_prefix = g_str_has_prefix(filename, drv->name);
    if (drv->type == BLOCKDEV_DRIVER_FILE ||
        (drv->type == BLOCKDEV_DRIVER_HOST_DEVICE && !has_prefix)) {
        drive_set_text(o, "filename", g_str_has_prefix(filename, "file:")
                                ? filename + strlen("file:") : filename);
        return true;
    }
    if (!has_prefix && drv->type != BLOCKDEV_DRIVER_NBD) {
        error_set(errp, "The only allowed filename for this driver is "
                  "'%s://'", drv->name);
        return false;
    }
    return drive_merge_protocol_name(o, filename, errp);
}

/* The file of O, called FILENAME (NULL: O says it), tells the format. */
static bool guess(const struct place *at, json_t *o, const char *filename,
                  struct error **errp)
{
    json_t *file = json_object_get(o, "file"), *copy;
    g_autoptr(BlockdevOptions) options = NULL;
    const char *format;

    if (!json_is_object(file)) {
        error_set(errp, "Must specify either driver or file");
        return false;
    }
    if (!complete_child(at, "file", LEVEL_PROTOCOL, file, filename, errp)) {
        return false;
    }
    if (!at->path[0]) {
        at->c->top_unguessed = true;
        return true;
    }
    copy = to_look_at(file);
    options = drive_options_typed(copy, errp);
    json_decref(copy);
    format = options ? node_guess_format(options, errp) : NULL;
    if (!format) {
        return false;
    }
    g_ptr_array_add(at->c->guessed, g_strdup(at->path));
    drive_set_text(o, "driver", format);
    return complete_below(at, driver_find(format), o, NULL, errp);
}

static bool complete_known(const struct place *at, json_t *o,
                           const char *filename, struct error **errp)
{
    const char *name = drive_get_text(o, "driver");
    const struct driver *drv = driver_find(name);

    if (!drv) {
        error_set(errp, "Unknown driver '%s'", name);
        return false;
    }
    if (filename && needs_file(drv)) {
        return make_file(o, errp) &&
               complete_below(at, drv, o, filename, errp);
    }
    if (filename && !use_filename(drv, o, filename, errp)) {
        return false;
    }
    return complete_below(at, drv, o, NULL, errp);
}

static bool complete(const struct place *at, json_t *o, const char *given,
                     struct error **errp)
{
    g_autofree char *filename = g_strdup(given);

    if (at->depth > MAX_NESTED) {
        error_set(errp, "Block nodes are nested too deeply");
        return false;
    }
    if (!drive_spell(o, errp)) {
        return false;
    }
    if (!filename && at->level != LEVEL_FORMAT &&
        !drive_get_text(o, "driver")) {
        filename = drive_text_take(o, "filename");
    }
    if (filename && filename_is_json(filename)) {
        if (!drive_merge_json_name(o, filename, errp)) {
            return false;
        }
        g_clear_pointer(&filename, g_free);
        if (at->level != LEVEL_FORMAT && !drive_get_text(o, "driver")) {
            filename = drive_text_take(o, "filename");
        }
    }
    if (drive_get_text(o, "driver")) {
        return complete_known(at, o, filename, errp);
    }
    if (at->level == LEVEL_PROTOCOL && filename) {
        return drive_merge_protocol_name(o, filename, errp) &&
               complete_below(at, driver_find(drive_get_text(o, "driver")), o,
                              NULL, errp);
    }
    return (!filename || make_file(o, errp)) && guess(at, o, filename, errp);
}

bool drive_complete(struct drive_completion *c, json_t *o,
                    const char *filename, struct error **errp)
{
    struct place top = { .c = c, .path = "", .level = LEVEL_FORMAT };

    return complete(&top, o, filename, errp);
}

bool drive_complete_below(struct drive_completion *c, json_t *o,
                          struct error **errp)
{
    struct place top = { .c = c, .path = "", .level = LEVEL_FORMAT };

    return complete_known(&top, o, NULL, errp);
}
