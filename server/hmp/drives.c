/* SPDX-License-Identifier: MIT */
/* HMP's commands for drives and their media. */
#include "server/hmp/command.h"

#include <string.h>
#include "qapi/qapi-commands.h"
#include "server/machine/drive.h"

static char *text(const struct hmp_args *a, const char *key)
{
    return (char *)hmp_arg_text(a, key);
}

/* QEMU says these without "Error: ". */
static void say(struct hmp *m, struct error *err)
{
    if (err) {
        hmp_printf(m, "%s\n", error_text(err));
        error_free(err);
    }
}

/* As QEMU numbers what a drive can be plugged into. */
static int interface_number(const char *name)
{
    static const char *const names[] = {
        "none", "ide", "scsi", "floppy", "pflash", "mtd", "sd", "virtio",
        "xen",
    };

    for (size_t i = 0; i < G_N_ELEMENTS(names); i++) {
        if (!strcmp(names[i], name)) {
            return i;
        }
    }
    return G_N_ELEMENTS(names);
}

void hmp_drive_add(struct hmp *m, const struct hmp_args *a)
{
    const char *options = hmp_arg_text(a, "opts");
    struct error *err = NULL;
    struct drive *d;

    if (hmp_arg_flag(a, "node")) {
        drive_add_node(options, &err);
        say(m, err);
        return;
    }
    if (drive_wants_formats(options)) {
        g_autofree char *formats = drive_formats_text();

        hmp_printf(m, "%s", formats);
        return;
    }
    d = drive_add(options, "ide", &err);
    if (!d) {
        say(m, err);
    } else if (strcmp(d->interface, "none")) {
        hmp_printf(m, "Can't hot-add drive to type %d\n",
                   interface_number(d->interface));
        backend_forget(d->backend);
    } else {
        hmp_printf(m, "OK\n");
    }
}

void hmp_drive_del(struct hmp *m, const struct hmp_args *a)
{
    struct error *err = NULL;

    drive_del(hmp_arg_text(a, "id"), &err);
    say(m, err);
}

void hmp_eject(struct hmp *m, const struct hmp_args *a)
{
    const EjectArgs args = {
        .device = text(a, "device"),
        .has_force = true, .force = hmp_arg_flag(a, "force"),
    };
    struct error *err = NULL;

    qmp_eject(&args, &err);
    hmp_error(m, err);
}

/* False: there is no such mode. */
static bool parse_mode(const char *name, BlockdevChangeReadOnlyMode *mode)
{
    for (int i = 0; i < BLOCKDEV_CHANGE_READ_ONLY_MODE__MAX; i++) {
        if (!strcmp(BlockdevChangeReadOnlyMode_str(i), name)) {
            *mode = i;
            return true;
        }
    }
    return false;
}

void hmp_change(struct hmp *m, const struct hmp_args *a)
{
    BlockdevChangeMediumArgs args = {
        .device = text(a, "device"), .filename = text(a, "target"),
        .format = text(a, "format"),
        .has_force = true, .force = hmp_arg_flag(a, "force"),
        .has_read_only_mode = hmp_arg_given(a, "mode"),
    };
    const char *mode = hmp_arg_text(a, "mode");
    struct error *err = NULL;

    if (!strcmp(args.device, "vnc")) {
        error_set(&err, "the machine of blockjobd has no display");
    } else if (mode && !parse_mode(mode, &args.read_only_mode)) {
        error_set(&err, "invalid parameter value: %s", mode);
    } else {
        qmp_blockdev_change_medium(&args, &err);
    }
    hmp_error(m, err);
}
