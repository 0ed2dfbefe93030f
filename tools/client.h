/* SPDX-License-Identifier: MIT */
/*
 * A QMP client: one connection, one command at a time, events kept in order.
 *
 * Threads  One.  All calls block; client_next_event() takes a time limit.
 */
#pragma once

#include <jansson.h>
#include "base/error.h"

struct client;

/*
 * Connect and negotiate.  ADDRESS: a path, unix:PATH, HOST:PORT or
 * tcp:HOST:PORT.  NULL and errp when nobody answers or it is no QMP server.
 */
struct client *client_connect(const char *address, struct error **errp);
void client_free(struct client *c);

/*
 * Run COMMAND with ARGUMENTS (borrowed; NULL: none).  The "return" value, a
 * new reference; NULL and errp (with the server's class) if it was refused,
 * or, with client_is_dead(), if the connection is gone.
 */
json_t *client_execute(struct client *c, const char *command,
                       json_t *arguments, struct error **errp);

/*
 * The next event, a new reference; NULL after TIMEOUT_MS (< 0: for ever), or
 * with client_is_dead().
 */
json_t *client_next_event(struct client *c, int timeout_ms);

bool client_is_dead(const struct client *c);
int client_fd(const struct client *c);
