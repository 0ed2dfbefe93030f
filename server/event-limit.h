/* SPDX-License-Identifier: MIT */
/*
 * Events that come too often: of some kinds one a second is sent, at most.
 *
 * The first is sent at once.  Of those that follow within a second only the
 * last is kept, and sent when the second is over.  Some kinds count
 * separately per node.
 *
 * Threads  One at a time (the control lock).
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <jansson.h>

struct event_limit;

struct event_limit *event_limit_new(void);
void event_limit_free(struct event_limit *l);
/* EVENT is an event as it is sent.  True: send it now.  False: it is kept (a
 * reference is). */
bool event_limit_pass(struct event_limit *l, json_t *event, int64_t now_ns);
/* A kept event whose time has come (the caller's), or NULL. */
json_t *event_limit_take(struct event_limit *l, int64_t now_ns);
/* When event_limit_take() is wanted next; INT64_MAX: not at all. */
int64_t event_limit_next_ns(const struct event_limit *l);
