/* SPDX-License-Identifier: MIT */
/*
 * -drive: a backend and its node in one text of key=value.
 *
 * Threads  Control lock held; what opens files yields.
 */
#pragma once

#include "block/backend.h"

/* What a drive asks of the machine besides its backend. */
struct drive {
    struct backend *backend;    /* borrowed; with a name */
    const char *interface;      /* "virtio", "none", "ide", ...: static */
    int bus, unit;              /* as given or counted up */
    bool cdrom;                 /* media=cdrom */
    struct drive *next;
};

/*
 * As `-drive TEXT`; DEFAULT_INTERFACE if it does not say (QEMU's pc: "ide").
 * Its device, if its interface has one, is the caller's business.  NULL with
 * QEMU's text; nothing is left then.  Borrowed: the drive lives as long as
 * its backend has its name.
 */
struct drive *drive_add(const char *text, const char *default_interface,
                        struct error **errp);
/* In the order in which they were made. */
struct drive *drive_next(const struct drive *d);
struct drive *drive_of_backend(const struct backend *b);    /* or NULL */
/* -drive format=help: two lines to stdout. */
void drive_print_formats(void);
/* HMP's drive_del.  Yields. */
bool drive_del(const char *id, struct error **errp);
