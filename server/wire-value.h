/* SPDX-License-Identifier: MIT */
/*
 * The builder of the wire reader: a value out of tokens, without recursion.
 * Private to wire.c and wire-value.c.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <glib.h>
#include <jansson.h>

enum wire_token {
    WIRE_OPEN_OBJECT,
    WIRE_CLOSE_OBJECT,
    WIRE_OPEN_ARRAY,
    WIRE_CLOSE_ARRAY,
    WIRE_COLON,
    WIRE_COMMA,
    WIRE_STRING,
    WIRE_INTEGER,
    WIRE_REAL,
    WIRE_KEYWORD,
};

enum wire_expect {
    WIRE_EXPECT_VALUE,
    WIRE_EXPECT_VALUE_OR_END,   /* behind [ */
    WIRE_EXPECT_KEY,
    WIRE_EXPECT_KEY_OR_END,     /* behind { */
    WIRE_EXPECT_COLON,
    WIRE_EXPECT_SEPARATOR,
};

struct wire_builder {
    enum wire_expect expect;
    json_t *root;           /* owned */
    GPtrArray *open;        /* json_t *: containers, outermost first; borrowed
                               from root */
    json_t *key;            /* owned; string, between a key and its value */
    char *error;            /* owned; the first: the rest is not looked at */
    GString *scratch;       /* string without its escapes */
};

void wire_builder_init(struct wire_builder *b);
void wire_builder_deinit(struct wire_builder *b);
/* Forget the value. */
void wire_builder_reset(struct wire_builder *b);

/*
 * Take a token.  TEXT is what stands between the quotes of a string (the
 * closing quote is at TEXT[LEN]), the whole token otherwise.  PLAIN: a string
 * of ASCII without escapes.
 */
void wire_builder_take(struct wire_builder *b, enum wire_token token,
                       const char *text, size_t len, bool plain);

/*
 * The brackets balance, or never will: the value (new reference), or NULL and
 * *TEXT.  Resets the builder.
 */
json_t *wire_builder_finish(struct wire_builder *b, char **text);
