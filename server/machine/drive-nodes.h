/* SPDX-License-Identifier: MIT */
/*
 * From the options of -drive to nodes.
 *
 * Problem     -drive leaves out what blockdev-add wants to be told: the driver
 *             of a file (its name has it), the format (the file has it), what
 *             is below an overlay (its header has it).
 * Answer      The options, an object with what was given, are completed level
 *             by level until they are what blockdev-add takes.
 *
 * Threads  Control lock held; yields.
 */
#pragma once

#include <jansson.h>
#include "block/node.h"

/*
 * OPTIONS (nested, strings; changed) and FILENAME (NULL: none) as -drive has
 * them.  An owned reference, or NULL with QEMU's text.
 */
struct node *drive_nodes_open(json_t *options, const char *filename,
                              struct error **errp);
/* The same for a node that the monitor will own, without guessing by a file
 * name: `drive_add -n`. */
BlockdevOptions *drive_nodes_options(json_t *options, struct error **errp);
