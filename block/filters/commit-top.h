/* SPDX-License-Identifier: MIT */
/*
 * commit_top: a filter over the highest layer that a commit takes away.
 *
 * Overlays above have their data through it; what is below may go on reading
 * as something that is not consistent: the filter needs nothing of it and
 * shares everything, so that the job can write the base.
 */
#pragma once

#include "base/error.h"
#include "block/types.h"

/*
 * Control lock, TOP drained: put a filter over it.  NAME NULL: made up, and
 * implicit.  Owned reference; NULL and errp: nothing has changed.
 * node_remove_filter() takes it out.
 */
struct node *commit_top_insert(struct node *top, const char *name,
                               struct error **errp);
