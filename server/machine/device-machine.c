/* SPDX-License-Identifier: MIT */
/*
 * What the machine itself brings: its buses, the drives that it has unless
 * told otherwise, and the devices that go with -drive if=...
 */
#include <string.h>
#include "base/control.h"
#include "server/machine/device-priv.h"
#include "server/machine/device-qom.h"
#include "server/machine/drive.h"
#include "server/machine/machine.h"

/* Controllers of the board; not for -device. */
static const struct device_type board_types[] = {
    { .name = "i440FX-pcihost", .provides = BUS_PCI, .n_buses = 1,
      .props = no_props },
    { .name = "q35-pcihost", .provides = BUS_PCI, .n_buses = 1,
      .props = no_props },
    { .name = "PIIX3", .provides = BUS_ISA, .n_buses = 1, .props = no_props },
    { .name = "ICH9-LPC", .provides = BUS_ISA, .n_buses = 1,
      .props = no_props },
    { .name = "piix3-ide", .provides = BUS_IDE, .n_buses = 2,
      .props = no_props },
    { .name = "ich9-ahci", .provides = BUS_IDE, .n_buses = 6,
      .props = no_props },
    { .name = "isa-fdc", .provides = BUS_FLOPPY, .n_buses = 1,
      .props = isa_fdc_props },
};

static void add_board(const char *name, const char *path)
{
    for (size_t i = 0; i < G_N_ELEMENTS(board_types); i++) {
        if (!strcmp(board_types[i].name, name)) {
            struct device *d = device_new(&board_types[i], NULL, NULL,
                                          path ? g_strdup(path)
                                          : device_unattached_path());

            device_list(d);
            device_finish(d);
            for (int b = 0; b < d->n_buses; b++) {
                d->buses[b].hotplug = !strcmp(name, "i440FX-pcihost");
            }
            return;
        }
    }
    g_assert_not_reached();
}

static bool is_pc(void)
{
    return g_strcmp0(machine_kind_get()->pci_bus, "pci.0") == 0;
}

void device_machine_init(void)
{
    static bool done;

    if (done) {
        return;
    }
    done = true;
    if (is_pc()) {
        add_board("i440FX-pcihost", "/machine/i440fx");
        add_board("PIIX3", NULL);
        add_board("piix3-ide", NULL);
        add_board("isa-fdc", NULL);
    } else if (machine_kind_get()->pci_bus) {
        add_board("q35-pcihost", "/machine/q35");
        add_board("ICH9-LPC", NULL);
        add_board("ich9-ahci", NULL);
    }
}

/* ---- -drive's own devices ----------------------------------------------- */

/* B on the bus called BUS_NAME (NULL: any that fits). */
static bool add_with(struct backend *b, const char *type_name,
                     const char *bus_name, int unit, char *path,
                     struct error **errp)
{
    const struct device_type *type = device_type_find(type_name);
    struct bus *bus = bus_choose(type, bus_name, errp);
    struct device *d;

    if (!bus) {
        g_free(path);
        return false;
    }
    d = device_new(type, bus, NULL, path);
    if (unit >= 0) {
        device_set_int(d, "unit", unit);
    }
    device_set_string(d, "drive", backend_name(b));
    if (!bus_take_address(d, errp)) {
        device_free(d);
        return false;
    }
    device_list(d);
    if (!device_disk_attach(d, b, errp)) {
        device_free(d);
        return false;
    }
    device_finish(d);
    return true;
}

bool device_add_for_drive(struct backend *b, const char *interface,
                          int bus, int unit, bool cdrom, struct error **errp)
{
    g_autofree char *ide = g_strdup_printf("ide.%d", bus);

    device_machine_init();
    if (!strcmp(interface, "none")) {
        return true;
    }
    if (!strcmp(interface, "virtio")) {
        return add_with(b, "virtio-blk-pci", NULL, -1,
                        device_anonymous_path(), errp);
    }
    if (!strcmp(interface, "ide") && bus_find(ide)) {
        return add_with(b, cdrom ? "ide-cd" : "ide-hd", ide, unit,
                        device_unattached_path(), errp);
    }
    if (!strcmp(interface, "floppy") && bus == 0 &&
        bus_find("floppy-bus.0")) {
        return add_with(b, "floppy", "floppy-bus.0", unit,
                        device_unattached_path(), errp);
    }
    error_set(errp, "machine type does not support if=%s,bus=%d,unit=%d",
              interface, bus, unit);
    return false;
}

/* ---- without -nodefaults ------------------------------------------------ */

static struct backend *new_empty(const char *name, struct error **errp)
{
    return backend_new(&(struct backend_options){
        .name = name,
        .with_dev = true,
        .on_read_error = BLOCKDEV_ON_ERROR_AUTO,
        .on_write_error = BLOCKDEV_ON_ERROR_AUTO,
    }, errp);
}

/* An empty drive, with the device that INTERFACE means; or the user has made
 * one of that name. */
static bool add_default(const char *name, const char *interface, int bus,
                        bool cdrom, struct error **errp)
{
    struct backend *b;

    if (backend_find(name)) {
        return true;
    }
    /* The name has its reference: it goes with its device. */
    b = new_empty(name, errp);
    return b && device_add_for_drive(b, interface, bus, 0, cdrom, errp);
}

static bool has_cd(void)
{
    for (struct device *d = device_next(NULL); d; d = device_next(d)) {
        if (d->type->role == DEVICE_CD) {
            return true;
        }
    }
    return false;
}

/* Neither a device nor a -drive is there. */
static bool is_free(const char *bus_name, const char *interface, int bus)
{
    const struct bus *b = bus_find(bus_name);
    const struct drive *d;

    for (d = drive_next(NULL); d; d = drive_next(d)) {
        if (!strcmp(d->interface, interface) && d->bus == bus &&
            d->unit == 0) {
            return false;
        }
    }
    return b && !bus_next_device(b, NULL);
}

bool devices_add_defaults(struct error **errp)
{
    int cd_bus = is_pc() ? 1 : 2;

    device_machine_init();
    if (!machine_kind_get()->pci_bus) {
        return true;
    }
    if (!has_cd() && is_free(is_pc() ? "ide.1" : "ide.2", "ide", cd_bus) &&
        !add_default(is_pc() ? "ide1-cd0" : "ide2-cd0", "ide", cd_bus, true,
                     errp)) {
        return false;
    }
    if (is_free("floppy-bus.0", "floppy", 0) &&
        !add_default("floppy0", "floppy", 0, false, errp)) {
        return false;
    }
    return add_default("sd0", "none", 0, false, errp);
}
