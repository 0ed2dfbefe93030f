/* SPDX-License-Identifier: MIT */
/*
 * One job that is watched: what is known of it, and how that reads.
 *
 * Threads  One.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <glib.h>
#include <jansson.h>

struct watched {
    char *id;               /* owned */
    char *type;             /* owned */
    char *status;           /* owned: as last seen; "": never seen */
    char *error;            /* owned or NULL */
    char *reasons;          /* owned: why it is stopped; "" */
    int64_t current, total; /* bytes, for create: steps */
    int64_t seen_ns;        /* when current was read */
    double rate;            /* bytes per second: the server's, or ours */
    double dirty_rate;      /* < 0: not known */
    int64_t left_s;         /* until ready or done; < 0: not known */
    bool ended, cancelled;
    bool unknown;           /* there is no such job: nothing to draw */
    int printed_tenth;      /* plain output: last tenth printed */
    char *printed_status;   /* owned */
};

struct watched *watched_new(const char *id);
void watched_free(gpointer job);        /* for GPtrArray */

/* An entry of query-jobs, with or without detail. */
void watched_update(struct watched *j, json_t *info);
/* An event about it. */
void watched_event(struct watched *j, const char *name, json_t *data);
/* An entry of query-job-history: it ended before we looked. */
void watched_ended(struct watched *j, json_t *entry);

bool watched_is_ready(const struct watched *j);
/* "running", "done", "failed", "cancelled", ...: borrowed. */
const char *watched_outcome(const struct watched *j);
/* One line, owned by the caller; COLUMNS > 0: no longer than that. */
char *watched_format(const struct watched *j, bool bar, int columns);
