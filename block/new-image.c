/* SPDX-License-Identifier: MIT */
/* New images: see new-image.h. */
#include "block/new-image.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include "base/control.h"
#include "block/filename.h"

/* Commas doubled: in QEMU's line the text is an option list. */
static void append_value(GString *line, const char *key, const char *value)
{
    g_string_append_printf(line, " %s=", key);
    for (; *value; value++) {
        g_string_append_c(line, *value);
        if (*value == ',') {
            g_string_append_c(line, ',');
        }
    }
}

/* People and tests read it. */
static void print_formatting(const struct new_image *i)
{
    g_autoptr(GString) line = g_string_new(NULL);
    bool is_qcow2 = strcmp(i->format, "qcow2") == 0;

    g_string_printf(line, "Formatting '%s', fmt=%s", i->filename, i->format);
    if (is_qcow2) {
        g_string_append(line, " cluster_size=65536 extended_l2=off "
                        "compression_type=zlib");
    }
    g_string_append_printf(line, " size=%" PRId64, i->length_bytes);
    if (i->backing) {
        append_value(line, "backing_file", node_filename(i->backing));
        append_value(line, "backing_fmt", node_driver_name(i->backing));
    }
    if (is_qcow2) {
        g_string_append(line, " lazy_refcounts=off refcount_bits=16");
    }
    printf("%s\n", line->str);
    fflush(stdout);
}

static bool create_file(const char *path, int64_t length_bytes,
                        struct error **errp)
{
    g_autoptr(BlockdevCreateOptions) o = BlockdevCreateOptions_new0();

    o->driver = BLOCKDEV_DRIVER_FILE;
    o->u.file.filename = g_strdup(path);
    o->u.file.size = length_bytes;
    return driver_find("file")->create(o, errp);
}

static struct node *open_file(const char *path, struct error **errp)
{
    g_autoptr(BlockdevOptions) o = BlockdevOptions_new0();

    o->driver = BLOCKDEV_DRIVER_FILE;
    o->u.file.filename = g_strdup(path);
    return node_open(o, errp);
}

static bool create_qcow2(const struct new_image *i, const char *path,
                         struct error **errp)
{
    g_autoptr(BlockdevCreateOptions) o = BlockdevCreateOptions_new0();
    BlockdevCreateOptionsQcow2 *q = &o->u.qcow2;
    struct node *file = open_file(path, errp);
    bool ok;

    if (!file) {
        return false;
    }
    o->driver = BLOCKDEV_DRIVER_QCOW2;
    q->file = BlockdevRef_new0();
    q->file->type = QAPI_TYPE_STRING;
    q->file->u.reference = g_strdup(node_name(file));
    q->size = i->length_bytes;
    if (i->backing) {
        q->backing_file = g_strdup(node_filename(i->backing));
        q->has_backing_fmt = true;
        q->backing_fmt = i->backing->driver->type;
    }
    ok = driver_find("qcow2")->create(o, errp);
    node_unref(file);
    return ok;
}

/* What the file name means in the host, borrowed; can files be made there? */
static const char *find_path(const struct new_image *i, struct error **errp)
{
    g_autoptr(BlockdevOptions) o = filename_protocol_options(i->filename,
                                                             errp);
    const char *path = o ? filename_local_path(i->filename) : NULL;

    if (o && !path) {
        error_set(errp, "Protocol driver '%s' does not support image creation",
                  BlockdevDriver_str(o->driver));
    }
    return path;
}

static bool check_format(const struct new_image *i, struct error **errp)
{
    const struct driver *drv = driver_find(i->format);

    if (!drv) {
        error_set(errp, "Unknown file format '%s'", i->format);
        return false;
    }
    if (!drv->create) {
        error_set(errp, "Format driver '%s' does not support image creation",
                  i->format);
        return false;
    }
    return true;
}

static bool check_backing(const struct new_image *i, struct error **errp)
{
    if (!i->backing) {
        return true;
    }
    if (strcmp(i->format, "qcow2") != 0) {
        error_set(errp, "Backing file not supported for file format '%s'",
                  i->format);
        return false;
    }
    if (strcmp(i->filename, node_filename(i->backing)) == 0) {
        error_set(errp, "Error: Trying to create an image with the same "
                  "filename as the backing file");
        return false;
    }
    return true;
}

bool new_image_create(const struct new_image *given, struct error **errp)
{
    struct new_image i = *given;
    bool is_qcow2 = strcmp(i.format, "qcow2") == 0;
    const char *path;
    bool ok;

    control_assert();
    i.length_bytes = (i.length_bytes + 511) & ~INT64_C(511);
    if (!check_format(&i, errp)) {
        return false;
    }
    path = find_path(&i, errp);
    if (!path || !check_backing(&i, errp)) {
        return false;
    }
    print_formatting(&i);
    if (i.backing) {
        node_ref(i.backing);    /* jobs may end meanwhile */
    }
    ok = create_file(path, is_qcow2 ? 0 : i.length_bytes, errp) &&
         (!is_qcow2 || create_qcow2(&i, path, errp)); /* raw, file */
    node_unref(i.backing);
    return ok;
}
