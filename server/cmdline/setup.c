/* SPDX-License-Identifier: MIT */
/*
 * What the options of the command line do, in order: see setup.h.
 *
 * Problem     The storage daemon carries options out as they come.  The
 *             system emulator goes through them by kind, so that a -drive may
 *             name an -object that comes behind it.
 * Answer      A table says in which pass of the system emulator each kind
 *             has its turn; for all others there is one pass.
 */
#include "server/cmdline/setup.h"

#include <string.h>
#include "block/inactive.h"
#include "server/cmdline/checks.h"
#include "server/cmdline/handlers.h"
#include "server/fdset.h"
#include "server/machine/device.h"
#include "server/machine/machine.h"
#include "server/machine/runstate.h"
#include "server/qtest.h"

/* In the order in which they are gone through. */
enum pass {
    PASS_FIRST,                 /* the machine, names, the clock */
    PASS_OBJECTS,
    PASS_CHANNELS,
    PASS_NODES,
    PASS_DRIVES,
    PASS_MONITORS,
    PASS_DEVICES,
    PASS_EXPORTS,
    PASS_LAST,
    PASS__MAX
};

static enum pass pass_of(enum option_kind kind)
{
    switch (kind) {
    case OPTION_OBJECT:
        return PASS_OBJECTS;
    case OPTION_CHARDEV:
    case OPTION_SERIAL:
        return PASS_CHANNELS;
    case OPTION_BLOCKDEV:
        return PASS_NODES;
    case OPTION_DRIVE:
    case OPTION_IMAGE:
        return PASS_DRIVES;
    case OPTION_MON:
    case OPTION_MONITOR:
    case OPTION_NOGRAPHIC:
    case OPTION_QMP:
    case OPTION_QMP_PRETTY:
    case OPTION_QTEST:
        return PASS_MONITORS;
    case OPTION_DEVICE:
        return PASS_DEVICES;
    case OPTION_NBD_SERVER:
    case OPTION_EXPORT:
        return PASS_EXPORTS;
    case OPTION_CHROOT:
    case OPTION_RUNAS:
        return PASS_LAST;
    default:
        return PASS_FIRST;
    }
}

static bool do_channel(const struct option *o, struct error **errp)
{
    bool with_monitor = o->kind == OPTION_SERIAL &&
        g_str_has_prefix(o->text, "mon:");
    g_autofree char *id = NULL;

    if (!option_open_channel(o->text + (with_monitor ? strlen("mon:") : 0),
                             &id, errp)) {
        return false;
    }
    if (!id) {
        return true;
    }
    switch (o->kind) {
    case OPTION_QMP:
    case OPTION_QMP_PRETTY:
        return option_qmp(id, o->kind == OPTION_QMP_PRETTY, errp);
    case OPTION_MONITOR:
        return option_hmp(id, errp);
    default:
        return !with_monitor || option_hmp(id, errp);
    }
}

static bool do_monitor(const struct option *o, struct error **errp)
{
    if (!persona_has_machine() || text_is_json(o->text) ||
        g_str_has_prefix(o->text, "chardev=")) {
        return option_mon(o->text, errp);
    }
    return do_channel(o, errp);
}

/* Nothing comes of it, but a device may name it. */
static bool check_netdev(const struct option *o, struct error **errp)
{
    g_autofree char *expanded = text_is_json(o->text) ? g_strdup(o->text)
        : text_expand_switches(o->text);
    json_t *object = text_parse(expanded, "type", errp);
    bool ok = object && json_object_get(object, "id");

    if (object && !ok) {
        error_set(errp, "Parameter 'id' is missing");
    }
    json_decref(object);
    return ok;
}

/* Those that are a text and nothing else. */
static const struct {
    enum option_kind kind;
    bool (*run)(const char *text, struct error **errp);
} text_options[] = {
    { OPTION_ADD_FD, fdset_add_option },
    { OPTION_BLOCKDEV, option_blockdev },
    { OPTION_CHARDEV, option_chardev },
    { OPTION_DEVICE, option_device },
    { OPTION_EXPORT, option_export },
    { OPTION_INCOMING, option_incoming },
    { OPTION_MACHINE, option_machine },
    { OPTION_MON, option_mon },
    { OPTION_NAME, option_name },
    { OPTION_NBD_SERVER, option_nbd_server },
    { OPTION_OBJECT, option_object },
    { OPTION_QTEST, qtest_add },
    { OPTION_RUNAS, option_runas },
    { OPTION_UUID, option_uuid },
};

static bool do_key_value(const struct option *o, struct error **errp)
{
    g_autofree char *shutdown = text_value(o->text, "shutdown");

    if (!option_check(o, errp)) {
        return false;
    }
    if (!strcmp(o->desc->name, "action") && shutdown) {
        machine_set_no_shutdown(!strcmp(shutdown, "pause"));
    }
    return true;
}

static bool do_option(const struct option *o, struct error **errp)
{
    for (size_t i = 0; i < G_N_ELEMENTS(text_options); i++) {
        if (text_options[i].kind == o->kind) {
            return text_options[i].run(o->text, errp);
        }
    }
    switch (o->kind) {
    case OPTION_ACCEL:
        return option_accel(o, errp);
    case OPTION_CHROOT:
        return option_chroot(o, errp);
    case OPTION_DRIVE:
        return option_drive(o, errp);
    case OPTION_IMAGE:
        return option_image(o, errp);
    case OPTION_KEY_VALUE:
        return do_key_value(o, errp);
    case OPTION_MONITOR:
        return do_monitor(o, errp);
    case OPTION_NETDEV:
        return check_netdev(o, errp);
    case OPTION_NO_SHUTDOWN:
        machine_set_no_shutdown(true);
        return true;
    case OPTION_QMP:
    case OPTION_QMP_PRETTY:
    case OPTION_SERIAL:
        return do_channel(o, errp);
    case OPTION_REFUSED:
        error_set(errp, "not supported: %s", o->desc->more);
        return false;
    default:
        return true;
    }
}

static bool run_option(const struct option *o)
{
    AUTO_ERROR(err);

    if (do_option(o, &err)) {
        return true;
    }
    error_prepend(&err, "%s: ", o->location);
    error_report(err);
    return false;
}

static bool run_pass(const GArray *options, enum pass pass)
{
    for (guint i = 0; i < options->len; i++) {
        const struct option *o = &g_array_index(options, struct option, i);

        if ((pass == PASS__MAX || pass_of(o->kind) == pass) &&
            !run_option(o)) {
            return false;
        }
    }
    return true;
}

/* ---- what happens without an option ------------------------------------- */

static bool report(bool ok, struct error *err)
{
    if (!ok) {
        error_report(err);
    }
    return ok;
}

/* -nographic alone: the terminal is the monitor's. */
static bool add_default_monitor(const GArray *options)
{
    static const enum option_kind kinds[] = {
        OPTION_NODEFAULTS, OPTION_MON, OPTION_MONITOR, OPTION_QMP,
        OPTION_QMP_PRETTY, OPTION_SERIAL, OPTION_DAEMONIZE,
    };
    g_autofree char *id = NULL;
    bool ok;
    AUTO_ERROR(err);

    if (!options_last(options, OPTION_NOGRAPHIC)) {
        return true;
    }
    for (size_t i = 0; i < G_N_ELEMENTS(kinds); i++) {
        if (options_last(options, kinds[i])) {
            return true;
        }
    }
    ok = option_open_channel("stdio", &id, &err) && option_hmp(id, &err);
    return report(ok, err);
}

static bool add_devices(const GArray *options)
{
    AUTO_ERROR(err);
    bool ok = (options_last(options, OPTION_NODEFAULTS) ||
               devices_add_defaults(&err)) && add_devices_of_drives(&err);

    return report(ok, err);
}

/* What all -machine and -accel together say. */
static bool begin_machine(void)
{
    AUTO_ERROR(err);
    bool ok = machine_apply(&err);

    return report(ok, err) && accel_is_usable();
}

/* A machine that runs has its disks. */
static bool activate_nodes(void)
{
    AUTO_ERROR(err);

    return report(nodes_activate_all(&err), err);
}

static bool run_passes(const GArray *options)
{
    runstate_init(RUN_STATE_PRELAUNCH);
    inactive_set_default(options_last(options, OPTION_INCOMING) != NULL);
    for (enum pass pass = 0; pass < PASS__MAX; pass++) {
        bool ready = true;

        if (pass == PASS_OBJECTS) {
            ready = begin_machine();
        } else if (pass == PASS_MONITORS) {
            ready = add_default_monitor(options);
        } else if (pass == PASS_DEVICES) {
            ready = add_devices(options);
        }
        if (!ready || !run_pass(options, pass)) {
            return false;
        }
    }
    if (runstate_get() == RUN_STATE_PRELAUNCH &&
        !options_last(options, OPTION_STOPPED)) {
        if (!activate_nodes()) {
            return false;
        }
        runstate_init(RUN_STATE_RUNNING);
    }
    machine_ready();
    return true;
}

bool setup_options(const GArray *options)
{
    if (persona_get() == PERSONA_SYSTEM) {
        return run_passes(options);
    }
    if (persona_has_machine()) {
        runstate_init(RUN_STATE_RUNNING);
    }
    if (!run_pass(options, PASS__MAX)) {
        return false;
    }
    if (persona_has_machine()) {
        machine_ready();
    }
    return true;
}
