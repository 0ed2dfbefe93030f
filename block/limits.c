/* SPDX-License-Identifier: MIT */
/*
 * A node's limits: what its driver says, else what follows from below.
 *
 * Filters pass requests on and have the limits of what they filter.  A format
 * splits and pads requests itself; it only passes on how its children want
 * memory to be aligned.
 */
#include "block/graph-priv.h"

#include <string.h>

static void limits_from_children(struct node *n)
{
    n->limits = (struct block_limits){
        .request_alignment = 1, .min_mem_alignment = 1,
        .opt_mem_alignment = 4096,
    };
    for (const struct child *c = n->children; c; c = c->next_sibling) {
        const struct block_limits *l = &c->node->limits;

        if (c->role & ROLE_FILTERED) {
            n->limits = *l;
            return;
        }
        n->limits.min_mem_alignment = MAX(n->limits.min_mem_alignment,
                                          l->min_mem_alignment);
        n->limits.opt_mem_alignment = MAX(n->limits.opt_mem_alignment,
                                          l->opt_mem_alignment);
        if (c == n->file) {
            n->limits.opt_transfer = l->opt_transfer;
        }
    }
}

static void flags_from_filtered(struct node *n)
{
    const struct node *below = node_filtered(n);

    /* A job's filter has no open() that could say it. */
    if (below && n->driver->is_filter) {
        n->supported_write_flags = below->supported_write_flags;
        n->supported_zero_flags = below->supported_zero_flags;
    }
}

static void refresh_one(struct node *n)
{
    limits_from_children(n);
    flags_from_filtered(n);
    if (n->driver->refresh_limits) {
        n->driver->refresh_limits(n);
    }
}

/* As a queue, so that what is below is settled first where it matters: a
 * node reached on two ways is done again. */
void node_refresh_limits(struct node *n)
{
    GQueue todo = G_QUEUE_INIT;

    g_queue_push_tail(&todo, n);
    while ((n = g_queue_pop_head(&todo))) {
        struct block_limits old = n->limits;

        refresh_one(n);
        if (memcmp(&old, &n->limits, sizeof(old)) == 0) {
            continue;
        }
        for (struct child *c = n->parents; c; c = c->next_parent) {
            if (c->parent && c->parent->opened && !c->parent->closing) {
                g_queue_push_tail(&todo, c->parent);
            }
        }
    }
}
