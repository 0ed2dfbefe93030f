/* SPDX-License-Identifier: MIT */
/*
 * The command line as a list: see options.h.
 *
 * The programs in whose place we stand differ in what they call a mistake;
 * so the list is read first, then it is decided who we are, and then the
 * first mistake is told in that one's words.
 */
#include "server/cmdline/options.h"

#include <string.h>

enum mistake {
    MISTAKE_NONE,
    MISTAKE_UNKNOWN,
    MISTAKE_NO_TEXT,            /* it needs one */
    MISTAKE_TEXT,               /* it takes none */
};

struct parser {
    GArray *options;
    enum persona persona;       /* by the name of the program */
    bool decided;               /* an option is the system emulator's */
    bool daemon;                /* --monitor as the storage daemon has it */
    enum mistake mistake;       /* the first one */
    const char *arg;            /* borrowed: there */
    const struct option_desc *desc;
};

static void option_clear(void *data)
{
    struct option *o = data;

    g_free(o->location);
    g_free(o->text);
}

GArray *options_new(void)
{
    GArray *options = g_array_new(FALSE, FALSE, sizeof(struct option));

    g_array_set_clear_func(options, option_clear);
    return options;
}

const struct option *options_last(const GArray *options,
                                  enum option_kind kind)
{
    for (guint i = options->len; i > 0; i--) {
        const struct option *o = &g_array_index(options, struct option,
                                                i - 1);

        if (o->kind == kind) {
            return o;
        }
    }
    return NULL;
}

/* The storage daemon's only option that begins so, or NULL. */
static const struct option_desc *find_short(const char *name, size_t len)
{
    const struct option_desc *found = NULL, *table;
    size_t n;

    table = option_table(&n);
    for (size_t i = 0; len > 1 && i < n; i++) {
        if ((table[i].flags & OPT_DAEMON) &&
            !strncmp(table[i].name, name, len)) {
            if (found) {
                return NULL;
            }
            found = &table[i];
        }
    }
    return found;
}

/* Of ARG, which begins with a dash; *TEXT is behind "=", or NULL. */
static const struct option_desc *find_desc(const struct parser *p,
                                           const char *arg, const char **text)
{
    const char *name = arg + (arg[1] == '-' ? 2 : 1);
    size_t len = strcspn(name, "=");
    const struct option_desc *d = option_find(name, len);

    *text = name[len] ? name + len + 1 : NULL;
    if (!d && p->persona == PERSONA_STORAGE_DAEMON) {
        d = find_short(name, len);
    }
    if (d && p->persona == PERSONA_STORAGE_DAEMON &&
        !(d->flags & OPT_DAEMON)) {
        return NULL;
    }
    return d;
}

/* Does TEXT of --monitor name a channel that was made before, as the storage
 * daemon has it, and not one to be made? */
static bool is_chardev_name(const char *text)
{
    static const char *const others[] = {
        "none", "null", "stdio", "vc", "pty", "msmouse", "braille",
    };

    for (size_t i = 0; i < G_N_ELEMENTS(others); i++) {
        if (!strcmp(text, others[i])) {
            return false;
        }
    }
    if (text[strspn(text, " \t\r\n")] == '{' ||
        g_str_has_prefix(text, "chardev=")) {
        return true;
    }
    return text[strcspn(text, ":/,")] != ':' && text[0] != '/' &&
        !g_str_has_prefix(text, "vc:");
}

static void set_mistake(struct parser *p, enum mistake mistake,
                        const char *arg, const struct option_desc *desc)
{
    if (p->mistake == MISTAKE_NONE) {
        p->mistake = mistake;
        p->arg = arg;
        p->desc = desc;
    }
}

static void add_option(struct parser *p, const struct option_desc *d,
                       char *location, const char *text)
{
    struct option option = {
        .kind = d ? d->kind : OPTION_IMAGE, .desc = d,
        .location = location, .text = g_strdup(text),
    };

    if (d && (d->flags & OPT_DECIDES)) {
        p->decided = true;
    }
    if (d && d->kind == OPTION_MONITOR) {
        if (is_chardev_name(text)) {
            p->daemon = true;
        } else {
            p->decided = true;
        }
    }
    g_array_append_val(p->options, option);
}

/* How many of ARGV it was. */
static int parse_one(struct parser *p, char **argv)
{
    const struct option_desc *d;
    const char *text;

    if (argv[0][0] != '-') {
        add_option(p, NULL, g_strdup(argv[0]), argv[0]);
        return 1;
    }
    d = find_desc(p, argv[0], &text);
    if (!d) {
        set_mistake(p, MISTAKE_UNKNOWN, argv[0], NULL);
        return 1;
    }
    if (!(d->flags & OPT_TEXT)) {
        if (text) {
            set_mistake(p, MISTAKE_TEXT, argv[0], d);
        }
        add_option(p, d, g_strdup(argv[0]), NULL);
        return 1;
    }
    if (text) {
        add_option(p, d, g_strdup(argv[0]), text);
        return 1;
    }
    if (!argv[1]) {
        set_mistake(p, MISTAKE_NO_TEXT, argv[0], d);
        p->decided = p->decided || (d->flags & OPT_DECIDES);
        return 1;
    }
    add_option(p, d, g_strdup_printf("%s %s", argv[0], argv[1]), argv[1]);
    return 2;
}

static enum persona decide(const struct parser *p)
{
    if (p->persona != PERSONA_BLOCKJOBD) {
        return p->persona;
    }
    if (p->decided) {
        return PERSONA_SYSTEM;
    }
    return p->daemon ? PERSONA_STORAGE_DAEMON : PERSONA_BLOCKJOBD;
}

/* In the words of QEMU's system emulator. */
static void say_as_system(const struct parser *p, struct error **errp)
{
    if (p->mistake == MISTAKE_NO_TEXT) {
        error_set(errp, "%s: requires an argument", p->arg);
    } else {
        error_set(errp, "%s: invalid option", p->arg);
    }
}

/* In those of its storage daemon. */
static void say_as_daemon(const struct parser *p, struct error **errp)
{
    switch (p->mistake) {
    case MISTAKE_UNKNOWN:
        error_set(errp, "unrecognized option '%s'", p->arg);
        error_append_hint(errp, "Use --help for a list of options.\n");
        break;
    case MISTAKE_NO_TEXT:
        error_set(errp, "option '--%s' requires an argument", p->desc->name);
        break;
    case MISTAKE_TEXT:
        error_set(errp, "option '--%s' doesn't allow an argument",
                  p->desc->name);
        break;
    case MISTAKE_NONE:
        g_assert_not_reached();
    }
}

static bool check_positional(const GArray *options, struct error **errp)
{
    for (guint i = 0; i < options->len; i++) {
        const struct option *o = &g_array_index(options, struct option, i);

        if (!o->desc) {
            error_set(errp, "%s: Unexpected argument", o->location);
            return false;
        }
    }
    return true;
}

bool options_parse(int argc, char **argv, GArray *options,
                   enum persona *persona, struct error **errp)
{
    struct parser p = { .options = options };

    p.persona = persona_of_program(argv[0]);
    for (int i = 1; i < argc;) {
        i += parse_one(&p, argv + i);
    }
    *persona = decide(&p);
    if (p.mistake != MISTAKE_NONE) {
        (*persona == PERSONA_SYSTEM ? say_as_system : say_as_daemon)(&p,
                                                                     errp);
        return false;
    }
    return *persona == PERSONA_SYSTEM || check_positional(options, errp);
}
