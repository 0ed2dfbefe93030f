/* SPDX-License-Identifier: MIT */
/*
 * Write thresholds: tell once when a node is written beyond an offset.
 *
 * A manager that grows thin storage ahead of its guest sets one on the node
 * of the file, gets BLOCK_WRITE_THRESHOLD, grows, and sets the next.
 */
#pragma once

#include "block/driver.h"

/* Control lock.  0: none. */
void write_threshold_set(struct node *n, uint64_t threshold);
uint64_t write_threshold_get(const struct node *n);

/* For write_threshold_check(): some threshold is set on N. */
void write_threshold_crossed(struct node *n, int64_t end);

/* Before a write that ends at END: any thread, no lock, request in flight. */
static inline void write_threshold_check(struct node *n, int64_t end)
{
    uint64_t threshold = atomic_load_explicit(&n->write_threshold,
                                              memory_order_relaxed);

    if (G_UNLIKELY(threshold && (uint64_t)end > threshold)) {
        write_threshold_crossed(n, end);
    }
}
