/* SPDX-License-Identifier: MIT */
/* A line in, text out: see hmp.h. */
#include "server/hmp/command.h"

#include <string.h>
#include "base/control.h"
#include "base/trace.h"
#include "server/not-there.h"

void hmp_printf(struct hmp *m, const char *format, ...)
{
    va_list ap;

    va_start(ap, format);
    g_string_append_vprintf(m->out, format, ap);
    va_end(ap);
    if (m->flush) {
        m->flush(m);
    }
}

/* Of our hints the one that QEMU has: texts are compared. */
static bool is_qemus(const char *hint)
{
    return hint && g_str_has_prefix(hint, "Is another process using");
}

void hmp_error(struct hmp *m, struct error *err)
{
    if (err) {
        hmp_printf(m, "Error: %s\n", error_text(err));
        if (is_qemus(error_hint(err))) {
            hmp_printf(m, "%s%s", error_hint(err),
                       g_str_has_suffix(error_hint(err), "\n") ? "" : "\n");
        }
        error_free(err);
    }
}

/* ---- names -------------------------------------------------------------- */

/* Is NAME, of LEN bytes, one of "a|b|c"? */
static bool is_one_of(const char *names, const char *name, size_t len)
{
    while (true) {
        size_t n = strcspn(names, "|");

        if (n == len && !memcmp(names, name, len)) {
            return true;
        }
        if (!names[n]) {
            return false;
        }
        names += n + 1;
    }
}

const struct hmp_command *hmp_command_find(const struct hmp_command *table,
                                           const char *name, size_t len)
{
    for (const struct hmp_command *c = table; c->name; c++) {
        if (is_one_of(c->name, name, len)) {
            return c;
        }
    }
    return NULL;
}

char *hmp_command_first_name(const struct hmp_command *c)
{
    return g_strndup(c->name, strcspn(c->name, "|"));
}

/* ---- running ------------------------------------------------------------ */

static const char *skip_blanks(const char *p)
{
    while (g_ascii_isspace(*p)) {
        p++;
    }
    return p;
}

/* How long is the command's name that P begins with?  "p/x" is p. */
static size_t name_length(const char *p)
{
    size_t n = 0;

    while (p[n] && p[n] != '/' && !g_ascii_isspace(p[n])) {
        n++;
    }
    return n;
}

/*
 * The command that *P, a part of LINE, begins with: *P goes behind it.  NULL:
 * it was said that there is none.
 */
static const struct hmp_command *find(struct hmp *m, const char *line,
                                      const char **p,
                                      const struct hmp_command *table)
{
    const char *name = skip_blanks(*p);
    size_t len = name_length(name);
    const struct hmp_command *c = hmp_command_find(table, name, len);

    if (!c) {
        g_autofree char *words = g_strndup(line, name + len - line);
        g_autofree char *reason = table == hmp_info_commands
            ? hmp_info_reason(words + (name - line))
            : g_strdup(not_there_reason(words));

        if (reason) {
            hmp_printf(m, "Error: %s: %s\n", words, reason);
        } else {
            hmp_printf(m, "unknown command: '%s'\n", words);
        }
        return NULL;
    }
    *p = skip_blanks(name + len);
    if (c->sub && **p) {
        return find(m, line, p, c->sub);
    }
    return c;
}

/* LINE up to P, without the blanks at its end: what help is to be asked. */
static char *typed_name(const char *line, const char *p)
{
    return g_strchomp(g_strndup(line, p - line));
}

void hmp_run(struct hmp *m, const char *line)
{
    const struct hmp_command *c;
    struct hmp_args args;
    const char *p;
    AUTO_ERROR(err);

    control_assert();
    line = p = skip_blanks(line);
    if (!*line) {
        return;
    }
    if (!g_utf8_validate(line, -1, NULL)) {
        hmp_printf(m, "Error: the line is not UTF-8\n");
        return;
    }
    trace(SERVER, "hmp line=\"%s\"", line);
    c = find(m, line, &p, hmp_commands);
    if (!c) {
        return;
    }
    if (hmp_args_parse(&args, c->params, c->name, p, &err)) {
        c->run(m, &args);
    } else {
        g_autofree char *typed = typed_name(line, p);

        hmp_printf(m, "%s\nTry \"help %s\" for more information\n",
                   error_text(err), typed);
    }
    hmp_args_clear(&args);
}
