/* SPDX-License-Identifier: MIT */
/*
 * From a JSON value to a command's reply.
 *
 * Quick commands run in the loop's thread, those that are QAPI_CMD_BLOCKING
 * on a worker; both with the control lock held.  Out-of-band commands do not
 * wait for their turn.
 *
 * Threads  Control lock held; the loop's thread.
 */
#pragma once

#include "server/session.h"

/* The client sent VALUE (taken): run it, queue it, or reply what is wrong. */
void dispatch_value(struct session *s, json_t *value);
/* The client sent what is no JSON: TEXT (taken) is replied in its turn. */
void dispatch_error(struct session *s, char *text);
/* Run what is queued, as far as it goes. */
void dispatch_continue(struct session *s);
/* The client is gone: forget what is queued. */
void dispatch_drop_queue(struct session *s);

/* Handlers: whose command runs in this thread; NULL: not a client's. */
struct session *dispatch_session(void);
/* Commands that run on workers; changes are followed by control_notify(). */
int dispatch_n_running(void);
/* Somebody else's command (HMP's) begins and ends: it counts as those. */
void dispatch_begin_other(void);
void dispatch_end_other(void);
