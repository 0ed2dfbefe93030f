/* SPDX-License-Identifier: MIT */
/*
 * Texts of options: "a=b,c=d", where a doubled comma is one in a value, or
 * JSON.  No state; any thread.
 */
#pragma once

#include <jansson.h>
#include "base/error.h"

bool text_is_json(const char *text);
/* TEXT with its old switches written out: "server,nowait" is
 * "server=on,wait=off".  The first word is left alone.  Owned. */
char *text_expand_switches(const char *text);
/* TEXT as an object of strings, or from JSON.  A new reference; NULL and
 * errp. */
json_t *text_parse(const char *text, const char *implied_key,
                   struct error **errp);
/* The same without regard to what its keys mean; errors are QEMU's. */
bool text_check(const char *text, const char *implied_key,
                struct error **errp);
/* Is one of the words of TEXT "help" or "?", alone?  *FIRST (owned, may be
 * NULL) is then the first word if that is another one. */
bool text_asks_help(const char *text, char **first);
/* Value of KEY in "a=b,KEY=VALUE,...": owned; NULL if it is not there. */
char *text_value(const char *text, const char *key);
/* TEXT with its commas doubled: a value.  Owned. */
char *text_quote(const char *text);
