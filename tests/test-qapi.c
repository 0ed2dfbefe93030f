/* SPDX-License-Identifier: MIT */
/*
 * QAPI with the schema tests/qapi/test-schema.json: what a client may send
 * and what it is told otherwise, values to JSON and back, copies, commands,
 * events, the command line's key=value form, and the text on the wire.
 */
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "tests/qapi/test-qapi-commands.h"
#include "tests/qapi/test-qapi-events.h"
#include "tests/qapi/test-qapi-introspect.h"
#include "tests/qapi/test-qapi-visit.h"

static json_t *json(const char *text)
{
    json_error_t error;
    g_autofree char *quoted = g_strdelimit(g_strdup(text), "'", '"');
    json_t *value = json_loads(quoted, JSON_DECODE_ANY | JSON_ALLOW_NUL,
                               &error);

    if (!value) {
        g_error("%s in %s", error.text, text);
    }
    return value;
}

/* TEXT does not convert to TYPE: the error is MESSAGE. */
static void check_refused(const struct qapi_type *type, const char *text,
                          const char *message)
{
    AUTO_ERROR(err);
    json_t *input = json(text);

    g_assert_null(qapi_from_json(type, input, &err));
    g_assert_cmpstr(error_text(err), ==, message);
    g_assert_cmpint(error_get_class(err), ==, ERROR_GENERIC);
    g_assert_null(qapi_from_json(type, input, NULL));
    json_decref(input);
}

/* TEXT converts to TYPE, and what comes back is RESULT (NULL: TEXT). */
static void check_taken(const struct qapi_type *type, const char *text,
                        const char *result)
{
    AUTO_ERROR(err);
    json_t *input = json(text), *wanted = json(result ? result : text);
    json_t *output, *again;
    void *value = qapi_from_json(type, input, &err), *copy;

    g_assert_cmpstr(err ? error_text(err) : NULL, ==, NULL);
    g_assert_nonnull(value);
    copy = qapi_clone(type, value);
    output = qapi_to_json(type, value);
    qapi_free(type, value);
    again = qapi_to_json(type, copy);
    qapi_free(type, copy);
    g_assert_true(json_equal(output, wanted));
    g_assert_true(json_equal(again, wanted));
    json_decref(input);
    json_decref(wanted);
    json_decref(output);
    json_decref(again);
}

static void test_struct(void)
{
    const struct qapi_type *base = &qapi_type_Base;
    const struct qapi_type *derived = &qapi_type_Derived;

    check_taken(base, "{'name': 'x'}", NULL);
    check_taken(base, "{'flag': false, 'name': ''}", NULL);
    check_refused(base, "{}", "Parameter 'name' is missing");
    check_refused(base, "{'nam': 1}", "Parameter 'name' is missing");
    check_refused(base, "{'name': 1, 'zz': 1}",
                  "Invalid parameter type for 'name', expected: string");
    check_refused(base, "{'zz': 1, 'name': 'x'}",
                  "Parameter 'zz' is unexpected");
    check_refused(base, "{'name': null}",
                  "Invalid parameter type for 'name', expected: string");
    check_refused(base, "{'name': '\\u0000u64:1'}",
                  "Invalid parameter type for 'name', expected: string");
    check_refused(base, "{'name': 'x', 'flag': 1}",
                  "Invalid parameter type for 'flag', expected: boolean");
    check_refused(base, "{'name': 'x', 'flag': null}",
                  "Invalid parameter type for 'flag', expected: boolean");
    check_taken(derived, "{'name': 'x', 'kind': '4-ever', 'any': {'a': [1]},"
                " 'nothing': null, 'numbers': {'i8': -1}, 'default': 'd',"
                " 'strings': ['a', '', 'c'], 'kinds': ['one', 'two'],"
                " 'bits': [0, 65535], 'bools': [true, false], 'bases': [],"
                " 'reals': [1.5, 2.0], 'anys': [null, 1, [], {}]}", NULL);
    check_refused(derived, "{'name': 'x', 'kind': 'three'}",
                  "Parameter 'kind' does not accept value 'three'");
    check_refused(derived, "{'name': 'x', 'kind': 1}",
                  "Invalid parameter type for 'kind', expected: string");
    check_refused(derived, "{'name': 'x', 'nothing': 0}",
                  "Invalid parameter type for 'nothing', expected: null");
    check_refused(derived, "{'name': 'x', 'numbers': []}",
                  "Invalid parameter type for 'numbers', expected: object");
    check_refused(derived, "{'name': 'x', 'numbers': {'i9': 1}}",
                  "Parameter 'numbers.i9' is unexpected");
    check_refused(derived, "{'name': 'x', 'strings': {}}",
                  "Invalid parameter type for 'strings', expected: array");
    check_refused(derived, "{'name': 'x', 'strings': ['a', 1]}",
                  "Invalid parameter type for 'strings[1]', "
                  "expected: string");
    check_refused(derived, "{'name': 'x', 'kinds': ['one', 'zz']}",
                  "Parameter 'kinds[1]' does not accept value 'zz'");
    check_refused(derived, "{'name': 'x', 'bases': [{'name': 'a'}, {}]}",
                  "Parameter 'bases[1].name' is missing");
    check_taken(&qapi_type_Empty, "{}", NULL);
    check_refused(&qapi_type_Empty, "{'a': 1}",
                  "Parameter 'a' is unexpected");
}

static void test_optional(void)
{
    AUTO_ERROR(err);
    json_t *input = json("{'name': 'x', 'strings': []}");
    g_autoptr(Derived) value = Derived_from_json(input, &err);
    g_autoptr(Derived) copy = NULL;

    g_assert_nonnull(value);
    g_assert_false(value->has_flag);
    g_assert_false(value->has_kind);
    g_assert_null(value->any);
    g_assert_false(value->has_nothing);
    g_assert_null(value->numbers);
    g_assert_nonnull(value->strings);
    g_assert_cmpuint(value->strings->n, ==, 0);
    g_assert_null(value->bases);
    g_assert_null(value->q_default);
    g_assert_cmpstr(qapi_Derived_base(value)->name, ==, "x");
    copy = Derived_clone(value);
    g_assert_nonnull(copy->strings);
    g_assert_null(copy->bases);
    g_assert_null(Derived_clone(NULL));
    Derived_free(NULL);
    json_decref(input);
}

static void test_integers(void)
{
    const struct qapi_type *t = &qapi_type_Numbers;

    check_taken(t, "{'i8': -128, 'i16': -32768, 'i32': -2147483648,"
                " 'i64': -9223372036854775808, 'u8': 0, 'u16': 0, 'u32': 0,"
                " 'u64': 0, 'size': 0, 'real': -1.5}", NULL);
    check_taken(t, "{'i8': 127, 'i16': 32767, 'i32': 2147483647,"
                " 'i64': 9223372036854775807, 'u8': 255, 'u16': 65535,"
                " 'u32': 4294967295, 'u64': 9223372036854775807}", NULL);
    check_refused(t, "{'i8': 128}", "Parameter 'i8' expects int8_t");
    check_refused(t, "{'i8': -129}", "Parameter 'i8' expects int8_t");
    check_refused(t, "{'i16': 32768}", "Parameter 'i16' expects int16_t");
    check_refused(t, "{'i32': 2147483648}",
                  "Parameter 'i32' expects int32_t");
    check_refused(t, "{'i32': -2147483649}",
                  "Parameter 'i32' expects int32_t");
    check_refused(t, "{'u8': 256}", "Parameter 'u8' expects uint8_t");
    check_refused(t, "{'u8': -1}", "Parameter 'u8' expects uint8_t");
    check_refused(t, "{'u16': 65536}", "Parameter 'u16' expects uint16_t");
    check_refused(t, "{'u32': 4294967296}",
                  "Parameter 'u32' expects uint32_t");
    check_refused(t, "{'i64': 1.0}",
                  "Invalid parameter type for 'i64', expected: integer");
    check_refused(t, "{'i64': '1'}",
                  "Invalid parameter type for 'i64', expected: integer");
    check_refused(t, "{'i64': true}",
                  "Invalid parameter type for 'i64', expected: integer");
    check_refused(t, "{'i64': null}",
                  "Invalid parameter type for 'i64', expected: integer");
    check_refused(t, "{'u64': 1.0}", "Parameter 'u64' expects uint64");
    check_refused(t, "{'size': '1k'}", "Parameter 'size' expects uint64");
    check_taken(t, "{'real': 7}", "{'real': 7.0}");
    check_refused(t, "{'real': '7'}",
                  "Invalid parameter type for 'real', expected: number");
}

/* Integers above INT64_MAX, in their disguise. */
static void test_uint64(void)
{
    const uint64_t big = (uint64_t)INT64_MAX + 1;
    g_autoptr(Numbers) value = Numbers_new0(), back = NULL;
    AUTO_ERROR(err);
    json_t *output;
    uint64_t found;
    g_autofree char *text = NULL;

    value->has_u64 = value->has_size = true;
    value->u64 = UINT64_MAX;
    value->size = big;
    output = Numbers_to_json(value);
    g_assert_true(qapi_json_is_uint64(json_object_get(output, "u64"),
                                      &found));
    g_assert_true(found == UINT64_MAX);
    text = qapi_json_dump(output, false, NULL);
    g_assert_nonnull(strstr(text, "\"u64\": 18446744073709551615"));
    g_assert_nonnull(strstr(text, "\"size\": 9223372036854775808"));
    back = Numbers_from_json(output, &err);
    g_assert_nonnull(back);
    g_assert_true(back->u64 == UINT64_MAX && back->size == big);
    json_decref(output);

    check_taken(&qapi_type_Numbers, "{'u64': -1}",
                "{'u64': '\\u0000u64:18446744073709551615'}");
    check_refused(&qapi_type_Numbers, "{'u32': '\\u0000u64:"
                  "9223372036854775808'}",
                  "Parameter 'u32' expects uint32_t");
    check_refused(&qapi_type_Numbers, "{'i64': '\\u0000u64:"
                  "9223372036854775808'}",
                  "Invalid parameter type for 'i64', expected: integer");
    check_taken(&qapi_type_Numbers, "{'real': '\\u0000u64:"
                "9223372036854775808'}", "{'real': 9223372036854775808.0}");
    output = json("-1");
    g_assert_false(qapi_json_is_uint64(output, &found));
    json_decref(output);
    output = json("'9223372036854775808'");
    g_assert_false(qapi_json_is_uint64(output, &found));
    json_decref(output);
}

static void test_union(void)
{
    const struct qapi_type *t = &qapi_type_Node;
    AUTO_ERROR(err);
    json_t *input;
    Node *node;

    check_taken(t, "{'kind': 'one', 'name': 'x', 'id': 'i'}", NULL);
    check_taken(t, "{'kind': 'empty'}", NULL);
    check_taken(t, "{'kind': 'two', 'child': 'ref', 'size': 3}", NULL);
    check_taken(t, "{'kind': '4-ever', 'backing': null, 'child':"
                " {'kind': 'two', 'child': {'kind': 'empty'}}}", NULL);
    check_taken(t, "{'kind': '4-ever', 'backing': {'kind': 'empty'},"
                " 'child': 'r'}", NULL);
    check_refused(t, "{}", "Parameter 'kind' is missing");
    check_refused(t, "{'id': 1}", "Parameter 'kind' is missing");
    check_refused(t, "{'kind': 'zz'}",
                  "Parameter 'kind' does not accept value 'zz'");
    check_refused(t, "{'kind': 'one', 'zz': 1}",
                  "Parameter 'name' is missing");
    check_refused(t, "{'kind': 'one', 'name': 'x', 'size': 1}",
                  "Parameter 'size' is unexpected");
    check_refused(t, "{'kind': 'empty', 'name': 'x'}",
                  "Parameter 'name' is unexpected");
    check_refused(t, "{'kind': 'two', 'child': {'kind': 'two',"
                  " 'child': {}}}",
                  "Parameter 'child.child.kind' is missing");
    check_refused(t, "{'kind': 'two', 'child': {'kind': 'one',"
                  " 'name': 'x', 'zz': 0}, 'yy': 1}",
                  "Parameter 'child.zz' is unexpected");

    input = json("{'kind': '4-ever', 'child': {'kind': 'one', 'name': 'n'},"
                 " 'size': 5, 'backing': null}");
    node = Node_from_json(input, &err);
    g_assert_nonnull(node);
    g_assert_cmpint(node->kind, ==, KIND_4_EVER);
    g_assert_cmpint(node->u.q_4_ever.child->type, ==, QAPI_TYPE_OBJECT);
    g_assert_cmpstr(node->u.q_4_ever.child->u.definition->u.one.name, ==,
                    "n");
    g_assert_true(node->u.q_4_ever.has_size && node->u.q_4_ever.size == 5);
    g_assert_cmpint(node->u.q_4_ever.backing->type, ==, QAPI_TYPE_NULL);
    Node_free(node);
    json_decref(input);
}

static void test_alternate(void)
{
    const struct qapi_type *t = &qapi_type_Scalars;

    check_taken(t, "'two'", NULL);
    check_taken(t, "true", NULL);
    check_taken(t, "5", NULL);
    check_taken(t, "'\\u0000u64:18446744073709551615'", NULL);
    check_taken(t, "[1, 2]", NULL);
    check_refused(t, "['a']",
                  "Invalid parameter type for '[0]', expected: integer");
    check_refused(t, "1.5", "Invalid parameter type for '', expected: "
                  "Scalars");
    check_taken(&qapi_type_RealOrFlag, "3", "3.0");
    check_taken(&qapi_type_RealOrFlag, "2.5", NULL);
    check_refused(&qapi_type_Node, "{'kind': 'two', 'child': 1}",
                  "Invalid parameter type for 'child', expected: NodeRef");
    check_refused(&qapi_type_Node, "{'kind': 'two', 'child': null}",
                  "Invalid parameter type for 'child', expected: NodeRef");
    check_refused(&qapi_type_Node, "{'kind': '4-ever', 'child': 'x',"
                  " 'backing': false}",
                  "Invalid parameter type for 'backing', expected: "
                  "NodeRefOrNull");
    check_refused(&qapi_type_Node, "{'kind': 'two', 'child': {'kind':"
                  " '4-ever', 'child': 'x', 'backing': false}}",
                  "Invalid parameter type for 'backing', expected: "
                  "NodeRefOrNull");
}

static void test_enum(void)
{
    Kind kind = KIND_TWO;

    g_assert_cmpstr(Kind_str(KIND_4_EVER), ==, "4-ever");
    g_assert_true(Kind_parse("empty", &kind));
    g_assert_cmpint(kind, ==, KIND_EMPTY);
    g_assert_false(Kind_parse("", &kind));
    g_assert_false(Kind_parse("ONE", &kind));
    g_assert_cmpint(kind, ==, KIND_EMPTY);
    g_assert_cmpint(KIND__MAX, ==, 4);
}

/* Lists grow by append, also when they came from JSON or a copy. */
static void test_list(void)
{
    for (size_t n = 0; n < 20; n++) {
        g_autoptr(intList) list = intList_new0(), read = NULL, copy = NULL;
        json_t *output;

        for (size_t i = 0; i < n; i++) {
            qapi_list_append(list, i);
        }
        output = intList_to_json(list);
        read = intList_from_json(output, NULL);
        copy = intList_clone(list);
        json_decref(output);
        for (size_t i = n; i < 40; i++) {
            qapi_list_append(read, i);
            qapi_list_append(copy, i);
        }
        g_assert_cmpuint(read->n, ==, 40);
        g_assert_cmpuint(copy->n, ==, 40);
        for (size_t i = 0; i < 40; i++) {
            g_assert_cmpint(read->v[i], ==, i);
            g_assert_cmpint(copy->v[i], ==, i);
        }
    }
}

/* What a handler left out is written as something that is valid. */
static void test_output_defaults(void)
{
    g_autoptr(Base) base = Base_new0();
    g_autoptr(Numbers) numbers = Numbers_new0();
    json_t *output = Base_to_json(base);

    g_assert_cmpstr(json_string_value(json_object_get(output, "name")), ==,
                    "");
    json_decref(output);
    numbers->has_real = true;
    numbers->real = strtod("inf", NULL);
    output = Numbers_to_json(numbers);
    g_assert_true(json_is_null(json_object_get(output, "real")));
    json_decref(output);
    output = strList_to_json(NULL);
    g_assert_true(json_is_array(output));
    json_decref(output);
}

static void check_dump(const char *text, bool pretty, const char *wanted)
{
    json_t *value = json(text);
    size_t length;
    g_autofree char *found = qapi_json_dump(value, pretty, &length);

    g_assert_cmpstr(found, ==, wanted);
    g_assert_cmpuint(length, ==, strlen(wanted));
    json_decref(value);
}

static void test_dump(void)
{
    check_dump("{}", false, "{}");
    check_dump("[]", false, "[]");
    check_dump("[1, -1, 0, true, false, null]", false,
               "[1, -1, 0, true, false, null]");
    check_dump("-9223372036854775808", false, "-9223372036854775808");
    check_dump("[1.0, 1.5, 0.1, 1e20, -0.0, 5e-324]", false,
               "[1, 1.5, 0.10000000000000001, 1e+20, -0, "
               "4.9406564584124654e-324]");
    check_dump("'\\b\\f\\n\\r\\t\\u0001\\u001f/\\u007f'", false,
               "\"\\b\\f\\n\\r\\t\\u0001\\u001F/\\u007F\"");
    check_dump("'\\\\\\u0022'", false, "\"\\\\\\\"\"");
    check_dump("'\\u00e9\\u20ac\\ud83d\\ude00'", false,
               "\"\\u00E9\\u20AC\\uD83D\\uDE00\"");
    check_dump("'a\\u0000b'", false, "\"a\\u0000b\"");
    check_dump("{}", true, "{\n}");
    check_dump("{'id': [], 'data': {'a': [1, {}]}}", true,
               "{\n    \"id\": [\n    ],\n    \"data\": {\n"
               "        \"a\": [\n            1,\n            {\n"
               "            }\n        ]\n    }\n}");
}

static void test_dump_invalid_utf8(void)
{
    json_t *value = json_string_nocheck("a\xff\xc3\xa9\xc0\x80\xed\xa0\x80z"
                                        "\xf0\x9f");
    g_autofree char *text = qapi_json_dump(value, false, NULL);

    g_assert_cmpstr(text, ==, "\"a\\uFFFD\\u00E9\\uFFFD\\uFFFD\\uFFFD\\uFFFD"
                    "\\uFFFDz\\uFFFD\\uFFFD\"");
    json_decref(value);
}

static void test_dump_order(void)
{
    check_dump("{'id': 1, 'error': {'desc': 'd', 'class': 'c'}}", false,
               "{\"id\": 1, \"error\": {\"class\": \"c\", \"desc\": \"d\"}}");
    check_dump("{'id': 1, 'return': {}}", false,
               "{\"return\": {}, \"id\": 1}");
    check_dump("{'data': {}, 'event': 'E', 'timestamp':"
               " {'microseconds': 2, 'seconds': 1}}", false,
               "{\"timestamp\": {\"seconds\": 1, \"microseconds\": 2}, "
               "\"event\": \"E\", \"data\": {}}");
    /* Two keys of one rank go backwards. */
    check_dump("{'major': 7, 'minor': 2, 'micro': 0}", false,
               "{\"micro\": 0, \"minor\": 2, \"major\": 7}");
    check_dump("{'minor': 2, 'micro': 0}", false,
               "{\"micro\": 0, \"minor\": 2}");
    check_dump("{'micro': 0, 'minor': 2}", false,
               "{\"minor\": 2, \"micro\": 0}");
    /* Keys that nobody knows come last, in their own order. */
    check_dump("{'zz-2': 1, 'zz-1': 2, 'id': 3}", false,
               "{\"id\": 3, \"zz-2\": 1, \"zz-1\": 2}");
}

/* More keys than are sorted on the stack. */
static void test_dump_many(void)
{
    json_t *value = json_object();
    g_autoptr(GString) wanted = g_string_new("{\"id\": 0");
    g_autofree char *text = NULL;

    for (int i = 0; i < 1000; i++) {
        g_autofree char *key = g_strdup_printf("zz-%d", i);

        json_object_set_new(value, key, json_integer(i));
        g_string_append_printf(wanted, ", \"%s\": %d", key, i);
    }
    g_string_append_c(wanted, '}');
    json_object_set_new(value, "id", json_integer(0));
    text = qapi_json_dump(value, false, NULL);
    g_assert_cmpstr(text, ==, wanted->str);
    json_decref(value);
}

/* TEXT of a command line is RESULT as JSON, or the error MESSAGE. */
static void check_keyval(const char *text, const char *implied,
                         const char *result, const char *message)
{
    AUTO_ERROR(err);
    json_t *found = qapi_keyval_parse(text, implied, &err);
    json_t *wanted = result ? json(result) : NULL;

    g_assert_cmpstr(err ? error_text(err) : NULL, ==, message);
    if (wanted) {
        g_assert_true(json_equal(found, wanted));
    }
    json_decref(found);
    json_decref(wanted);
}

static void test_keyval_parse(void)
{
    check_keyval("", NULL, "{}", NULL);
    check_keyval("a=1,b=two", NULL, "{'a': '1', 'b': 'two'}", NULL);
    check_keyval("file,a=1", "driver", "{'driver': 'file', 'a': '1'}", NULL);
    check_keyval("file", "driver", "{'driver': 'file'}", NULL);
    check_keyval("file,", "driver", "{'driver': 'file'}", NULL);
    check_keyval("a=x,,y,b=,c=,,", NULL,
                 "{'a': 'x,y', 'b': '', 'c': ','}", NULL);
    check_keyval("a=b=c", NULL, "{'a': 'b=c'}", NULL);
    check_keyval("a=1,a=2", NULL, "{'a': '2'}", NULL);
    check_keyval("a.b.c=1,a.d=2", NULL,
                 "{'a': {'b': {'c': '1'}, 'd': '2'}}", NULL);
    check_keyval("l.0=x,l.1.a=y", NULL, "{'l': ['x', {'a': 'y'}]}", NULL);
    check_keyval("l.1=x,l.0=y", NULL, "{'l': ['y', 'x']}", NULL);
    check_keyval("l.0.0=x", NULL, "{'l': [['x']]}", NULL);
    check_keyval("a", NULL, NULL, "Expected '=' after parameter 'a'");
    check_keyval("x,a", "k", NULL, "Expected '=' after parameter 'a'");
    check_keyval("=x", NULL, NULL, "Invalid parameter ''");
    check_keyval(",a=1", "k", NULL, "Invalid parameter ''");
    check_keyval("x,,y", "k", NULL, "Invalid parameter ''");
    check_keyval("a b=1", NULL, NULL, "Invalid parameter 'a b'");
    check_keyval("9a=1", NULL, NULL, "Invalid parameter '9a'");
    check_keyval(".a=1", NULL, NULL, "Invalid parameter '.a'");
    check_keyval("a.=1", NULL, NULL, "Invalid parameter 'a.'");
    check_keyval("a..b=1", NULL, NULL, "Invalid parameter 'a..b'");
    check_keyval("a.9b=1", NULL, NULL, "Invalid parameter 'a.9b'");
    check_keyval("a=1,a.b=2", NULL, NULL,
                 "Parameters 'a.*' used inconsistently");
    check_keyval("a.b=2,a=1", NULL, NULL,
                 "Parameters 'a.*' used inconsistently");
    check_keyval("l.0=a,l.x=b", NULL, NULL,
                 "Parameters 'l.*' used inconsistently");
    check_keyval("l.0=a,l.2=b", NULL, NULL, "Parameter 'l.1' missing");
    check_keyval("a.l.1=a", NULL, NULL, "Parameter 'a.l.0' missing");
    check_keyval("l.99999999999999999999=a", NULL, NULL,
                 "Parameter 'l.0' missing");
}

/* N nodes around one. */
static json_t *nested(int n)
{
    json_t *value = json_pack("{s:s, s:s}", "kind", "one", "name", "x");

    for (int i = 0; i < n; i++) {
        value = json_pack("{s:s, s:o}", "kind", "two", "child", value);
    }
    return value;
}

/* The stack of a worker must do, with a sanitizer too. */
static gpointer nest_in_thread(gpointer unused)
{
    static const struct {
        int n;
        bool good;
    } cases[] = { { 1, true }, { 256, true }, { 257, false },
                  { 900, false }, { 5000, false } };

    for (size_t i = 0; i < G_N_ELEMENTS(cases); i++) {
        json_t *input = nested(cases[i].n), *output;
        AUTO_ERROR(err);
        void *value = qapi_from_json(&qapi_type_Node, input, &err), *copy;

        if (cases[i].good) {
            g_assert_nonnull(value);
            copy = qapi_clone(&qapi_type_Node, value);
            output = qapi_to_json(&qapi_type_Node, copy);
            g_assert_true(json_equal(input, output));
            json_decref(output);
            qapi_free(&qapi_type_Node, copy);
            qapi_free(&qapi_type_Node, value);
        } else {
            g_assert_null(value);
            g_assert_cmpstr(error_text(err), ==,
                            "Parameters are nested more than 256 deep");
        }
        json_decref(input);
    }
    return NULL;
}

static void test_deep(void)
{
    pthread_attr_t attr;
    pthread_t thread;

    pthread_attr_init(&attr);
#ifndef __SANITIZE_THREAD__     /* its interceptors below jansson need more */
    pthread_attr_setstacksize(&attr, 1024 * 1024);
#endif
    g_assert_cmpint(pthread_create(&thread, &attr, nest_in_thread, NULL), ==,
                    0);
    pthread_attr_destroy(&attr);
    pthread_join(thread, NULL);
}

static void test_keyval_deep(void)
{
    g_autoptr(GString) text = g_string_new("a");
    AUTO_ERROR(err);

    for (int i = 0; i < 100000; i++) {
        g_string_append(text, ".a");
    }
    g_string_append(text, "=1");
    g_assert_null(qapi_keyval_parse(text->str, NULL, &err));
    g_assert_true(g_str_has_prefix(error_text(err), "Invalid parameter"));
}

static void check_from_keyval(const struct qapi_type *type, const char *text,
                              const char *result, const char *message)
{
    AUTO_ERROR(err);
    json_t *input = qapi_keyval_parse(text, NULL, NULL);
    json_t *output, *wanted;
    void *value;

    g_assert_nonnull(input);
    value = qapi_from_keyval(type, input, &err);
    g_assert_cmpstr(err ? error_text(err) : NULL, ==, message);
    if (result) {
        output = qapi_to_json(type, value);
        wanted = json(result);
        g_assert_true(json_equal(output, wanted));
        json_decref(output);
        json_decref(wanted);
    } else {
        g_assert_null(value);
    }
    qapi_free(type, value);
    json_decref(input);
}

static void test_keyval_scalars(void)
{
    const struct qapi_type *t = &qapi_type_Numbers;
    static const char *const booleans[] = { "on", "yes", "true", "y" };

    for (size_t i = 0; i < G_N_ELEMENTS(booleans); i++) {
        g_autofree char *text = g_strdup_printf("name=x,flag=%s",
                                                booleans[i]);

        check_from_keyval(&qapi_type_Base, text,
                          "{'name': 'x', 'flag': true}", NULL);
    }
    check_from_keyval(&qapi_type_Base, "name=,flag=off",
                      "{'name': '', 'flag': false}", NULL);
    check_from_keyval(&qapi_type_Base, "name=x,flag=1", NULL,
                      "Parameter 'flag' expects 'on' or 'off'");
    check_from_keyval(t, "i8=-1,i64=0x10,u32=010,real=1.5,u64=-1",
                      "{'i8': -1, 'i64': 16, 'u32': 8, 'real': 1.5,"
                      " 'u64': '\\u0000u64:18446744073709551615'}", NULL);
    check_from_keyval(t, "i64=-9223372036854775808",
                      "{'i64': -9223372036854775808}", NULL);
    check_from_keyval(t, "i64=9223372036854775808", NULL,
                      "Parameter 'i64' expects integer");
    check_from_keyval(t, "i64=1k", NULL, "Parameter 'i64' expects integer");
    check_from_keyval(t, "i64=", NULL, "Parameter 'i64' expects integer");
    check_from_keyval(t, "i64= 1", NULL, "Parameter 'i64' expects integer");
    check_from_keyval(t, "u64=18446744073709551616", NULL,
                      "Parameter 'u64' expects integer");
    check_from_keyval(t, "u8=256", NULL, "Parameter 'u8' expects uint8_t");
    check_from_keyval(t, "real=x", NULL, "Parameter 'real' expects number");
    check_from_keyval(t, "real=nan", NULL,
                      "Parameter 'real' expects number");
    check_from_keyval(t, "i64.a=1", NULL, "Parameters 'i64.*' are "
                      "unexpected");
}

static void test_keyval_sizes(void)
{
    const struct qapi_type *t = &qapi_type_Numbers;

    check_from_keyval(t, "size=512", "{'size': 512}", NULL);
    check_from_keyval(t, "size=4k", "{'size': 4096}", NULL);
    check_from_keyval(t, "size=4K", "{'size': 4096}", NULL);
    check_from_keyval(t, "size=3B", "{'size': 3}", NULL);
    check_from_keyval(t, "size=1.5G", "{'size': 1610612736}", NULL);
    check_from_keyval(t, "size=2T", "{'size': 2199023255552}", NULL);
    check_from_keyval(t, "size=7E", "{'size': 8070450532247928832}", NULL);
    check_from_keyval(t, "size=0x10", "{'size': 16}", NULL);
    check_from_keyval(t, "size=16E", NULL, "Parameter 'size' expects size");
    check_from_keyval(t, "size=16.0E", NULL,
                      "Parameter 'size' expects size");
    check_from_keyval(t, "size=-1", NULL, "Parameter 'size' expects size");
    check_from_keyval(t, "size=x", NULL, "Parameter 'size' expects size");
    check_from_keyval(t, "size=1.5", NULL, "Parameter 'size' expects size");
    check_from_keyval(t, "size=k", NULL, "Parameter 'size' expects size");
    check_from_keyval(t, "size=1kk", NULL, "Parameter 'size' expects size");
    check_from_keyval(t, "size=", NULL, "Parameter 'size' expects size");
}

static void test_keyval_structs(void)
{
    check_from_keyval(&qapi_type_Node, "kind=two,child=ref,size=1M",
                      "{'kind': 'two', 'child': 'ref', 'size': 1048576}",
                      NULL);
    check_from_keyval(&qapi_type_Node, "kind=two,child.kind=empty",
                      "{'kind': 'two', 'child': {'kind': 'empty'}}", NULL);
    check_from_keyval(&qapi_type_Node, "kind=two,child.kind=empty,"
                      "child.zz.a=1", NULL,
                      "Parameter 'child.zz' is unexpected");
    check_from_keyval(&qapi_type_Node, "kind=two,child.0=x", NULL,
                      "Invalid parameter type for 'child', expected: "
                      "NodeRef");
    check_from_keyval(&qapi_type_Derived, "name=x,bases.0.flag=on", NULL,
                      "Parameter 'bases.0.name' is missing");
    check_from_keyval(&qapi_type_Derived, "name=x,strings.0=a,strings.1=b,"
                      "bits.0=3,bools.0=off,kinds.0=two",
                      "{'name': 'x', 'strings': ['a', 'b'], 'bits': [3],"
                      " 'bools': [false], 'kinds': ['two']}", NULL);
    check_from_keyval(&qapi_type_Derived, "name=x,strings=a", NULL,
                      "Invalid parameter type for 'strings', expected: "
                      "array");
}

/* Handlers of the commands in the test's schema. */
static bool command_fails;

bool qmp_give_nothing(struct error **errp)
{
    if (command_fails) {
        error_set(errp, "No");
    }
    return !command_fails;
}

bool qmp_give_number(const GiveNumberArgs *args, uint64_t *ret,
                     struct error **errp)
{
    *ret = UINT64_MAX - (args->has_add ? args->add : 0);
    return true;
}

NodeList *qmp_give_nodes(const GiveNodesArgs *args, struct error **errp)
{
    NodeList *list;

    if (command_fails) {
        error_set_class(errp, ERROR_DEVICE_NOT_FOUND, "No nodes");
        return NULL;
    }
    list = NodeList_new0();
    for (uint32_t i = 0; i < args->n; i++) {
        Node *node = Node_new0();

        node->kind = KIND_ONE;
        node->u.one.name = g_strdup_printf("%u", i);
        qapi_list_append(list, node);
    }
    return list;
}

Derived *qmp_take_node(const Node *args, struct error **errp)
{
    Derived *value = Derived_new0();

    value->name = g_strdup(args->id);
    return value;
}

json_t *qmp_raw(json_t *args, struct error **errp)
{
    return args ? json_incref(args) : json_object();
}

static void check_command(const char *name, const char *arguments,
                          const char *result, const char *message)
{
    const struct qapi_command *command = qapi_command_find(name);
    json_t *input = arguments ? json(arguments) : NULL, *ret = NULL;
    AUTO_ERROR(err);

    g_assert_nonnull(command);
    g_assert_true(command->run(input, &ret, &err) == (result != NULL));
    g_assert_cmpstr(err ? error_text(err) : NULL, ==, message);
    if (result) {
        g_autofree char *text = qapi_json_dump(ret, false, NULL);

        g_assert_cmpstr(text, ==, result);
    } else {
        g_assert_null(ret);
    }
    json_decref(ret);
    json_decref(input);
}

static void test_commands(void)
{
    const struct qapi_command *list;
    size_t n;

    check_command("give-nothing", NULL, "{}", NULL);
    check_command("give-nothing", "{}", "{}", NULL);
    check_command("give-nothing", "{'a': 1}", NULL,
                  "Parameter 'a' is unexpected");
    check_command("give-number", NULL, "18446744073709551615", NULL);
    check_command("give-number", "{'add': 1}", "18446744073709551614", NULL);
    check_command("give-nodes", NULL, NULL, "Parameter 'n' is missing");
    check_command("give-nodes", "{'n': 0}", "[]", NULL);
    check_command("give-nodes", "{'n': 2}", "[{\"name\": \"0\", \"kind\": "
                  "\"one\"}, {\"name\": \"1\", \"kind\": \"one\"}]", NULL);
    check_command("take-node", "{'kind': 'empty', 'id': 'i'}",
                  "{\"name\": \"i\"}", NULL);
    check_command("raw", "{'anything': [1]}", "{\"anything\": [1]}", NULL);
    command_fails = true;
    check_command("give-nothing", NULL, NULL, "No");
    check_command("give-nodes", "{'n': 0}", NULL, "No nodes");
    command_fails = false;

    g_assert_null(qapi_command_find("nosuch"));
    g_assert_null(qapi_command_find(""));
    list = qapi_command_list(&n);
    g_assert_cmpuint(n, ==, 5);
    for (size_t i = 0; i < n; i++) {
        g_assert_true(qapi_command_find(list[i].name) == &list[i]);
    }
    g_assert_cmpuint(qapi_command_find("give-nodes")->flags, ==,
                     QAPI_CMD_ALLOW_OOB);
    g_assert_cmpuint(qapi_command_find("take-node")->flags, ==,
                     QAPI_CMD_BLOCKING);
}

static QAPIEvent last_event;
static json_t *last_object;

static void event_keep(QAPIEvent event, json_t *object)
{
    last_event = event;
    json_decref(last_object);
    last_object = object;
}

static void check_event(QAPIEvent event, const char *data)
{
    json_t *wanted = data ? json(data) : NULL;
    json_t *stamp = json_object_get(last_object, "timestamp");

    g_assert_cmpint(last_event, ==, event);
    g_assert_cmpstr(json_string_value(json_object_get(last_object, "event")),
                    ==, QAPIEvent_str(event));
    g_assert_cmpint(json_integer_value(json_object_get(stamp, "seconds")), >,
                    1500000000);
    g_assert_cmpint(json_integer_value(
        json_object_get(stamp, "microseconds")), <, 1000000);
    if (wanted) {
        g_assert_true(json_equal(json_object_get(last_object, "data"),
                                 wanted));
    } else {
        g_assert_null(json_object_get(last_object, "data"));
    }
    json_decref(wanted);
}

static void test_events(void)
{
    const Base base = { .name = (char *)"b", .has_flag = true };
    const Node node = { .kind = KIND_EMPTY };
    json_t *any = json("[1]");

    qapi_event_send_plain();            /* dropped */
    qapi_event_set_emit(event_keep);
    qapi_event_send_plain();
    check_event(QAPI_EVENT_PLAIN, NULL);
    qapi_event_send_full("n", KIND_TWO, NULL, NULL, false, 0, NULL);
    check_event(QAPI_EVENT_FULL, "{'name': 'n', 'kind': 'two'}");
    qapi_event_send_full("n", KIND_TWO, "t", &node, true, 7, any);
    check_event(QAPI_EVENT_FULL, "{'name': 'n', 'kind': 'two', 'text': 't',"
                " 'node': {'kind': 'empty'}, 'count': 7, 'any': [1]}");
    qapi_event_send_boxed(&base);
    check_event(QAPI_EVENT_BOXED, "{'name': 'b', 'flag': false}");
    qapi_event_set_emit(NULL);
    event_keep(QAPI_EVENT_PLAIN, NULL);
    json_decref(any);
}

/* The entry named NAME. */
static json_t *entry(json_t *schema, const char *name)
{
    json_t *value;
    size_t i;

    json_array_foreach(schema, i, value) {
        if (strcmp(json_string_value(json_object_get(value, "name")),
                   name) == 0) {
            return value;
        }
    }
    g_assert_not_reached();
}

static const char *text_of(json_t *object, const char *key)
{
    return json_string_value(json_object_get(object, key));
}

static void test_introspect(void)
{
    json_t *schema = qapi_introspect();
    json_t *found = entry(schema, "take-node"), *variants;

    g_assert_cmpstr(text_of(found, "meta-type"), ==, "command");
    found = entry(schema, text_of(found, "arg-type"));
    g_assert_cmpstr(text_of(found, "meta-type"), ==, "object");
    g_assert_cmpstr(text_of(found, "tag"), ==, "kind");
    variants = json_object_get(found, "variants");
    g_assert_cmpuint(json_array_size(variants), ==, 4);
    g_assert_cmpstr(text_of(json_array_get(variants, 2), "type"), ==, "0");
    found = entry(schema, text_of(json_array_get(variants, 1), "type"));
    found = json_array_get(json_object_get(found, "members"), 1);
    g_assert_cmpstr(text_of(found, "name"), ==, "size");
    g_assert_cmpstr(text_of(found, "type"), ==, "int");
    g_assert_true(json_is_null(json_object_get(found, "default")));
    found = entry(schema, "give-nodes");
    g_assert_true(json_is_true(json_object_get(found, "allow-oob")));
    found = entry(schema, text_of(found, "ret-type"));
    g_assert_cmpstr(text_of(found, "meta-type"), ==, "array");
    g_assert_cmpstr(text_of(found, "element-type"), ==,
                    text_of(entry(schema, "take-node"), "arg-type"));
    g_assert_cmpstr(text_of(entry(schema, "give-nothing"), "arg-type"), ==,
                    "0");
    json_decref(schema);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/qapi/struct", test_struct);
    g_test_add_func("/qapi/optional", test_optional);
    g_test_add_func("/qapi/integers", test_integers);
    g_test_add_func("/qapi/uint64", test_uint64);
    g_test_add_func("/qapi/union", test_union);
    g_test_add_func("/qapi/alternate", test_alternate);
    g_test_add_func("/qapi/enum", test_enum);
    g_test_add_func("/qapi/list", test_list);
    g_test_add_func("/qapi/deep", test_deep);
    g_test_add_func("/qapi/output-defaults", test_output_defaults);
    g_test_add_func("/qapi/dump", test_dump);
    g_test_add_func("/qapi/dump/invalid-utf8", test_dump_invalid_utf8);
    g_test_add_func("/qapi/dump/order", test_dump_order);
    g_test_add_func("/qapi/dump/many", test_dump_many);
    g_test_add_func("/qapi/keyval/parse", test_keyval_parse);
    g_test_add_func("/qapi/keyval/deep", test_keyval_deep);
    g_test_add_func("/qapi/keyval/scalars", test_keyval_scalars);
    g_test_add_func("/qapi/keyval/sizes", test_keyval_sizes);
    g_test_add_func("/qapi/keyval/structs", test_keyval_structs);
    g_test_add_func("/qapi/commands", test_commands);
    g_test_add_func("/qapi/events", test_events);
    g_test_add_func("/qapi/introspect", test_introspect);
    return g_test_run();
}
