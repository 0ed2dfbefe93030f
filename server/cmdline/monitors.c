/* SPDX-License-Identifier: MIT */
/* Options that make channels and monitors. */
#include "server/cmdline/handlers.h"

#include <string.h>
#include "server/chardev.h"
#include "server/daemonize.h"
#include "server/hmp/monitor.h"
#include "server/monitor.h"

static bool add_chardev(const struct chardev_options *options,
                        struct error **errp)
{
    if (options->kind == CHARDEV_STDIO && daemon_forked()) {
        error_set(errp, "cannot use stdio with -daemonize");
        return false;
    }
    return chardev_add(options, errp);
}

bool option_chardev(const char *text, struct error **errp)
{
    struct chardev_options *options = chardev_options_parse(text, errp);
    bool ok = options && add_chardev(options, errp);

    chardev_options_free(options);
    return ok;
}

bool option_open_channel(const char *text, char **id, struct error **errp)
{
    static int n;
    struct chardev_options *where;
    bool ok;

    *id = NULL;
    if (!strcmp(text, "none") || !strcmp(text, "null") ||
        !strcmp(text, "vc") || g_str_has_prefix(text, "vc:")) {
        return true;
    }
    if (g_str_has_prefix(text, "chardev:")) {
        text += strlen("chardev:");
        if (!chardev_find(text)) {
            error_set(errp, "chardev \"%s\" not found", text);
            return false;
        }
        *id = g_strdup(text);
        return true;
    }
    *id = g_strdup_printf("compat_monitor%d", n++);
    where = chardev_options_parse_where(text, *id, errp);
    ok = where && add_chardev(where, errp);
    chardev_options_free(where);
    if (!ok) {
        g_clear_pointer(id, g_free);
    }
    return ok;
}

/* ---- monitors ----------------------------------------------------------- */

bool option_qmp(const char *id, bool pretty, struct error **errp)
{
    const struct monitor_options options = {
        .chardev = id, .pretty = pretty,
    };

    return monitor_add(&options, errp);
}

bool option_hmp(const char *id, struct error **errp)
{
    return hmp_monitor_add(id, errp);
}

/* Take the text of KEY out of OBJECT, or NULL. */
static char *take_text(json_t *object, const char *key)
{
    char *text = g_strdup(json_string_value(json_object_get(object, key)));

    json_object_del(object, key);
    return text;
}

static bool take_pretty(json_t *object, bool *pretty, struct error **errp)
{
    json_t *value = json_object_get(object, "pretty");
    const char *text = json_string_value(value);

    if (value && !json_is_boolean(value) && g_strcmp0(text, "on") &&
        g_strcmp0(text, "off")) {
        error_set(errp, "Parameter 'pretty' expects 'on' or 'off'");
        return false;
    }
    *pretty = json_is_true(value) || !g_strcmp0(text, "on");
    json_object_del(object, "pretty");
    return true;
}

static bool add_monitor(json_t *object, struct error **errp)
{
    g_autofree char *chardev = take_text(object, "chardev");
    g_autofree char *mode = take_text(object, "mode");
    g_autofree char *id = take_text(object, "id");
    bool control = !persona_has_machine(), pretty;
    void *left;

    if (!take_pretty(object, &pretty, errp)) {
        return false;
    }
    left = json_object_iter(object);
    if (left) {
        error_set(errp, "Parameter '%s' is unexpected",
                  json_object_iter_key(left));
        return false;
    }
    if (!chardev) {
        error_set(errp, "Parameter 'chardev' is missing");
        return false;
    }
    if (mode && strcmp(mode, "control") && strcmp(mode, "readline")) {
        error_set(errp, "Parameter 'mode' does not accept value '%s'", mode);
        return false;
    }
    control = mode ? !strcmp(mode, "control") : control;
    if (!chardev_find(chardev)) {
        error_set(errp, "chardev \"%s\" not found", chardev);
        return false;
    }
    if (control) {
        return option_qmp(chardev, pretty, errp);
    }
    if (!persona_has_machine()) {
        error_set(errp, "Only QMP is supported");
        return false;
    }
    if (pretty) {
        error_set(errp, "'pretty' is not compatible with HMP monitors");
        return false;
    }
    return option_hmp(chardev, errp);
}

bool option_mon(const char *text, struct error **errp)
{
    g_autofree char *expanded = text_is_json(text) ? g_strdup(text)
        : text_expand_switches(text);
    json_t *object = text_parse(expanded, "chardev", errp);
    bool ok = object && add_monitor(object, errp);

    json_decref(object);
    return ok;
}
