/* SPDX-License-Identifier: MIT */
/*
 * A line editor on the wire.
 *
 * Problem     Who types at a monitor sees what was typed, mends it, takes up
 *             what was typed before; who drives it through a pipe compares
 *             each byte of the echo with QEMU's.
 * Answer      As QEMU: after each byte that changes the line, back to the
 *             line's begin (ESC [D), the line anew, clear the rest (ESC [K),
 *             back to the cursor; a byte that only moves the cursor moves it.
 * Invariants  I1  On the screen, behind the prompt, is the line as of the
 *                 last show(), with the cursor at shown_cursor.
 * Threads     One at a time.
 */
#pragma once

#include <stdbool.h>
#include <glib.h>

enum {
    READLINE_MAX_BYTES = 4095,      /* of a line; more are not taken */
    READLINE_MAX_HISTORY = 64,
};

struct readline_user {
    void (*put)(void *opaque, const char *text, size_t len);
    /* Enter was pressed, and told on the screen.  LINE is borrowed. */
    void (*entered)(void *opaque, const char *line);
    /* What may stand at the end of LINE: sorted words, owned; or NULL. */
    char **(*complete)(void *opaque, const char *line);
    void *opaque;
};

struct readline;

struct readline *readline_new(const struct readline_user *user);
void readline_free(struct readline *r);

/* The prompt, and an empty line behind it. */
void readline_prompt(struct readline *r);
/* A byte was typed. */
void readline_byte(struct readline *r, unsigned char byte);
/* The oldest first; NULL at the end.  Borrowed. */
const char *const *readline_history(const struct readline *r);
