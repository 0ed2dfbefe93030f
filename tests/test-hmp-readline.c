/* SPDX-License-Identifier: MIT */
/*
 * HMP's line editor.  The bytes of the first tests were seen of QEMU 7.2; then
 * a small terminal checks that what it shows is what the editor has.
 */
#include "server/hmp/readline.h"

#include <string.h>
#include <glib.h>

struct fixture {
    struct readline *editor;
    GString *wire;
    GString *entered;           /* lines, with | behind each */
    const char *const *words;
};

static void put(void *opaque, const char *text, size_t len)
{
    struct fixture *f = opaque;

    g_string_append_len(f->wire, text, len);
}

static void entered(void *opaque, const char *line)
{
    struct fixture *f = opaque;

    g_string_append_printf(f->entered, "%s|", line);
    readline_prompt(f->editor);
}

static char **complete(void *opaque, const char *line)
{
    struct fixture *f = opaque;

    return g_strdupv((char **)f->words);
}

static void set_up(struct fixture *f, gconstpointer unused)
{
    const struct readline_user user = {
        .put = put, .entered = entered, .complete = complete, .opaque = f,
    };

    f->wire = g_string_new(NULL);
    f->entered = g_string_new(NULL);
    f->editor = readline_new(&user);
    readline_prompt(f->editor);
}

static void tear_down(struct fixture *f, gconstpointer unused)
{
    readline_free(f->editor);
    g_string_free(f->wire, TRUE);
    g_string_free(f->entered, TRUE);
}

static void type(struct fixture *f, const char *keys)
{
    for (; *keys; keys++) {
        readline_byte(f->editor, *keys);
    }
}

/* KEYS make the editor say WIRE. */
static void check(struct fixture *f, const char *keys, const char *wire)
{
    g_string_truncate(f->wire, 0);
    type(f, keys);
    g_assert_cmpstr(f->wire->str, ==, wire);
}

#define LEFT  "\033[D"
#define RIGHT "\033[C"

static void test_echo(struct fixture *f, gconstpointer unused)
{
    g_assert_cmpstr(f->wire->str, ==, "(qemu) ");
    check(f, "a", "a\033[K");
    check(f, "bc", LEFT "ab\033[K" LEFT LEFT "abc\033[K");
    check(f, "\033[D", LEFT);
    check(f, "X", LEFT LEFT "abXc\033[K" LEFT);
    check(f, "\033[D\033[D", LEFT LEFT);
    check(f, "\001", LEFT);
    check(f, "\005", RIGHT RIGHT RIGHT RIGHT);
    check(f, "\b", LEFT LEFT LEFT LEFT "abX\033[K");
    check(f, "\177", LEFT LEFT LEFT "ab\033[K");
    check(f, "\001\004", LEFT LEFT "b\033[K" LEFT);
    check(f, "\004\004", "\033[K");
    check(f, "\003\024", "");
    check(f, "q\r", "q\033[K\n(qemu) ");
    g_assert_cmpstr(f->entered->str, ==, "q|");
}

static void test_history(struct fixture *f, gconstpointer unused)
{
    type(f, "one\rtwo\n\rone\r");
    g_assert_cmpstr(f->entered->str, ==, "one|two||one|");
    g_assert_cmpstr(readline_history(f->editor)[0], ==, "two");
    g_assert_cmpstr(readline_history(f->editor)[1], ==, "one");
    g_assert_null(readline_history(f->editor)[2]);
    check(f, "\033[A", "one\033[K");
    check(f, "\033OA", LEFT LEFT LEFT "two\033[K");
    check(f, "\033[A", "");
    check(f, "\033[B", LEFT LEFT LEFT "one\033[K");
    check(f, "\033[B", LEFT LEFT LEFT "\033[K");
    check(f, "\033[B", "");
    for (int i = 0; i < 2 * READLINE_MAX_HISTORY; i++) {
        g_autofree char *line = g_strdup_printf("%d\r", i);

        type(f, line);
    }
    g_assert_cmpint(g_strv_length((char **)readline_history(f->editor)), ==,
                    READLINE_MAX_HISTORY);
}

static void test_completion(struct fixture *f, gconstpointer unused)
{
    static const char *const none[] = { NULL };
    static const char *const one[] = { "help", NULL };
    static const char *const folder[] = { "etc/", NULL };
    static const char *const some[] = {
        "block", "block-jobs", "blockstats", NULL,
    };

    f->words = none;
    check(f, "\t", "");
    f->words = one;
    type(f, "he");
    check(f, "\t", LEFT LEFT "help \033[K");
    f->words = some;
    type(f, "\025info bl");
    check(f, "\t", "\nblock       block-jobs  blockstats  \n"
          "(qemu) info block\033[K");
    f->words = folder;
    type(f, "\025");
    check(f, "\t", "etc/\033[K");
}

static void test_long_line(struct fixture *f, gconstpointer unused)
{
    g_autofree char *keys = g_strnfill(READLINE_MAX_BYTES + 10, 'x');

    type(f, keys);
    type(f, "\r");
    g_assert_cmpuint(f->entered->len, ==, READLINE_MAX_BYTES + 1);
}

/* ---- a terminal --------------------------------------------------------- */

/* The last line of what WIRE shows; *CURSOR is the column. */
static char *screen(const char *wire, size_t *cursor)
{
    GString *line = g_string_new(NULL);

    *cursor = 0;
    for (; *wire; wire++) {
        if (g_str_has_prefix(wire, "\033[2J")) {
            g_string_truncate(line, 0);
            *cursor = 0;
            wire += strlen("\033[2J\033[1;1H") - 1;
        } else if (*wire == '\033') {
            wire += 2;
            if (*wire == 'D') {
                g_assert_cmpuint(*cursor, >, strlen("(qemu) "));
                (*cursor)--;
            } else if (*wire == 'C') {
                g_assert_cmpuint(*cursor, <, line->len);
                (*cursor)++;
            } else {
                g_assert_cmpint(*wire, ==, 'K');
                g_string_truncate(line, *cursor);
            }
        } else if (*wire == '\n') {
            g_string_truncate(line, 0);
            *cursor = 0;
        } else {
            if (*cursor == line->len) {
                g_string_append_c(line, *wire);
            } else {
                line->str[*cursor] = *wire;
            }
            (*cursor)++;
        }
    }
    return g_string_free(line, FALSE);
}

/* Keys at random: entering the line gives what is on the screen. */
static void test_terminal(struct fixture *f, gconstpointer unused)
{
    static const char *const keys[] = {
        "a", "b", " ", "c", "\b", "\001", "\005", "\002", "\006", "\004",
        "\013", "\025", "\027", "\014", "\t", "\033[A", "\033[B", "\033[C",
        "\033[D", "\033[H", "\033[F", "\033[3~", "\033[1~", "\033[4~",
        "\033OC", "\033[1;5C", "\033x", "foo",
    };
    static const char *const words[] = { "foobar", "fooling", NULL };

    f->words = words;
    for (int round = 0; round < 2000; round++) {
        g_autofree char *shown = NULL;
        g_autofree char *line = NULL;
        size_t cursor;
        int n = g_test_rand_int_range(0, 30);

        for (int i = 0; i < n; i++) {
            type(f, keys[g_test_rand_int_range(0, G_N_ELEMENTS(keys))]);
        }
        shown = screen(f->wire->str, &cursor);
        g_assert_true(g_str_has_prefix(shown, "(qemu) "));
        g_assert_cmpuint(cursor, <=, strlen(shown));
        g_string_truncate(f->entered, 0);
        type(f, "\r");
        line = g_strdup_printf("(qemu) %.*s", (int)f->entered->len - 1,
                               f->entered->str);
        g_assert_cmpstr(shown, ==, line);
        g_string_assign(f->wire, "(qemu) ");
    }
}

#define ADD(name) \
    g_test_add("/hmp-readline/" #name, struct fixture, NULL, set_up, \
               test_##name, tear_down)

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    ADD(echo);
    ADD(history);
    ADD(completion);
    ADD(long_line);
    ADD(terminal);
    return g_test_run();
}
