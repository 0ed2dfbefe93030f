/* SPDX-License-Identifier: MIT */
/* Questions on the command line: see probes.h. */
#include "server/cmdline/probes.h"

#include <stdio.h>
#include <string.h>
#include "server/cmdline/handlers.h"
#include "server/cmdline/object-help.h"
#include "server/machine/device.h"
#include "server/machine/drive.h"

static void print_channels(void)
{
    printf("Available chardev backend types: \n"
           "  file\n  null\n  pipe\n  pty\n  socket\n  stdio\n");
}

static void print_accels(void)
{
    printf("Accelerators supported in QEMU binary:\nqtest\ntcg\nkvm\n");
}

/* Whatever is asked for: nothing runs on it. */
static void print_cpus(void)
{
    printf("Available CPUs:\n"
           "x86 base                  base CPU model type with no features "
           "enabled\n"
           "x86 host                  processor with all supported host "
           "features\n"
           "x86 max                   Enables all features supported by the "
           "accelerator in the current host\n"
           "x86 qemu64                (alias configured by machine type)\n");
}

static void print_netdevs(void)
{
    printf("Available netdev backend types:\n"
           "bridge\nhubport\nsocket\nstream\ndgram\ntap\nuser\n");
}

/* Asks for what is about TYPE, or (NULL) all types of O's kind. */
static bool answer(const struct option *o, const char *type,
                   struct error **errp)
{
    switch (o->kind) {
    case OPTION_ACCEL:
        print_accels();
        return true;
    case OPTION_CHARDEV:
        print_channels();
        return true;
    case OPTION_CPU:
        print_cpus();
        return true;
    case OPTION_DEVICE:
        if (!type) {
            device_print_types();
        } else if (!device_print_properties(type, NULL)) {
            error_set(errp, "Device '%s' not found", type);
            return false;
        }
        return true;
    case OPTION_MACHINE:
        machine_print_help();
        return true;
    case OPTION_NETDEV:
        print_netdevs();
        return true;
    case OPTION_OBJECT:
        return type ? object_print_properties(type, errp)
            : (object_print_types(), true);
    default:
        error_set(errp, "Help is not available for this option");
        return false;
    }
}

/* Those whose text may be a question. */
static bool may_ask(enum option_kind kind)
{
    switch (kind) {
    case OPTION_ACCEL:
    case OPTION_BLOCKDEV:
    case OPTION_CHARDEV:
    case OPTION_CPU:
    case OPTION_DEVICE:
    case OPTION_EXPORT:
    case OPTION_MACHINE:
    case OPTION_NBD_SERVER:
    case OPTION_NETDEV:
    case OPTION_OBJECT:
        return true;
    case OPTION_MONITOR:
        return !persona_has_machine();
    default:
        return false;
    }
}

static bool asks_for_formats(const struct option *o)
{
    g_autofree char *format = NULL;

    if (o->kind != OPTION_DRIVE) {
        return false;
    }
    format = text_value(o->text, "format");
    return format && (!strcmp(format, "help") || !strcmp(format, "?"));
}

/* A mistake in OPTION's text is told before any question is answered. */
static enum probe probe_option(const struct option *o)
{
    g_autofree char *type = NULL;
    AUTO_ERROR(err);

    if (asks_for_formats(o)) {
        drive_print_formats();
        return PROBE_ANSWERED;
    }
    if (!may_ask(o->kind) || text_is_json(o->text) ||
        !text_asks_help(o->text, &type)) {
        return PROBE_NONE;
    }
    if (answer(o, type, &err)) {
        return PROBE_ANSWERED;
    }
    error_prepend(&err, "%s: ", o->location);
    error_report(err);
    return PROBE_FAILED;
}

enum probe probe_options(const GArray *options)
{
    for (guint i = 0; i < options->len; i++) {
        const struct option *o = &g_array_index(options, struct option, i);
        enum probe probe = probe_option(o);

        if (probe != PROBE_NONE) {
            return probe;
        }
    }
    return PROBE_NONE;
}
