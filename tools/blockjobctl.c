/* SPDX-License-Identifier: MIT */
/* blockjobctl: the command-line client of blockjobd. */
#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "tools/args.h"
#include "tools/image.h"
#include "tools/shell.h"
#include "tools/watch.h"

enum { EXIT_REFUSED = 1, EXIT_USAGE = 2, EXIT_CONNECTION = 3 };

static bool compact;        /* --json; set once */
static bool wait_for_job;   /* --wait; set once */
static bool until_ready;    /* --ready; set once */

static const char help_text[] =
"Usage: blockjobctl [-s ADDRESS] [OPTION]... COMMAND [KEY=VALUE | JSON]...\n"
"       blockjobctl [-s ADDRESS] shell | watch [JOB]... | events | help [COMMAND]\n"
"       blockjobctl image info|check|map FILE\n"
"\n"
"Talks QMP to blockjobd (or QEMU).  Any command of the server, for example:\n"
"  blockjobctl -s vm.sock query-jobs\n"
"  blockjobctl -s vm.sock block_resize node-name=disk size=20G\n"
"  blockjobctl -s vm.sock --wait blockdev-backup job-id=b0 device=disk \\\n"
"                         target=copy sync=full\n"
"\n"
"  shell            read commands, with history and completion (also: none)\n"
"  watch [JOB]...   progress of all jobs, or of those named, until they end\n"
"  events           print events as they come, until interrupted\n"
"  help [COMMAND]   the server's commands, or the arguments of one\n"
"  image            look at an image; needs no server (image --help)\n"
"\n"
"  -s, --socket ADDRESS  path, unix:PATH or HOST:PORT of the QMP socket\n"
"                        (default: $BLOCKJOBD_SOCKET)\n"
"  -j, --json            print replies on one line\n"
"  -w, --wait            after a command with a job-id, watch that job\n"
"  -r, --ready           watch and --wait end when the jobs are ready, too\n"
"  -h, --help            this text\n"
"  -V, --version         the version\n"
"\n"
"Exit status: 0 done, 1 the server refused or a job failed, 2 wrong usage,\n"
"3 no connection.  See blockjobctl(1).\n";

/* ---- output ------------------------------------------------------------------ */

static void print_json(json_t *v)
{
    char *text = json_dumps(v, JSON_ENCODE_ANY | (compact ? 0
                                                          : JSON_INDENT(2)));

    puts(text ? text : "");
    free(text);
}

static int print_error(struct shell *sh, const struct error *err)
{
    if (error_get_class(err) == ERROR_GENERIC) {
        fprintf(stderr, "Error: %s\n", error_text(err));
    } else {
        fprintf(stderr, "Error: %s (%s)\n", error_text(err),
                error_class_name(error_get_class(err)));
    }
    return client_is_dead(sh->client) ? EXIT_CONNECTION : EXIT_REFUSED;
}

/* ---- help ---------------------------------------------------------------------- */

struct help_member {
    const struct schema *schema;
    GHashTable *seen;
};

static void help_member(const char *name, json_t *type, bool optional,
                        void *arg)
{
    struct help_member *h = arg;
    g_autofree char *what = schema_describe(h->schema, type);

    if (g_hash_table_add(h->seen, g_strdup(name))) {
        printf("  %-24s %s%s\n", name, what, optional ? "" : "  (required)");
    }
}

static int show_help(struct shell *sh, const char *command)
{
    struct help_member h = { .schema = sh->schema };
    json_t *type;

    if (!command) {
        for (const char *const *p = schema_commands(sh->schema); *p; p++) {
            puts(*p);
        }
        return 0;
    }
    type = schema_arguments(sh->schema, command);
    if (!type) {
        fprintf(stderr, "Error: the server has no command '%s'\n", command);
        return EXIT_USAGE;
    }
    printf("%s\n", command);
    h.seen = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, NULL);
    schema_each_member(sh->schema, type, help_member, &h);
    g_hash_table_destroy(h.seen);
    return 0;
}

/* ---- commands -------------------------------------------------------------------- */

static int show_events(struct shell *sh)
{
    json_t *event;

    while ((event = client_next_event(sh->client, -1))) {
        print_json(event);
        fflush(stdout);
        json_decref(event);
    }
    return EXIT_CONNECTION;
}

static int watch(struct shell *sh, char *const *ids)
{
    json_t *arguments = schema_arguments(sh->schema, "query-jobs");
    const struct watch_options options = {
        .until_ready = until_ready,
        .has_detail = arguments && schema_member(sh->schema, arguments,
                                                 "detail"),
        .has_history = schema_arguments(sh->schema, "query-job-history"),
    };

    return watch_jobs(sh->client, &options, ids);
}

static int execute(struct shell *sh, const char *command, json_t *args)
{
    AUTO_ERROR(err);
    json_t *v = client_execute(sh->client, command, args, &err);
    const char *id = json_string_value(json_object_get(args, "job-id"));

    if (!v) {
        return print_error(sh, err);
    }
    if (wait_for_job && id) {
        char *const ids[] = { (char *)id, NULL };

        json_decref(v);
        return watch(sh, ids);
    }
    print_json(v);
    json_decref(v);
    return 0;
}

int run_command(struct shell *sh, char *const *words, size_t n)
{
    AUTO_ERROR(err);
    json_t *args = NULL;
    int ret;

    if (!strcmp(words[0], "watch")) {
        return watch(sh, words + 1);
    }
    if (!strcmp(words[0], "events") || !strcmp(words[0], "help")) {
        bool events = words[0][0] == 'e';

        if (n > (events ? 1 : 2)) {
            fprintf(stderr, "Error: '%s' is one word too many\n",
                    words[events ? 1 : 2]);
            return EXIT_USAGE;
        }
        return events ? show_events(sh)
                      : show_help(sh, n > 1 ? words[1] : NULL);
    }
    if (n > 1) {
        args = args_parse(sh->schema, words[0], words + 1, n - 1, &err);
        if (!args) {
            fprintf(stderr, "Error: %s\n", error_text(err));
            return EXIT_USAGE;
        }
    }
    ret = execute(sh, words[0], args);
    json_decref(args);
    return ret;
}

static int run(const char *address, char *const *words, size_t n)
{
    AUTO_ERROR(err);
    struct shell sh = { .address = address };
    struct schema *schema;
    bool interactive = n == 0 || !strcmp(words[0], "shell");
    int ret;

    if (interactive && n > 1) {
        fprintf(stderr, "Error: '%s' is one word too many\n", words[1]);
        return EXIT_USAGE;
    }
    sh.client = client_connect(address, &err);
    if (!sh.client) {
        fprintf(stderr, "Error: %s\n", error_text(err));
        return EXIT_CONNECTION;
    }
    schema = schema_load(sh.client, &err);
    if (!schema) {
        ret = print_error(&sh, err);
    } else {
        sh.schema = schema;
        ret = interactive ? shell_run(&sh) : run_command(&sh, words, n);
    }
    schema_free(schema);
    client_free(sh.client);
    return ret;
}

/* A script must not take half a reply for a whole one. */
static int finish(int status)
{
    if (fflush(stdout) != 0 || ferror(stdout)) {
        fprintf(stderr, "Error: could not write the output: %s\n",
                strerror(errno));
        return status ? status : EXIT_REFUSED;
    }
    return status;
}

int main(int argc, char **argv)
{
    static const struct option options[] = {
        { "socket", required_argument, NULL, 's' },
        { "json", no_argument, NULL, 'j' },
        { "wait", no_argument, NULL, 'w' },
        { "ready", no_argument, NULL, 'r' },
        { "help", no_argument, NULL, 'h' },
        { "version", no_argument, NULL, 'V' },
        { NULL, 0, NULL, 0 },
    };
    const char *address = getenv("BLOCKJOBD_SOCKET");
    int c;

    /* '+': stop at the first word that is no option. */
    while ((c = getopt_long(argc, argv, "+s:jwrhV", options, NULL)) != -1) {
        switch (c) {
        case 's':
            address = optarg;
            break;
        case 'j':
            compact = true;
            break;
        case 'w':
            wait_for_job = true;
            break;
        case 'r':
            until_ready = true;
            break;
        case 'h':
            fputs(help_text, stdout);
            return 0;
        case 'V':
            printf("blockjobctl %s\n", BLOCKJOBD_VERSION);
            return 0;
        default:
            fprintf(stderr, "Try 'blockjobctl --help'\n");
            return EXIT_USAGE;
        }
    }
    if (optind < argc && !strcmp(argv[optind], "image")) {
        return finish(image_main(argc - optind, argv + optind));
    }
    if (!address || !*address) {
        fprintf(stderr, "Error: no socket given (-s ADDRESS, or "
                "$BLOCKJOBD_SOCKET)\n");
        return EXIT_USAGE;
    }
    return finish(run(address, argv + optind, argc - optind));
}
