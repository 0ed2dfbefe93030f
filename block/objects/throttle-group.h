/* SPDX-License-Identifier: MIT */
/* The object throttle-group: a struct throttle_group with a name. */
#pragma once

#include "block/objects/object.h"
#include "block/throttle-group.h"

struct throttle_group_object {
    struct object base;
    struct throttle_group group;
};

/* The group ID, in use until object_put(&g->base).  NULL and errp: there is
 * none.  Control lock held. */
struct throttle_group_object *throttle_group_get(const char *id,
                                                 struct error **errp);
