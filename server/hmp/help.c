/* SPDX-License-Identifier: MIT */
/* help, and what is typed wrongly is answered with. */
#include "server/hmp/command.h"

#include <string.h>

static void print_one(struct hmp *m, const char *prefix,
                      const struct hmp_command *c)
{
    hmp_printf(m, "%s%s%s%s -- %s\n", prefix, c->name, " ", c->synopsis,
               c->help);
}

static void print_all(struct hmp *m, const char *prefix,
                      const struct hmp_command *table)
{
    for (const struct hmp_command *c = table; c->name; c++) {
        print_one(m, prefix, c);
    }
}

void hmp_help_info(struct hmp *m)
{
    print_all(m, "info ", hmp_info_commands);
}

/* The words of TEXT name a command, of TABLE; more words do not matter. */
static void print_named(struct hmp *m, const char *text)
{
    const struct hmp_command *table = hmp_commands, *c;
    g_autoptr(GString) prefix = g_string_new(NULL);
    const char *p = text;

    while (true) {
        g_autofree char *word = hmp_word(&p, NULL);

        if (!word) {
            print_all(m, prefix->str, table);
            return;
        }
        c = hmp_command_find(table, word, strlen(word));
        if (!c) {
            hmp_printf(m, "unknown command: '%s%s'\n", prefix->str, word);
            return;
        }
        if (!c->sub) {
            print_one(m, prefix->str, c);
            return;
        }
        g_string_append_printf(prefix, "%s ", word);
        table = c->sub;
    }
}

void hmp_help(struct hmp *m, const struct hmp_args *a)
{
    const char *name = hmp_arg_text(a, "name");

    if (name) {
        print_named(m, name);
    } else {
        print_all(m, "", hmp_commands);
    }
}
