/* SPDX-License-Identifier: MIT */
/*
 * The wire reader: every case is read whole, byte by byte and in every split
 * in two.  What is expected was seen of Debian's qemu-storage-daemon unless a
 * comment says that we differ.
 */
#include "server/wire.h"

#include <stdlib.h>
#include <string.h>
#include <glib.h>
#include "qapi/qapi.h"

/* Items as text, one a line: a value as compact JSON, an error behind "!". */

static void take_items(struct wire *w, GString *out, const char *p,
                       const char *end)
{
    enum wire_item item;

    do {
        json_t *value = NULL;
        g_autofree char *text = NULL;

        item = wire_next(w, &p, end, &value, &text);
        if (item == WIRE_VALUE) {
            char *dump = json_dumps(value, JSON_ENCODE_ANY | JSON_COMPACT);

            g_string_append_printf(out, "%s\n", dump);
            free(dump);
            json_decref(value);
        } else if (item == WIRE_ERROR) {
            const char *head = "JSON parse error, ";

            g_string_append_printf(out, "!%s\n", g_str_has_prefix(text, head)
                                   ? text + strlen(head) : text);
        } else {
            g_assert_true(p == end);
        }
    } while (item != WIRE_MORE);
}

static void check_pieces(const char *input, size_t len, const char *expected,
                         size_t first, size_t piece)
{
    struct wire *w = wire_new();
    g_autoptr(GString) out = g_string_new(NULL);

    take_items(w, out, input, input + first);
    for (size_t at = first; at < len; at += piece) {
        /* A copy of its own, so that reading outside is found. */
        size_t n = MIN(piece, len - at);
        char *copy = g_memdup2(input + at, n);

        take_items(w, out, copy, copy + n);
        g_free(copy);
    }
    wire_free(w);
    g_assert_cmpstr(out->str, ==, expected);
}

static void check_len(const char *input, size_t len, const char *expected)
{
    check_pieces(input, len, expected, 0, len);
    check_pieces(input, len, expected, 0, 1);
    for (size_t first = 1; first < len && len < 4096; first++) {
        check_pieces(input, len, expected, first, len);
    }
}

static const struct {
    const char *input, *expected;
} cases[] = {
    /* values of all kinds; a word ends in front of what follows */
    { "{}", "{}\n" },
    { "[]42 \"a\"'b'null true-1 ", "[]\n42\n\"a\"\n\"b\"\nnull\ntrue\n-1\n" },
    { "{\"a\":{\"b\":[1,[],{}]}}{\"c\":2}",
      "{\"a\":{\"b\":[1,[],{}]}}\n{\"c\":2}\n" },
    { " \t\r\n{ \"a\" :\n1\t,\r'b' : [ ] } ", "{\"a\":1,\"b\":[]}\n" },
    { "\"a\" \"b\" {\"id\":5} 1 2\n", "\"a\"\n\"b\"\n{\"id\":5}\n1\n2\n" },
    /* numbers */
    { "[0,-0,1.50,1e5,0.1,1E+2,-9223372036854775808]",
      "[0,0,1.5,100000.0,0.10000000000000001,100.0,"
      "-9223372036854775808]\n" },
    { "[-9223372036854775809,18446744073709551616]",
      "[-9.2233720368547758e18,1.8446744073709552e19]\n" },
    { "[1e400]", "!number out of range\n" },       /* QEMU: inf, not JSON */
    { "[01]", "!stray '01'\n!expecting value\n" },
    { "[1.]", "!stray '1.]'\n" },
    { "[1e]", "!stray '1e]'\n" },
    { "[-]", "!stray '-]'\n" },
    { "[.5]", "!stray '.'\n!expecting value\n" },
    { "[0x10]", "!expected separator in list\n" },
    /* strings */
    { "'a\"b\\'c\"'\"it's \\' \"", "\"a\\\"b'c\\\"\"\n\"it's ' \"\n" },
    { "\"\\b\\f\\n\\r\\t\\/\\\\\\\"\"", "\"\\b\\f\\n\\r\\t/\\\\\\\"\"\n" },
    { "\"\\u00e9\\ud83d\\ude00\\u20AC\xc3\xa9\"",
      "\"\xc3\xa9\xf0\x9f\x98\x80\xe2\x82\xac\xc3\xa9\"\n" },
    { "{\"a\":\"\\ud800b\"}", "!\\ud800 is not a valid Unicode character\n" },
    { "{\"a\":\"\\ud800\\u0041\"}",
      "!\\ud800 is not a valid Unicode character\n" },
    { "{\"a\":\"\\udc00b\"}", "!\\udc00 is not a valid Unicode character\n" },
    { "{\"a\":\"\\u12\"}", "!\\u12\" is not a valid Unicode character\n" },
    { "{\"a\":\"\\u\"}", "!\\u\" is not a valid Unicode character\n" },
    /* QEMU takes NUL in a string as another spelling of it. */
    { "{\"a\\u0000\":1}", "!\\u0000 is not a valid Unicode character\n" },
    { "[\"\xc0\x80\"]", "!invalid UTF-8 sequence in string\n" },
    { "[\"\xed\xa0\x80\"]", "!invalid UTF-8 sequence in string\n" },
    { "[\"\\q\"]", "!invalid escape sequence in string\n" },
    { "[\"\xff\"]", "!stray '\"\xef\xbf\xbd'\n!expecting value\n" },
    { "[\"a\tb\"]", "!stray '\"a\t'\n!expecting value\n" },
    { "\"abc\n{}", "!stray '\"abc\n'\n{}\n" },
    /* structure */
    { "{\"a\":1,}", "!expecting value\n" },
    { "{,}", "!expecting value\n" },
    { "[1,]", "!expecting value\n" },
    { "[,]", "!expecting value\n" },
    { "{\"a\":}", "!expecting value\n" },
    { "{\"a\"}", "!missing : in object pair\n" },
    { "{\"a\" 1}", "!missing : in object pair\n" },
    { "{\"a\":1 \"b\":2}", "!expected separator in dict\n" },
    { "[1 2]", "!expected separator in list\n" },
    { "{1:2}", "!key is not a string in object\n" },
    { "{[1]:2}", "!key is not a string in object\n" },
    { "{\"a\":1,\"a\":2}", "!duplicate key\n" },
    { "{\"a\":{},\"a\":{}}", "!duplicate key\n" },
    { "{\"a\":[nope,\"\\q\"]}", "!invalid keyword 'nope'\n" },
    { "abc def ", "!invalid keyword 'abc'\n!invalid keyword 'def'\n" },
    { "{\"a\":6}x{\"a\":7}", "{\"a\":6}\n!invalid keyword 'x'\n{\"a\":7}\n" },
    /* brackets that do not match */
    { "{]{}", "!expecting value\n{}\n" },
    { "[}{}", "!expecting value\n{}\n" },
    { "}}]{}", "!expecting value\n!expecting value\n!expecting value\n{}\n" },
    { "{\"a\":]}", "!expecting value\n!expecting value\n" },
    { "[{]}{}", "!expecting value\n{}\n" },
    { "[[[}{}", "!expecting value\n{}\n" },
    { ":,", "!expecting value\n!expecting value\n" },
    /* bytes that begin nothing: they end the value that they are in, and
     * all is skipped up to a bracket, colon, comma or control character */
    { "/* \"c\" x 1 */ {}", "!stray '/'\n{}\n" },
    { "# {}", "!stray '#'\n{}\n" },
    { "#\t1 x\nx ", "!stray '#'\n!invalid keyword 'x'\n" },
    { "#x]1 ", "!stray '#'\n!expecting value\n1\n" },
    { "\x0b\x0c{}", "!stray '\x0b'\n!stray '\x0c'\n{}\n" },
    { "{\"a\":%d}", "!stray '%'\n!expecting value\n" },
    { "{\"a\":(1\xff{}", "!stray '('\n!stray '\xef\xbf\xbd'\n{}\n" },
    { "[True]", "!stray 'T'\n!expecting value\n" },
    { "{\"execute\":\"quit\"", "" },
};

static void test_cases(void)
{
    for (size_t i = 0; i < G_N_ELEMENTS(cases); i++) {
        g_autofree char *shown = g_strescape(cases[i].input, NULL);

        g_test_message("%s", shown);
        check_len(cases[i].input, strlen(cases[i].input), cases[i].expected);
    }
    check_len("\0{}", 3, "!stray ''\n{}\n");
    /* Of a long token the beginning is shown, however it was split. */
    check_len("\"0123456789012345678901234567890123456789012345678901234567890"
              "123456789\f{}", 74,
              "!stray '\"01234567890123456789012345678901234567890123456789"
              "012345678'\n{}\n");
}

static void test_uint64(void)
{
    const char *text = "[9223372036854775807,9223372036854775808,"
        "18446744073709551615]";
    json_t *value = wire_parse(text, NULL);
    uint64_t n;

    g_assert_true(qapi_json_is_uint64(json_array_get(value, 0), &n));
    g_assert_cmpuint(n, ==, INT64_MAX);
    g_assert_true(qapi_json_is_uint64(json_array_get(value, 1), &n));
    g_assert_cmpuint(n, ==, 1 + (uint64_t)INT64_MAX);
    g_assert_true(qapi_json_is_uint64(json_array_get(value, 2), &n));
    g_assert_cmpuint(n, ==, UINT64_MAX);
    json_decref(value);
}

static void test_parse(void)
{
    static const char *const bad[] = {
        "{\"driver\":\"file\"", "JSON parse error, premature EOI",
        "{} {}", "JSON parse error, more than one value",
        "{} #", "JSON parse error, more than one value",
        "{'a'}", "JSON parse error, missing : in object pair",
        "", "JSON parse error, premature EOI",
    };
    json_t *value = wire_parse(" {'a':1} ", NULL);

    g_assert_cmpint(json_integer_value(json_object_get(value, "a")), ==, 1);
    json_decref(value);
    for (size_t i = 0; i < G_N_ELEMENTS(bad); i += 2) {
        AUTO_ERROR(err);

        g_assert_null(wire_parse(bad[i], &err));
        g_assert_cmpstr(error_text(err), ==, bad[i + 1]);
    }
}

static char *repeat(const char *text, size_t n)
{
    GString *s = g_string_new(NULL);

    while (n-- > 0) {
        g_string_append(s, text);
    }
    return g_string_free(s, FALSE);
}

static void check_depth(const char *open, const char *close, size_t n,
                        const char *expected)
{
    g_autofree char *head = repeat(open, n), *tail = repeat(close, n);
    g_autofree char *text = g_strconcat(head, "1", tail, NULL);
    g_autofree char *line = g_strconcat(text, "{}", NULL);
    g_autofree char *good = expected ? g_strdup(expected)
        : g_strconcat(text, "\n{}\n", NULL);

    check_len(line, strlen(line), good);
}

static void test_depth(void)
{
    const char *too_deep = "!JSON nesting depth limit exceeded\n{}\n";
    g_autofree char *many = repeat("[", 3000);
    g_autofree char *cut = g_strconcat(many, "\n{}", NULL);
    g_autofree char *resync = g_strconcat(many, "\xff{}", NULL);
    g_autofree char *other = g_strconcat(many, "}{}", NULL);

    check_depth("[", "]", 1024, NULL);
    check_depth("{\"a\":", "}", 1024, NULL);
    check_depth("[{\"a\":", "}]", 512, NULL);
    /* QEMU forgets what is open and answers each closing bracket. */
    check_depth("[", "]", 1025, too_deep);
    check_depth("{\"a\":", "}", 1025, too_deep);
    check_depth("[{\"a\":", "}]", 1000, too_deep);
    check_len(cut, strlen(cut), too_deep);
    check_len(resync, strlen(resync), "!JSON nesting depth limit exceeded\n"
              "!stray '\xef\xbf\xbd'\n{}\n");
    check_len(other, strlen(other), too_deep);
}

/* Feed N times TEXT, then TAIL; what comes out is EXPECTED. */
static void check_flood(const char *head, const char *text, size_t n,
                        const char *tail, const char *expected)
{
    enum { PER_PIECE = 4096 };
    struct wire *w = wire_new();
    g_autoptr(GString) out = g_string_new(NULL);
    g_autofree char *piece = repeat(text, PER_PIECE);

    take_items(w, out, head, head + strlen(head));
    for (size_t i = 0; i < n; i += PER_PIECE) {
        take_items(w, out, piece, piece + strlen(piece));
    }
    take_items(w, out, tail, tail + strlen(tail));
    wire_free(w);
    g_assert_cmpstr(out->str, ==, expected);
}

static void test_size(void)
{
    const char *too_long = "!JSON token size limit exceeded\n{}\n";

    check_flood("", "a", 65 << 20, "\n{}",
                "!JSON token size limit exceeded\n{}\n");
    check_flood("\"", "a", 65 << 20, "\"{}", too_long);
    check_flood("\"", "a", 65 << 20, "\n{}", too_long);
    check_flood("{\"x\":[\"", "a", 65 << 20, "\",2]}{}", too_long);
    check_flood("{\"x\":[1", "1", 65 << 20, ",2]}{}", too_long);
    check_flood("[", "\"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
                "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\",", 800000,
                "1]{}", too_long);
    check_flood("[", "1,", 1 << 20, "]{}",
                "!JSON token count limit exceeded\n{}\n");
    /* White space costs nothing. */
    check_flood("{", " ", 100 << 20, "}", "{}\n");
}

/* The issue's: 1 GiB of [ costs one error and no memory. */
static void test_brackets_without_end(void)
{
    check_flood("", "[", 1 << 30, "\n{\"a\":1}",
                "!JSON nesting depth limit exceeded\n{\"a\":1}\n");
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/wire/cases", test_cases);
    g_test_add_func("/wire/uint64", test_uint64);
    g_test_add_func("/wire/parse", test_parse);
    g_test_add_func("/wire/depth", test_depth);
    g_test_add_func("/wire/size", test_size);
    g_test_add_func("/wire/brackets-without-end", test_brackets_without_end);
    return g_test_run();
}
