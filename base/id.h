/* SPDX-License-Identifier: MIT */
/* Identifiers: names of objects, nodes, jobs, exports, character devices. */
#pragma once

#include <stdbool.h>

/* Letters, digits, '-', '.', '_'; a letter first. */
bool id_is_well_formed(const char *id);
