/* SPDX-License-Identifier: MIT */
/*
 * JSON as QMP writes it.
 *
 * Problem     Clients compare text, so keys come in QEMU's order, which has
 *             nothing to do with the order in which they were set; and this
 *             runs for every reply and event.
 * Order       A key has a rank (schema/key-order.txt).  Keys of one rank go
 *             backwards in the order they were set; keys without a rank come
 *             last, as they were set.
 */
#include <stdlib.h>
#include <string.h>

#include "qapi/keys.h"
#include "qapi/qapi.h"

struct out {
    char *text;
    size_t length, capacity;
    bool pretty;
    unsigned depth;
};

/* Room for N more bytes. */
static char *out_room(struct out *o, size_t n)
{
    if (o->capacity - o->length < n) {
        o->capacity = (o->capacity + n) * 2;
        o->text = g_realloc(o->text, o->capacity);
    }
    return o->text + o->length;
}

static void out_bytes(struct out *o, const char *bytes, size_t n)
{
    memcpy(out_room(o, n), bytes, n);
    o->length += n;
}

static void out_newline(struct out *o)
{
    const size_t n = o->pretty ? 1 + 4 * o->depth : 0;
    char *to;

    if (n) {
        to = out_room(o, n);
        memset(to, ' ', n);
        to[0] = '\n';
        o->length += n;
    }
}

/* Between elements: ", ", or a comma and a line when pretty. */
static void out_comma(struct out *o)
{
    out_bytes(o, ", ", o->pretty ? 1 : 2);
    out_newline(o);
}

static void out_unit(struct out *o, unsigned unit)
{
    static const char hex[] = "0123456789ABCDEF";
    const char text[6] = {
        '\\', 'u', hex[unit >> 12], hex[unit >> 8 & 15], hex[unit >> 4 & 15],
        hex[unit & 15],
    };

    out_bytes(o, text, sizeof(text));
}

static void out_character(struct out *o, gunichar c)
{
    static const char short_forms[128] = {
        ['"'] = '"', ['\\'] = '\\', ['\b'] = 'b', ['\f'] = 'f',
        ['\n'] = 'n', ['\r'] = 'r', ['\t'] = 't',
    };

    if (c < 128 && short_forms[c]) {
        const char text[2] = { '\\', short_forms[c] };

        out_bytes(o, text, sizeof(text));
    } else if (c < 0x10000) {
        out_unit(o, c);
    } else {
        out_unit(o, 0xd800 + ((c - 0x10000) >> 10));
        out_unit(o, 0xdc00 + ((c - 0x10000) & 0x3ff));
    }
}

static bool is_plain(unsigned char c)
{
    return c >= ' ' && c < 127 && c != '"' && c != '\\';
}

/* File names need not be UTF-8: what is not becomes U+FFFD, byte by byte. */
static void out_string(struct out *o, const char *text, size_t length)
{
    const char *end = text + length;

    out_bytes(o, "\"", 1);
    while (text < end) {
        const char *from = text;
        gunichar c;

        while (text < end && is_plain(*text)) {
            text++;
        }
        out_bytes(o, from, text - from);
        if (text == end) {
            break;
        }
        if ((unsigned char)*text < 128) {
            out_character(o, *text++);
            continue;
        }
        c = g_utf8_get_char_validated(text, end - text);
        if (c >= 0x110000) {            /* errors are huge */
            out_unit(o, 0xfffd);
            text++;
        } else {
            out_character(o, c);
            text = g_utf8_next_char(text);
        }
    }
    out_bytes(o, "\"", 1);
}

static void out_unsigned(struct out *o, uint64_t value)
{
    char digits[20];
    size_t at = sizeof(digits);

    do {
        digits[--at] = '0' + value % 10;
        value /= 10;
    } while (value);
    out_bytes(o, digits + at, sizeof(digits) - at);
}

static void out_integer(struct out *o, int64_t value)
{
    if (value < 0) {
        out_bytes(o, "-", 1);
        out_unsigned(o, -(uint64_t)value);
    } else {
        out_unsigned(o, value);
    }
}

static void out_real(struct out *o, double value)
{
    char text[G_ASCII_DTOSTR_BUF_SIZE];

    g_ascii_formatd(text, sizeof(text), "%.17g", value);
    out_bytes(o, text, strlen(text));
}

/* A member with its place in the order: rank, then position. */
struct entry {
    uint64_t place;
    const char *key;
    size_t key_length;
    const json_t *value;
};

static uint64_t entry_place(const char *key, size_t *length, size_t n,
                            size_t set_as)
{
    uint32_t hash = 2166136261u;
    const char *at;

    for (at = key; *at; at++) {
        hash = (hash ^ (unsigned char)*at) * 16777619u;
    }
    *length = at - key;
    for (;; hash++) {
        const struct qapi_key *known =
            &qapi_keys[hash & (QAPI_KEYS_SLOTS - 1)];

        if (!known->name) {
            return UINT64_MAX / 2 + set_as;
        }
        if (strcmp(known->name, key) == 0) {
            return ((uint64_t)known->rank << 32) + (n - set_as);
        }
    }
}

static int entry_compare(const void *a, const void *b)
{
    const uint64_t x = ((const struct entry *)a)->place;
    const uint64_t y = ((const struct entry *)b)->place;

    return (x > y) - (x < y);
}

static void entries_sort(struct entry *entries, size_t n)
{
    if (n > 64) {
        qsort(entries, n, sizeof(entries[0]), entry_compare);
        return;
    }
    for (size_t i = 1; i < n; i++) {
        const struct entry moved = entries[i];
        size_t to = i;

        for (; to > 0 && entries[to - 1].place > moved.place; to--) {
            entries[to] = entries[to - 1];
        }
        entries[to] = moved;
    }
}

static void out_value(struct out *o, const json_t *json);

static void out_object(struct out *o, json_t *json)
{
    struct entry few[64];
    g_autofree struct entry *many = NULL;
    struct entry *entries = few;
    const size_t n = json_object_size(json);
    size_t i = 0;
    void *at;

    if (n > G_N_ELEMENTS(few)) {
        entries = many = g_new(struct entry, n);
    }
    for (at = json_object_iter(json); at;
         at = json_object_iter_next(json, at), i++) {
        entries[i].key = json_object_iter_key(at);
        entries[i].value = json_object_iter_value(at);
        entries[i].place = entry_place(entries[i].key,
                                       &entries[i].key_length, n, i);
    }
    entries_sort(entries, n);
    out_bytes(o, "{", 1);
    o->depth++;
    for (i = 0; i < n; i++) {
        i ? out_comma(o) : out_newline(o);
        out_string(o, entries[i].key, entries[i].key_length);
        out_bytes(o, ": ", 2);
        out_value(o, entries[i].value);
    }
    o->depth--;
    out_newline(o);
    out_bytes(o, "}", 1);
}

static void out_array(struct out *o, const json_t *json)
{
    const size_t n = json_array_size(json);

    out_bytes(o, "[", 1);
    o->depth++;
    for (size_t i = 0; i < n; i++) {
        i ? out_comma(o) : out_newline(o);
        out_value(o, json_array_get(json, i));
    }
    o->depth--;
    out_newline(o);
    out_bytes(o, "]", 1);
}

static void out_value(struct out *o, const json_t *json)
{
    uint64_t big;

    switch (json_typeof(json)) {
    case JSON_OBJECT:
        out_object(o, (json_t *)json);  /* only iterated over */
        break;
    case JSON_ARRAY:
        out_array(o, json);
        break;
    case JSON_STRING:
        if (qapi_json_is_uint64(json, &big)) {
            out_unsigned(o, big);
        } else {
            out_string(o, json_string_value(json), json_string_length(json));
        }
        break;
    case JSON_INTEGER:
        out_integer(o, json_integer_value(json));
        break;
    case JSON_REAL:
        out_real(o, json_real_value(json));
        break;
    case JSON_TRUE:
        out_bytes(o, "true", 4);
        break;
    case JSON_FALSE:
        out_bytes(o, "false", 5);
        break;
    default:
        out_bytes(o, "null", 4);
        break;
    }
}

char *qapi_json_dump(const json_t *json, bool pretty, size_t *len)
{
    struct out o = { .capacity = 256, .pretty = pretty };

    o.text = g_malloc(o.capacity);
    out_value(&o, json);
    out_room(&o, 1)[0] = '\0';
    if (len) {
        *len = o.length;
    }
    return o.text;
}
