/* SPDX-License-Identifier: MIT */
/*
 * Devices: the front ends of the null machine, and the tree they are in.
 *
 * Problem     Managers make disks of three parts (controller, disk, drive),
 *             find them by id and by path, and take them out again.
 * Answer      A table of types with their properties; a device is an entry
 *             of a tree with values for them.  A disk's device takes a
 *             backend (block/backend.h); nothing else does anything.
 * Threads     Control lock held.
 */
#pragma once

#include "block/backend.h"

struct device;

/* As device_add: OPTIONS (borrowed) is an object of scalars; "driver", "id",
 * "bus" and properties.  Yields.  NULL with QEMU's text.  Borrowed. */
struct device *device_add(const json_t *options, struct error **errp);
/* As device_del: by id, or a path of the tree.  DEVICE_DELETED is sent when
 * it has gone: at once (SCSI), or after system_reset at the latest. Yields. */
bool device_del(const char *id, struct error **errp);
/* By id or path; NULL: none. */
struct device *device_find(const char *id);
const char *device_id(const struct device *d);      /* NULL: none */
const char *device_path(const struct device *d);
const char *device_type_name(const struct device *d);
struct backend *device_backend(const struct device *d);     /* or NULL */

/* `-drive if=virtio|ide|floppy|scsi`: the device that goes with it.  Yields. */
bool device_add_for_drive(struct backend *b, const char *interface,
                          int bus, int unit, bool cdrom, struct error **errp);
/* The machine's own drives (pc: ide1-cd0, floppy0), unless -nodefaults. */
bool devices_add_defaults(struct error **errp);
/* Which -M: it decides what buses there are.  False with QEMU's text. */
bool machine_set(const char *text, struct error **errp);
const char *machine_name(void);

/* -device help, -device TYPE,help; -machine help.  To stdout. */
void device_print_types(void);
bool device_print_properties(const char *type, struct error **errp);
void machine_print_help(void);

/* HMP's info qtree. */
char *device_tree_text(void);

/* All go: the end of the server. Yields. */
void devices_free(void);
