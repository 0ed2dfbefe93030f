/* SPDX-License-Identifier: MIT */
/* Cancel: see cancel.h. */
#include "block/cancel.h"

#include <stddef.h>
#include <glib.h>

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
