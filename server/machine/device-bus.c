/* SPDX-License-Identifier: MIT */
/* Buses: where devices are plugged in, and their addresses there. */
#include <inttypes.h>
#include <string.h>
#include "base/control.h"
#include "server/machine/device-priv.h"

enum {
    PCI_SLOTS = 32,
    IDE_UNITS = 2,
    FLOPPY_UNITS = 2,
    SCSI_MAX_CHANNEL = 0,
    SCSI_MAX_TARGET = 255,
    SCSI_MAX_LUN = 16383,
};

/* ---- names -------------------------------------------------------------- */

/* "scsi.0" and so on, for devices without an id. */
static char *automatic_name(const struct device *d)
{
    static const char *const stems[BUS__MAX] = {
        [BUS_PCI] = "pci", [BUS_SCSI] = "scsi", [BUS_IDE] = "ide",
        [BUS_FLOPPY] = "floppy-bus", [BUS_ISA] = "isa",
        [BUS_USB] = "usb-bus", [BUS_VIRTIO_SERIAL] = "virtio-serial-bus",
        [BUS_HDA] = "hda",
    };
    static int counts[BUS__MAX];    /* control lock */

    if (!strcmp(d->type->name, "q35-pcihost")) {
        return g_strdup("pcie.0");
    }
    return g_strdup_printf("%s.%d", stems[d->type->provides],
                           counts[d->type->provides]++);
}

static char *bus_name_of(const struct device *d, int index)
{
    if (!d->id) {
        return automatic_name(d);
    }
    /* Behind a bridge is a bus of the bridge's name. */
    return d->type->provides == BUS_PCI ? g_strdup(d->id)
        : g_strdup_printf("%s.%d", d->id, index);
}

void device_make_buses(struct device *d)
{
    d->n_buses = d->type->n_buses;
    d->buses = g_new0(struct bus, d->n_buses);
    for (int i = 0; i < d->n_buses; i++) {
        enum bus_kind kind = d->type->provides;

        d->buses[i] = (struct bus){
            .name = bus_name_of(d, i),
            .kind = kind,
            .index = i,
            .owner = d,
            .hotplug = kind == BUS_SCSI || kind == BUS_USB ||
                kind == BUS_VIRTIO_SERIAL || kind == BUS_PCI,
        };
    }
}

void device_free_buses(struct device *d)
{
    for (int i = 0; i < d->n_buses; i++) {
        g_free(d->buses[i].name);
    }
    g_free(d->buses);
    d->buses = NULL;
    d->n_buses = 0;
}

char *bus_path(const struct bus *b)
{
    const struct device *d = b->owner;

    return g_strdup_printf("%s/%s", d->inner_path ? d->inner_path : d->path,
                           b->name);
}

/* ---- looking ------------------------------------------------------------ */

struct device *bus_next_device(const struct bus *b, const struct device *d)
{
    struct device *found = NULL;

    for (struct device *at = device_next(NULL); at && at != d;
         at = device_next(at)) {
        if (at->bus == b) {
            found = at;
        }
    }
    return found;
}

static int count_devices(const struct bus *b)
{
    int n = 0;

    for (struct device *d = device_next(NULL); d; d = device_next(d)) {
        n += d->bus == b;
    }
    return n;
}

static bool is_full(const struct bus *b)
{
    switch (b->kind) {
    case BUS_IDE:
        return count_devices(b) >= IDE_UNITS;
    case BUS_FLOPPY:
        return count_devices(b) >= FLOPPY_UNITS;
    default:
        return false;
    }
}

struct bus *bus_find(const char *name)
{
    for (struct device *d = device_next(NULL); d; d = device_next(d)) {
        for (int i = 0; i < d->n_buses; i++) {
            if (!strcmp(d->buses[i].name, name)) {
                return &d->buses[i];
            }
        }
    }
    return NULL;
}

/*
 * QEMU looks where the newest is first; but what a controller is on comes
 * before what it provides, so the machine's own PCI bus beats a bridge's.
 */
static struct bus *find_kind(enum bus_kind kind, bool *all_full)
{
    struct bus *own = NULL, *other = NULL;

    *all_full = false;
    for (struct device *d = device_next(NULL); d; d = device_next(d)) {
        for (int i = d->n_buses - 1; i >= 0; i--) {
            struct bus *b = &d->buses[i];

            if (b->kind != kind) {
                continue;
            }
            if (is_full(b)) {
                *all_full = true;
            } else if (d->bus) {
                other = other ? other : b;
            } else {
                own = own ? own : b;
            }
        }
    }
    return kind == BUS_PCI && own ? own : other ? other : own;
}

struct bus *bus_choose(const struct device_type *type, const char *name,
                       struct error **errp)
{
    struct bus *b;
    bool all_full;

    if (name) {
        b = bus_find(name);
        if (!b) {
            error_set(errp, "Bus '%s' not found", name);
            return NULL;
        }
        if (b->kind != type->bus) {
            error_set(errp, "Device '%s' can't go on %s bus", type->name,
                      bus_kind_name(b->kind));
            return NULL;
        }
        if (is_full(b)) {
            error_set(errp, "Bus '%s' is full", name);
            return NULL;
        }
        return b;
    }
    b = find_kind(type->bus, &all_full);
    if (!b && all_full) {
        error_set(errp, "All '%s' buses are full for device '%s'",
                  bus_kind_name(type->bus), type->name);
    } else if (!b) {
        error_set(errp, "No '%s' bus found for device '%s'",
                  bus_kind_name(type->bus), type->name);
    }
    return b;
}

/* ---- addresses ---------------------------------------------------------- */

static struct device *find_pci(const struct bus *b, int64_t at)
{
    for (struct device *d = device_next(NULL); d; d = device_next(d)) {
        if (d->bus == b && device_was_told(d, "addr") &&
            device_get_int(d, "addr") == at) {
            return d;
        }
    }
    return NULL;
}

static bool take_pci(struct device *d, struct error **errp)
{
    /* What the machine itself has in its first slots. */
    int first = !d->bus->owner->bus ? 2 : 0;
    int64_t at = device_get_int(d, "addr");
    const struct device *other;

    if (device_was_told(d, "addr") && at >= 0) {
        other = find_pci(d->bus, at);
        if (other) {
            error_set(errp, "PCI: slot %d function %d not available for %s, "
                      "in use by %s,id=%s", (int)at >> 3, (int)at & 7,
                      d->type->name, other->type->name,
                      other->id ? other->id : "(null)");
        }
        return !other;
    }
    for (int slot = first; slot < PCI_SLOTS; slot++) {
        if (!find_pci(d->bus, slot * 8)) {
            device_set_int(d, "addr", slot * 8);
            return true;
        }
    }
    error_set(errp, "PCI: no slot/function available for %s, all in use or "
              "reserved", d->type->name);
    return false;
}

static struct device *find_scsi(const struct bus *b, int64_t id, int64_t lun)
{
    for (struct device *d = device_next(NULL); d; d = device_next(d)) {
        if (d->bus == b && device_get_int(d, "scsi-id") == id &&
            device_get_int(d, "lun") == lun) {
            return d;
        }
    }
    return NULL;
}

static bool check_scsi(const struct device *d, struct error **errp)
{
    int64_t channel = device_get_int(d, "channel");
    int64_t id = device_get_int(d, "scsi-id");
    int64_t lun = device_get_int(d, "lun");

    if (channel > SCSI_MAX_CHANNEL) {
        error_set(errp, "bad scsi channel id: %" PRId64, channel);
        return false;
    }
    if (id > SCSI_MAX_TARGET && id != UINT32_MAX) {
        error_set(errp, "bad scsi device id: %" PRId64, id);
        return false;
    }
    if (lun > SCSI_MAX_LUN && lun != UINT32_MAX) {
        error_set(errp, "bad scsi device lun: %" PRId64, lun);
        return false;
    }
    return true;
}

static bool take_scsi(struct device *d, struct error **errp)
{
    int64_t id = device_get_int(d, "scsi-id");
    int64_t lun = device_get_int(d, "lun");
    const struct device *other;

    if (!check_scsi(d, errp)) {
        return false;
    }
    if (id == UINT32_MAX) {
        lun = lun == UINT32_MAX ? 0 : lun;
        for (id = 0; id < SCSI_MAX_TARGET && find_scsi(d->bus, id, lun);
             id++) {
        }
    } else if (lun == UINT32_MAX) {
        for (lun = 0; lun < SCSI_MAX_LUN && find_scsi(d->bus, id, lun);
             lun++) {
        }
    }
    other = find_scsi(d->bus, id, lun);
    if (other) {
        error_set(errp, "lun already used by '%s'",
                  other->id ? other->id : "");
        return false;
    }
    device_set_int(d, "channel", 0);
    device_set_int(d, "scsi-id", id);
    device_set_int(d, "lun", lun);
    return true;
}

static bool has_unit(const struct bus *b, int64_t unit)
{
    for (struct device *d = device_next(NULL); d; d = device_next(d)) {
        if (d->bus == b && device_get_int(d, "unit") == unit) {
            return true;
        }
    }
    return false;
}

static bool take_unit(struct device *d, const char *what, int n_units,
                      struct error **errp)
{
    int64_t unit = device_get_int(d, "unit");

    if (unit == UINT32_MAX) {
        for (unit = 0; unit < n_units - 1 && has_unit(d->bus, unit);
             unit++) {
        }
    }
    if (unit >= n_units) {
        error_set(errp, "Can't create %s unit %" PRId64 ", bus supports only "
                  "%d units", what, unit, n_units);
        return false;
    }
    if (has_unit(d->bus, unit)) {
        error_set(errp, "%s unit %" PRId64 " is in use", what, unit);
        return false;
    }
    device_set_int(d, "unit", unit);
    return true;
}

bool bus_take_address(struct device *d, struct error **errp)
{
    switch (d->type->bus) {
    case BUS_PCI:
        return take_pci(d, errp);
    case BUS_SCSI:
        return take_scsi(d, errp);
    case BUS_IDE:
        return take_unit(d, "IDE", IDE_UNITS, errp);
    case BUS_FLOPPY:
        return take_unit(d, "Floppy", FLOPPY_UNITS, errp);
    default:
        return true;
    }
}
