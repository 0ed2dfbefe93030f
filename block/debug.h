/* SPDX-License-Identifier: MIT */
/*
 * Debug events: moments inside a driver at which blkdebug can fail or stop a
 * request.
 *
 * A format driver raises an event on its "file" child right before the I/O
 * that it is about: NODE_DEBUG(n, L2_UPDATE) in a function that has the node
 * whose file is meant.  Without a blkdebug node anywhere this is one load of
 * a global.  A suspended event blocks the calling thread: raise events with no
 * lock held.
 */
#pragma once

#include "block/driver.h"

/* How many blkdebug nodes there are.  Atomic. */
extern int n_blkdebug_nodes;

/* NODE's primary child is about to see EVENT; the first blkdebug reachable
 * from there through file and filtered children handles it. */
void node_debug_event(struct node *n, BlkdebugEvent event);

#define NODE_DEBUG(n, event_) \
    do { \
        if (G_UNLIKELY(__atomic_load_n(&n_blkdebug_nodes, \
                                       __ATOMIC_RELAXED))) { \
            node_debug_event((n), BLKDEBUG_EVENT_##event_); \
        } \
    } while (0)

/* ---- breakpoints: control lock held; false: no blkdebug below N --------- */

/* The next request that raises EVENT stops there and is called TAG. */
bool node_debug_breakpoint(struct node *n, BlkdebugEvent event,
                           const char *tag);
/* Remove all breakpoints called TAG and let go what they stopped. */
bool node_debug_remove_breakpoint(struct node *n, const char *tag);
/* Let requests stopped as TAG go on. */
bool node_debug_resume(struct node *n, const char *tag);
/* Is a request stopped as TAG? */
bool node_debug_is_suspended(struct node *n, const char *tag);
