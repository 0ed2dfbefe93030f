/* SPDX-License-Identifier: MIT */
/* The kinds of devices that have a meaning here, and finding one. */
#include "server/machine/device-types.h"

#include <string.h>
#include <glib.h>

static const char *const bus_names[BUS__MAX] = {
    [BUS_NONE] = "none",
    [BUS_SYSTEM] = "System",
    [BUS_PCI] = "PCI",
    [BUS_SCSI] = "SCSI",
    [BUS_IDE] = "IDE",
    [BUS_FLOPPY] = "floppy-bus",
    [BUS_ISA] = "ISA",
    [BUS_USB] = "usb-bus",
    [BUS_VIRTIO_SERIAL] = "virtio-serial-bus",
    [BUS_HDA] = "HDA",
};

const char *bus_kind_name(enum bus_kind kind)
{
    return bus_names[kind];
}

#define VIRTIO_BLK(NAME, ALIAS) \
    { .name = NAME, .alias = ALIAS, .parent = "virtio-blk-pci-base", \
      .bus = BUS_PCI, .role = DEVICE_DISK, .inner = "virtio-blk-device", \
      .props = virtio_blk_props, .inner_props = virtio_blk_inner_props }

#define VIRTIO_SCSI(NAME, ALIAS) \
    { .name = NAME, .alias = ALIAS, .parent = "virtio-scsi-pci-base", \
      .bus = BUS_PCI, .provides = BUS_SCSI, .n_buses = 1, \
      .inner = "virtio-scsi-device", .props = virtio_scsi_props, \
      .inner_props = virtio_scsi_inner_props }

static const struct device_type disk_types[] = {
    { .name = "floppy", .parent = "device", .bus = BUS_FLOPPY,
      .description = "virtual floppy drive", .role = DEVICE_FLOPPY,
      .props = floppy_props },
    { .name = "ide-cd", .parent = "ide-device", .bus = BUS_IDE,
      .description = "virtual IDE CD-ROM", .role = DEVICE_CD,
      .props = ide_cd_props },
    { .name = "ide-hd", .parent = "ide-device", .bus = BUS_IDE,
      .description = "virtual IDE disk", .role = DEVICE_DISK,
      .props = ide_hd_props },
    { .name = "isa-fdc", .parent = "isa-device", .bus = BUS_ISA,
      .description = "virtual floppy controller", .provides = BUS_FLOPPY,
      .n_buses = 1, .props = isa_fdc_props },
    { .name = "pci-bridge", .parent = "base-pci-bridge", .bus = BUS_PCI,
      .description = "Standard PCI Bridge", .provides = BUS_PCI,
      .n_buses = 1, .props = pci_bridge_props },
    { .name = "pcie-root-port", .parent = "pcie-root-port-base",
      .bus = BUS_PCI, .description = "PCI Express Root Port",
      .provides = BUS_PCI, .n_buses = 1, .props = root_port_props },
    { .name = "scsi-cd", .parent = "scsi-disk-base", .bus = BUS_SCSI,
      .description = "virtual SCSI CD-ROM", .role = DEVICE_CD,
      .props = scsi_cd_props },
    { .name = "scsi-hd", .parent = "scsi-disk-base", .bus = BUS_SCSI,
      .description = "virtual SCSI disk", .role = DEVICE_DISK,
      .props = scsi_hd_props },
    VIRTIO_BLK("virtio-blk-pci", "virtio-blk"),
    VIRTIO_BLK("virtio-blk-pci-non-transitional", NULL),
    VIRTIO_BLK("virtio-blk-pci-transitional", NULL),
    VIRTIO_SCSI("virtio-scsi-pci", "virtio-scsi"),
    VIRTIO_SCSI("virtio-scsi-pci-non-transitional", NULL),
    VIRTIO_SCSI("virtio-scsi-pci-transitional", NULL),
    { NULL },
};

extern const struct device_type inert_device_types[];

const struct device_type *device_type_next(const struct device_type *t)
{
    if (!t) {
        return disk_types;
    }
    t++;
    if (t->name) {
        return t;
    }
    return t == disk_types + G_N_ELEMENTS(disk_types) - 1
        ? inert_device_types : NULL;
}

const struct device_type *device_type_find(const char *name)
{
    for (const struct device_type *t = device_type_next(NULL); t;
         t = device_type_next(t)) {
        if (!strcmp(t->name, name) || g_strcmp0(t->alias, name) == 0) {
            return t;
        }
    }
    return NULL;
}

static const struct device_prop *
find_in(const struct device_prop *const *tables, const char *name)
{
    for (; tables && *tables; tables++) {
        for (const struct device_prop *p = *tables; p->name; p++) {
            if (!strcmp(p->name, name)) {
                return p;
            }
        }
    }
    return NULL;
}

const struct device_prop *device_type_prop(const struct device_type *t,
                                           const char *name)
{
    const struct device_prop *p = find_in(t->props, name);

    return p ? p : find_in(t->inner_props, name);
}

bool device_type_takes(const struct device_type *t, const char *name)
{
    g_autofree char *word = g_strdup_printf(" %s ", name);

    return device_type_prop(t, name) ||
        (t->names && *name && !strchr(name, ' ') && strstr(t->names, word));
}
