/* SPDX-License-Identifier: MIT */
/* /machine in the tree of objects: devices, their properties and buses. */
#include "server/machine/device-qom.h"

#include <string.h>
#include "base/control.h"
#include "block/objects/qom.h"
#include "server/machine/device-priv.h"
#include "server/machine/machine.h"

/* ---- properties of a device --------------------------------------------- */

/* What every device has. */
static const struct {
    const char *name, *type;
} common[] = {
    { "parent_bus", "link<bus>" }, { "realized", "bool" },
    { "hotplugged", "bool" }, { "hotpluggable", "bool" },
};

static bool is_common(const char *name)
{
    for (size_t i = 0; i < G_N_ELEMENTS(common); i++) {
        if (!strcmp(common[i].name, name)) {
            return true;
        }
    }
    return false;
}

static void list_common(ObjectPropertyInfoList *list)
{
    for (size_t i = 0; i < G_N_ELEMENTS(common); i++) {
        qom_list_append(list, common[i].name, common[i].type);
    }
}

static json_t *get_common(const struct device *d, const char *name)
{
    g_autofree char *path = NULL;

    if (!strcmp(name, "parent_bus")) {
        path = d->bus ? bus_path(d->bus) : g_strdup("");
        return json_string(path);
    }
    if (!strcmp(name, "realized")) {
        return json_boolean(d->realized);
    }
    if (!strcmp(name, "hotplugged")) {
        return json_boolean(d->hotplugged);
    }
    return json_boolean(d->bus && d->bus->hotplug);
}

static bool has_drive(const struct device *d)
{
    return d->type->role != DEVICE_OTHER;
}

static bool device_has(const struct qom_place *p, const char *name,
                       bool *readable, bool *writable)
{
    const struct device *d = p->opaque;

    *readable = true;
    *writable = !is_common(name);
    return is_common(name) || device_type_takes(d->type, name);
}

static json_t *device_get(const struct qom_place *p, const char *name,
                          struct error **errp)
{
    const struct device *d = p->opaque;
    g_autofree char *path = NULL;
    json_t *value;

    if (is_common(name)) {
        return get_common(d, name);
    }
    if (!strcmp(name, "drive") && d->backend) {
        return json_string(device_disk_drive(d));
    }
    if (!strcmp(name, "iothread") && d->iothread) {
        path = g_strdup_printf("/objects/%s", d->iothread->id);
        return json_string(path);
    }
    value = device_get_value(d, name);
    return value ? value : json_string("");
}

/* Only these can be changed while it is there. */
static bool device_set(const struct qom_place *p, const char *name,
                       json_t *value, struct error **errp)
{
    struct device *d = p->opaque;

    if (!strcmp(name, "drive") && has_drive(d) && d->backend) {
        if (!json_is_string(value)) {
            error_set(errp,
                      "Invalid parameter type for 'drive', expected: string");
            return false;
        }
        return device_disk_set_drive(d, json_string_value(value), errp);
    }
    if (!strcmp(name, "bootindex")) {
        if (!json_is_integer(value)) {
            error_set(errp, "Invalid parameter type for 'bootindex', "
                      "expected: integer");
            return false;
        }
        device_set_int(d, name, json_integer_value(value));
        return true;
    }
    if (d->id && !d->inner_path) {
        error_set(errp, "Attempt to set property '%s' on device '%s' (type "
                  "'%s') after it was realized", name, d->id, d->type->name);
    } else {
        error_set(errp, "Attempt to set property '%s' on anonymous device "
                  "(type '%s') after it was realized", name,
                  device_prop_owner(d->type, name));
    }
    return false;
}

/* ---- places ------------------------------------------------------------- */

static const char *bus_place_type(const struct qom_place *p)
{
    const struct bus *b = p->opaque;

    return !strcmp(b->name, "pcie.0") ? "PCIE" : bus_kind_name(b->kind);
}

static const struct qom_kind bus_kind = { .type = bus_place_type };

static bool bus_below(struct device *d, size_t i, char **name,
                      struct qom_place *child)
{
    if (i < (size_t)d->n_buses) {
        *name = g_strdup(d->buses[i].name);
        *child = (struct qom_place){ &bus_kind, &d->buses[i] };
    }
    return i < (size_t)d->n_buses;
}

/* What is inside a virtio device. */
static const char *inner_type(const struct qom_place *p)
{
    const struct device *d = p->opaque;

    return d->type->inner;
}

static bool inner_below(const struct qom_place *p, size_t i, char **name,
                        struct qom_place *child)
{
    return bus_below(p->opaque, i, name, child);
}

static void list_tables(const struct device_prop *const *tables,
                        ObjectPropertyInfoList *list)
{
    for (; tables && *tables; tables++) {
        for (const struct device_prop *q = *tables; q->name; q++) {
            qom_list_append(list, q->name, q->type);
        }
    }
}

static void inner_list(const struct qom_place *p,
                       ObjectPropertyInfoList *list)
{
    const struct device *d = p->opaque;

    list_common(list);
    list_tables(d->type->inner_props, list);
}

static const struct qom_kind inner_kind = {
    .type = inner_type,
    .below = inner_below,
    .list = inner_list,
    .has = device_has,
    .get = device_get,
    .set = device_set,
};

static const char *device_place_type(const struct qom_place *p)
{
    const struct device *d = p->opaque;

    return d->type->name;
}

static bool device_below(const struct qom_place *p, size_t i, char **name,
                         struct qom_place *child)
{
    struct device *d = p->opaque;

    if (!d->inner_path) {
        return bus_below(d, i, name, child);
    }
    if (i == 0) {
        *name = g_strdup("virtio-backend");
        *child = (struct qom_place){ &inner_kind, d };
    }
    return i == 0;
}

static void device_place_list(const struct qom_place *p,
                              ObjectPropertyInfoList *list)
{
    const struct device *d = p->opaque;

    list_common(list);
    device_type_list_props(d->type, list);
}

static const struct qom_kind device_kind = {
    .type = device_place_type,
    .below = device_below,
    .list = device_place_list,
    .has = device_has,
    .get = device_get,
    .set = device_set,
};

/* ---- /machine ----------------------------------------------------------- */

static const char *const containers[] = {
    "peripheral", "peripheral-anon", "unattached",
};

static const char *container_type(const struct qom_place *p)
{
    return "container";
}

/* The I-th of the devices whose path is PREFIX/NAME. */
static bool find_below(const char *prefix, size_t i, char **name,
                       struct qom_place *child)
{
    size_t length = strlen(prefix);

    for (struct device *d = device_next(NULL); d; d = device_next(d)) {
        if (d->realized && g_str_has_prefix(d->path, prefix) &&
            strrchr(d->path, '/') == d->path + length && i-- == 0) {
            *name = g_strdup(d->path + length + 1);
            *child = (struct qom_place){ &device_kind, d };
            return true;
        }
    }
    return false;
}

static bool container_below(const struct qom_place *p, size_t i, char **name,
                            struct qom_place *child)
{
    g_autofree char *prefix =
        g_strdup_printf("/machine/%s", containers[p->number]);

    return find_below(prefix, i, name, child);
}

static const struct qom_kind container_kind = {
    .type = container_type,
    .below = container_below,
};

static const char *machine_type(const struct qom_place *p)
{
    return machine_kind_get()->type;
}

static bool machine_below(const struct qom_place *p, size_t i, char **name,
                          struct qom_place *child)
{
    if (i < G_N_ELEMENTS(containers)) {
        *name = g_strdup(containers[i]);
        *child = (struct qom_place){ &container_kind, .number = i };
        return true;
    }
    return find_below("/machine", i - G_N_ELEMENTS(containers), name, child);
}

static const struct qom_kind machine_place_kind = {
    .type = machine_type,
    .below = machine_below,
};

/* ---- types -------------------------------------------------------------- */

/* What device types are made from, and what managers look for. */
static const struct qom_type more_types[] = {
    { "accel", "object", false },
    { "base-pci-bridge", "pci-device", true },
    { "bus", "object", true },
    { "device", "object", true },
    { "generic-pc-machine", "x86-machine", true },
    { "ide-device", "device", true },
    { "isa-device", "device", true },
    { "kvm-accel", "accel", false },
    { "machine", "object", true },
    { "pci-device", "device", true },
    { "pcie-port", "base-pci-bridge", true },
    { "pcie-root-port-base", "pcie-slot", true },
    { "pcie-slot", "pcie-port", true },
    { "scsi-device", "device", true },
    { "scsi-disk-base", "scsi-device", true },
    { "tcg-accel", "accel", false },
    { "usb-device", "device", true },
    { "virtio-blk-device", "virtio-device", false },
    { "virtio-blk-pci-base", "virtio-pci", true },
    { "virtio-device", "device", true },
    { "virtio-pci", "pci-device", true },
    { "virtio-scsi-common", "virtio-device", true },
    { "virtio-scsi-device", "virtio-scsi-common", false },
    { "virtio-scsi-pci-base", "virtio-pci", true },
    { "x86-machine", "machine", true },
};

/* Filled once: all that there is. */
static GArray *types;

static void fill_types(void)
{
    types = g_array_new(FALSE, FALSE, sizeof(struct qom_type));
    g_array_append_vals(types, more_types, G_N_ELEMENTS(more_types));
    for (const struct device_type *t = device_type_next(NULL); t;
         t = device_type_next(t)) {
        struct qom_type one = { t->name, t->parent, false };

        g_array_append_val(types, one);
    }
    for (const struct machine_kind *k = machine_kinds; k->name; k++) {
        struct qom_type one = {
            k->type, k->pci_bus ? "generic-pc-machine" : "machine", false,
        };

        g_array_append_val(types, one);
    }
}

static const struct qom_type *type_at(size_t i)
{
    return i < types->len ? &g_array_index(types, struct qom_type, i) : NULL;
}

static void type_list(const struct qom_type *type,
                      ObjectPropertyInfoList *list)
{
    const struct device_type *t = device_type_find(type->name);

    if (t) {
        list_common(list);
        device_type_list_props(t, list);
    }
}

static struct qom_types device_types = { .at = type_at, .list = type_list };

void device_qom_init(void)
{
    control_assert();
    fill_types();
    qom_add_types(&device_types);
    qom_mount("machine", (struct qom_place){ &machine_place_kind });
}
