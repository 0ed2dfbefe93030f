/* SPDX-License-Identifier: MIT */
/* Words of a command line to a command's arguments. */
#pragma once

#include <jansson.h>
#include "base/error.h"
#include "tools/schema.h"

/*
 * WORDS (N of them) as arguments of COMMAND: one JSON object, or key=value
 * with dotted keys (a.b=x makes {"a": {"b": x}}, l.0=x a list), each value
 * given its type by the schema.  New reference; NULL and errp.
 */
json_t *args_parse(const struct schema *s, const char *command,
                   char *const *words, size_t n, struct error **errp);

/* Split a shell line into words: spaces, 'single' and "double" quotes,
 * backslashes, and braces that belong together.  NULL-terminated, g_strfreev;
 * NULL and errp for an open quote. */
char **args_split(const char *line, struct error **errp);
