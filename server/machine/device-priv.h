/* SPDX-License-Identifier: MIT */
/*
 * A device from inside, for the files that devices are made of.
 *
 * Threads     Control lock held.
 * Invariants  I1  A device's bus is its parent's; it goes before its parent.
 *             I2  Only disks have a backend, and each has one.
 */
#pragma once

#include "block/iothread-claim.h"
#include "block/objects/object.h"
#include "server/machine/device-types.h"
#include "server/machine/device.h"

struct bus {
    char *name;                 /* owned */
    enum bus_kind kind;
    int index;                  /* among those of its owner */
    struct device *owner;
    bool hotplug;               /* can devices come and go later? */
};

struct device {
    struct backend_dev dev;     /* what the backend shows of it */
    const struct device_type *type;
    char *id;                   /* owned; NULL: none */
    char *path;                 /* owned */
    char *inner_path;           /* owned; NULL: nothing inside */
    char *qdev;                 /* owned; see struct backend_dev */
    struct bus *bus;            /* borrowed; NULL: the machine's own */
    struct bus *buses;          /* owned; type->n_buses of them */
    int n_buses;
    json_t *values;             /* of properties that were told; owned */
    struct object *iothread;    /* in use; NULL: none */
    struct backend *backend;    /* with a reference; NULL: none */
    struct iothread_claim claim;    /* listed while there is a backend */
    bool hotplugged;
    bool realized;              /* finished: others find it */
    bool leaving;               /* device_del is at work */
    struct device *next;        /* older */
};

/* Newest first. */
struct device *device_next(const struct device *d);
/* A new one, not listed yet: TYPE on BUS at PATH (owned from now on). */
struct device *device_new(const struct device_type *type, struct bus *bus,
                          const char *id, char *path);
/* Its id and address are taken from now on. */
void device_list(struct device *d);
/* It is finished: others find it, and its buses. */
void device_finish(struct device *d);
/* Out of the list, with its buses; the backend has been let go.  Yields. */
void device_free(struct device *d);
/* The next "device[N]" that the machine made itself; owned. */
char *device_unattached_path(void);
/* The place of the next device without an id; owned. */
char *device_anonymous_path(void);

/* ---- properties (device-values.c) --------------------------------------- */

/* What it was told, or else the default; a new reference.  NULL: no such
 * property. */
json_t *device_get_value(const struct device *d, const char *name);
/* The text of a string property, "" if it was not told; borrowed. */
const char *device_get_string(const struct device *d, const char *name);
bool device_get_bool(const struct device *d, const char *name);
int64_t device_get_int(const struct device *d, const char *name);
bool device_was_told(const struct device *d, const char *name);
void device_set_int(struct device *d, const char *name, int64_t value);
void device_set_string(struct device *d, const char *name,
                       const char *value);
/* Take OPTIONS but for driver, id and bus.  False with QEMU's text. */
bool device_take_options(struct device *d, const json_t *options,
                         struct error **errp);
/* The type that messages name for a property of it: the inner one's. */
const char *device_prop_owner(const struct device_type *t, const char *name);

/* Of T and what is inside (qmp-device.c). */
void device_type_list_props(const struct device_type *t,
                            ObjectPropertyInfoList *list);

/* ---- buses (device-bus.c) ----------------------------------------------- */

void device_make_buses(struct device *d);
void device_free_buses(struct device *d);
struct bus *bus_find(const char *name);
/* As -device has it: NAME, or (NULL) one of KIND that has room.  NULL with
 * QEMU's text. */
struct bus *bus_choose(const struct device_type *type, const char *name,
                       struct error **errp);
/* The path of its place in the tree; owned. */
char *bus_path(const struct bus *b);
/* The oldest device on B, then the next; NULL: none. */
struct device *bus_next_device(const struct bus *b, const struct device *d);
/* Check or choose D's address on its bus.  False with QEMU's text. */
bool bus_take_address(struct device *d, struct error **errp);

/* ---- disks (device-disk.c) ---------------------------------------------- */

/* D's drive becomes its backend.  Yields.  False with QEMU's text. */
bool device_disk_realize(struct device *d, struct error **errp);
/* B is taken as it is: -drive's own device. */
bool device_disk_attach(struct device *d, struct backend *b,
                        struct error **errp);
/* Let it go; jobs on a drive that goes with it are cancelled.  Yields. */
void device_disk_unrealize(struct device *d);
/* Another node in its place: qom-set drive.  Yields. */
bool device_disk_set_drive(struct device *d, const char *node_name,
                           struct error **errp);
/* As qom-get drive; borrowed. */
const char *device_disk_drive(const struct device *d);
