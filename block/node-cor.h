/* SPDX-License-Identifier: MIT */
/*
 * copy-on-read=on of -drive: a node with a backing file keeps what is read
 * through it.  No filter: nobody sees it in the graph.
 *
 * Invariants  I1  A copy holds its clusters (block/io-hold.h): no write is
 *                 lost to one.
 *             I2  A copy is WRITE_UNCHANGED: no bitmap sees it.
 *             I3  While the node cannot be written it only reads.
 */
#pragma once

#include "block/driver.h"

/* Control lock; N, which supports backing files, has had no request yet. */
void node_set_copy_on_read(struct node *n);
/* Data path: before [offset, offset + bytes) of N, which has it set and is as
 * long, is read.  0 or -errno. */
int node_copy_before_read(struct node *n, int64_t offset, int64_t bytes);
