/* SPDX-License-Identifier: MIT */
/* A line editor on the wire: see readline.h. */
#include "server/hmp/readline.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum state { PLAIN, ESCAPE, SEQUENCE, APPLICATION };

struct readline {
    struct readline_user user;
    GString *line;
    size_t cursor;              /* in bytes */
    GString *shown;             /* I1 */
    size_t shown_cursor;
    enum state state;
    int parameter;              /* of an escape sequence */
    GPtrArray *history;         /* of char *, owned; ends with NULL */
    /* Which line of history is shown; the number of them: none. */
    size_t place;
};

static const char prompt[] = "(qemu) ";

/* ---- the screen --------------------------------------------------------- */

static void put(struct readline *r, const char *text)
{
    r->user.put(r->user.opaque, text, strlen(text));
}

static void append_times(GString *out, const char *text, size_t n)
{
    while (n-- > 0) {
        g_string_append(out, text);
    }
}

/* Make I1 true again. */
static void show(struct readline *r)
{
    g_autoptr(GString) out = g_string_new(NULL);

    if (!g_string_equal(r->line, r->shown)) {
        append_times(out, "\033[D", r->shown_cursor);
        g_string_append_len(out, r->line->str, r->line->len);
        g_string_append(out, "\033[K");
        g_string_assign(r->shown, r->line->str);
        r->shown_cursor = r->line->len;
    }
    if (r->cursor < r->shown_cursor) {
        append_times(out, "\033[D", r->shown_cursor - r->cursor);
    } else {
        append_times(out, "\033[C", r->cursor - r->shown_cursor);
    }
    r->shown_cursor = r->cursor;
    r->user.put(r->user.opaque, out->str, out->len);
}

/* The cursor is at the begin of an empty line of the screen. */
static void forget_shown(struct readline *r)
{
    put(r, prompt);
    g_string_truncate(r->shown, 0);
    r->shown_cursor = 0;
}

void readline_prompt(struct readline *r)
{
    g_string_truncate(r->line, 0);
    r->cursor = 0;
    forget_shown(r);
}

/* ---- the line ----------------------------------------------------------- */

static void insert(struct readline *r, const char *text, size_t len)
{
    if (r->line->len + len <= READLINE_MAX_BYTES) {
        g_string_insert_len(r->line, r->cursor, text, len);
        r->cursor += len;
    }
}

/* Remove from FROM to the cursor. */
static void remove_from(struct readline *r, size_t from)
{
    g_string_erase(r->line, from, r->cursor - from);
    r->cursor = from;
}

static void remove_at_cursor(struct readline *r)
{
    if (r->cursor < r->line->len) {
        g_string_erase(r->line, r->cursor, 1);
    }
}

static void remove_word(struct readline *r)
{
    size_t from = r->cursor;

    while (from > 0 && g_ascii_isspace(r->line->str[from - 1])) {
        from--;
    }
    while (from > 0 && !g_ascii_isspace(r->line->str[from - 1])) {
        from--;
    }
    remove_from(r, from);
}

/* ---- what was typed before ---------------------------------------------- */

static size_t history_len(const struct readline *r)
{
    return r->history->len - 1;
}

const char *const *readline_history(const struct readline *r)
{
    return (const char *const *)r->history->pdata;
}

/* A line that was there already moves to the end. */
static void remember(struct readline *r)
{
    if (r->line->len > 0) {
        for (size_t i = 0; i < history_len(r); i++) {
            if (!strcmp(r->history->pdata[i], r->line->str)) {
                g_ptr_array_remove_index(r->history, i);
                break;
            }
        }
        g_ptr_array_insert(r->history, history_len(r),
                           g_strdup(r->line->str));
        if (history_len(r) > READLINE_MAX_HISTORY) {
            g_ptr_array_remove_index(r->history, 0);
        }
    }
    r->place = history_len(r);
}

static void go_to(struct readline *r, size_t place)
{
    r->place = place;
    g_string_assign(r->line, place < history_len(r)
                    ? (const char *)r->history->pdata[place] : "");
    r->cursor = r->line->len;
}

static void go_up(struct readline *r)
{
    if (r->place > 0) {
        go_to(r, r->place - 1);
    }
}

static void go_down(struct readline *r)
{
    if (r->place < history_len(r)) {
        go_to(r, r->place + 1);
    }
}

/* ---- completion --------------------------------------------------------- */

/* Columns as wide as the longest word and two more. */
static void put_words(struct readline *r, char **words)
{
    enum { SCREEN = 80, LEAST = 10 };
    g_autoptr(GString) out = g_string_new("\n");
    size_t width = LEAST, columns, i;

    for (i = 0; words[i]; i++) {
        width = MAX(width, strlen(words[i]) + 2);
    }
    columns = MAX(SCREEN / width, 1);
    for (i = 0; words[i]; i++) {
        g_string_append_printf(out, "%-*s", (int)width, words[i]);
        if ((i + 1) % columns == 0 || !words[i + 1]) {
            g_string_append_c(out, '\n');
        }
    }
    put(r, out->str);
    forget_shown(r);
}

static size_t common_length(char **words)
{
    size_t len = strlen(words[0]);

    for (size_t i = 1; words[i]; i++) {
        size_t n = 0;

        while (n < len && words[i][n] == words[0][n]) {
            n++;
        }
        len = n;
    }
    return len;
}

static void complete(struct readline *r)
{
    g_autofree char *start = g_strndup(r->line->str, r->cursor);
    g_auto(GStrv) words = r->user.complete(r->user.opaque, start);
    size_t typed = 0, len;

    if (!words || !words[0]) {
        return;
    }
    while (typed < r->cursor &&
           !g_ascii_isspace(start[r->cursor - 1 - typed])) {
        typed++;
    }
    len = common_length(words);
    if (len >= typed) {
        insert(r, words[0] + typed, len - typed);
    }
    if (words[1]) {
        put_words(r, words);
    } else if (len > 0 && words[0][len - 1] != '/') {
        insert(r, " ", 1);
    }
}

/* ---- keys --------------------------------------------------------------- */

static void enter(struct readline *r)
{
    g_autofree char *line = NULL;

    remember(r);
    line = g_strdup(r->line->str);
    g_string_truncate(r->line, 0);
    g_string_truncate(r->shown, 0);
    r->cursor = r->shown_cursor = 0;
    put(r, "\n");
    r->user.entered(r->user.opaque, line);
}

static void move_to(struct readline *r, size_t cursor)
{
    r->cursor = MIN(cursor, r->line->len);
}

static void plain(struct readline *r, unsigned char byte)
{
    char c = byte;

    switch (byte) {
    case 'A' - 64:
        move_to(r, 0);
        break;
    case 'B' - 64:
        move_to(r, r->cursor - (r->cursor > 0));
        break;
    case 'D' - 64:
        remove_at_cursor(r);
        break;
    case 'E' - 64:
        move_to(r, r->line->len);
        break;
    case 'F' - 64:
        move_to(r, r->cursor + 1);
        break;
    case 'K' - 64:
        g_string_truncate(r->line, r->cursor);
        break;
    case 'L' - 64:
        put(r, "\033[2J\033[1;1H");
        forget_shown(r);
        break;
    case 'N' - 64:
        go_down(r);
        break;
    case 'P' - 64:
        go_up(r);
        break;
    case 'U' - 64:
        remove_from(r, 0);
        break;
    case 'W' - 64:
        remove_word(r);
        break;
    case '\t':
        complete(r);
        break;
    case '\b':
    case 127:
        remove_from(r, r->cursor - (r->cursor > 0));
        break;
    default:
        if (byte >= ' ') {
            insert(r, &c, 1);
        }
    }
}

/* The last byte of an escape sequence, ESC [ or ESC O. */
static void sequence_end(struct readline *r, unsigned char byte)
{
    switch (byte) {
    case 'A':
        go_up(r);
        break;
    case 'B':
        go_down(r);
        break;
    case 'C':
        move_to(r, r->cursor + 1);
        break;
    case 'D':
        move_to(r, r->cursor - (r->cursor > 0));
        break;
    case 'F':
        move_to(r, r->line->len);
        break;
    case 'H':
        move_to(r, 0);
        break;
    case '~':
        if (r->parameter == 1 || r->parameter == 7) {
            move_to(r, 0);
        } else if (r->parameter == 3) {
            remove_at_cursor(r);
        } else if (r->parameter == 4 || r->parameter == 8) {
            move_to(r, r->line->len);
        }
        break;
    }
}

static void escaped(struct readline *r, unsigned char byte)
{
    enum { MAX_PARAMETER = 1000 };

    if (r->state == ESCAPE) {
        r->state = byte == '[' ? SEQUENCE : byte == 'O' ? APPLICATION : PLAIN;
        r->parameter = 0;
    } else if (r->state == SEQUENCE && g_ascii_isdigit(byte)) {
        r->parameter = MIN(r->parameter * 10 + byte - '0', MAX_PARAMETER);
    } else if (r->state != SEQUENCE || byte != ';') {
        r->state = PLAIN;
        sequence_end(r, byte);
    }
}

void readline_byte(struct readline *r, unsigned char byte)
{
    if (r->state != PLAIN) {
        escaped(r, byte);
    } else if (byte == '\033') {
        r->state = ESCAPE;
    } else if (byte == '\r' || byte == '\n') {
        enter(r);
        return;
    } else {
        plain(r, byte);
    }
    show(r);
}

/* ---- life --------------------------------------------------------------- */

struct readline *readline_new(const struct readline_user *user)
{
    struct readline *r = g_new0(struct readline, 1);

    r->user = *user;
    r->line = g_string_new(NULL);
    r->shown = g_string_new(NULL);
    r->history = g_ptr_array_new_with_free_func(g_free);
    g_ptr_array_add(r->history, NULL);
    return r;
}

void readline_free(struct readline *r)
{
    g_string_free(r->line, TRUE);
    g_string_free(r->shown, TRUE);
    g_ptr_array_free(r->history, TRUE);
    g_free(r);
}
