/* SPDX-License-Identifier: MIT */
/* Completing the options of -drive: see drive-nodes.h. */
#pragma once

#include <jansson.h>
#include "block/driver.h"

/* What completing found out and options cannot say. */
struct drive_completion {
    GPtrArray *guessed;         /* char *, owned: the way down ("backing",
                                   "children.0/file") to nodes whose format is
                                   what their file looks like */
    bool top_unguessed;         /* only the driver of the top is missing; its
                                   "file" is complete */
};

void drive_completion_init(struct drive_completion *c);
void drive_completion_clear(struct drive_completion *c);

/* Complete O, an image called FILENAME (NULL: its options say where it is). */
bool drive_complete(struct drive_completion *c, json_t *o,
                    const char *filename, struct error **errp);
/* What is below the top, whose driver is known by now. */
bool drive_complete_below(struct drive_completion *c, json_t *o,
                          struct error **errp);
/* Complete options, as drive_complete() left them, as a type; with texts as
 * -drive has them. */
BlockdevOptions *drive_options_typed(json_t *o, struct error **errp);
