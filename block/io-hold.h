/* SPDX-License-Identifier: MIT */
/*
 * Holds: who copies inside a node keeps others' writes off a range of it.
 *
 * Problem     A stream writes into an overlay what it has read there.  A
 *             guest's write between the two would be lost, whichever way it
 *             comes: through the job's filter or past it.
 * Answer      While there is such a job, all writes to the node take their
 *             range of node.serialising shared, and a copy takes it
 *             exclusively, but for its own writes.
 * Threads     As each function says.
 */
#pragma once

#include "block/driver.h"

struct io_hold {                /* on the caller's stack; opaque to it */
    struct node *node;
    struct range_hold range;
    struct io_hold *outer;
};

/* Control lock, N drained: from now on writes to N respect holds / no longer.
 * Nests. */
void io_holds_begin(struct node *n);
void io_holds_end(struct node *n);

/*
 * Data path, between the two above: writes to the range wait until it is
 * released, but those that the calling thread makes, by whatever way down.
 */
void io_hold(struct node *n, struct io_hold *h, int64_t offset,
             int64_t bytes);
void io_release(struct io_hold *h);
/* Does the calling thread hold all of [offset, end)? */
bool io_is_held(const struct node *n, int64_t offset, int64_t end);
