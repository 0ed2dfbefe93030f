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
    char *id;                   /* owned: the name it has had */
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
/* Does TEXT ask which formats there are (format=help)?  Nothing else is to be
 * done then. */
bool drive_wants_formats(const char *text);
/* -drive format=help: two lines to stdout. */
void drive_print_formats(void);
/* The two lines; owned. */
char *drive_formats_text(void);
/* HMP's `drive_add -n`: a node of the monitor's and no drive.  Yields. */
bool drive_add_node(const char *text, struct error **errp);
/* HMP's drive_del: of a drive, or of a node of the monitor's.  Yields. */
bool drive_del(const char *id, struct error **errp);
/* All that have no front end go: the end of the server.  Yields. */
void drives_free(void);
