/* SPDX-License-Identifier: MIT */
/* Devices come and go: see device.h. */
#include "server/machine/device-priv.h"
#include "server/machine/device-qom.h"

#include <string.h>
#include "base/control.h"
#include "base/id.h"
#include "base/trace.h"
#include "qapi/qapi-events.h"
#include "server/machine/machine.h"

#define PERIPHERAL "/machine/peripheral"
#define PERIPHERAL_ANON "/machine/peripheral-anon"
#define UNATTACHED "/machine/unattached"

/* All under the control lock. */
static struct device *devices;          /* newest first */
static int n_anonymous;
static int n_unattached = 1;            /* 0 is where a CPU would be */

struct device *device_next(const struct device *d)
{
    control_assert();
    return d ? d->next : devices;
}

const char *device_id(const struct device *d)
{
    return d->id;
}

const char *device_path(const struct device *d)
{
    return d->path;
}

const char *device_type_name(const struct device *d)
{
    return d->type->name;
}

struct backend *device_backend(const struct device *d)
{
    return d->backend;
}

struct device *device_find(const char *id)
{
    for (struct device *d = device_next(NULL); d; d = device_next(d)) {
        const char *name = *id == '/' ? d->path : d->id;

        if (d->realized && g_strcmp0(name, id) == 0) {
            return d;
        }
    }
    return NULL;
}

static bool is_taken(const char *id)
{
    for (struct device *d = device_next(NULL); d; d = device_next(d)) {
        if (id && g_strcmp0(d->id, id) == 0) {
            return true;
        }
    }
    return false;
}

/* ---- making ------------------------------------------------------------- */

char *device_unattached_path(void)
{
    return g_strdup_printf(UNATTACHED "/device[%d]", n_unattached++);
}

char *device_anonymous_path(void)
{
    return g_strdup_printf(PERIPHERAL_ANON "/device[%d]", n_anonymous++);
}

static char *peripheral_path(const char *id)
{
    return id ? g_strdup_printf(PERIPHERAL "/%s", id)
        : device_anonymous_path();
}

struct device *device_new(const struct device_type *type, struct bus *bus,
                          const char *id, char *path)
{
    struct device *d = g_new0(struct device, 1);

    d->type = type;
    d->bus = bus;
    d->id = g_strdup(id);
    d->path = path;
    d->inner_path = type->inner
        ? g_strdup_printf("%s/virtio-backend", path) : NULL;
    d->qdev = g_strdup(d->inner_path ? d->inner_path : id ? id : path);
    d->values = json_object();
    d->hotplugged = machine_is_ready();
    return d;
}

void device_list(struct device *d)
{
    d->next = devices;
    devices = d;
}

void device_finish(struct device *d)
{
    device_make_buses(d);
    d->realized = true;
    trace(SERVER, "device-add type=%s path=%s", d->type->name, d->path);
}

static void unlink_device(struct device *d)
{
    struct device **at = &devices;

    while (*at && *at != d) {
        at = &(*at)->next;
    }
    if (*at) {
        *at = d->next;
    }
}

void device_free(struct device *d)
{
    unlink_device(d);
    device_free_buses(d);
    object_put(d->iothread);
    json_decref(d->values);
    g_free(d->id);
    g_free(d->path);
    g_free(d->inner_path);
    g_free(d->qdev);
    g_free(d);
    control_notify();
}

/* A string of OPTIONS or NULL; false if it is something else. */
static bool get_text(const json_t *options, const char *name,
                     const char **text, struct error **errp)
{
    const json_t *value = json_object_get(options, name);

    *text = json_string_value(value);
    if (value && !*text) {
        error_set(errp, "Invalid parameter type for '%s', expected: string",
                  name);
        return false;
    }
    return true;
}

static const struct device_type *find_type(const char *name,
                                           struct error **errp)
{
    static const char *const not_here[] = {
        "scsi-block", "scsi-generic", "usb-storage", "nvme", "sd-card",
        "vfio-pci", "vhost-user-blk-pci", "vhost-user-blk", NULL,
    };
    const struct device_type *type;

    if (!name) {
        error_set(errp, "Parameter 'driver' is missing");
        return NULL;
    }
    type = device_type_find(name);
    if (!type && g_strv_contains(not_here, name)) {
        error_set(errp, "Device '%s' is not supported: this machine has no "
                  "such disks", name);
    } else if (!type) {
        error_set(errp, "'%s' is not a valid device model name", name);
    }
    return type;
}

static bool check_id(const char *id, struct error **errp)
{
    if (id && !id_is_well_formed(id)) {
        error_set(errp, "Parameter 'id' expects an identifier");
        error_append_hint(errp, "Identifiers consist of letters, digits, "
                          "'-', '.', '_', starting with a letter.");
        return false;
    }
    return true;
}

static bool is_leaving(const struct device *d)
{
    while (d && !d->leaving) {
        d = d->bus ? d->bus->owner : NULL;
    }
    return d != NULL;
}

static bool can_plug(const struct bus *b, struct error **errp)
{
    if (is_leaving(b->owner)) {
        error_set(errp, "Bus '%s' not found", b->name);
        return false;
    }
    if (machine_is_ready() && !b->hotplug) {
        error_set(errp, "Bus '%s' does not support hotplugging", b->name);
        return false;
    }
    return true;
}

/* D is complete, or goes again. */
static bool realize(struct device *d, const json_t *options,
                    struct error **errp)
{
    if (!device_take_options(d, options, errp) ||
        !bus_take_address(d, errp)) {
        return false;
    }
    device_list(d);
    return d->type->role == DEVICE_OTHER || device_disk_realize(d, errp);
}

struct device *device_add(const json_t *options, struct error **errp)
{
    const char *driver, *id, *bus_name;
    const struct device_type *type;
    struct device *d;
    struct bus *bus;

    device_machine_init();
    if (!get_text(options, "driver", &driver, errp) ||
        !get_text(options, "id", &id, errp) ||
        !get_text(options, "bus", &bus_name, errp) || !check_id(id, errp)) {
        return NULL;
    }
    type = find_type(driver, errp);
    bus = type ? bus_choose(type, bus_name, errp) : NULL;
    if (!bus || !can_plug(bus, errp)) {
        return NULL;
    }
    if (is_taken(id)) {
        error_set(errp, "Duplicate device ID '%s'", id);
        return NULL;
    }
    d = device_new(type, bus, id, peripheral_path(id));
    if (!realize(d, options, errp)) {
        device_free(d);
        return NULL;
    }
    device_finish(d);
    return d;
}

/* ---- taking out --------------------------------------------------------- */

/* Those on its buses go before it. */
static void unplug(struct device *d)
{
    g_autofree char *id = g_strdup(d->id), *path = g_strdup(d->path),
        *inner = g_strdup(d->inner_path);

    for (int i = 0; i < d->n_buses; i++) {
        struct device *on_it;

        while ((on_it = bus_next_device(&d->buses[i], NULL))) {
            if (on_it->leaving) {
                control_wait();     /* another command takes it out */
            } else {
                unplug(on_it);
            }
        }
    }
    trace(SERVER, "device-del type=%s path=%s", d->type->name, path);
    device_disk_unrealize(d);
    device_free(d);
    if (inner) {
        qapi_event_send_device_deleted(NULL, inner);
    }
    qapi_event_send_device_deleted(id, path);
}

/* Is one of those behind it still being made? */
static bool is_growing(const struct device *d)
{
    for (struct device *at = device_next(NULL); at; at = device_next(at)) {
        for (struct device *up = at->realized ? NULL : at; up;
             up = up->bus ? up->bus->owner : NULL) {
            if (up == d) {
                return true;
            }
        }
    }
    return false;
}

bool device_del(const char *id, struct error **errp)
{
    struct device *d = device_find(id);

    if (!d && (!strcmp(id, "/machine") || !strcmp(id, PERIPHERAL) ||
               !strcmp(id, PERIPHERAL_ANON) || !strcmp(id, UNATTACHED))) {
        error_set(errp, "%s is not a hotpluggable device", id);
        return false;
    }
    if (!d) {
        error_set_class(errp, ERROR_DEVICE_NOT_FOUND, "Device '%s' not found",
                        id);
        return false;
    }
    if (is_leaving(d)) {
        error_set(errp, "Device %s is already in the process of unplug", id);
        return false;
    }
    if (!d->bus) {
        error_set(errp, "Device '%s' does not support hotplugging",
                  d->type->name);
        return false;
    }
    if (!d->bus->hotplug) {
        error_set(errp, "Bus '%s' does not support hotplugging",
                  d->bus->name);
        return false;
    }
    if (is_growing(d)) {
        error_set(errp, "Device '%s' is in use: a device is being added to "
                  "it", id);
        return false;
    }
    d->leaving = true;
    unplug(d);
    return true;
}

void devices_free(void)
{
    /* The newest is on no older one's bus. */
    while (devices) {
        struct device *d = devices;

        device_disk_unrealize(d);
        device_free(d);
    }
}
