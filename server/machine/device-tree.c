/* SPDX-License-Identifier: MIT */
/* info qtree: buses, and the devices on them, newest first. */
#include <stdarg.h>
#include <string.h>
#include "server/machine/device-priv.h"
#include "server/machine/device-qom.h"

/* Each step inwards is two blanks. */
static void line(GString *out, int indent, const char *format, ...)
    G_GNUC_PRINTF(3, 4);

static void line(GString *out, int indent, const char *format, ...)
{
    va_list ap;

    g_string_append_printf(out, "%*s", indent * 2, "");
    va_start(ap, format);
    g_string_append_vprintf(out, format, ap);
    va_end(ap);
    g_string_append_c(out, '\n');
}

static void print_props(GString *out, int indent, const struct device *d,
                        const struct device_prop *const *tables)
{
    for (; tables && *tables; tables++) {
        for (const struct device_prop *p = *tables; p->name; p++) {
            g_autofree char *text = NULL;
            json_t *value;

            /* Not listed by QEMU either. */
            if (g_str_has_prefix(p->name, "bootindex") ||
                g_str_has_prefix(p->type, "link<")) {
                continue;
            }
            value = !strcmp(p->name, "drive")
                ? json_string(device_disk_drive(d))
                : device_get_value(d, p->name);
            text = device_prop_text(p, value);
            line(out, indent, "%s = %s", p->name, text);
            json_decref(value);
        }
    }
}

static void print_buses(GString *out, int indent, const struct device *d);

static void print_device(GString *out, int indent, const struct device *d)
{
    line(out, indent, "dev: %s, id \"%s\"", d->type->name,
         d->id ? d->id : "");
    print_props(out, indent + 1, d, d->type->props);
    if (!d->inner_path) {
        print_buses(out, indent + 1, d);
        return;
    }
    line(out, indent + 1, "bus: virtio-bus");
    line(out, indent + 2, "type virtio-pci-bus");
    line(out, indent + 2, "dev: %s, id \"\"", d->type->inner);
    print_props(out, indent + 3, d, d->type->inner_props);
    print_buses(out, indent + 3, d);
}

/* The newest first: devices of B, or (NULL) those of the machine itself. */
static void print_devices(GString *out, int indent, const struct bus *b)
{
    for (const struct device *d = device_next(NULL); d; d = device_next(d)) {
        if (d->bus == b && d->realized) {
            print_device(out, indent, d);
        }
    }
}

static void print_buses(GString *out, int indent, const struct device *d)
{
    for (int i = d->n_buses - 1; i >= 0; i--) {
        const struct bus *b = &d->buses[i];

        line(out, indent, "bus: %s", b->name);
        line(out, indent + 1, "type %s", !strcmp(b->name, "pcie.0")
             ? "PCIE" : bus_kind_name(b->kind));
        print_devices(out, indent + 1, b);
    }
}

char *device_tree_text(void)
{
    GString *out = g_string_new("bus: main-system-bus\n  type System\n");

    device_machine_init();
    print_devices(out, 1, NULL);
    return g_string_free(out, FALSE);
}
