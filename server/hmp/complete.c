/* SPDX-License-Identifier: MIT */
/* What can stand at the end of a line: see hmp.h. */
#include "server/hmp/command.h"

#include <stdlib.h>
#include <string.h>
#include "base/control.h"
#include "block/backend.h"
#include "block/node.h"
#include "qapi/qapi-commands.h"

struct finder {
    GPtrArray *found;           /* of char * */
    const char *start;          /* of the word */
};

static void offer(struct finder *f, const char *word)
{
    if (g_str_has_prefix(word, f->start)) {
        g_ptr_array_add(f->found, g_strdup(word));
    }
}

/* ---- kinds of words ----------------------------------------------------- */

static void offer_commands(struct finder *f, const struct hmp_command *table)
{
    for (const struct hmp_command *c = table; c->name; c++) {
        g_auto(GStrv) names = g_strsplit(c->name, "|", -1);

        for (int i = 0; names[i]; i++) {
            offer(f, names[i]);
        }
    }
}

/* Devices, and nodes that the user gave a name. */
static void offer_blocks(struct finder *f)
{
    for (struct backend *b = backend_next(NULL); b; b = backend_next(b)) {
        if (*backend_name(b)) {
            offer(f, backend_name(b));
        }
    }
    for (struct node *n = node_next(NULL); n; n = node_next(n)) {
        if (node_name(n)[0] != '#') {
            offer(f, node_name(n));
        }
    }
}

static void offer_jobs(struct finder *f)
{
    const QueryBlockJobsArgs args = { 0 };
    g_autoptr(BlockJobInfoList) list = qmp_query_block_jobs(&args, NULL);

    for (size_t i = 0; list && i < list->n; i++) {
        offer(f, list->v[i]->device);
    }
}

/* What is in the object at PATH. */
static void offer_children(struct finder *f, char *path)
{
    const QomListArgs args = { .path = path };
    g_autoptr(ObjectPropertyInfoList) list = qmp_qom_list(&args, NULL);

    for (size_t i = 0; list && i < list->n; i++) {
        if (g_str_has_prefix(list->v[i]->type, "child<")) {
            offer(f, list->v[i]->name);
        }
    }
}

/* Files whose path begins as the word; a folder ends with a slash. */
static void offer_files(struct finder *f)
{
    const char *slash = strrchr(f->start, '/');
    size_t len = slash ? slash + 1 - f->start : 0;
    g_autofree char *folder = g_strndup(f->start, len);
    const char *name;

    CONTROL_YIELD {
        GDir *dir = g_dir_open(len ? folder : ".", 0, NULL);

        while (dir && (name = g_dir_read_name(dir))) {
            g_autofree char *path = g_strconcat(folder, name, NULL);

            if (g_file_test(path, G_FILE_TEST_IS_DIR)) {
                g_autofree char *with_slash = g_strconcat(path, "/", NULL);

                offer(f, with_slash);
            } else {
                offer(f, path);
            }
        }
        if (dir) {
            g_dir_close(dir);
        }
    }
}

static void offer_kind(struct finder *f, enum hmp_kind kind)
{
    static char devices[] = "/machine/peripheral", objects[] = "/objects";

    switch (kind) {
    case HMP_BLOCK:
        offer_blocks(f);
        break;
    case HMP_JOB:
        offer_jobs(f);
        break;
    case HMP_DEVICE:
        offer_children(f, devices);
        break;
    case HMP_OBJECT:
        offer_children(f, objects);
        break;
    case HMP_FILE:
        offer_files(f);
        break;
    case HMP_BOOL:
        offer(f, "on");
        offer(f, "off");
        break;
    default:
        break;
    }
}

/* ---- lines -------------------------------------------------------------- */

/* The command that WORDS begin with; *N words are its name. */
static const struct hmp_command *find_command(char **words, int *n)
{
    const struct hmp_command *c;

    c = hmp_command_find(hmp_commands, words[0], strlen(words[0]));
    *n = 1;
    if (c && c->sub && words[1]) {
        c = hmp_command_find(c->sub, words[1], strlen(words[1]));
        *n = 2;
    }
    return c;
}

/* The parameter that comes after WORDS; NULL: none. */
static const struct hmp_param *next_param(const struct hmp_param *p,
                                          char **words)
{
    if (!p) {
        return NULL;
    }
    for (; *words; words++) {
        while (p->key && p->kind == HMP_FLAG && **words != '-') {
            p++;
        }
        if (!p->key) {
            return NULL;
        }
        if (p->kind != HMP_FLAG) {
            p++;
        }
    }
    while (p->key && p->kind == HMP_FLAG) {
        p++;
    }
    return p->key ? p : NULL;
}

/* WORDS stand before the one that is looked for. */
static void offer_after(struct finder *f, char **words)
{
    const struct hmp_command *c;
    const struct hmp_param *p;
    int n;

    if (!words[0]) {
        offer_commands(f, hmp_commands);
        return;
    }
    if (!strcmp(words[0], "help") || !strcmp(words[0], "?")) {
        offer_after(f, words + 1);
        return;
    }
    c = find_command(words, &n);
    if (!c) {
        return;
    }
    if (c->sub) {
        offer_commands(f, c->sub);
        return;
    }
    p = next_param(c->params, words + n);
    if (p) {
        offer_kind(f, p->kind);
    }
}

static int compare(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

/* A device and its node may have one name. */
static void sort_once(GPtrArray *words)
{
    g_ptr_array_sort(words, compare);
    for (guint i = words->len; i-- > 1;) {
        if (!strcmp(words->pdata[i], words->pdata[i - 1])) {
            g_ptr_array_remove_index(words, i);
        }
    }
}

char **hmp_complete(const char *line)
{
    g_autoptr(GPtrArray) words = g_ptr_array_new_with_free_func(g_free);
    const char *last = line + strlen(line), *p;
    g_autofree char *before = NULL;
    struct finder f = {
        .found = g_ptr_array_new_with_free_func(g_free),
    };
    char *word;

    control_assert();
    while (last > line && !g_ascii_isspace(last[-1])) {
        last--;
    }
    f.start = last;
    p = before = g_strndup(line, last - line);
    while ((word = hmp_word(&p, NULL))) {
        g_ptr_array_add(words, word);
    }
    g_ptr_array_add(words, NULL);
    offer_after(&f, (char **)words->pdata);
    sort_once(f.found);
    g_ptr_array_add(f.found, NULL);
    return (char **)g_ptr_array_free(f.found, FALSE);
}
