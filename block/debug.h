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
 *
 * Once        While there is a blkdebug node no request is tried inline: the
 *             generic layer answers BLK_NOWAIT with -EAGAIN before it raises
 *             anything, so that a request raises its events once.
 */
#pragma once

#include "block/driver.h"

/* How many blkdebug nodes there are.  Atomic. */
extern int n_blkdebug_nodes;

#define NODE_DEBUG_ACTIVE() \
    G_UNLIKELY(__atomic_load_n(&n_blkdebug_nodes, __ATOMIC_RELAXED))

/* NODE's primary child is about to see EVENT; the first blkdebug reachable
 * from there through file and filtered children handles it. */
void node_debug_event(struct node *n, BlkdebugEvent event);
/* For block/io.c: N itself sees EVENT; if it is no blkdebug, BELOW says
 * whether one below it does. */
void node_debug_event_at(struct node *n, BlkdebugEvent event, bool below);

#define NODE_DEBUG(n, event_) \
    do { \
        if (NODE_DEBUG_ACTIVE()) { \
            node_debug_event((n), BLKDEBUG_EVENT_##event_); \
        } \
    } while (0)

/* ---- breakpoints: control lock held; false: no blkdebug below N --------- */

/* The next request that raises EVENT stops there and is called TAG.  All
 * breakpoints of EVENT stop that request, until it was resumed as each. */
bool node_debug_breakpoint(struct node *n, BlkdebugEvent event,
                           const char *tag);
/* Remove all breakpoints called TAG and let go what they stopped.  False if
 * none was left to remove, too. */
bool node_debug_remove_breakpoint(struct node *n, const char *tag);
/* Let the request go on that was stopped as TAG last.  False if there is
 * none, too. */
bool node_debug_resume(struct node *n, const char *tag);
/* Is a request stopped as TAG?  It becomes true with a control_notify(). */
bool node_debug_is_suspended(struct node *n, const char *tag);
/* How many are? */
unsigned node_debug_count_suspended(struct node *n, const char *tag);
/* Is there a blkdebug below N, or N itself? */
bool node_debug_reaches(struct node *n);
/* Told, in the thread of a request and with no lock held, that it is stopped
 * as TAG.  Control lock; NULL: nobody. */
void node_debug_set_hook(void (*hook)(const char *tag));

/* ---- who must not be stopped -------------------------------------------- */

/* The calling thread is not stopped by breakpoints in between: it closes a
 * node, that nobody could find to resume it.  Nests. */
void node_debug_pass_begin(void);
void node_debug_pass_end(void);
bool node_debug_passing(void);
/* Let everything go; nothing is stopped any more (the server ends). */
void node_debug_release_all(void);
