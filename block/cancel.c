/* SPDX-License-Identifier: MIT */
/* Cancel: see cancel.h. */
#include "block/cancel.h"

#include <stdatomic.h>
#include <stddef.h>
#include <glib.h>
#include "base/lock.h"

static _Thread_local cancel_fn *cancel_check;
static _Thread_local void *cancel_opaque;

void cancel_begin(cancel_fn *fn, void *opaque)
{
    g_assert(!cancel_check);
    cancel_check = fn;
    cancel_opaque = opaque;
}

void cancel_end(void)
{
    cancel_check = NULL;
}

bool cancel_asked(void)
{
    return cancel_check && cancel_check(cancel_opaque);
}

/* ---- the end of the process --------------------------------------------- */

static _Atomic int64_t waits_end_ns = INT64_MAX;

void cancel_waits(void)
{
    int64_t never = INT64_MAX;

    atomic_compare_exchange_strong(&waits_end_ns, &never, clock_ns());
}

bool cancel_waits_asked(void)
{
    return cancel_waits_since() != INT64_MAX;
}

int64_t cancel_waits_since(void)
{
    return atomic_load_explicit(&waits_end_ns, memory_order_relaxed);
}
