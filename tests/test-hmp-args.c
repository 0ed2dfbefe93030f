/* SPDX-License-Identifier: MIT */
/* The words of HMP's lines; all that is expected was seen of QEMU 7.2. */
#include "server/hmp/args.h"

#include <string.h>
#include <glib.h>

/* ---- numbers ------------------------------------------------------------ */

static void check_sum(const char *text, int64_t value, const char *rest)
{
    const char *p = text;
    int64_t found = -12345;
    AUTO_ERROR(err);

    g_assert_true(hmp_expression(&p, &found, &err));
    g_assert_cmpint(found, ==, value);
    g_assert_cmpstr(p, ==, rest);
}

static void check_no_sum(const char *text, const char *why)
{
    const char *p = text;
    int64_t found;
    AUTO_ERROR(err);

    g_assert_false(hmp_expression(&p, &found, &err));
    g_assert_cmpstr(error_text(err), ==, why);
}

static void test_sums(void)
{
    check_sum("1+2*3", 7, "");
    check_sum("6&3+1", 3, "");
    check_sum("2*6&3", 0, "");
    check_sum("1|6*2", 13, "");
    check_sum(" ( 1 + 2 ) * 3 x", 9, "x");
    check_sum("--5", 5, "");
    check_sum("+-5", -5, "");
    check_sum("~1", -2, "");
    check_sum("'a' 7", 97, "7");
    check_sum("7%3*2", 2, "");
    check_sum("08", 0, "8");
    check_sum("0x", 0, "x");
    check_sum("18446744073709551615", -1, "");
    /* What overflows must not stop the server. */
    check_sum("0x8000000000000000/-1", INT64_MIN, "");
    check_sum("0x8000000000000000%-1", 0, "");
    check_sum("-0x8000000000000000", INT64_MIN, "");
    check_no_sum("", "unexpected end of expression");
    check_no_sum("1+", "unexpected end of expression");
    check_no_sum("x", "invalid char 'x' in expression");
    check_no_sum("(1", "')' expected");
    check_no_sum("5/0", "division by zero");
    check_no_sum("5%0", "division by zero");
    check_no_sum("$pc", "unknown register");
    check_no_sum("'a", "missing terminating ' character");
    check_no_sum("'", "character constant expected");
    check_no_sum("0xfffffffffffffffff", "number too large");
}

static void test_deep_sum(void)
{
    g_autofree char *brackets = g_strnfill(1 << 20, '(');
    g_autofree char *signs = g_strnfill(1 << 20, '-');

    check_no_sum(brackets, "expression too deep");
    check_no_sum(signs, "expression too deep");
}

static void check_size(const char *text, int64_t value, const char *rest)
{
    const char *p = text;
    int64_t found = -1;

    g_assert_true(hmp_size(&p, &found));
    g_assert_cmpint(found, ==, value);
    g_assert_cmpstr(p, ==, rest);
}

static void check_no_size(const char *text)
{
    const char *p = text;
    int64_t found;

    g_assert_false(hmp_size(&p, &found));
}

static void test_sizes(void)
{
    check_size("1", 1 << 20, "");
    check_size(" 0x10 ", 16 << 20, " ");
    check_size("0x400000b", INT64_C(0x400000b) << 20, "");
    check_size("1.5", 3 << 19, "");
    check_size("1.5k", 1536, "");
    check_size("512b", 512, "");
    check_size("1.b", 1, "");
    check_size("0.0000001", 0, "");
    check_size("70G", INT64_C(70) << 30, "");
    check_size("+5", 5 << 20, "");
    check_size("1MM", 1 << 20, "M");
    check_size("1KiB", 1 << 10, "iB");
    check_size("0xk", 0, "xk");
    check_size("9223372036854775807b", INT64_MAX, "");
    check_no_size("");
    check_no_size("x");
    check_no_size("-1");
    check_no_size(".5k");
    check_no_size("1.5b");
    check_no_size("0x1.8");
    check_no_size("9E");
    check_no_size("8796093022208");
    check_no_size("99999999999999999999b");
}

/* ---- words -------------------------------------------------------------- */

static void check_word(const char *text, const char *word, const char *rest)
{
    const char *p = text;
    AUTO_ERROR(err);
    g_autofree char *found = hmp_word(&p, &err);

    g_assert_null(err);
    g_assert_cmpstr(found, ==, word);
    g_assert_cmpstr(p, ==, rest);
}

static void check_no_word(const char *text, const char *why)
{
    const char *p = text;
    AUTO_ERROR(err);

    g_assert_null(hmp_word(&p, &err));
    g_assert_cmpstr(error_text(err), ==, why);
}

static void test_words(void)
{
    check_word("  abc def", "abc", " def");
    check_word("\"a b\"c", "a b", "c");
    check_word("\"a\\\"\\\\\\n\\r\\'\" x", "a\"\\\n\r'", " x");
    check_word("a\\nb", "a\\nb", "");
    check_word("\"\"", "", "");
    check_word("   ", NULL, "");
    check_no_word("\"a", "unterminated string");
    check_no_word("\"a\\", "unsupported escape code: '\\");
    check_no_word("\"\\x\"", "unsupported escape code: '\\x'");
}

/* ---- lines -------------------------------------------------------------- */

static const struct hmp_param backup_params[] = {
    { "reuse", HMP_FLAG, true, 'n' }, { "full", HMP_FLAG, true, 'f' },
    { "compress", HMP_FLAG, true, 'c' },
    { "device", HMP_BLOCK }, { "target", HMP_STRING },
    { "format", HMP_STRING, true }, { NULL },
};
static const struct hmp_param resize_params[] = {
    { "device", HMP_BLOCK }, { "size", HMP_SIZE }, { NULL },
};
static const struct hmp_param limit_params[] = {
    { "device", HMP_BLOCK }, { "bps", HMP_INT }, { "iops", HMP_INT32 },
    { NULL },
};
static const struct hmp_param print_params[] = {
    { "format", HMP_FORMAT, true }, { "value", HMP_INT }, { NULL },
};
static const struct hmp_param rest_params[] = {
    { "name", HMP_REST, true }, { "on", HMP_BOOL, true }, { NULL },
};

static void check_refused(const struct hmp_param *params, const char *line,
                          const char *why)
{
    struct hmp_args a;
    AUTO_ERROR(err);

    g_assert_false(hmp_args_parse(&a, params, "cmd", line, &err));
    g_assert_cmpstr(error_text(err), ==, why);
    hmp_args_clear(&a);
}

static void test_refused(void)
{
    check_refused(NULL, "x", "cmd: extraneous characters at the end of line");
    check_refused(backup_params, "", "cmd: block device name expected");
    check_refused(backup_params, "-n -f", "cmd: block device name expected");
    check_refused(backup_params, "-f -n d t", "cmd: unsupported option -n");
    check_refused(backup_params, "-x d t", "cmd: unsupported option -x");
    check_refused(backup_params, "- d t", "cmd: unsupported option - ");
    check_refused(backup_params, "-n d", "cmd: string expected");
    check_refused(backup_params, "d t raw x",
                  "cmd: extraneous characters at the end of line");
    check_refused(resize_params, "d", "invalid size");
    check_refused(resize_params, "d 1+1",
                  "cmd: extraneous characters at the end of line");
    check_refused(limit_params, "d 1", "unexpected end of expression");
    check_refused(limit_params, "d 1 0x100000000",
                  "'cmd' has failed: integer is for 32-bit values");
    check_refused(print_params, "/zz 5", "invalid char in format: 'z'");
}

static void test_taken(void)
{
    struct hmp_args a;

    g_assert_true(hmp_args_parse(&a, backup_params, "cmd", "-nd \"a b\"",
                                 NULL));
    g_assert_true(hmp_arg_flag(&a, "reuse"));
    g_assert_false(hmp_arg_flag(&a, "full"));
    g_assert_cmpstr(hmp_arg_text(&a, "device"), ==, "d");
    g_assert_cmpstr(hmp_arg_text(&a, "target"), ==, "a b");
    g_assert_false(hmp_arg_given(&a, "format"));
    hmp_args_clear(&a);

    g_assert_true(hmp_args_parse(&a, backup_params, "cmd", "-f d -n x", NULL));
    g_assert_cmpstr(hmp_arg_text(&a, "target"), ==, "-n");
    hmp_args_clear(&a);

    g_assert_true(hmp_args_parse(&a, print_params, "cmd", "/2d (1+1)", NULL));
    g_assert_cmpint(hmp_arg_number(&a, "format"), ==, 'd');
    g_assert_cmpint(hmp_arg_number(&a, "value"), ==, 2);
    hmp_args_clear(&a);

    g_assert_true(hmp_args_parse(&a, rest_params, "cmd", " a b  ", NULL));
    g_assert_cmpstr(hmp_arg_text(&a, "name"), ==, "a b  ");
    hmp_args_clear(&a);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/hmp-args/sums", test_sums);
    g_test_add_func("/hmp-args/deep-sum", test_deep_sum);
    g_test_add_func("/hmp-args/sizes", test_sizes);
    g_test_add_func("/hmp-args/words", test_words);
    g_test_add_func("/hmp-args/refused", test_refused);
    g_test_add_func("/hmp-args/taken", test_taken);
    return g_test_run();
}
