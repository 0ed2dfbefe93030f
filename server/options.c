/* SPDX-License-Identifier: MIT */
/* The command line as a list, and its help: see options.h. */
#include "server/options.h"

#include <string.h>

struct option_desc {
    enum option_kind kind;
    const char *name;           /* with its two dashes */
    char letter;                /* -h, or NUL */
    const char *argument;       /* NULL: takes none */
    const char *help;           /* lines after the first are indented */
};

/* In the order of the help text. */
static const struct option_desc descriptions[] = {
    { OPTION_HELP, "--help", 'h', NULL,
      "print this text and exit" },
    { OPTION_VERSION, "--version", 'V', NULL,
      "print name and version and exit" },
    { OPTION_QMP, "--qmp", 0, "WHERE",
      "serve QMP there:\n"
      "  unix:PATH[,server=on][,wait=off]\n"
      "  tcp:HOST:PORT[,server=on][,wait=off]\n"
      "  stdio\n"
      "server=on listens, otherwise connects; with wait=off\n"
      "the server does not wait for its first client" },
    { OPTION_QMP_PRETTY, "--qmp-pretty", 0, "WHERE",
      "as --qmp, with indented replies" },
    { OPTION_CHARDEV, "--chardev", 0, "KIND,id=ID[,...]",
      "a channel for a monitor:\n"
      "  socket,id=ID,path=PATH\n"
      "  socket,id=ID,host=HOST,port=PORT[,ipv4=on|off][,ipv6=on|off]\n"
      "  socket,id=ID,fd=NUMBER\n"
      "    [,server=on][,wait=on|off][,reconnect=SECONDS]\n"
      "  stdio,id=ID" },
    { OPTION_MONITOR, "--monitor", 0, "[chardev=]ID[,pretty=on|off]",
      "serve QMP on this channel" },
    { OPTION_BLOCKDEV, "--blockdev", 0, "[driver=]DRIVER,node-name=NAME,...",
      "open a node: the arguments of blockdev-add as key=value\n"
      "(file.filename=disk.img for a nested one) or as JSON" },
    { OPTION_NBD_SERVER, "--nbd-server", 0, "addr.type=TYPE,addr....",
      "start the NBD server:\n"
      "  addr.type=unix,addr.path=PATH[,max-connections=N]\n"
      "  addr.type=inet,addr.host=HOST,addr.port=PORT[,...]" },
    { OPTION_EXPORT, "--export", 0, "[type=]nbd,id=ID,node-name=NAME,...",
      "export a node over NBD: [,name=EXPORT][,writable=on|off]" },
    { OPTION_OBJECT, "--object", 0, "TYPE,id=ID,...",
      "make an object: the arguments of object-add as key=value\n"
      "or as JSON; for example\n"
      "  secret,id=ID,file=PATH\n"
      "  throttle-group,id=ID,limits.iops-total=N\n"
      "  tls-creds-x509,id=ID,dir=FOLDER,endpoint=server" },
    { OPTION_PIDFILE, "--pidfile", 0, "PATH",
      "write the process id there when everything is set up;\n"
      "the file is removed at the end" },
    { OPTION_DAEMONIZE, "--daemonize", 0, NULL,
      "run in the background; the command returns when everything\n"
      "is set up, or failed" },
    { OPTION_TRACE, "--trace", 'T', "MODULE[,MODULE...]",
      "say on stderr what happens: all, or some of\n"
      "graph drain perm block-io file qcow2 qcow2-io bitmap job\n"
      "copy-io nbd nbd-io qmp server" },
};

/* Of ARG without its dashes; *TEXT is behind "=", or NULL. */
static const struct option_desc *find_option(const char *arg,
                                             const char **text)
{
    const char *name = arg + (arg[0] == '-') + (arg[0] && arg[1] == '-');
    size_t len = strcspn(name, "=");

    *text = name[len] ? name + len + 1 : NULL;
    for (size_t i = 0; i < G_N_ELEMENTS(descriptions); i++) {
        const struct option_desc *d = &descriptions[i];

        if (len > 0 && strlen(d->name + 2) == len &&
            !memcmp(d->name + 2, name, len)) {
            return d;
        }
        if (len == 1 && name == arg + 1 && *name == d->letter) {
            return d;
        }
    }
    return NULL;
}

bool options_parse(int argc, char **argv, GArray *options,
                   struct error **errp)
{
    for (int i = 1; i < argc; i++) {
        const struct option_desc *d;
        struct option option = { 0 };

        if (argv[i][0] != '-') {
            error_set(errp, "%s: Unexpected argument", argv[i]);
            return false;
        }
        d = find_option(argv[i], &option.text);
        if (!d) {
            error_set(errp, "unrecognized option '%s'", argv[i]);
            error_append_hint(errp, "Use --help for a list of options.\n");
            return false;
        }
        if (!d->argument && option.text) {
            error_set(errp, "option '%s' doesn't allow an argument", d->name);
            return false;
        }
        if (d->argument && !option.text && ++i < argc) {
            option.text = argv[i];
        }
        if (d->argument && !option.text) {
            error_set(errp, "option '%s' requires an argument", d->name);
            return false;
        }
        option.kind = d->kind;
        option.spelling = d->name;
        g_array_append_val(options, option);
    }
    return true;
}

static void print_option(FILE *stream, const struct option_desc *d)
{
    g_auto(GStrv) lines = g_strsplit(d->help, "\n", -1);

    fprintf(stream, "\n  ");
    if (d->letter) {
        fprintf(stream, "-%c, ", d->letter);
    }
    fprintf(stream, "%s%s%s\n", d->name, d->argument ? " " : "",
            d->argument ? d->argument : "");
    for (char **line = lines; *line; line++) {
        fprintf(stream, "        %s\n", *line);
    }
}

void options_print_help(FILE *stream, const char *program)
{
    fprintf(stream,
        "Usage: %s [OPTION]...\n"
        "\n"
        "A QMP server for block jobs: opens disk images, serves them over\n"
        "NBD, and backs them up while they are in use.\n"
        "\n"
        "Options take effect in the order in which they are given; one dash\n"
        "or two is the same.\n", program);
    for (size_t i = 0; i < G_N_ELEMENTS(descriptions); i++) {
        print_option(stream, &descriptions[i]);
    }
    fprintf(stream,
        "\n"
        "Example:\n"
        "  %s --blockdev driver=qcow2,node-name=disk,file.driver=file,"
        "file.filename=disk.qcow2 \\\n"
        "      --nbd-server addr.type=unix,addr.path=/tmp/nbd.sock \\\n"
        "      --export nbd,id=e,node-name=disk,writable=on \\\n"
        "      --qmp unix:/tmp/qmp.sock,server=on,wait=off\n"
        "\n"
        "blockjobctl(1) talks to it; blockjobd(1) tells more.\n", program);
}
