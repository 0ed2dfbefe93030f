/* SPDX-License-Identifier: MIT */
/*
 * -set, -snapshot and -readconfig: see more.h.
 *
 * A file of options:
 *     # remark
 *     [device "disk0"]
 *       driver = "scsi-hd"
 *       drive = "d0"
 * is -device id=disk0,driver=scsi-hd,drive=d0.
 */
#include "server/cmdline/more.h"

#include <errno.h>
#include <string.h>
#include "server/cmdline/text.h"

/* ---- -set --------------------------------------------------------------- */

/* Can -set, and a file, make one of these? */
static bool is_group(const struct option_desc *d)
{
    static const char *const names[] = {
        "accel", "action", "add-fd", "audiodev", "blockdev", "boot",
        "chardev", "device", "drive", "fsdev", "global", "m", "machine",
        "mon", "msg", "name", "net", "netdev", "nic", "object", "overcommit",
        "rtc", "sandbox", "smp",
    };

    for (size_t i = 0; i < G_N_ELEMENTS(names); i++) {
        if (!strcmp(d->name, names[i])) {
            return true;
        }
    }
    return false;
}

static bool has_id(const struct option *o, const char *group, const char *id)
{
    g_autofree char *own = NULL;

    if (!o->desc || strcmp(o->desc->name, group) || text_is_json(o->text)) {
        return false;
    }
    own = text_value(o->text, "id");
    return own && !strcmp(own, id);
}

/* TEXT is GROUP.ID.KEY=VALUE. */
static bool set_one(GArray *options, const char *text, struct error **errp)
{
    g_auto(GStrv) parts = NULL;
    const char *equals = strchr(text, '=');
    g_autofree char *names = g_strndup(text, equals ? equals - text : 0);

    parts = g_strsplit(names, ".", 3);
    if (g_strv_length(parts) != 3 || !*parts[2]) {
        error_set(errp, "can't parse: \"%s\"", text);
        return false;
    }
    if (!strcmp(parts[0], "object") || !strcmp(parts[0], "blockdev")) {
        error_set(errp, "-set is not supported with %s", parts[0]);
        return false;
    }
    for (guint i = 0; i < options->len; i++) {
        struct option *o = &g_array_index(options, struct option, i);

        if (has_id(o, parts[0], parts[1])) {
            g_autofree char *value = text_quote(equals + 1);
            char *all = g_strdup_printf("%s,%s=%s", o->text, parts[2],
                                        value);

            g_free(o->text);
            o->text = all;
            return true;
        }
    }
    error_set(errp, "there is no %s \"%s\" defined", parts[0], parts[1]);
    return false;
}

/* ---- -snapshot ---------------------------------------------------------- */

/* All drives, also those to come. */
static void set_snapshot(GArray *options)
{
    for (guint i = 0; i < options->len; i++) {
        struct option *o = &g_array_index(options, struct option, i);
        g_autofree char *said = NULL;

        if (o->kind == OPTION_IMAGE) {
            o->snapshot = true;
        } else if (o->kind == OPTION_DRIVE) {
            said = text_value(o->text, "snapshot");
            if (!said) {
                char *all = g_strdup_printf("%s,snapshot=on", o->text);

                g_free(o->text);
                o->text = all;
            }
        }
    }
}

/* ---- -readconfig -------------------------------------------------------- */

struct reader {
    const char *path;
    int line;                   /* from 1 */
    GArray *found;              /* of struct option */
    GString *text;              /* of the option that is being read */
    const struct option_desc *desc;     /* its; NULL: none */
};

static void end_group(struct reader *r)
{
    if (r->desc) {
        struct option option = {
            .kind = r->desc->kind, .desc = r->desc,
            .location = g_strdup_printf("%s:%d", r->path, r->line),
            .text = g_strdup(r->text->str),
        };

        g_array_append_val(r->found, option);
    }
    r->desc = NULL;
    g_string_truncate(r->text, 0);
}

static void add_key(struct reader *r, const char *key, const char *value)
{
    g_autofree char *quoted = text_quote(value);

    g_string_append_printf(r->text, "%s%s=%s", r->text->len ? "," : "", key,
                           quoted);
}

static const struct option_desc *find_group(const char *name)
{
    static const char *const others[][2] = {
        { "boot-opts", "boot" }, { "memory", "m" }, { "smp-opts", "smp" },
    };
    const struct option_desc *d;

    for (size_t i = 0; i < G_N_ELEMENTS(others); i++) {
        if (!strcmp(name, others[i][0])) {
            name = others[i][1];
        }
    }
    d = option_find(name, strlen(name));
    return d && is_group(d) ? d : NULL;
}

/* [group] or [group "id"]. */
static bool read_header(struct reader *r, char *line, struct error **errp)
{
    char *name = g_strstrip(line + 1);
    char *end = strchr(name, ']');
    char *id;

    end_group(r);
    if (!end || end[1]) {
        error_set(errp, "parse error");
        return false;
    }
    *end = '\0';
    id = strchr(name, '"');
    if (id) {
        *id++ = '\0';
        end = strchr(id, '"');
        if (!end || *g_strstrip(end + 1)) {
            error_set(errp, "parse error");
            return false;
        }
        *end = '\0';
    }
    r->desc = find_group(g_strstrip(name));
    if (!r->desc) {
        error_set(errp, "There is no option group '%s'", name);
        return false;
    }
    if (id) {
        add_key(r, "id", id);
    }
    return true;
}

/* key = "value" */
static bool read_key(struct reader *r, char *line, struct error **errp)
{
    char *value = strchr(line, '=');
    size_t len;

    if (!value) {
        error_set(errp, "parse error");
        return false;
    }
    *value++ = '\0';
    value = g_strstrip(value);
    len = strlen(value);
    if (len < 2 || value[0] != '"' || value[len - 1] != '"') {
        error_set(errp, "parse error");
        return false;
    }
    if (!r->desc) {
        error_set(errp, "no group defined");
        return false;
    }
    value[len - 1] = '\0';
    add_key(r, g_strstrip(line), value + 1);
    return true;
}

static bool read_lines(struct reader *r, char *contents, struct error **errp)
{
    g_auto(GStrv) lines = g_strsplit(contents, "\n", -1);

    for (char **next = lines; *next; next++) {
        char *line = g_strstrip(*next);
        bool ok = true;

        r->line++;
        if (*line == '[') {
            ok = read_header(r, line, errp);
        } else if (*line && *line != '#') {
            ok = read_key(r, line, errp);
        }
        if (!ok) {
            error_prepend(errp, "%s:%d: ", r->path, r->line);
            return false;
        }
    }
    end_group(r);
    return true;
}

/* The text of the file PATH, owned: also of a pipe, but not of one without
 * end. */
static char *read_file(const char *path, struct error **errp)
{
    enum { MAX_BYTES = 1 << 20 };
    FILE *file = fopen(path, "re");
    g_autofree char *text = NULL;
    size_t n;
    int err;

    if (!file) {
        error_set_errno(errp, errno, "Could not open '%s'", path);
        return NULL;
    }
    text = g_malloc(MAX_BYTES + 1);
    n = fread(text, 1, MAX_BYTES + 1, file);
    err = ferror(file) ? errno : n > MAX_BYTES ? EFBIG : 0;
    fclose(file);
    if (err) {
        error_set_errno(errp, err, "Could not read '%s'", path);
        return NULL;
    }
    text[n] = '\0';
    return g_steal_pointer(&text);
}

/* The options of the file PATH, in place of number AT. */
static bool read_config(GArray *options, guint at, struct error **errp)
{
    const char *path = g_array_index(options, struct option, at).text;
    g_autofree char *contents = read_file(path, errp);
    struct reader r = { .path = path };
    bool ok;

    if (!contents) {
        return false;
    }
    r.found = options_new();
    r.text = g_string_new(NULL);
    ok = read_lines(&r, contents, errp);
    if (ok) {
        g_array_insert_vals(options, at + 1, r.found->data, r.found->len);
        g_array_set_clear_func(r.found, NULL);      /* moved */
    }
    g_array_free(r.found, TRUE);
    g_string_free(r.text, TRUE);
    return ok;
}

bool options_expand(GArray *options, struct error **errp)
{
    for (guint i = 0; i < options->len; i++) {
        const struct option *o = &g_array_index(options, struct option, i);
        bool ok = true;

        if (o->kind == OPTION_READCONFIG) {
            ok = read_config(options, i, errp);
        } else if (o->kind == OPTION_SET) {
            ok = set_one(options, o->text, errp);
        } else if (o->kind == OPTION_SNAPSHOT) {
            set_snapshot(options);
        }
        if (!ok) {
            error_prepend(errp, "%s: ",
                          g_array_index(options, struct option, i).location);
            return false;
        }
    }
    return true;
}
