/* SPDX-License-Identifier: MIT */
/* -object help and -object TYPE,help, out of the schema.  To stdout. */
#pragma once

#include "base/error.h"

void object_print_types(void);
/* False and errp: there is no such type. */
bool object_print_properties(const char *type, struct error **errp);
