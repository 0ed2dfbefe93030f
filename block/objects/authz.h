/* SPDX-License-Identifier: MIT */
/* Authorization: may who calls himself so do what he wants? */
#pragma once

#include "block/objects/object.h"

/*
 * Ask the object ID of one of the authz types.  False and errp: it says no,
 * or there is no such object, or its list cannot be read now.  Control lock
 * held; may yield.
 */
bool authz_allows(const char *id, const char *identity, struct error **errp);
