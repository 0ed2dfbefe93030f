/* SPDX-License-Identifier: MIT */
/*
 * Events go to every client that has negotiated, and are kept for a while.
 *
 * Each has a number (event-log.h), given when it is sent, so that what a limit
 * holds back has its place in the order.  The first number is the time of day
 * at the server's start, in microseconds: no number is used twice by servers
 * that follow each other.
 */
#pragma once

#include <stdint.h>
#include "base/error.h"
#include "qapi/qapi-types.h"

struct session;

/* Take the events of qapi/.  After loop_init(), before there are threads. */
void events_init(void);
void events_deinit(void);

/* Control lock held.  False, NULL: event FROM is not kept, or has not been
 * sent. */
bool events_replay(struct session *s, int64_t from, struct error **errp);
EventHistory *events_list(int64_t from, int64_t limit, struct error **errp);
int64_t events_oldest(void);
