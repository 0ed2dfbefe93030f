/* SPDX-License-Identifier: MIT */
/*
 * Accounting: what was done through a root, and how long it took.
 *
 * The root's owner (an export, a device) counts the requests of its clients,
 * as they ask them: not the pieces that they are split into on the way down.
 *
 *     int64_t start = block_stats_start(stats);
 *     ret = root_pread(...);
 *     block_stats_done(stats, STATS_READ, bytes, start, ret);
 *
 * Cost     Two looks at the clock and four relaxed atomics a request; none of
 *          it if STATS is NULL.  A histogram adds a short lock while it is
 *          set.
 * Threads  Any, no lock, unless noted.
 */
#pragma once

#include "base/lock.h"
#include "block/types.h"
#include "qapi/qapi-types.h"

enum block_stats_op {
    STATS_READ, STATS_WRITE, STATS_FLUSH, STATS_UNMAP, STATS__MAX
};

struct block_stats;

struct block_stats *block_stats_new(void);
void block_stats_free(struct block_stats *s);       /* NULL is fine */

static inline int64_t block_stats_start(const struct block_stats *s)
{
    return s ? clock_ns() : 0;
}

/* A request that began at START_NS has ended with RET (0 or -errno).  Not to
 * be called for one that is tried again (-EAGAIN). */
void block_stats_done(struct block_stats *s, enum block_stats_op op,
                      int64_t bytes, int64_t start_ns, int ret);
/* One that was refused before it began. */
void block_stats_invalid(struct block_stats *s, enum block_stats_op op);

/*
 * Histogram of OP's latencies (not STATS_UNMAP) from zero, with boundaries in
 * ns.  NULL: none.  False: BOUNDARIES do not ascend from above 0; the old
 * histogram stays.
 */
bool block_stats_set_histogram(struct block_stats *s, enum block_stats_op op,
                               const uint64List *boundaries);

/* The numbers now, owned; S NULL: all zero.  Each is exact, together they are
 * of about the same moment. */
BlockDeviceStats *block_stats_query(struct block_stats *s);
