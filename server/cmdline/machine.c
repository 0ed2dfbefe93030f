/* SPDX-License-Identifier: MIT */
/* Options about the machine as a whole. */
#include "server/cmdline/handlers.h"

#include <string.h>
#include "base/clock.h"
#include "server/machine/device.h"
#include "server/machine/machine.h"
#include "server/machine/runstate.h"
#include "server/not-there.h"

static bool accel_chosen;
static bool accel_failed;       /* one that there is not was named */
static GString *machine_text;   /* owned: all -machine; NULL: none */
static char *machine_type;      /* owned: the last name; NULL: none */

/* ---- -accel ------------------------------------------------------------- */

static bool is_accel(const char *name)
{
    static const char *const names[] = {
        "kvm", "qtest", "tcg", "hvf", "mshv", "nvmm", "whpx", "xen",
    };

    for (size_t i = 0; i < G_N_ELEMENTS(names); i++) {
        if (!strcmp(names[i], name)) {
            return true;
        }
    }
    return false;
}

/* PLACE: what error messages begin with. */
static void choose_accel(const char *name, const char *place)
{
    if (accel_chosen) {
        return;
    }
    if (!is_accel(name)) {
        error_report_text("%sinvalid accelerator %s", place, name);
        accel_failed = true;
        return;
    }
    if (accel_failed) {
        error_report_text("falling back to %s", name);
    }
    if (!strcmp(name, "qtest")) {
        clock_virtual_stop();
    }
    accel_chosen = true;
}

bool option_accel(const struct option *o, struct error **errp)
{
    g_autofree char *place = g_strdup_printf("%s: ", o->location);
    g_autofree char *named = text_value(o->text, "accel");
    g_autofree char *first = g_strndup(o->text, strcspn(o->text, ","));

    if (!text_check(o->text, "accel", errp)) {
        return false;
    }
    choose_accel(named ? named : first, place);
    return true;
}

bool accel_is_usable(void)
{
    return accel_chosen || !accel_failed;
}

/* ---- -machine ----------------------------------------------------------- */

bool option_machine(const char *text, struct error **errp)
{
    g_autofree char *expanded = text_expand_switches(text);
    json_t *object = text_parse(expanded, "type", errp);
    const char *key;
    json_t *value;

    if (!object) {
        return false;
    }
    if (!machine_text) {
        machine_text = g_string_new(NULL);
    }
    json_object_foreach(object, key, value) {
        const char *said = json_string_value(value);
        g_autofree char *quoted = text_quote(said ? said : "");

        if (!strcmp(key, "type")) {
            g_free(machine_type);
            machine_type = g_strdup(said);
        } else if (said) {
            g_string_append_printf(machine_text, ",%s=%s", key, quoted);
        }
    }
    json_decref(object);
    return true;
}

bool machine_apply(struct error **errp)
{
    g_autofree char *text = NULL, *accel = NULL;
    g_auto(GStrv) names = NULL;

    if (!machine_text) {
        return true;
    }
    text = machine_type && *machine_type
        ? g_strdup_printf("type=%s%s", machine_type, machine_text->str)
        : g_strdup(machine_text->str + (machine_text->len > 0));
    accel = text_value(text, "accel");
    g_string_free(machine_text, TRUE);
    machine_text = NULL;
    g_clear_pointer(&machine_type, g_free);
    if (!machine_set(text, errp)) {
        return false;
    }
    names = g_strsplit(accel ? accel : "", ":", -1);
    for (char **name = names; *name; name++) {
        choose_accel(*name, "");
    }
    return true;
}

/* ---- names -------------------------------------------------------------- */

bool option_name(const char *text, struct error **errp)
{
    static const char *const keys[] = { "guest", "process", "debug-threads" };
    g_autofree char *expanded = text_expand_switches(text);
    json_t *object = text_parse(expanded, "guest", errp);
    const char *guest;
    void *left;

    if (!object) {
        return false;
    }
    guest = json_string_value(json_object_get(object, "guest"));
    if (guest) {
        machine_set_guest_name(guest);
    }
    for (size_t i = 0; i < G_N_ELEMENTS(keys); i++) {
        json_object_del(object, keys[i]);
    }
    left = json_object_iter(object);
    if (left) {
        error_set(errp, "Invalid parameter '%s'", json_object_iter_key(left));
    }
    json_decref(object);
    return !left;
}

bool option_uuid(const char *text, struct error **errp)
{
    AUTO_ERROR(err);

    if (machine_set_uuid(text, &err)) {
        return true;
    }
    error_set(errp, "failed to parse UUID string: wrong format");
    return false;
}

/* There is nobody to listen to: a state that a client can end by "cont", but
 * nothing comes in. */
bool option_incoming(const char *text, struct error **errp)
{
    static const char *const protocols[] = {
        "exec:", "fd:", "file:", "rdma:", "tcp:", "unix:", "vsock:",
    };
    bool known = text_is_json(text);

    if (!strcmp(text, "defer")) {
        runstate_init(RUN_STATE_INMIGRATE);
        return true;
    }
    for (size_t i = 0; i < G_N_ELEMENTS(protocols); i++) {
        known = known || g_str_has_prefix(text, protocols[i]);
    }
    if (known) {
        error_set(errp, "%s", not_there_reason("migrate"));
    } else {
        error_set(errp, "unknown migration protocol: %s", text);
    }
    return false;
}
