/* SPDX-License-Identifier: MIT */
/* Copier: what its files share. */
#pragma once

#include "block/copier.h"
#include "block/copier-pace.h"
#include "block/driver.h"

struct buffer;

struct copier {
    /* Set by copier_new(), then constant. */
    struct copier_options o;
    copier_progress_fn *progress;   /* may be NULL */
    void *opaque;
    int64_t n_clusters;
    int64_t piece_bytes;            /* unit of reads and of zeroes: a cluster,
                                       but no more than a buffer holds */
    int64_t buffer_bytes;           /* COPIER_CHUNK_BYTES, or one piece */
    struct bits *todo;              /* owned; content atomic (bits.h) */

    struct range_lock in_flight;    /* I2 */
    struct pace pace;               /* locks itself */

    /* Atomic. */
    bool no_copy_range;             /* it was tried, the nodes cannot */

    /* Protected by lock (rank LOCK_COPIER). */
    struct lock lock;
    struct cond worker_done;
    int n_workers;                  /* I4 */
    int n_abandoned;                /* of them */
    struct buffer *free_buffers;    /* buffer_bytes each */
};

/* End in bytes of the cluster before CLUSTER. */
static inline int64_t copier_end_of(const struct copier *c, int64_t cluster)
{
    return cluster >= c->n_clusters ? c->o.length
                                    : cluster * c->o.cluster_bytes;
}

static inline int64_t copier_cluster_at(const struct copier *c,
                                        int64_t offset)
{
    return offset / c->o.cluster_bytes;
}

static inline int64_t copier_cluster_behind(const struct copier *c,
                                            int64_t end)
{
    return end >= c->o.length ? c->n_clusters
           : (end + c->o.cluster_bytes - 1) / c->o.cluster_bytes;
}

/* Copy all of [*AT, end), held and cleared; *AT moves on to what failed. */
int copier_move_run(struct copier *c, int64_t *at, int64_t end,
                    struct copier_result *result);
void copier_free_buffers(struct copier *c);
/* Copy what is dirty in [offset, end), which the caller holds exclusively. */
int copier_copy_held(struct copier *c, int64_t offset, int64_t end,
                     struct copier_result *result);
/* Until no copy goes on that was given up waiting for. */
void copier_wait_workers(struct copier *c);
