/* SPDX-License-Identifier: MIT */
/*
 * blockdev-reopen: new options for nodes that exist, several at once, all or
 * nothing.
 *
 * Steps       1. The options of every node are completed (what is not given
 *                has its default) and compared with those in use; children
 *                that are to be new are found or opened.
 *             2. All nodes are drained as one section.
 *             3. Links change in one graph_change; drivers prepare
 *                (driver->reopen_prepare), in the order given.
 *             4. All commit, or all abort and the links are put back.
 */
#pragma once

#include "block/driver.h"

struct node_reopen {
    struct node *node;          /* owned reference */
    BlockdevOptions *options;   /* owned: the new ones, complete; become
                                   node->options at commit */
    bool read_only;             /* as it is to be */
    bool cache_direct, cache_no_flush, force_share;
    void *driver_state;         /* the driver's, from prepare to commit or
                                   abort */
};

/*
 * Control lock; yields.  LIST as blockdev-reopen takes it.  False and errp:
 * nothing has changed.
 */
bool nodes_reopen(const BlockdevOptionsList *list, struct error **errp);
/*
 * Only change whether N may be written (jobs: the base of a commit).  N need
 * not be drained.  Control lock; yields.
 */
bool node_set_read_only(struct node *n, bool read_only, struct error **errp);
