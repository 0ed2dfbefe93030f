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

typedef bool cancel_fn(void *opaque);

/* Until cancel_end(), in this thread; does not nest.  FN from this thread
 * only, at any time, no lock of its own but a leaf. */
void cancel_begin(cancel_fn *fn, void *opaque);
void cancel_end(void);
/* False where nobody has begun anything. */
bool cancel_asked(void);
