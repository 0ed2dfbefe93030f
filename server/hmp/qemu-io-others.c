/* SPDX-License-Identifier: MIT */
/* qemu-io: what is neither reading nor writing. */
#include "server/hmp/qemu-io-priv.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "block/query.h"
#include "qapi/qapi-visit.h"
#include "server/shutdown.h"

/* A failure is not told. */
void io_flush(struct qemu_io *io)
{
    CONTROL_YIELD {
        target_flush(io->target);
    }
}

void io_length(struct qemu_io *io)
{
    int64_t length = -ENOMEDIUM;

    CONTROL_YIELD {
        length = target_length(io->target);
    }
    if (length < 0) {
        io_say(io, "getlength: %s\n", error_errno_text(-length));
    } else {
        g_autofree char *text = io_size_text(length);

        io_say(io, "%s\n", text);
    }
}

/* ---- truncate ----------------------------------------------------------- */

static bool parse_prealloc(struct qemu_io *io, const char *text,
                           PreallocMode *mode)
{
    for (int i = 0; i < PREALLOC_MODE__MAX; i++) {
        if (strcmp(text, PreallocMode_str(i)) == 0) {
            *mode = i;
            return true;
        }
    }
    g_string_append_printf(io->said, "Invalid preallocation mode '%s'\n",
                           text);
    return false;
}

static bool truncate_drained(struct node *n, int64_t length,
                             PreallocMode mode, struct error **errp)
{
    struct drain *d;
    bool ok;

    if (!node_op_allowed(n, NODE_OP_RESIZE, errp)) {
        return false;
    }
    node_ref(n);
    d = drain_begin(&n, 1);
    ok = node_op_allowed(n, NODE_OP_RESIZE, errp) &&
         node_truncate(n, length, mode, errp);
    if (ok) {
        node_notify_resized(n);
    }
    drain_end(&d);
    node_unref(n);
    return ok;
}

void io_truncate(struct qemu_io *io)
{
    PreallocMode mode = PREALLOC_MODE_OFF;
    struct error *err = NULL;
    struct io_options o;
    struct node *n;
    int64_t length;
    int letter;

    io_options_begin(&o, io, "m:");
    while ((letter = io_options_next(&o, io)) != 0) {
        if (letter != 'm' || !parse_prealloc(io, o.value, &mode)) {
            return;
        }
    }
    if (o.n_words < 1) {
        io_usage(io);
        return;
    }
    if (!io_parse_size(io, o.words[0], &length)) {
        return;
    }
    n = target_node(io->target);
    if (!n) {
        error_set(&err, "No medium inserted");
    } else {
        truncate_drained(n, length, mode, &err);
    }
    io_say_error(io, err);
}

/* ---- info --------------------------------------------------------------- */

static void dump_value(GString *said, const char *key, json_t *value,
                       int depth);

static void dump_members(GString *said, json_t *value, int depth)
{
    const char *key;
    json_t *member;
    size_t i;

    if (json_is_array(value)) {
        json_array_foreach(value, i, member) {
            g_autofree char *number = g_strdup_printf("[%zu]", i);

            dump_value(said, number, member, depth);
        }
        return;
    }
    json_object_foreach(value, key, member) {
        g_autofree char *words = g_strdelimit(g_strdup(key), "-", ' ');

        dump_value(said, words, member, depth);
    }
}

static void dump_value(GString *said, const char *key, json_t *value,
                       int depth)
{
    g_string_append_printf(said, "%*s%s:", depth * 4, "", key);
    switch (json_typeof(value)) {
    case JSON_OBJECT:
    case JSON_ARRAY:
        g_string_append_c(said, '\n');
        dump_members(said, value, depth + 1);
        return;
    case JSON_STRING:
        g_string_append_printf(said, " %s", json_string_value(value));
        break;
    case JSON_INTEGER:
        g_string_append_printf(said, " %" PRId64,
                               (int64_t)json_integer_value(value));
        break;
    case JSON_REAL:
        g_string_append_printf(said, " %.17g", json_real_value(value));
        break;
    case JSON_TRUE:
    case JSON_FALSE:
        g_string_append(said, json_is_true(value) ? " true" : " false");
        break;
    case JSON_NULL:
        g_string_append(said, " null");
        break;
    }
    g_string_append_c(said, '\n');
}

/* With its members in QEMU's order. */
static json_t *image_info_json(const ImageInfo *info)
{
    json_t *json = ImageInfo_to_json(info), *sorted;
    size_t length;
    g_autofree char *text = qapi_json_dump(json, false, &length);

    sorted = json_loadb(text, length, 0, NULL);
    json_decref(json);
    return sorted;
}

/* The head to stdout, the members to the monitor: so does QEMU. */
static void say_specific(struct qemu_io *io, struct node *n)
{
    g_autoptr(ImageInfo) info = node_image_info(n, false);
    json_t *json = image_info_json(info), *data;

    data = json_object_get(json_object_get(json, "format-specific"), "data");
    if (data && json_object_size(data) > 0) {
        io_say(io, "Format specific information:\n");
        dump_members(io->said, data, 1);
    }
    json_decref(json);
}

/* How far behind the disk's end a saved machine would begin: behind what the
 * last table of level 2 reaches. */
static int64_t vm_state_offset(struct node *n)
{
    g_autoptr(ImageInfo) info = node_image_info(n, false);
    json_t *json = ImageInfo_to_json(info);
    json_t *data = json_object_get(json_object_get(json, "format-specific"),
                                   "data");
    int entry_bytes = json_is_true(json_object_get(data, "extended-l2")) ? 16
                                                                         : 8;
    int64_t cluster = node_cluster_bytes(n);
    int64_t reach = cluster / entry_bytes * cluster;

    json_decref(json);
    return (node_length(n) + reach - 1) / reach * reach;
}

static bool is_one_of(const char *name, const char *const *names)
{
    return g_strv_contains(names, name);
}

void io_info(struct qemu_io *io)
{
    static const char *const protocols[] = {
        "blkdebug", "blkverify", "file", "host_device", "nbd", "null-aio",
        "null-co", NULL
    };
    static const char *const silent[] = { "null-aio", "null-co", NULL };
    struct node *n = target_node(io->target), *image = n;
    g_autofree char *cluster = NULL, *vm_state = NULL;
    bool is_qcow2;

    if (!n) {
        io_say(io, "info: %s\n", error_errno_text(ENOMEDIUM));
        return;
    }
    io_say(io, "format name: %s\n", node_driver_name(n));
    if (is_one_of(node_driver_name(n), protocols)) {
        io_say(io, "format name: %s\n", node_driver_name(n));
    }
    /* Filters, and raw, tell what is below them. */
    while (strcmp(node_driver_name(image), "qcow2") != 0 &&
           (node_filtered(image) || image->file)) {
        image = node_filtered(image) ? node_filtered(image)
                                     : image->file->node;
    }
    if (is_one_of(node_driver_name(image), silent)) {
        return;
    }
    is_qcow2 = strcmp(node_driver_name(image), "qcow2") == 0;
    cluster = io_size_text(is_qcow2 ? node_cluster_bytes(image) : 0);
    vm_state = io_size_text(is_qcow2 ? vm_state_offset(image) : 0);
    io_say(io, "cluster size: %s\nvm state offset: %s\n", cluster, vm_state);
    say_specific(io, n);
}

/* ---- the process -------------------------------------------------------- */

void io_sleep(struct qemu_io *io)
{
    const char *text = io->argv[1];
    char *end;
    int64_t until, ms;

    errno = 0;
    ms = g_ascii_strtoll(text, &end, 0);
    if (end == text || *end || ms < 0) {
        io_say(io, "%s is not a valid number\n", text);
        return;
    }
    if (ms > INT64_MAX / 1000000 - clock_ns() / 1000000) {
        return;                 /* as QEMU does */
    }
    until = clock_ns() + ms * 1000000;
    while (!shutdown_has_begun() && control_wait_until(until)) {
        continue;
    }
}

void io_sigraise(struct qemu_io *io)
{
    int64_t number;

    if (!io_parse_size(io, io->argv[1], &number)) {
        return;
    }
    if (number > NSIG) {
        io_say(io, "signal argument '%s' is too large to be a valid signal\n",
               io->argv[1]);
        return;
    }
    /* SIGTERM and its like are the server's, whatever thread gets them. */
    kill(getpid(), number);
}

void io_abort(struct qemu_io *io)
{
    abort();
}
