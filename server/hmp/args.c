/* SPDX-License-Identifier: MIT */
/* The words of a line become arguments: see args.h. */
#include "server/hmp/args.h"

#include <stdio.h>
#include <string.h>

struct parser {
    const char *p;              /* what is left of the line */
    const char *name;           /* the command's */
    struct error **errp;
};

static const char *skip_blanks(const char *p)
{
    while (g_ascii_isspace(*p)) {
        p++;
    }
    return p;
}

/* ---- words -------------------------------------------------------------- */

/* The text in quotes that begins behind *P's quote. */
static char *quoted_word(const char **p, struct error **errp)
{
    g_autoptr(GString) word = g_string_new(NULL);
    static const char escapes[] = "n\nr\r\\\\''\"\"";
    const char *s = *p + 1;

    for (; *s && *s != '"'; s++) {
        const char *e = NULL;

        if (*s != '\\') {
            g_string_append_c(word, *s);
            continue;
        }
        s++;
        for (e = escapes; *e && *e != *s; e += 2) {
        }
        if (!*s || !*e) {
            error_set(errp, "unsupported escape code: '\\%c'", *s);
            return NULL;
        }
        g_string_append_c(word, e[1]);
    }
    if (*s != '"') {
        error_set(errp, "unterminated string");
        return NULL;
    }
    *p = s + 1;
    return g_strdup(word->str);
}

char *hmp_word(const char **p, struct error **errp)
{
    const char *s = skip_blanks(*p), *end = s;

    *p = s;
    if (!*s) {
        return NULL;
    }
    if (*s == '"') {
        return quoted_word(p, errp);
    }
    while (*end && !g_ascii_isspace(*end)) {
        end++;
    }
    *p = end;
    return g_strndup(s, end - s);
}

/* ---- one parameter ------------------------------------------------------ */

static const char *missing_text(enum hmp_kind kind)
{
    switch (kind) {
    case HMP_BLOCK:
    case HMP_JOB:
        return "block device name expected";
    case HMP_FILE:
        return "filename expected";
    default:
        return "string expected";
    }
}

static bool take_word(struct parser *s, const struct hmp_param *param,
                      struct hmp_value *value)
{
    AUTO_ERROR(err);

    value->text = hmp_word(&s->p, &err);
    value->given = value->text;
    if (value->text || (param->optional && !err)) {
        return true;
    }
    if (err) {
        /* What is wrong with the quotes is said apart: QEMU does. */
        printf("%s\n", error_text(err));
        fflush(stdout);
    }
    error_set(s->errp, "%s: %s", s->name, missing_text(param->kind));
    return false;
}

static bool take_rest(struct parser *s, const struct hmp_param *param,
                      struct hmp_value *value)
{
    s->p = skip_blanks(s->p);
    if (*s->p) {
        value->given = true;
        value->text = g_strdup(s->p);
        s->p += strlen(s->p);
    } else if (!param->optional) {
        error_set(s->errp, "%s: string expected", s->name);
        return false;
    }
    return true;
}

static bool take_size(struct parser *s, const struct hmp_param *param,
                      struct hmp_value *value)
{
    s->p = skip_blanks(s->p);
    if (!*s->p && param->optional) {
        return true;
    }
    if (!hmp_size(&s->p, &value->number)) {
        error_set(s->errp, "invalid size");
        return false;
    }
    value->given = true;
    return true;
}

static bool take_int(struct parser *s, const struct hmp_param *param,
                     struct hmp_value *value)
{
    s->p = skip_blanks(s->p);
    if (!*s->p && param->optional) {
        return true;
    }
    if (!hmp_expression(&s->p, &value->number, s->errp)) {
        return false;
    }
    if (param->kind == HMP_INT32 &&
        (value->number < INT32_MIN || value->number > UINT32_MAX)) {
        error_set(s->errp, "'%s' has failed: integer is for 32-bit values",
                  s->name);
        return false;
    }
    value->given = true;
    return true;
}

static bool take_bool(struct parser *s, const struct hmp_param *param,
                      struct hmp_value *value)
{
    g_autofree char *word = hmp_word(&s->p, NULL);

    if (!word && param->optional) {
        return true;
    }
    value->given = true;
    value->number = word && !strcmp(word, "on");
    if (!word || (!value->number && strcmp(word, "off"))) {
        error_set(s->errp, "Expected 'on' or 'off'");
        return false;
    }
    return true;
}

/* A flag of PARAM or of one that comes after it may stand here: they are
 * taken in their order. */
static bool take_flag(struct parser *s, const struct hmp_param *param,
                      struct hmp_value *value)
{
    const char *p = skip_blanks(s->p);

    s->p = p;
    if (*p != '-') {
        return true;
    }
    if (p[1] == param->letter) {
        value->given = true;
        value->number = 1;
        s->p = p + 2;
        return true;
    }
    for (param++; param->key; param++) {
        if (param->kind == HMP_FLAG && param->letter == p[1]) {
            return true;
        }
    }
    error_set(s->errp, "%s: unsupported option -%c", s->name, p[1]);
    return false;
}

/* "/2x": counts and sizes are for memory, which there is none of. */
static bool take_format(struct parser *s, struct hmp_value *value)
{
    const char *p = skip_blanks(s->p);

    s->p = p;
    if (*p != '/') {
        return true;
    }
    for (p++; g_ascii_isdigit(*p); p++) {
    }
    for (; *p && !g_ascii_isspace(*p); p++) {
        if (strchr("oduxic", *p)) {
            value->given = true;
            value->number = *p;
        } else if (!strchr("bhwgL", *p)) {
            error_set(s->errp, "invalid char in format: '%c'", *p);
            return false;
        }
    }
    s->p = p;
    return true;
}

static bool take(struct parser *s, const struct hmp_param *param,
                 struct hmp_value *value)
{
    switch (param->kind) {
    case HMP_STRING:
    case HMP_BLOCK:
    case HMP_JOB:
    case HMP_DEVICE:
    case HMP_OBJECT:
    case HMP_FILE:
    case HMP_OPTIONS:
        return take_word(s, param, value);
    case HMP_REST:
        return take_rest(s, param, value);
    case HMP_SIZE:
        return take_size(s, param, value);
    case HMP_INT:
    case HMP_INT32:
        return take_int(s, param, value);
    case HMP_BOOL:
        return take_bool(s, param, value);
    case HMP_FLAG:
        return take_flag(s, param, value);
    case HMP_FORMAT:
        return take_format(s, value);
    }
    g_assert_not_reached();
}

/* ---- all of them -------------------------------------------------------- */

bool hmp_args_parse(struct hmp_args *a, const struct hmp_param *params,
                    const char *name, const char *line, struct error **errp)
{
    static const struct hmp_param none[] = { { NULL } };
    struct parser s = { .p = line, .name = name, .errp = errp };

    *a = (struct hmp_args) { .params = params ? params : none };
    for (int i = 0; a->params[i].key; i++) {
        g_assert(i < HMP_MAX_PARAMS);
        if (!take(&s, &a->params[i], &a->values[i])) {
            return false;
        }
    }
    if (*skip_blanks(s.p)) {
        error_set(errp, "%s: extraneous characters at the end of line", name);
        return false;
    }
    return true;
}

void hmp_args_clear(struct hmp_args *a)
{
    for (int i = 0; i < HMP_MAX_PARAMS; i++) {
        g_clear_pointer(&a->values[i].text, g_free);
    }
}

static const struct hmp_value *find(const struct hmp_args *a, const char *key)
{
    for (int i = 0; a->params[i].key; i++) {
        if (!strcmp(a->params[i].key, key)) {
            return &a->values[i];
        }
    }
    g_assert_not_reached();
}

const char *hmp_arg_text(const struct hmp_args *a, const char *key)
{
    return find(a, key)->text;
}

int64_t hmp_arg_number(const struct hmp_args *a, const char *key)
{
    return find(a, key)->number;
}

bool hmp_arg_given(const struct hmp_args *a, const char *key)
{
    return find(a, key)->given;
}

bool hmp_arg_flag(const struct hmp_args *a, const char *key)
{
    return find(a, key)->given;
}
