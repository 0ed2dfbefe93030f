/* SPDX-License-Identifier: MIT */
/* Where a drive is: interface, bus, unit, and the id that follows from them. */
#pragma once

#include <jansson.h>
#include "base/error.h"

struct drive_place {
    const char *interface;      /* static */
    int bus, unit;
    bool cdrom;
};

/* Does a drive of INTERFACE at BUS, UNIT exist? */
typedef bool drive_taken_fn(const char *interface, int bus, int unit);

/*
 * Take if, media, bus, unit and index out of FLAT.  What is not said: the
 * first place that is free.  False with QEMU's text.
 */
bool drive_place_take(json_t *flat, const char *default_interface,
                      drive_taken_fn *taken, struct drive_place *p,
                      struct error **errp);
/* As "ide0-cd1".  Owned. */
char *drive_place_id(const struct drive_place *p);
/* May a drive of INTERFACE say what becomes of errors? */
bool drive_interface_has_policy(const char *interface);
/* A drive that a device of the machine's must take. */
bool drive_interface_has_device(const char *interface);
