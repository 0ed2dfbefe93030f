/* SPDX-License-Identifier: MIT */
/*
 * What requests leave for later: mostly events, which need the control lock
 * that a request may not wait for.  A worker does it, in order.
 */
#pragma once

#include "base/pool.h"

/* Run FN(ARG) in a worker, after what was submitted before.  FN must wait for
 * nothing but the control lock.  Any thread; does not block. */
void late_submit(pool_fn *fn, void *arg);
/* Wait until what was submitted so far is done.  No lock held. */
void late_wait(void);
