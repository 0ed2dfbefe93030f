/* SPDX-License-Identifier: MIT */
/*
 * The last events, by number, for clients that come back.
 *
 * Invariants  I1  Numbers grow by one; those from oldest to next - 1 are kept.
 *             I2  At most EVENT_LOG_MAX_EVENTS, and EVENT_LOG_MAX_BYTES of
 *                 text; the newest is kept in any case.
 * Threads     One at a time (the control lock).
 */
#pragma once

#include <stdint.h>
#include <jansson.h>

enum {
    EVENT_LOG_MAX_EVENTS = 4096,
    EVENT_LOG_MAX_BYTES = 4 << 20,
};

struct event_log;

/* FIRST: the number of the first event. */
struct event_log *event_log_new(int64_t first);
void event_log_free(struct event_log *l);
/* A reference to EVENT is kept.  Its number. */
int64_t event_log_add(struct event_log *l, json_t *event);
int64_t event_log_oldest(const struct event_log *l);    /* next if empty */
int64_t event_log_next(const struct event_log *l);
/* Borrowed; NUMBER from oldest to next - 1. */
json_t *event_log_get(const struct event_log *l, int64_t number);
