/* SPDX-License-Identifier: MIT */
/*
 * Commit at once: what a layer holds goes down into its backing file, and the
 * layer, empty then, stays where it is.  No job: nothing is told, nobody can
 * pause it; guests wait.
 *
 * Threads     Control lock held, on a worker; yields.
 */
#pragma once

#include "block/node.h"

/* False and errp, whose errno says why: ENOTSUP (nothing to commit into),
 * EBUSY (a job), EPERM (read-only), or an error of I/O.  Then some of it may
 * be in the backing file already; N reads as before. */
bool commit_now(struct node *n, struct error **errp);
