/* SPDX-License-Identifier: MIT */
/*
 * The builder of the wire reader: see wire-value.h.
 *
 * A container is put into its parent when it is opened, so that the root owns
 * all there is and an error just drops the root.  After the first error
 * tokens are ignored: wire.c finds the end of the value by counting brackets.
 */
#include "server/wire-value.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include "qapi/qapi.h"

void wire_builder_init(struct wire_builder *b)
{
    *b = (struct wire_builder) {
        .open = g_ptr_array_new(),
        .scratch = g_string_new(NULL),
    };
}

void wire_builder_deinit(struct wire_builder *b)
{
    wire_builder_reset(b);
    g_ptr_array_free(b->open, TRUE);
    g_string_free(b->scratch, TRUE);
}

void wire_builder_reset(struct wire_builder *b)
{
    enum { KEEP_BYTES = 4096 };

    json_decref(b->root);
    json_decref(b->key);
    g_free(b->error);
    b->root = b->key = NULL;
    b->error = NULL;
    b->expect = WIRE_EXPECT_VALUE;
    g_ptr_array_set_size(b->open, 0);
    if (b->scratch->allocated_len > KEEP_BYTES) {
        g_string_free(b->scratch, TRUE);
        b->scratch = g_string_new(NULL);
    }
}

static void G_GNUC_PRINTF(2, 3)
builder_fail(struct wire_builder *b, const char *fmt, ...)
{
    g_autofree char *reason = NULL;
    g_autofree char *valid = NULL;
    va_list ap;

    va_start(ap, fmt);
    reason = g_strdup_vprintf(fmt, ap);
    va_end(ap);
    valid = g_utf8_make_valid(reason, -1);
    b->error = g_strconcat("JSON parse error, ", valid, NULL);
    json_decref(b->root);
    b->root = NULL;
    g_ptr_array_set_size(b->open, 0);
}

/* ---- strings ------------------------------------------------------------ */

/* Value of four hexadecimal digits, or -1.  P may end (NUL, quote) early. */
static int parse_hex4(const char *p)
{
    int value = 0;

    for (int i = 0; i < 4; i++) {
        int digit = g_ascii_xdigit_value(p[i]);

        if (digit < 0) {
            return -1;
        }
        value = value << 4 | digit;
    }
    return value;
}

/* P is behind "\u", of a text that ends with a quote at END.  Moves *P. */
static bool append_unicode(struct wire_builder *b, const char **p,
                           const char *end)
{
    const char *start = *p;
    int shown = MIN(4, end + 1 - start);
    int code = parse_hex4(start);
    int low;

    *p += 4;
    if (code >= 0xd800 && code < 0xdc00 && (*p)[0] == '\\' &&
        (*p)[1] == 'u') {
        low = parse_hex4(*p + 2);
        if (low >= 0xdc00 && low < 0xe000) {
            code = 0x10000 + ((code - 0xd800) << 10) + (low - 0xdc00);
            *p += 6;
        }
    }
    if (code <= 0 || (code >= 0xd800 && code < 0xe000)) {
        builder_fail(b, "\\u%.*s is not a valid Unicode character", shown,
                     start);
        return false;
    }
    g_string_append_unichar(b->scratch, code);
    return true;
}

/* Into b->scratch, without escapes. */
static bool unescape(struct wire_builder *b, const char *text, size_t len)
{
    static const char from[] = "bfnrt\"'\\/", to[] = "\b\f\n\r\t\"'\\/";
    const char *end = text + len;

    g_string_truncate(b->scratch, 0);
    for (const char *p = text; p < end; ) {
        const char *escape = memchr(p, '\\', end - p);
        const char *known;

        g_string_append_len(b->scratch, p, (escape ? escape : end) - p);
        if (!escape) {
            break;
        }
        p = escape + 2;
        if (escape[1] == 'u') {
            if (!append_unicode(b, &p, end)) {
                return false;
            }
            continue;
        }
        known = escape[1] ? strchr(from, escape[1]) : NULL;
        if (!known) {
            builder_fail(b, "invalid escape sequence in string");
            return false;
        }
        g_string_append_c(b->scratch, to[known - from]);
    }
    return true;
}

static json_t *make_string(struct wire_builder *b, const char *text,
                           size_t len, bool plain)
{
    json_t *string;

    if (plain) {
        return json_stringn_nocheck(text, len);
    }
    if (!unescape(b, text, len)) {
        return NULL;
    }
    string = json_stringn(b->scratch->str, b->scratch->len);
    if (!string) {
        builder_fail(b, "invalid UTF-8 sequence in string");
    }
    return string;
}

/* ---- other scalars ------------------------------------------------------ */

static json_t *make_number(struct wire_builder *b, enum wire_token token,
                           const char *text, size_t len)
{
    g_autofree char *copy = g_strndup(text, len);
    json_t *number;
    int64_t value;

    if (token == WIRE_INTEGER) {
        errno = 0;
        value = g_ascii_strtoll(copy, NULL, 10);
        if (errno == 0) {
            return json_integer(value);
        }
        errno = 0;
        if (copy[0] != '-') {
            uint64_t large = g_ascii_strtoull(copy, NULL, 10);

            if (errno == 0) {
                return qapi_json_uint64(large);
            }
        }
    }
    number = json_real(g_ascii_strtod(copy, NULL));
    if (!number) {
        builder_fail(b, "number out of range");
    }
    return number;
}

static json_t *make_keyword(struct wire_builder *b, const char *text,
                            size_t len)
{
    enum { SHOWN_BYTES = 60 };

    if (len == 4 && !memcmp(text, "true", 4)) {
        return json_true();
    }
    if (len == 5 && !memcmp(text, "false", 5)) {
        return json_false();
    }
    if (len == 4 && !memcmp(text, "null", 4)) {
        return json_null();
    }
    builder_fail(b, "invalid keyword '%.*s%s'", (int)MIN(len, SHOWN_BYTES),
                 text, len > SHOWN_BYTES ? "..." : "");
    return NULL;
}

/* ---- structure ---------------------------------------------------------- */

static json_t *innermost(struct wire_builder *b)
{
    return b->open->len ? g_ptr_array_index(b->open, b->open->len - 1) : NULL;
}

/* Put VALUE (taken) where a value is expected. */
static bool put_value(struct wire_builder *b, json_t *value)
{
    json_t *parent = innermost(b);
    const char *key;
    size_t len;

    b->expect = WIRE_EXPECT_SEPARATOR;
    if (!parent) {
        b->root = value;
        return true;
    }
    if (json_is_array(parent)) {
        json_array_append_new(parent, value);
        return true;
    }
    key = json_string_value(b->key);
    len = json_string_length(b->key);
    if (json_object_getn(parent, key, len)) {
        json_decref(value);
        builder_fail(b, "duplicate key");
        return false;
    }
    json_object_setn_new_nocheck(parent, key, len, value);
    json_decref(b->key);
    b->key = NULL;
    return true;
}

static void open_container(struct wire_builder *b, enum wire_token token)
{
    bool object = token == WIRE_OPEN_OBJECT;
    json_t *container = object ? json_object() : json_array();

    if (put_value(b, container)) {
        g_ptr_array_add(b->open, container);
        b->expect = object ? WIRE_EXPECT_KEY_OR_END : WIRE_EXPECT_VALUE_OR_END;
    }
}

static void close_container(struct wire_builder *b)
{
    g_ptr_array_set_size(b->open, b->open->len - 1);
    b->expect = WIRE_EXPECT_SEPARATOR;
}

static void take_value(struct wire_builder *b, enum wire_token token,
                       const char *text, size_t len, bool plain)
{
    json_t *value;

    switch (token) {
    case WIRE_OPEN_OBJECT:
    case WIRE_OPEN_ARRAY:
        open_container(b, token);
        return;
    case WIRE_STRING:
        value = make_string(b, text, len, plain);
        break;
    case WIRE_INTEGER:
    case WIRE_REAL:
        value = make_number(b, token, text, len);
        break;
    case WIRE_KEYWORD:
        value = make_keyword(b, text, len);
        break;
    default:
        builder_fail(b, "expecting value");
        return;
    }
    if (value) {
        put_value(b, value);
    }
}

static void take_key(struct wire_builder *b, enum wire_token token,
                     const char *text, size_t len, bool plain)
{
    switch (token) {
    case WIRE_STRING:
        b->key = make_string(b, text, len, plain);
        b->expect = WIRE_EXPECT_COLON;
        break;
    case WIRE_KEYWORD:
        json_decref(make_keyword(b, text, len));
        if (b->error) {
            return;
        }
        /* fall through */
    case WIRE_OPEN_OBJECT:
    case WIRE_OPEN_ARRAY:
    case WIRE_INTEGER:
    case WIRE_REAL:
        builder_fail(b, "key is not a string in object");
        break;
    default:
        builder_fail(b, "expecting value");
        break;
    }
}

static void take_separator(struct wire_builder *b, enum wire_token token)
{
    bool object = json_is_object(innermost(b));

    if (token == WIRE_COMMA) {
        b->expect = object ? WIRE_EXPECT_KEY : WIRE_EXPECT_VALUE;
    } else if (token == (object ? WIRE_CLOSE_OBJECT : WIRE_CLOSE_ARRAY)) {
        close_container(b);
    } else {
        builder_fail(b, "expected separator in %s", object ? "dict" : "list");
    }
}

void wire_builder_take(struct wire_builder *b, enum wire_token token,
                       const char *text, size_t len, bool plain)
{
    if (b->error) {
        return;
    }
    switch (b->expect) {
    case WIRE_EXPECT_VALUE_OR_END:
        if (token == WIRE_CLOSE_ARRAY) {
            close_container(b);
            break;
        }
        /* fall through */
    case WIRE_EXPECT_VALUE:
        take_value(b, token, text, len, plain);
        break;
    case WIRE_EXPECT_KEY_OR_END:
        if (token == WIRE_CLOSE_OBJECT) {
            close_container(b);
            break;
        }
        /* fall through */
    case WIRE_EXPECT_KEY:
        take_key(b, token, text, len, plain);
        break;
    case WIRE_EXPECT_COLON:
        if (token == WIRE_COLON) {
            b->expect = WIRE_EXPECT_VALUE;
        } else {
            builder_fail(b, "missing : in object pair");
        }
        break;
    case WIRE_EXPECT_SEPARATOR:
        take_separator(b, token);
        break;
    }
}

json_t *wire_builder_finish(struct wire_builder *b, char **text)
{
    json_t *value = NULL;

    if (b->error) {
        *text = g_steal_pointer(&b->error);
    } else {
        value = g_steal_pointer(&b->root);
    }
    wire_builder_reset(b);
    return value;
}
