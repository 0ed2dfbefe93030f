/* SPDX-License-Identifier: MIT */
/*
 * The wire reader: JSON values out of a stream of bytes.
 *
 * Problem     A client sends JSON values one after another, split and glued
 *             anywhere, with white space or nothing between them; it may also
 *             send anything else, without end.
 * Answer      A lexer that stops and goes on at any byte, and a builder that
 *             makes the value token by token: nothing is read twice, and no
 *             text is kept but a token that is split.
 * Dialect     JSON as QEMU reads it: strings may be in single quotes, where \'
 *             is an escape too; integers up to UINT64_MAX are exact
 *             (qapi_json_uint64()).  \u0000 is refused.
 * Invariants  I1  One WIRE_ERROR for what is wrong with one value; reading
 *                 goes on behind it.  A byte that can begin no token ends the
 *                 value it is in at once; other errors are reported where
 *                 brackets balance again.
 *             I2  Memory is bounded by WIRE_MAX_*.  After a value that is too
 *                 big or too deep (one error) everything up to the end of the
 *                 line, or of the value if that comes first, is dropped.
 * Threads     A reader belongs to one thread at a time.
 */
#pragma once

#include <jansson.h>
#include "base/error.h"

enum {
    WIRE_MAX_DEPTH = 1024,              /* brackets and braces open */
    WIRE_MAX_TOKENS = 2 << 20,          /* of one value */
    WIRE_MAX_BYTES = 64 << 20,          /* of the tokens of one value */
};

enum wire_item {
    WIRE_MORE,          /* all bytes are used up */
    WIRE_VALUE,
    WIRE_ERROR,
};

struct wire;

struct wire *wire_new(void);
void wire_free(struct wire *w);         /* NULL is fine */

/*
 * Read from *P up to END, as far as the end of a value or an error; *P is
 * moved behind what was read.  WIRE_VALUE: *VALUE is a new reference, of any
 * type.  WIRE_ERROR: *TEXT is a message (valid UTF-8) that the caller frees.
 */
enum wire_item wire_next(struct wire *w, const char **p, const char *end,
                         json_t **value, char **text);

/* The one value that TEXT is (a command-line option), or NULL and *ERRP. */
json_t *wire_parse(const char *text, struct error **errp);
