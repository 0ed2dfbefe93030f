/* SPDX-License-Identifier: MIT */
/* Live progress of jobs. */
#pragma once

#include "tools/client.h"

struct watch_options {
    /* What the server can tell, beyond what QEMU does. */
    bool has_detail;        /* query-jobs takes detail */
    bool has_history;       /* there is query-job-history */
    bool until_ready;       /* a job that is ready need not end */
};

/*
 * Show progress until the jobs named in IDS (NULL-terminated; none: all that
 * there are) have ended: concluded or gone.  On a terminal a bar a job,
 * redrawn; else a line at each change of status and each tenth of the way.
 * A job that has ended already is shown as the server remembers it.
 * Returns 0: all ended well; 1: a job failed or was cancelled, or an id is
 * unknown; 3: the connection is gone.
 */
int watch_jobs(struct client *c, const struct watch_options *options,
               char *const *ids);
