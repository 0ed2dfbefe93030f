/* SPDX-License-Identifier: MIT */
/*
 * blockdev-reopen: new options for nodes that exist, several at once, all or
 * nothing.
 *
 * Steps       1. All nodes concerned are drained as one section: those given,
 *                and children that have options from them.
 *             2. The options of every node are completed (what is not given
 *                has its default) and compared with those in use; children
 *                that are to be others are found; permissions are looked at.
 *             3. Drivers prepare, in the order given (driver->reopen_prepare).
 *             4. Links, read_only and what else has to do with permissions
 *                change in one graph_change.
 *             5. Drivers activate, children before parents; when one fails,
 *                step 4 is taken back and all abort.
 *             6. All commit.
 */
#pragma once

#include "block/driver.h"

struct node_reopen {
    struct node *node;          /* owned reference */
    BlockdevOptions *options;   /* owned: the new ones, complete; become
                                   node->options at commit */
    bool read_only;             /* as it is to be; prepare may set it where
                                   auto-read-only allows */
    bool cache_direct, cache_no_flush, force_share;     /* as in options */
    struct node *file;          /* borrowed: what will be the primary child;
                                   NULL: none */
    void *driver_state;         /* the driver's, from prepare to commit or
                                   abort */
};

/*
 * Control lock; yields.  LIST as blockdev-reopen takes it.  False and errp:
 * nothing has changed.
 */
bool nodes_reopen(const BlockdevOptionsList *list, struct error **errp);
/*
 * Only change whether N, and what has that from N, may be written (jobs: the
 * base of a commit).  N need not be drained.  Control lock; yields.
 */
bool node_set_read_only(struct node *n, bool read_only, struct error **errp);

/* driver->reopen_prepare of drivers with nothing of their own to do. */
bool node_reopen_nothing(struct node_reopen *r, struct error **errp);
