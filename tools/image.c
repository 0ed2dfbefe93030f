/* SPDX-License-Identifier: MIT */
/*
 * blockjobctl image: see image.h.
 *
 * Threads     One: it holds the control lock as the server's control plane
 *             does; the drivers give it up while they read.
 */
#include "tools/image.h"

#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <string.h>
#include "base/control.h"
#include "base/pool.h"
#include "block/driver.h"
#include "block/query.h"
#include "qapi/qapi-visit.h"

/* As qemu-img check has them. */
enum {
    EXIT_OK = 0, EXIT_FAILED = 1, EXIT_CORRUPT = 2, EXIT_LEAKS = 3,
    EXIT_USAGE = 2, EXIT_NO_CHECK = 63,
};

/* One stretch per query at most. */
#define MAP_STEP_BYTES (INT64_C(1) << 40)

struct image_options {
    const char *filename, *format;
    bool json, chain, force_share;
};

static const char help_text[] =
"Usage: blockjobctl image info|check|map [OPTION]... FILE\n"
"\n"
"Looks at an image, read-only; no server is needed.\n"
"\n"
"  info     what it is: format, sizes, backing file, snapshots, bitmaps\n"
"  check    look for leaks and corruptions; exit status 0: none, 2: the image\n"
"           is corrupt, 3: clusters are leaked, 1: the check itself failed,\n"
"           63: the format cannot be checked\n"
"  map      which stretches have data, read as zeroes, come from where\n"
"\n"
"  -f, --format FORMAT   do not guess the format: raw, qcow2, ...\n"
"      --backing-chain   info: also what the image is based on\n"
"  -U, --force-share     although another program may be writing it\n"
"      --output human|json\n"
"  -h, --help            this text\n"
"\n"
"FILE may be anything that names an image: a path, nbd://HOST/EXPORT,\n"
"json:{...}.\n";

static int fail(const struct error *err)
{
    fprintf(stderr, "Error: %s\n", error_text(err));
    if (error_hint(err)) {
        fprintf(stderr, "%s\n", error_hint(err));
    }
    return EXIT_FAILED;
}

static void print_json(json_t *v)
{
    char *text = json_dumps(v, JSON_INDENT(4));

    puts(text);
    free(text);
    json_decref(v);
}

/* ---- info --------------------------------------------------------------- */

static void add_invalidated(struct node *n, ImageInfo *info)
{
    while (n && info) {
        info->invalidated = node_invalidated_info(n);
        n = node_backing(n);
        info = info->backing_image;
    }
}

static int image_info(struct node *n, const struct image_options *o)
{
    g_autoptr(ImageInfo) info = node_image_info(n, o->chain);

    add_invalidated(n, info);
    /* As it was asked for: the node has no chain, and would say so. */
    g_free(info->filename);
    info->filename = g_strdup(o->filename);
    if (o->json) {
        print_json(ImageInfo_to_json(info));
    } else {
        image_print_info(stdout, info);
    }
    return EXIT_OK;
}

/* ---- check -------------------------------------------------------------- */

static void print_problem(void *opaque, const char *text)
{
    fprintf(opaque, "%s\n", text);
}

static int image_check(struct node *n, const struct image_options *o)
{
    static const struct image_check_ops ops = { .problem = print_problem };
    g_autoptr(ImageCheck) check = ImageCheck_new0();
    AUTO_ERROR(err);
    bool ok = false;

    if (!n->driver->check) {
        fprintf(stderr, "Error: format '%s' does not support checks\n",
                node_driver_name(n));
        return EXIT_NO_CHECK;
    }
    check->filename = g_strdup(o->filename);
    check->format = g_strdup(node_driver_name(n));
    CONTROL_YIELD {
        ok = n->driver->check(n, check, &ops, o->json ? stderr : stdout,
                              &err);
    }
    if (!ok) {
        return fail(err);
    }
    if (o->json) {
        print_json(ImageCheck_to_json(check));
    } else {
        image_print_check(stdout, check);
    }
    return check->corruptions ? EXIT_CORRUPT
           : check->leaks ? EXIT_LEAKS
           : check->check_errors ? EXIT_FAILED : EXIT_OK;
}

/* ---- map ---------------------------------------------------------------- */

/* The layer that decides what [offset, +bytes) reads as. */
static int status_at(struct node *n, int64_t offset, int64_t bytes,
                     struct block_status *st, int64_t *depth)
{
    for (*depth = 0;; (*depth)++) {
        int ret = node_block_status(n, true, offset, bytes, st);

        if (ret < 0) {
            return ret;
        }
        bytes = st->bytes = st->bytes > 0 ? st->bytes : bytes;
        n = node_backing(node_skip_filters(n));
        if ((st->flags & (STATUS_ALLOCATED | STATUS_ZERO)) || !n) {
            return 0;
        }
    }
}

static MapEntry *map_entry(const struct block_status *st, int64_t start,
                           int64_t depth)
{
    MapEntry *e = MapEntry_new0();

    e->start = start;
    e->length = st->bytes;
    e->zero = !!(st->flags & STATUS_ZERO);
    e->data = !!(st->flags & STATUS_DATA);
    e->present = !!(st->flags & STATUS_ALLOCATED);
    e->compressed = !!(st->flags & STATUS_COMPRESSED);
    e->depth = depth;
    e->has_offset = (st->flags & STATUS_OFFSET_VALID) != 0;
    if (e->has_offset) {
        e->offset = st->map;
        e->filename = st->file ? g_strdup(node_filename(st->file)) : NULL;
    }
    return e;
}

/* Does B go on where A ends, in every way? */
static bool map_continues(const MapEntry *a, const MapEntry *b)
{
    return a->zero == b->zero && a->data == b->data &&
           a->present == b->present && a->compressed == b->compressed &&
           a->depth == b->depth && a->has_offset == b->has_offset &&
           (!a->has_offset || a->offset + a->length == b->offset) &&
           g_strcmp0(a->filename, b->filename) == 0;
}

static void map_print(MapEntry *e, bool json, bool first)
{
    g_autofree char *text = NULL;
    json_t *v;

    if (!json) {
        image_print_map_entry(stdout, e);
        return;
    }
    v = MapEntry_to_json(e);
    text = json_dumps(v, 0);
    printf("%s%s", first ? "[" : ",\n", text);
    json_decref(v);
}

static int image_map(struct node *n, const struct image_options *o)
{
    MapEntry *last = NULL;
    bool first = true;

    if (!o->json) {
        image_print_map_entry(stdout, NULL);
    }
    for (int64_t offset = 0; offset < node_length(n);) {
        struct block_status st;
        MapEntry *e;
        int64_t depth = 0;
        int ret = 0;

        CONTROL_YIELD {
            ret = status_at(n, offset, MIN(node_length(n) - offset,
                                           MAP_STEP_BYTES), &st, &depth);
        }
        if (ret < 0) {
            fprintf(stderr, "Error: could not read what is at offset %" PRId64
                    ": %s\n", offset, strerror(-ret));
            MapEntry_free(last);
            return EXIT_FAILED;
        }
        e = map_entry(&st, offset, depth);
        offset += e->length;
        if (last && map_continues(last, e)) {
            last->length += e->length;
            MapEntry_free(e);
            continue;
        }
        if (last) {
            map_print(last, o->json, first);
            first = false;
            MapEntry_free(last);
        }
        last = e;
    }
    if (last) {
        map_print(last, o->json, first);
    }
    if (o->json) {
        puts(last ? "]" : "[]");
    }
    MapEntry_free(last);
    return EXIT_OK;
}

/* ---- all three ---------------------------------------------------------- */

static const struct image_command {
    const char *name;
    bool chain;                 /* needs what is below */
    int (*run)(struct node *n, const struct image_options *o);
} commands[] = {
    { "info", false, image_info },
    { "check", false, image_check },
    { "map", true, image_map },
};

static const struct image_command *find_command(const char *name)
{
    for (size_t i = 0; i < G_N_ELEMENTS(commands); i++) {
        if (strcmp(commands[i].name, name) == 0) {
            return &commands[i];
        }
    }
    return NULL;
}

static int run(const struct image_command *cmd, struct image_options *o)
{
    AUTO_ERROR(err);
    struct node *n;
    int ret;

    if (o->format && !driver_find(o->format)) {
        fprintf(stderr, "Error: unknown format '%s'\n", o->format);
        return EXIT_FAILED;
    }
    control_lock();
    n = node_open_to_look(o->filename, o->format, cmd->chain || o->chain,
                          o->force_share, &err);
    ret = n ? cmd->run(n, o) : fail(err);
    node_unref(n);
    node_wait_closed();
    control_unlock();
    pool_shutdown();
    return ret;
}

static int usage(const char *text, const char *what)
{
    fprintf(stderr, "Error: ");
    fprintf(stderr, text, what);
    fprintf(stderr, "\nTry 'blockjobctl image --help'\n");
    return EXIT_USAGE;
}

int image_main(int argc, char **argv)
{
    enum { OUTPUT = 256, CHAIN };
    static const struct option options[] = {
        { "format", required_argument, NULL, 'f' },
        { "backing-chain", no_argument, NULL, CHAIN },
        { "force-share", no_argument, NULL, 'U' },
        { "output", required_argument, NULL, OUTPUT },
        { "help", no_argument, NULL, 'h' },
        { NULL, 0, NULL, 0 },
    };
    const struct image_command *cmd;
    struct image_options o = { 0 };
    int c;

    optind = 0;
    while ((c = getopt_long(argc, argv, "f:Uh", options, NULL)) != -1) {
        switch (c) {
        case 'f':
            o.format = optarg;
            break;
        case CHAIN:
            o.chain = true;
            break;
        case 'U':
            o.force_share = true;
            break;
        case OUTPUT:
            o.json = strcmp(optarg, "json") == 0;
            if (!o.json && strcmp(optarg, "human") != 0) {
                return usage("--output is human or json, not '%s'", optarg);
            }
            break;
        case 'h':
            fputs(help_text, stdout);
            return EXIT_OK;
        default:
            return usage("%s", "wrong option");
        }
    }
    if (argc - optind != 2) {
        return usage("%s", "expecting info, check or map, and one FILE");
    }
    cmd = find_command(argv[optind]);
    if (!cmd) {
        return usage("no such look at an image: '%s'", argv[optind]);
    }
    o.filename = argv[optind + 1];
    return run(cmd, &o);
}
