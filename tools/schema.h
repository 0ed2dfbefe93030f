/* SPDX-License-Identifier: MIT */
/*
 * The server's own schema (query-qmp-schema), for completion, help and for
 * giving words from a command line their types.
 *
 * Everything returned is borrowed from the schema.
 */
#pragma once

#include <jansson.h>
#include "base/error.h"
#include "tools/client.h"

struct schema;

struct schema *schema_load(struct client *c, struct error **errp);
void schema_free(struct schema *s);

/* The entity of that name ("blockdev-add", or a type's number), or NULL. */
json_t *schema_entity(const struct schema *s, const char *name);
/* Commands in alphabetical order, NULL-terminated. */
const char *const *schema_commands(const struct schema *s);
/* The type of a command's arguments; NULL: no such command. */
json_t *schema_arguments(const struct schema *s, const char *command);
/* The type of member NAME of object TYPE, variants and bases included; NULL
 * if there is none or TYPE is no object.  Lists: of the element. */
json_t *schema_member(const struct schema *s, json_t *type, const char *name);
/* Is the member optional? */
bool schema_member_optional(json_t *type, const char *name);
/* Call FN for each member name TYPE can have (a name may come twice). */
void schema_each_member(const struct schema *s, json_t *type,
                        void (*fn)(const char *name, json_t *type,
                                   bool optional, void *arg),
                        void *arg);
/* "string", "int", "boolean", "one of a, b", "object", "list of ..." */
char *schema_describe(const struct schema *s, json_t *type);     /* owned */
/* Values of an enum, or NULL if TYPE is none: an array of strings. */
json_t *schema_enum_values(json_t *type);
/*
 * WORD as a value of TYPE: on/off/true/false, numbers with a size suffix
 * (K M G T P E), null.  New reference; NULL and errp if it cannot be one.
 */
json_t *schema_value(const struct schema *s, json_t *type, const char *word,
                     struct error **errp);
