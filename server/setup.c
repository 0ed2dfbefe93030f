/* SPDX-License-Identifier: MIT */
/* What the options of the command line do: see setup.h. */
#include "server/setup.h"

#include <string.h>
#include "nbd/nbd.h"
#include "qapi/qapi-commands.h"
#include "qapi/qapi-visit.h"
#include "server/chardev.h"
#include "server/daemonize.h"
#include "server/monitor.h"
#include "server/options.h"
#include "server/wire.h"

static bool is_json(const char *text)
{
    return text[strspn(text, " \t\r\n")] == '{';
}

/*
 * TEXT as a value of a generated type, from JSON or key=value.
 * PARSE(JSON, KEYVAL, IMPLIED KEY)
 */
#define OPTION_VALUE(type, text, implied_key, errp)                         \
    ({                                                                      \
        json_t *object_ = is_json(text) ? wire_parse(text, errp)            \
            : qapi_keyval_parse(text, implied_key, errp);                   \
        type *value_ = !object_ ? NULL                                      \
            : is_json(text) ? type##_from_json(object_, errp)               \
            : type##_from_keyval(object_, errp);                            \
        json_decref(object_);                                               \
        value_;                                                             \
    })

static bool do_blockdev(const char *text, struct error **errp)
{
    g_autoptr(BlockdevOptions) options =
        OPTION_VALUE(BlockdevOptions, text, "driver", errp);

    return options && qmp_blockdev_add(options, errp);
}

static bool do_nbd_server(const char *text, struct error **errp)
{
    g_autoptr(NbdServerOptions) options =
        OPTION_VALUE(NbdServerOptions, text, NULL, errp);

    return options && nbd_start(options, errp);
}

static bool do_export(const char *text, struct error **errp)
{
    g_autoptr(BlockExportOptions) options =
        OPTION_VALUE(BlockExportOptions, text, "type", errp);

    return options && qmp_block_export_add(options, errp);
}

static bool do_object(const char *text, struct error **errp)
{
    g_autoptr(ObjectOptions) options =
        OPTION_VALUE(ObjectOptions, text, "qom-type", errp);

    return options && qmp_object_add(options, errp);
}

static bool add_chardev(const struct chardev_options *options,
                        struct error **errp)
{
    if (options->is_stdio && daemon_forked()) {
        error_set(errp, "cannot use stdio with -daemonize");
        return false;
    }
    return chardev_add(options, errp);
}

static bool do_chardev(const char *text, struct error **errp)
{
    struct chardev_options *options = chardev_options_parse(text, errp);
    bool ok = options && add_chardev(options, errp);

    chardev_options_free(options);
    return ok;
}

/* Take the text of KEY out of OBJECT, or NULL. */
static char *take_text(json_t *object, const char *key)
{
    char *text = g_strdup(json_string_value(json_object_get(object, key)));

    json_object_del(object, key);
    return text;
}

static bool add_monitor(json_t *object, struct error **errp)
{
    g_autofree char *chardev = take_text(object, "chardev");
    g_autofree char *mode = take_text(object, "mode");
    g_autofree char *id = take_text(object, "id");
    json_t *pretty = json_incref(json_object_get(object, "pretty"));
    const char *switched = json_string_value(pretty);
    struct monitor_options options = {
        .chardev = chardev,
        .pretty = json_is_true(pretty) || !g_strcmp0(switched, "on"),
    };
    void *left;

    json_object_del(object, "pretty");
    json_decref(pretty);
    left = json_object_iter(object);
    if (left) {
        error_set(errp, "Parameter '%s' is unexpected",
                  json_object_iter_key(left));
    } else if (!chardev) {
        error_set(errp, "Parameter 'chardev' is missing");
    } else if (mode && strcmp(mode, "control")) {
        error_set(errp, "Parameter 'mode' does not accept value '%s'", mode);
    } else {
        return monitor_add(&options, errp);
    }
    return false;
}

static bool check_pretty(json_t *object, struct error **errp)
{
    json_t *pretty = json_object_get(object, "pretty");
    const char *text = json_string_value(pretty);

    if (pretty && !json_is_boolean(pretty) && g_strcmp0(text, "on") &&
        g_strcmp0(text, "off")) {
        error_set(errp, "Parameter 'pretty' expects 'on' or 'off'");
        return false;
    }
    return true;
}

static bool do_monitor(const char *text, struct error **errp)
{
    json_t *object = is_json(text) ? wire_parse(text, errp)
        : qapi_keyval_parse(text, "chardev", errp);
    bool ok = object && check_pretty(object, errp) &&
        add_monitor(object, errp);

    json_decref(object);
    return ok;
}

static bool do_qmp(const char *text, bool pretty, struct error **errp)
{
    g_autofree char *id = g_strdup_printf("qmp-%d", monitor_count());
    struct chardev_options *where =
        chardev_options_parse_where(text, id, errp);
    struct monitor_options options = { .chardev = id, .pretty = pretty };
    bool ok = where && add_chardev(where, errp) &&
        monitor_add(&options, errp);

    chardev_options_free(where);
    return ok;
}

static bool setup_option(const struct option *o, struct error **errp)
{
    switch (o->kind) {
    case OPTION_BLOCKDEV:
        return do_blockdev(o->text, errp);
    case OPTION_CHARDEV:
        return do_chardev(o->text, errp);
    case OPTION_EXPORT:
        return do_export(o->text, errp);
    case OPTION_MONITOR:
        return do_monitor(o->text, errp);
    case OPTION_NBD_SERVER:
        return do_nbd_server(o->text, errp);
    case OPTION_OBJECT:
        return do_object(o->text, errp);
    case OPTION_QMP:
        return do_qmp(o->text, false, errp);
    case OPTION_QMP_PRETTY:
        return do_qmp(o->text, true, errp);
    case OPTION_DAEMONIZE:
    case OPTION_HELP:
    case OPTION_PIDFILE:
    case OPTION_TRACE:
    case OPTION_VERSION:
        return true;
    }
    g_assert_not_reached();
}

bool setup_options(const GArray *options)
{
    for (guint i = 0; i < options->len; i++) {
        const struct option *o = &g_array_index(options, struct option, i);
        AUTO_ERROR(err);

        if (!setup_option(o, &err)) {
            error_prepend(&err, "%s %s: ", o->spelling, o->text);
            error_report(err);
            return false;
        }
    }
    return true;
}
