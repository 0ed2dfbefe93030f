/* SPDX-License-Identifier: MIT */
/* Holds: see io-hold.h. */
#include "block/io-hold.h"

#include "base/control.h"

/* The latest first: a copy reads layers where another job copies. */
static _Thread_local struct io_hold *holds;

void io_holds_begin(struct node *n)
{
    control_assert();
    n->n_holders++;
}

void io_holds_end(struct node *n)
{
    control_assert();
    g_assert(n->n_holders > 0);
    n->n_holders--;
}

void io_hold(struct node *n, struct io_hold *h, int64_t offset, int64_t bytes)
{
    g_assert(n->n_holders > 0);
    range_lock_acquire(&n->serialising, &h->range, offset, bytes, true);
    h->node = n;
    h->outer = holds;
    holds = h;
}

void io_release(struct io_hold *h)
{
    g_assert(holds == h);
    holds = h->outer;
    range_lock_release(&h->node->serialising, &h->range);
}

bool io_is_held(const struct node *n, int64_t offset, int64_t end)
{
    for (const struct io_hold *h = holds; h; h = h->outer) {
        if (h->node == n && offset >= h->range.offset &&
            end <= h->range.end) {
            return true;
        }
    }
    return false;
}
