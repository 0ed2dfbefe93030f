/* SPDX-License-Identifier: MIT */
/* Identifiers: see id.h. */
#include "base/id.h"

#include <string.h>
#include <glib.h>

bool id_is_well_formed(const char *id)
{
    if (!g_ascii_isalpha(*id)) {
        return false;
    }
    while (*++id) {
        if (!g_ascii_isalnum(*id) && !strchr("-._", *id)) {
            return false;
        }
    }
    return true;
}
