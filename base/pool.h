/* SPDX-License-Identifier: MIT */
/*
 * The shared pool of workers: runs a function in another thread.
 *
 * The pool grows whenever all its threads are busy, so that a task that waits
 * never starves one that could run; idle threads end after a while.  Who
 * submits bounds what it has in flight.
 */
#pragma once

typedef void pool_fn(void *arg);

/* Run FN(ARG) in a worker.  Any thread; does not block. */
void pool_submit(pool_fn *fn, void *arg);

/* Wait until every submitted task has ended, then end all threads.  Call
 * once, at exit, with no lock held. */
void pool_shutdown(void);
