/* SPDX-License-Identifier: MIT */
/* Live progress of jobs. */
#pragma once

#include "tools/client.h"

/*
 * Show progress until the jobs named in IDS (NULL-terminated; none: all that
 * there are) have ended: concluded or gone.  On a terminal a bar a job,
 * redrawn; else a line at each change of status and each tenth of the way.
 * Returns 0: all ended well; 1: a job failed or was cancelled, or an id is
 * unknown; 3: the connection is gone.
 */
int watch_jobs(struct client *c, char *const *ids);
