/* SPDX-License-Identifier: MIT */
/*
 * The wire reader: what comes out must not depend on how the bytes are split,
 * and what jansson reads as one JSON object the reader reads as the same.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include "server/wire.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* All items, as text, one a line; pieces of at most PIECE bytes. */
static char *read_all(const char *data, size_t size, size_t piece)
{
    struct wire *w = wire_new();
    GString *items = g_string_new(NULL);

    for (size_t at = 0; at < size; at += piece) {
        const char *p = data + at, *end = p + MIN(piece, size - at);

        while (p < end) {
            json_t *value = NULL;
            char *text = NULL;

            switch (wire_next(w, &p, end, &value, &text)) {
            case WIRE_VALUE:
                text = json_dumps(value, JSON_ENCODE_ANY | JSON_SORT_KEYS);
                g_string_append_printf(items, "value %s\n", text);
                json_decref(value);
                free(text);
                break;
            case WIRE_ERROR:
                if (!g_utf8_validate(text, -1, NULL)) {
                    abort();
                }
                g_string_append_printf(items, "error %s\n", text);
                g_free(text);
                break;
            case WIRE_MORE:
                break;
            }
        }
    }
    wire_free(w);
    return g_string_free(items, FALSE);
}

static bool has_any(const char *data, size_t size, const char *what)
{
    return memmem(data, size, what, strlen(what)) != NULL;
}

static void compare_with_jansson(const char *data, size_t size,
                                 const char *items)
{
    json_t *value = json_loadb(data, size, JSON_REJECT_DUPLICATES, NULL);
    g_autofree char *expected = NULL;
    char *text;

    if (!value) {
        return;
    }
    text = json_dumps(value, JSON_SORT_KEYS);
    expected = g_strdup_printf("value %s\n", text);
    /* -0 is 0 here, and what jansson calls a number out of range is one. */
    if (strcmp(items, expected) && !has_any(data, size, "\\u0000")) {
        abort();
    }
    free(text);
    json_decref(value);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    const char *data = (const char *)bytes;
    g_autofree char *whole = read_all(data, size, size ? size : 1);
    g_autofree char *single = read_all(data, size, 1);
    g_autofree char *few = read_all(data, size, 7);

    if (strcmp(whole, single) || strcmp(whole, few)) {
        abort();
    }
    compare_with_jansson(data, size, whole);
    return 0;
}
