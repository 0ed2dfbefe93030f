/* SPDX-License-Identifier: MIT */
/* What -drive says: of the backend, of how it is opened, and of nodes. */
#pragma once

#include <jansson.h>
#include "server/machine/drive-limits.h"
#include "server/machine/drive-names.h"

struct drive_options {
    struct drive_place place;
    char *id;                   /* owned */
    bool writethrough, read_only, snapshot, copy_on_read;
    bool zeroes_unmapped;       /* detect-zeroes=unmap, whatever discard says */
    BlockdevOnError on_read_error, on_write_error;
    struct drive_limits limits;
    char *filename;             /* owned; NULL: none */
    json_t *node;               /* owned, nested; NULL: an empty drive */
};

/* TEXT; false with QEMU's text. */
bool drive_options_parse(struct drive_options *o, const char *text,
                         const char *default_interface,
                         drive_taken_fn *taken, struct error **errp);
void drive_options_clear(struct drive_options *o);
