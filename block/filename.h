/* SPDX-License-Identifier: MIT */
/*
 * File names: what users and image headers write, and how nodes are reported.
 *
 * A name is a plain path, "file:PATH", "null-co://", or "json:{...}" with
 * options as for blockdev-add, nested or with dotted keys.  "fat:..." and
 * other protocols are refused by name.  A path with a colon is written
 * "./a:b" or "file:a:b".
 */
#pragma once

#include "block/driver.h"

bool filename_is_json(const char *name);
/* The object in "json:{...}", dotted keys made nested.  New reference. */
json_t *filename_parse_json(const char *name, struct error **errp);
/* Options of the protocol node for a NAME that is not json:.  Owned. */
BlockdevOptions *filename_protocol_options(const char *name,
                                           struct error **errp);
/* NAME seen from the directory of BASE: owned.  NAME unchanged if it is
 * absolute or has a protocol. */
char *filename_resolve(const char *base, const char *name);
/* The path in the host that NAME (resolved) means, or NULL.  Borrowed. */
const char *filename_local_path(const char *name);

/* The header's backing name as seen from N's directory; owned, NULL if there
 * is none or no directory (errp). */
char *node_resolved_backing_name(struct node *n, struct error **errp);
