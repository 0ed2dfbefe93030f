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

bool cancel_possible(void)
{
    return cancel_check != NULL;
}

/* ---- lent buffers ------------------------------------------------------- */

static _Thread_local struct cancel_loan *last_loan;

void cancel_lend(struct cancel_loan *loan, void *buf, size_t bytes)
{
    *loan = (struct cancel_loan){
        .buf = buf, .bytes = bytes, .outer = last_loan,
    };
    last_loan = loan;
}

bool cancel_take_back(struct cancel_loan *loan)
{
    g_assert(last_loan == loan);
    last_loan = loan->outer;
    return !loan->kept;
}

bool cancel_is_lent(const void *at, size_t bytes)
{
    const struct cancel_loan *l = last_loan;
    uintptr_t start, address = (uintptr_t)at;

    if (!l || l->kept) {
        return false;
    }
    start = (uintptr_t)l->buf;
    return address >= start && address - start <= l->bytes &&
           bytes <= l->bytes - (address - start);
}

void *cancel_keep(void)
{
    g_assert(last_loan && !last_loan->kept);
    last_loan->kept = true;
    return last_loan->buf;
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
