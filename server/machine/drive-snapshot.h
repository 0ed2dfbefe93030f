/* SPDX-License-Identifier: MIT */
/* What -drive puts on an image: a temporary overlay. */
#pragma once

#include "block/node.h"

/*
 * snapshot=on: an overlay over BASE (taken, read-only) in a file that nobody
 * sees and that goes with it.  An owned reference; NULL with a text.
 * Control lock; yields.
 */
struct node *drive_snapshot_over(struct node *base, bool read_only,
                                 struct error **errp);
