/* SPDX-License-Identifier: MIT */
/*
 * What kinds of devices there are, and what each can be told: tables, for
 * the files of this folder.
 *
 * Constant data; any thread.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <jansson.h>

struct error;

enum bus_kind {
    BUS_NONE, BUS_SYSTEM, BUS_PCI, BUS_SCSI, BUS_IDE, BUS_FLOPPY, BUS_ISA,
    BUS_USB, BUS_VIRTIO_SERIAL, BUS_HDA, BUS__MAX
};

/* As messages have it: "SCSI". */
const char *bus_kind_name(enum bus_kind kind);

struct device_prop {
    const char *name;           /* NULL ends a table */
    const char *type;           /* "bool", "uint32", "str", ... */
    const char *def;            /* as text; NULL: none */
};

enum device_role {
    DEVICE_OTHER,               /* accepted; nothing depends on it */
    DEVICE_DISK,
    DEVICE_CD,
    DEVICE_FLOPPY,
};

struct device_type {
    const char *name;
    const char *alias;          /* another name for -device, or NULL */
    const char *description;    /* or NULL */
    const char *parent;         /* the type above it */
    enum bus_kind bus;          /* what it is plugged into */
    enum bus_kind provides;     /* the kind of its own buses */
    int n_buses;
    enum device_role role;
    const char *inner;          /* a virtio device has this one inside */
    /* Tables, NULL-terminated, in the order in which qtree has them. */
    const struct device_prop *const *props;
    const struct device_prop *const *inner_props;
    /* Of others: the names of properties, with blanks around; what they are
     * told is kept, and not looked at. */
    const char *names;
};

/* By name or alias, or NULL. */
const struct device_type *device_type_find(const char *name);
/* All; NULL starts, NULL ends. */
const struct device_type *device_type_next(const struct device_type *t);
/* Its own or its inner object's property; NULL: none. */
const struct device_prop *device_type_prop(const struct device_type *t,
                                           const char *name);
/* Does it take NAME, whether or not there is more to say about it? */
bool device_type_takes(const struct device_type *t, const char *name);

/*
 * VALUE (a scalar, or its text) as P has it: a new reference, NULL with
 * QEMU's text.  TYPE_NAME is for the text.
 */
json_t *device_prop_parse(const struct device_prop *p, const char *type_name,
                          json_t *value, struct error **errp);
/* What P is unless told otherwise; a new reference, or NULL: nothing. */
json_t *device_prop_default(const struct device_prop *p);
/* What it is for, or NULL. */
const char *device_prop_description(const struct device_prop *p);
/* As qtree shows VALUE; owned. */
char *device_prop_text(const struct device_prop *p, json_t *value);

/* Tables (device-props-tables.c). */
extern const struct device_prop *const virtio_blk_props[],
    *const virtio_blk_inner_props[], *const virtio_scsi_props[],
    *const virtio_scsi_inner_props[], *const scsi_hd_props[],
    *const scsi_cd_props[], *const ide_hd_props[], *const ide_cd_props[],
    *const floppy_props[], *const isa_fdc_props[], *const root_port_props[],
    *const pci_bridge_props[], *const pci_props[], *const no_props[];
