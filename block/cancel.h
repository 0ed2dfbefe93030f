/* SPDX-License-Identifier: MIT */
/*
 * Cancel: long work of the calling thread can be asked to stop.
 *
 * Creating an image is plain nested calls; the loops in it that can run for
 * minutes ask cancel_asked() and give up with -ECANCELED.  Who started the
 * work says before how a cancel is noticed.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

typedef bool cancel_fn(void *opaque);

/* Until cancel_end(), in this thread; does not nest.  FN from this thread
 * only, at any time, no lock of its own but a leaf. */
void cancel_begin(cancel_fn *fn, void *opaque);
void cancel_end(void);
/* False where nobody has begun anything. */
bool cancel_asked(void);

/*
 * The process is ending: from now on nobody waits long for another machine
 * (a server that is gone, one that does not answer).  Any thread.
 */
void cancel_waits(void);
bool cancel_waits_asked(void);
/* clock_ns() of cancel_waits(); INT64_MAX before. */
int64_t cancel_waits_since(void);
