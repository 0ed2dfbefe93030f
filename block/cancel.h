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
#include <stddef.h>
#include <stdint.h>

typedef bool cancel_fn(void *opaque);

/* Until cancel_end(), in this thread; does not nest.  FN from this thread
 * only, at any time, no lock of its own but a leaf. */
void cancel_begin(cancel_fn *fn, void *opaque);
void cancel_end(void);
/* False where nobody has begun anything. */
bool cancel_asked(void);
/* Has this thread begun anything?  Then who waits for long asks now and
 * then. */
bool cancel_possible(void);

/*
 * Who gives a request up while its answer may still come needs the memory
 * that the answer goes to.  The owner of a buffer (from malloc()) lends it to
 * the requests that this thread makes, and takes it back behind them; false:
 * it was kept, it is not the owner's any more.  Nests.
 */
struct cancel_loan {
    uint8_t *buf;
    size_t bytes;
    bool kept;
    struct cancel_loan *outer;
};
void cancel_lend(struct cancel_loan *loan, void *buf, size_t bytes);
bool cancel_take_back(struct cancel_loan *loan);
/* Is all of [AT, AT + bytes) in what this thread has lent last? */
bool cancel_is_lent(const void *at, size_t bytes);
/* Keep what is lent: free() it when nothing comes any more. */
void *cancel_keep(void);

/*
 * The process is ending: from now on nobody waits long for another machine
 * (a server that is gone, one that does not answer).  Any thread.
 */
void cancel_waits(void);
bool cancel_waits_asked(void);
/* clock_ns() of cancel_waits(); INT64_MAX before. */
int64_t cancel_waits_since(void);
