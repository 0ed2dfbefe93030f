/* SPDX-License-Identifier: MIT */
/* The object throttle-group: a struct throttle_group with a name. */
#pragma once

#include "block/objects/object.h"
#include "block/throttle-group.h"

struct throttle_group_object {
    struct object base;
    struct throttle_group group;
    struct throttle_group_object *next;     /* of those that are no objects */
};

/* The group ID, in use until object_put(&g->base): an object's, or one that
 * devices share.  NULL and errp: there is none.  Control lock held. */
struct throttle_group_object *throttle_group_get(const char *id,
                                                 struct error **errp);
/* The same; there is one now if there was none: it has no limits, is not
 * among the objects, and goes with its last user. */
struct throttle_group_object *throttle_group_get_or_make(const char *id);
