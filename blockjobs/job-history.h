/* SPDX-License-Identifier: MIT */
/*
 * The last jobs that ended, for who comes back late.
 *
 * Bounded: JOB_HISTORY_MAX; the oldest goes first.  Jobs without an id and
 * jobs that never came to be (their command failed) are not in it.
 *
 * Threads     Control lock.
 */
#pragma once

#include "qapi/qapi-types.h"

enum { JOB_HISTORY_MAX = 256 };

struct job;

/* JOB is concluded. */
void job_history_add(const struct job *job);
/* Newest first; ID NULL: of all; at most LIMIT.  Owned by the caller. */
JobHistoryEntryList *job_history_list(const char *id, int64_t limit);
void job_history_free(void);
