/* SPDX-License-Identifier: MIT */
/* Where a drive is: see drive-names.h. */
#include "server/machine/drive-names.h"

#include <inttypes.h>
#include <string.h>
#include "server/machine/device.h"
#include "server/machine/drive-text.h"

static const struct interface {
    const char *name;
    int units;                  /* on a bus; 0: there is one bus, endless */
    bool media_in_id;           /* "-hd", "-cd" */
    bool has_policy;            /* werror and rerror */
} interfaces[] = {
    { "none", 0, false, true },
    { "ide", 2, true, true },
    { "scsi", 7, true, true },
    { "floppy", 0, false, false },
    { "pflash", 0, false, false },
    { "mtd", 0, false, false },
    { "sd", 0, false, false },
    { "virtio", 0, false, true },
    { "xen", 0, false, false },
};

static const struct interface *find(const char *name)
{
    for (size_t i = 0; i < G_N_ELEMENTS(interfaces); i++) {
        if (strcmp(interfaces[i].name, name) == 0) {
            return &interfaces[i];
        }
    }
    return NULL;
}

/* One SATA port has one disk. */
static int units_of(const struct interface *i)
{
    const char *machine = machine_name();

    if (strcmp(i->name, "ide") == 0 && machine && strstr(machine, "q35")) {
        return 1;
    }
    return i->units;
}

bool drive_interface_has_policy(const char *interface)
{
    return find(interface)->has_policy;
}

bool drive_interface_has_device(const char *interface)
{
    return strcmp(interface, "none") != 0;
}

char *drive_place_id(const struct drive_place *p)
{
    const struct interface *i = find(p->interface);
    const char *media = !i->media_in_id ? "" : p->cdrom ? "-cd" : "-hd";

    return i->units ? g_strdup_printf("%s%d%s%d", i->name, p->bus, media,
                                      p->unit)
                    : g_strdup_printf("%s%s%d", i->name, media, p->unit);
}

static bool take_media(json_t *flat, struct drive_place *p,
                       struct error **errp)
{
    g_autofree char *media = drive_text_take(flat, "media");

    p->cdrom = media && strcmp(media, "cdrom") == 0;
    if (media && !p->cdrom && strcmp(media, "disk") != 0) {
        error_set(errp, "'%s' invalid media", media);
        return false;
    }
    return true;
}

static bool take_interface(json_t *flat, const char *default_interface,
                           struct drive_place *p, struct error **errp)
{
    g_autofree char *name = drive_text_take(flat, "if");
    const struct interface *i = find(name ? name : default_interface);

    if (!i) {
        error_set(errp, "unsupported bus type '%s'", name);
        return false;
    }
    p->interface = i->name;
    return true;
}

static void place_by_index(struct drive_place *p, int units, int64_t index)
{
    p->bus = units ? index / units : 0;
    p->unit = units ? index % units : index;
}

static void place_first_free(struct drive_place *p, int units,
                             drive_taken_fn *taken)
{
    p->unit = 0;
    while (taken(p->interface, p->bus, p->unit)) {
        if (!units || p->unit + 1 < units) {
            p->unit++;
        } else if (p->bus < G_MAXINT) {
            p->bus++;
            p->unit = 0;
        } else {
            return;             /* it stays taken */
        }
    }
}

/* Numbers as given: -1: not. */
struct numbers {
    int64_t bus, unit, index;
};

static bool take_numbers(json_t *flat, struct numbers *n, struct error **errp)
{
    *n = (struct numbers){ .bus = 0, .unit = -1, .index = -1 };
    if (!drive_text_take_number(flat, "bus", &n->bus, errp) ||
        !drive_text_take_number(flat, "unit", &n->unit, errp) ||
        !drive_text_take_number(flat, "index", &n->index, errp)) {
        return false;
    }
    if (n->index != -1 && (n->bus != 0 || n->unit != -1)) {
        error_set(errp, "index cannot be used with bus and unit");
        return false;
    }
    if (n->bus != (int32_t)n->bus || n->unit != (int32_t)n->unit ||
        n->index != (int32_t)n->index) {
        error_set(errp, "A drive's bus, unit and index have 31 bits");
        return false;
    }
    return true;
}

bool drive_place_take(json_t *flat, const char *default_interface,
                      drive_taken_fn *taken, struct drive_place *p,
                      struct error **errp)
{
    struct numbers n;
    int units;

    if (!take_interface(flat, default_interface, p, errp) ||
        !take_media(flat, p, errp) || !take_numbers(flat, &n, errp)) {
        return false;
    }
    units = units_of(find(p->interface));
    p->bus = n.bus;
    p->unit = n.unit;
    if (n.index != -1) {
        place_by_index(p, units, n.index);
    }
    if (p->unit == -1) {
        place_first_free(p, units, taken);
    }
    if (units && p->unit >= units) {
        error_set(errp, "unit %d too big (max is %d)", p->unit, units - 1);
        return false;
    }
    if (taken(p->interface, p->bus, p->unit)) {
        error_set(errp, "drive with bus=%d, unit=%d (index=%" PRId64
                  ") exists", p->bus, p->unit, n.index);
        return false;
    }
    return true;
}
