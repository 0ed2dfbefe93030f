/* SPDX-License-Identifier: MIT */
/* I/O limits in the text of -drive, by their names of now and of before. */
#pragma once

#include <jansson.h>
#include "block/throttle.h"

struct drive_limits {
    char *group;                /* owned; NULL: the drive's own */
    struct throttle_limits limits;
    bool any;
};

/* Replace old spellings of options (iops, readonly...) by those of now.  False
 * with QEMU's text: both are given. */
bool drive_limits_rename_old(json_t *flat, struct error **errp);
/* Take what concerns limits out of FLAT; checked. */
bool drive_limits_take(json_t *flat, struct drive_limits *l,
                       struct error **errp);
