/* SPDX-License-Identifier: MIT */
/*
 * `replaces`: may a copy of a node take another node's place?
 *
 * Those who use the replaced node must not see its data change at once.  It
 * may be what the source reads through filters, or a child of a quorum: that
 * may differ (to repair it is what this is for), but then nobody but the
 * quorum may see it.
 *
 * Threads     Control lock.
 */
#pragma once

#include "block/node.h"

/* May a copy of SOURCE take the place of the node called NAME? */
bool mirror_replaces_allowed(struct node *source, const char *name,
                             struct error **errp);
/* May TARGET, a copy of SOURCE, take the place of REPLACED still?  Asked when
 * the job completes. */
bool mirror_replaces_check(struct node *source, struct node *replaced,
                           struct node *target, struct error **errp);
