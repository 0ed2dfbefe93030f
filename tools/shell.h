/* SPDX-License-Identifier: MIT */
/* The interactive shell: history, completion from the server's schema. */
#pragma once

#include "tools/client.h"
#include "tools/schema.h"

struct shell {
    struct client *client;
    const struct schema *schema;
    const char *address;    /* for the prompt */
};

/*
 * Read commands until end of input or "exit".  Returns 0, or 3 if the
 * connection went.
 */
int shell_run(struct shell *sh);

/* ---- blockjobctl.c, shared by the shell and one-shot commands --------------- */

/* Run WORDS (a command and its arguments) and print the result or the error.
 * Exit code: 0, 1 refused, 2 bad words, 3 connection gone. */
int run_command(struct shell *sh, char *const *words, size_t n);
