/* SPDX-License-Identifier: MIT */
/*
 * The text of -drive: "key=value,key=value", a comma in a value doubled.
 *
 * Values are strings; of a key given twice the last counts.  All objects here
 * are owned by who asked for them.
 *
 * Threads  None of its own.
 */
#pragma once

#include <jansson.h>
#include "base/error.h"

/*
 * TEXT as a flat object, keys as they stand, dots and all.  A key without a
 * value is on ("no" before it: off), with a warning.  Never fails.
 */
json_t *drive_text_parse(const char *text);

/* What follows is about TEXT (borrowed; NULL: no more), of an option -drive. */
void drive_text_set_current(const char *text);
/* On stderr, with the option it is about. */
void drive_text_warn(const char *fmt, ...) G_GNUC_PRINTF(1, 2);

/* Take the value of KEY out of FLAT: owned; NULL: there is none. */
char *drive_text_take(json_t *flat, const char *key);
/* As that, of a boolean; *VALUE stays as it is if there is none. */
bool drive_text_take_bool(json_t *flat, const char *key, bool *value,
                          struct error **errp);
/* As that, of a number. */
bool drive_text_take_number(json_t *flat, const char *key, int64_t *value,
                            struct error **errp);
/* on, off, yes, no, true, false, y, n; false: it is none of them. */
bool drive_text_is_bool(const char *text, bool *value);

/* The keys of a.b.c nested, 0, 1, 2... as arrays.  NULL with QEMU's text. */
json_t *drive_text_nest(const json_t *flat, struct error **errp);
