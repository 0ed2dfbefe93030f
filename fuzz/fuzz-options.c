/* SPDX-License-Identifier: MIT */
/*
 * Options of nodes as users write them: JSON of blockdev-add, the command
 * line's driver=...,key=value, and file names.
 *
 * The first byte says which; the rest is the text.  What is well-formed is
 * opened and closed.  Files are those of an empty folder: a text with a slash,
 * or that names something of the host or the network, is not used.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "tests/qcow2-util.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void setup(void)
{
    g_autofree char *image = test_path("a.qcow2");
    g_autofree char *raw = test_path("a.raw");

    if (chdir(test_dir()) < 0) {
        abort();
    }
    CONTROL_GUARD();
    if (!image_create(image, 1 << 20, "", NULL)) {
        abort();
    }
    g_file_set_contents(raw, "raw", 3, NULL);
}

/* Would it leave the folder? */
static bool is_harmless(const char *text)
{
    return !strchr(text, '/') && !strstr(text, "\\u") &&
           !strstr(text, "nbd") && !strstr(text, "host") &&
           !strstr(text, "fd:") && !strstr(text, "latency");
}

static void open_options(BlockdevOptions *o)
{
    struct node *n;

    if (!o) {
        return;
    }
    CONTROL_GUARD();
    n = node_open(o, NULL);
    if (n) {
        g_assert(node_filename(n));
    }
    node_unref(n);
    node_wait_closed();
}

static void try_json(const char *text)
{
    json_t *json = json_loads(text, 0, NULL);

    if (json) {
        g_autoptr(BlockdevOptions) o = BlockdevOptions_from_json(json, NULL);

        open_options(o);
    }
    json_decref(json);
}

static void try_keyval(const char *text)
{
    json_t *json = qapi_keyval_parse(text, "driver", NULL);

    if (json) {
        g_autoptr(BlockdevOptions) o = BlockdevOptions_from_keyval(json,
                                                                   NULL);

        open_options(o);
    }
    json_decref(json);
}

static void try_filename(const char *text)
{
    struct node *n;

    CONTROL_GUARD();
    n = node_open_to_look(text, NULL, true, false, NULL);
    node_unref(n);
    node_wait_closed();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static void (*const ways[])(const char *) = {
        try_json, try_keyval, try_filename,
    };
    static bool ready;
    g_autofree char *text = NULL;

    if (!ready) {
        setup();
        ready = true;
    }
    if (size < 2 || size > 8192 || memchr(data + 1, '\0', size - 1)) {
        return 0;
    }
    text = g_strndup((const char *)data + 1, size - 1);
    if (is_harmless(text)) {
        ways[data[0] % G_N_ELEMENTS(ways)](text);
    }
    return 0;
}
