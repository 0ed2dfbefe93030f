/* SPDX-License-Identifier: MIT */
/*
 * blkdebug's config file: sections of key = "value", each a rule.
 *
 *     [inject-error]          [set-state]           [suspend]
 *     event = "read_aio"      event = "write_aio"   event = "l2_update"
 *     errno = "28"            new_state = "2"       tag = "A"
 *
 * Empty lines and lines that begin with # are skipped; a section may carry
 * an id that means nothing: [inject-error "one"].
 */
#include "block/filters/blkdebug.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>
#include "base/error.h"

enum { MAX_FILE_BYTES = 1 << 20 };

struct parser {
    const char *path;
    int line_number;
    struct blkdebug_rule *rule; /* owned: of the section so far, or NULL */
    bool has_event;
    GPtrArray *rules;           /* borrowed: those that are complete */
};

/* ---- values ------------------------------------------------------------- */

static bool parse_number(const char *key, const char *text, int64_t *value,
                         struct error **errp)
{
    char *end;

    errno = 0;
    *value = g_ascii_strtoll(text, &end, 0);
    if (errno || end == text || *end) {
        error_set(errp, "Parameter '%s' expects a number", key);
        return false;
    }
    return true;
}

static bool parse_bool(const char *key, const char *text, bool *value,
                       struct error **errp)
{
    *value = strcmp(text, "on") == 0;
    if (!*value && strcmp(text, "off") != 0) {
        error_set(errp, "Parameter '%s' expects 'on' or 'off'", key);
        return false;
    }
    return true;
}

static bool parse_event(const char *text, BlkdebugEvent *event,
                        struct error **errp)
{
    for (int i = 0; i < BLKDEBUG_EVENT__MAX; i++) {
        if (strcmp(text, BlkdebugEvent_str(i)) == 0) {
            *event = i;
            return true;
        }
    }
    error_set(errp, "invalid parameter value: %s", text);
    return false;
}

static bool parse_iotype(const char *text, unsigned *iotypes,
                         struct error **errp)
{
    for (int i = 0; i < BLKDEBUG_IO_TYPE__MAX; i++) {
        if (strcmp(text, BlkdebugIOType_str(i)) == 0) {
            *iotypes = 1u << i;
            return true;
        }
    }
    error_set(errp, "invalid parameter value: %s", text);
    return false;
}

/* ---- members ------------------------------------------------------------ */

static bool set_inject(struct blkdebug_rule *rule, const char *key,
                       const char *value, struct error **errp)
{
    bool unused;
    int64_t n;

    if (strcmp(key, "iotype") == 0) {
        return parse_iotype(value, &rule->iotypes, errp);
    }
    if (strcmp(key, "errno") == 0) {
        if (!parse_number(key, value, &n, errp)) {
            return false;
        }
        rule->error = n < 0 || n > INT_MAX ? -1 : n;
        return true;
    }
    if (strcmp(key, "sector") == 0) {
        return parse_number(key, value, &rule->sector, errp);
    }
    if (strcmp(key, "once") == 0) {
        return parse_bool(key, value, &rule->once, errp);
    }
    if (strcmp(key, "immediately") == 0) {
        return parse_bool(key, value, &unused, errp);
    }
    error_set(errp, "Invalid parameter '%s'", key);
    return false;
}

static bool set_member(struct parser *p, const char *key, const char *value,
                       struct error **errp)
{
    struct blkdebug_rule *rule = p->rule;

    if (strcmp(key, "event") == 0) {
        p->has_event = true;
        return parse_event(value, &rule->event, errp);
    }
    if (strcmp(key, "state") == 0) {
        return parse_number(key, value, &rule->state, errp);
    }
    if (rule->action == BLKDEBUG_INJECT) {
        return set_inject(rule, key, value, errp);
    }
    if (rule->action == BLKDEBUG_SET_STATE && strcmp(key, "new_state") == 0) {
        return parse_number(key, value, &rule->new_state, errp);
    }
    if (rule->action == BLKDEBUG_SUSPEND && strcmp(key, "tag") == 0) {
        g_free(rule->tag);
        rule->tag = g_strdup(value);
        return true;
    }
    error_set(errp, "Invalid parameter '%s'", key);
    return false;
}

/* ---- lines -------------------------------------------------------------- */

static bool end_section(struct parser *p, struct error **errp)
{
    struct blkdebug_rule *rule = p->rule;

    if (!rule) {
        return true;
    }
    if (!p->has_event) {
        error_set(errp, "Missing event name for rule");
        return false;
    }
    if (rule->action == BLKDEBUG_SUSPEND && !rule->tag) {
        error_set(errp, "Missing tag for rule");
        return false;
    }
    if (!blkdebug_rule_check(rule, errp)) {
        return false;
    }
    g_ptr_array_add(p->rules, g_steal_pointer(&p->rule));
    return true;
}

static bool begin_section(struct parser *p, const char *line,
                          struct error **errp)
{
    static const char *const names[] = {
        [BLKDEBUG_INJECT] = "inject-error",
        [BLKDEBUG_SET_STATE] = "set-state",
        [BLKDEBUG_SUSPEND] = "suspend",
    };
    size_t length = strcspn(line + 1, " ]");
    g_autofree char *name = g_strndup(line + 1, length);

    if (!end_section(p, errp)) {
        return false;
    }
    if (!strchr(line, ']')) {
        error_set(errp, "parse error");
        return false;
    }
    for (size_t i = 0; i < G_N_ELEMENTS(names); i++) {
        if (strcmp(name, names[i]) == 0) {
            p->rule = blkdebug_rule_new(i, 0);
            p->has_event = false;
            return true;
        }
    }
    error_set(errp, "There is no option group '%s'", name);
    return false;
}

static bool parse_member(struct parser *p, char *line, struct error **errp)
{
    char *key = line, *value, *end;

    if (!p->rule) {
        error_set(errp, "no group defined");
        return false;
    }
    end = key + strcspn(key, " \t=");
    value = end + strspn(end, " \t");
    if (end == key || *value != '=') {
        error_set(errp, "parse error");
        return false;
    }
    value++;
    value += strspn(value, " \t");
    *end = '\0';
    end = *value == '"' ? strchr(value + 1, '"') : NULL;
    if (!end) {
        error_set(errp, "parse error");
        return false;
    }
    *end = '\0';
    return set_member(p, key, value + 1, errp);
}

static bool parse_line(struct parser *p, char *line, struct error **errp)
{
    g_strstrip(line);
    if (line[0] == '\0' || line[0] == '#') {
        return true;
    }
    return line[0] == '[' ? begin_section(p, line, errp)
                          : parse_member(p, line, errp);
}

static bool parse(struct parser *p, const char *text, struct error **errp)
{
    g_auto(GStrv) lines = g_strsplit(text, "\n", -1);

    for (guint i = 0; lines[i]; i++) {
        AUTO_ERROR(err);

        p->line_number = i + 1;
        if (!parse_line(p, lines[i], &err)) {
            error_append_hint(&err, "%s:%d\n", p->path, p->line_number);
            error_propagate(errp, g_steal_pointer(&err));
            return false;
        }
    }
    return end_section(p, errp);
}

/* ---- the file ----------------------------------------------------------- */

/* Owned text, or NULL.  Not everything that can be named is a file: a pipe
 * must not hold us up, a device not fill the memory. */
static char *read_text(const char *path, struct error **errp)
{
    g_autofree char *text = g_malloc(MAX_FILE_BYTES + 1);
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    ssize_t n = 0;
    size_t length = 0;

    if (fd >= 0) {
        do {
            n = read(fd, text + length, MAX_FILE_BYTES - length);
            length += MAX(n, 0);
        } while ((n > 0 && length < MAX_FILE_BYTES) ||
                 (n < 0 && errno == EINTR));
    }
    if (fd < 0 || n < 0) {
        error_set_errno(errp, errno, "Could not read blkdebug config file");
    } else if (n > 0) {
        error_set(errp, "Could not read blkdebug config file: it is too long");
    }
    if (fd >= 0) {
        close(fd);
    }
    if (fd < 0 || n != 0) {
        return NULL;
    }
    text[length] = '\0';
    return g_steal_pointer(&text);
}

bool blkdebug_read_config(const char *path, GPtrArray *rules,
                          struct error **errp)
{
    struct parser p = { .path = path, .rules = rules };
    g_autofree char *text = read_text(path, errp);
    bool ok = text && parse(&p, text, errp);

    if (p.rule) {
        blkdebug_rule_free(p.rule);
    }
    return ok;
}
