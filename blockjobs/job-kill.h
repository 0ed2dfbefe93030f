/* SPDX-License-Identifier: MIT */
/*
 * Kill points: in builds with debug information a test can let the server die
 * at an exact moment of a job's life.
 *
 *   BLOCKJOBD_KILL_AT=JOB:POINT[:N]
 *
 * The process kills itself (SIGKILL) when job JOB comes to POINT for the Nth
 * time (1).  POINT is the status that it is about to get, or a step of its
 * end (prepare, commit, abort, clean, dropped) or of a commit depth first
 * (depth-*): the list is in docs/jobs.md.
 *
 * Threads     Control lock.  Without the variable: one test of a pointer.
 */
#pragma once

#include <stdbool.h>

struct job;

void job_kill_point(const struct job *job, const char *point);
