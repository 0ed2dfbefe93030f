/* SPDX-License-Identifier: MIT */
/* HMP's commands for devices, objects and descriptors. */
#include "server/hmp/command.h"

#include <stdlib.h>
#include <string.h>
#include "qapi/qapi-commands.h"
#include "qapi/qapi-visit.h"
#include "server/machine/device.h"
#include "server/wire.h"

static char *text(const struct hmp_args *a, const char *key)
{
    return (char *)hmp_arg_text(a, key);
}

/* ---- devices ------------------------------------------------------------ */

/* "TYPE,key=value,switch" as an object of texts: a flat list, as -device.
 * A comma in a value is written twice. */
static json_t *parse_options(const char *p)
{
    json_t *options = json_object();
    g_autoptr(GString) part = g_string_new(NULL);
    bool first = true;

    for (; *p || part->len; p += *p != '\0') {
        char *equals;

        if (*p && (*p != ',' || p[1] == ',')) {
            p += *p == ',';
            g_string_append_c(part, *p);
            continue;
        }
        equals = strchr(part->str, '=');
        if (equals) {
            *equals++ = '\0';
            json_object_set_new(options, part->str, json_string(equals));
        } else if (first) {
            json_object_set_new(options, "driver", json_string(part->str));
        } else {
            json_object_set_new(options, part->str, json_string("on"));
        }
        first = false;
        g_string_truncate(part, 0);
    }
    return options;
}

void hmp_device_add(struct hmp *m, const struct hmp_args *a)
{
    const char *line = hmp_arg_text(a, "device");
    json_t *options = parse_options(line ? line : "");
    struct error *err = NULL;

    if (!json_object_get(options, "driver")) {
        error_set(&err, "Parameter 'driver' is missing");
    } else {
        device_add(options, &err);
    }
    json_decref(options);
    hmp_error(m, err);
}

void hmp_device_del(struct hmp *m, const struct hmp_args *a)
{
    struct error *err = NULL;

    device_del(hmp_arg_text(a, "id"), &err);
    hmp_error(m, err);
}

void hmp_info_qtree(struct hmp *m, const struct hmp_args *a)
{
    g_autofree char *tree = device_tree_text();

    hmp_printf(m, "%s", tree);
}

/* ---- objects ------------------------------------------------------------ */

/* As QMP reads it, with its texts.  A new reference. */
static json_t *parse_json(const char *text, struct error **errp)
{
    struct wire *wire = wire_new();
    g_autofree char *line = g_strconcat(text, "\n", NULL);
    g_autofree char *wrong = NULL;
    const char *p = line;
    json_t *value = NULL;

    if (wire_next(wire, &p, line + strlen(line), &value, &wrong) ==
        WIRE_MORE) {
        wrong = g_strdup("JSON parse error, expecting value");
    }
    wire_free(wire);
    if (wrong) {
        error_set(errp, "%s", wrong);
    }
    return value;
}

static bool object_add(const char *line, struct error **errp)
{
    g_autoptr(ObjectOptions) options = NULL;
    json_t *json;

    if (*line == '{') {
        json = parse_json(line, errp);
        if (!json) {
            return false;
        }
        options = ObjectOptions_from_json(json, errp);
    } else {
        json = qapi_keyval_parse(line, "qom-type", errp);
        if (!json) {
            return false;
        }
        options = ObjectOptions_from_keyval(json, errp);
    }
    json_decref(json);
    return options && qmp_object_add(options, errp);
}

void hmp_object_add(struct hmp *m, const struct hmp_args *a)
{
    struct error *err = NULL;

    object_add(hmp_arg_text(a, "object"), &err);
    hmp_error(m, err);
}

void hmp_object_del(struct hmp *m, const struct hmp_args *a)
{
    const ObjectDelArgs args = { .id = text(a, "id") };
    struct error *err = NULL;

    qmp_object_del(&args, &err);
    hmp_error(m, err);
}

void hmp_qom_list(struct hmp *m, const struct hmp_args *a)
{
    const QomListArgs args = { .path = text(a, "path") };
    g_autoptr(ObjectPropertyInfoList) list = NULL;
    struct error *err = NULL;

    if (!args.path) {
        hmp_printf(m, "/\n");
        return;
    }
    list = qmp_qom_list(&args, &err);
    for (size_t i = 0; list && i < list->n; i++) {
        hmp_printf(m, "%s (%s)\n", list->v[i]->name, list->v[i]->type);
    }
    hmp_error(m, err);
}

void hmp_qom_get(struct hmp *m, const struct hmp_args *a)
{
    const QomGetArgs args = {
        .path = text(a, "path"), .property = text(a, "property"),
    };
    struct error *err = NULL;
    json_t *value = qmp_qom_get(&args, &err);

    if (value) {
        g_autofree char *dump = qapi_json_dump(value, true, NULL);

        hmp_printf(m, "%s\n", dump);
        json_decref(value);
    }
    hmp_error(m, err);
}

/* TEXT as what a property is that now has the value OLD; NULL: it is none. */
static json_t *value_like(const json_t *old, const char *line)
{
    static const char *const yes[] = { "on", "yes", "true", "y", NULL };
    static const char *const no[] = { "off", "no", "false", "n", NULL };
    char *end;

    if (json_is_boolean(old)) {
        return g_strv_contains(yes, line) ? json_true()
            : g_strv_contains(no, line) ? json_false() : NULL;
    }
    if (json_is_integer(old)) {
        long long number = strtoll(line, &end, 0);

        return *line && !*end ? json_integer(number) : NULL;
    }
    return json_string(line);
}

static json_t *parse_value(const QomSetArgs *args, const char *line,
                           bool is_json, struct error **errp)
{
    const QomGetArgs get = { .path = args->path, .property = args->property };
    json_t *old, *value;

    if (is_json) {
        return parse_json(line, errp);
    }
    old = qmp_qom_get(&get, errp);
    if (!old) {
        return NULL;
    }
    value = value_like(old, line);
    if (!value) {
        error_set(errp, "Parameter '%s' expects %s", args->property,
                  json_is_boolean(old) ? "'on' or 'off'" : "int64");
    }
    json_decref(old);
    return value;
}

void hmp_qom_set(struct hmp *m, const struct hmp_args *a)
{
    QomSetArgs args = {
        .path = text(a, "path"), .property = text(a, "property"),
    };
    struct error *err = NULL;

    args.value = parse_value(&args, hmp_arg_text(a, "value"),
                             hmp_arg_flag(a, "json"), &err);
    if (args.value) {
        qmp_qom_set(&args, &err);
        json_decref(args.value);
    }
    hmp_error(m, err);
}

/* ---- descriptors -------------------------------------------------------- */

void hmp_getfd(struct hmp *m, const struct hmp_args *a)
{
    const GetfdArgs args = { .fdname = text(a, "fdname") };
    struct error *err = NULL;

    qmp_getfd(&args, &err);
    hmp_error(m, err);
}

void hmp_closefd(struct hmp *m, const struct hmp_args *a)
{
    const ClosefdArgs args = { .fdname = text(a, "fdname") };
    struct error *err = NULL;

    qmp_closefd(&args, &err);
    hmp_error(m, err);
}
