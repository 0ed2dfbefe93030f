/* SPDX-License-Identifier: MIT */
/* Options that make nodes, drives, devices, exports, objects. */
#include "server/cmdline/handlers.h"

#include <string.h>
#include "nbd/nbd.h"
#include "qapi/qapi-commands.h"
#include "qapi/qapi-visit.h"
#include "server/machine/device.h"
#include "server/machine/drive.h"
#include "server/machine/machine.h"

/* What -drive is for if it does not say. */
static const char default_interface[] = "ide";

/*
 * TEXT as a value of a generated type, from JSON or key=value.
 */
#define OPTION_VALUE(type, text, implied_key, errp)                         \
    ({                                                                      \
        json_t *object_ = text_parse(text, implied_key, errp);              \
        type *value_ = !object_ ? NULL                                      \
            : text_is_json(text) ? type##_from_json(object_, errp)          \
            : type##_from_keyval(object_, errp);                            \
        json_decref(object_);                                               \
        value_;                                                             \
    })

bool option_blockdev(const char *text, struct error **errp)
{
    g_autoptr(BlockdevOptions) options =
        OPTION_VALUE(BlockdevOptions, text, "driver", errp);

    return options && qmp_blockdev_add(options, errp);
}

bool option_nbd_server(const char *text, struct error **errp)
{
    g_autoptr(NbdServerOptions) options =
        OPTION_VALUE(NbdServerOptions, text, NULL, errp);

    return options && nbd_start(options, errp);
}

bool option_export(const char *text, struct error **errp)
{
    g_autoptr(BlockExportOptions) options =
        OPTION_VALUE(BlockExportOptions, text, "type", errp);

    return options && qmp_block_export_add(options, errp);
}

bool option_object(const char *text, struct error **errp)
{
    g_autoptr(ObjectOptions) options =
        OPTION_VALUE(ObjectOptions, text, "qom-type", errp);

    return options && qmp_object_add(options, errp);
}

bool option_device(const char *text, struct error **errp)
{
    g_autofree char *expanded = text_is_json(text) ? g_strdup(text)
        : text_expand_switches(text);
    json_t *options = text_parse(expanded, "driver", errp);
    bool ok = options && device_add(options, errp);

    json_decref(options);
    return ok;
}

/* ---- drives ------------------------------------------------------------- */

/* Where on the command line a drive comes from, for messages. */
struct source {
    const struct drive *drive;  /* borrowed */
    const char *location;       /* borrowed from the option */
};

static GArray *sources;         /* of struct source; NULL: none */

static bool add_drive(const char *text, const struct option *o,
                      struct error **errp)
{
    struct source source = {
        .drive = drive_add(text, default_interface, errp),
        .location = o->location,
    };

    if (!source.drive) {
        return false;
    }
    if (!sources) {
        sources = g_array_new(FALSE, FALSE, sizeof(source));
    }
    g_array_append_val(sources, source);
    return true;
}

bool option_drive(const struct option *o, struct error **errp)
{
    return add_drive(o->text, o, errp);
}

bool option_image(const struct option *o, struct error **errp)
{
    g_autofree char *file = text_quote(o->text);
    g_autofree char *text = NULL;

    if (!*file) {
        return true;        /* as QEMU: no drive */
    }
    text = g_strdup_printf("file=%s,%s%s", file,
                           o->desc ? o->desc->more : "index=0,media=disk",
                           o->snapshot ? ",snapshot=on" : "");
    return add_drive(text, o, errp);
}

/* Those that the machine takes without a device that could be seen: firmware,
 * and what a machine without buses is given all the same. */
static bool has_no_device(const struct drive *d)
{
    return !strcmp(d->interface, "none") ||
        (machine_kind_get()->pci_bus ? !strcmp(d->interface, "pflash")
         : !strcmp(d->interface, default_interface));
}

bool add_devices_of_drives(struct error **errp)
{
    bool ok = true;

    for (guint i = 0; sources && ok && i < sources->len; i++) {
        const struct source *s = &g_array_index(sources, struct source, i);
        const struct drive *d = s->drive;

        ok = has_no_device(d) ||
            device_add_for_drive(d->backend, d->interface, d->bus, d->unit,
                                 d->cdrom, errp);
        if (!ok) {
            error_prepend(errp, "%s: ", s->location);
        }
    }
    if (sources) {
        g_array_free(sources, TRUE);
        sources = NULL;
    }
    return ok;
}
