/* SPDX-License-Identifier: MIT */
/* The schema as clients are told of it: what the program that we stand in for
 * has (server/persona.h). */
#pragma once

#include <jansson.h>

/* ALL (taken) without commands that are not there, and without types that
 * only they use.  New reference. */
json_t *introspect_of_persona(json_t *all);
