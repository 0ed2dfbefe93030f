/* SPDX-License-Identifier: MIT */
/* Accounting: see stats.h. */
#include "block/stats.h"

#include <errno.h>
#include <stdatomic.h>

struct counters {
    _Atomic int64_t bytes, operations, total_ns, failed, invalid;
};

struct histogram {
    /* Atomic: is there one?  Looked at without the lock. */
    _Atomic bool on;
    /* Protected by lock. */
    uint64_t *boundaries;       /* owned; n of them */
    uint64_t *bins;             /* owned; n + 1 of them */
    size_t n;
};

struct block_stats {
    struct counters ops[STATS__MAX];
    _Atomic int64_t last_ns;    /* end of the last request; 0: none yet */
    struct lock lock;           /* rank LOCK_LEAF */
    struct histogram histograms[STATS__MAX];    /* not of STATS_UNMAP */
};

struct block_stats *block_stats_new(void)
{
    struct block_stats *s = g_new0(struct block_stats, 1);

    lock_init(&s->lock, "block-stats", LOCK_LEAF);
    return s;
}

static void histogram_clear(struct histogram *h)
{
    atomic_store(&h->on, false);
    g_clear_pointer(&h->boundaries, g_free);
    g_clear_pointer(&h->bins, g_free);
    h->n = 0;
}

void block_stats_free(struct block_stats *s)
{
    if (!s) {
        return;
    }
    for (int op = 0; op < STATS__MAX; op++) {
        histogram_clear(&s->histograms[op]);
    }
    lock_deinit(&s->lock);
    g_free(s);
}

/* ---- counting ----------------------------------------------------------- */

static void add(_Atomic int64_t *counter, int64_t value)
{
    atomic_fetch_add_explicit(counter, value, memory_order_relaxed);
}

static int64_t get(const _Atomic int64_t *counter)
{
    return atomic_load_explicit(counter, memory_order_relaxed);
}

/* The bin of NS: that of the highest boundary not above it. */
static size_t bin_of(const struct histogram *h, uint64_t ns)
{
    size_t low = 0, high = h->n;

    while (low < high) {
        size_t middle = low + (high - low) / 2;

        if (h->boundaries[middle] <= ns) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return low;
}

static void histogram_add(struct block_stats *s, struct histogram *h,
                          int64_t ns)
{
    LOCK_GUARD(&s->lock);
    if (h->bins) {
        h->bins[bin_of(h, ns)]++;
    }
}

void block_stats_done(struct block_stats *s, enum block_stats_op op,
                      int64_t bytes, int64_t start_ns, int ret)
{
    struct counters *c;
    int64_t now, ns;

    if (!s) {
        return;
    }
    c = &s->ops[op];
    now = clock_ns();
    ns = MAX(now - start_ns, 0);
    if (ret < 0) {
        add(&c->failed, 1);
    } else {
        add(&c->bytes, bytes);
        add(&c->operations, 1);
    }
    add(&c->total_ns, ns);
    atomic_store_explicit(&s->last_ns, now, memory_order_relaxed);
    if (G_UNLIKELY(atomic_load_explicit(&s->histograms[op].on,
                                        memory_order_relaxed))) {
        histogram_add(s, &s->histograms[op], ns);
    }
}

void block_stats_invalid(struct block_stats *s, enum block_stats_op op)
{
    if (s) {
        add(&s->ops[op].invalid, 1);
        atomic_store_explicit(&s->last_ns, clock_ns(), memory_order_relaxed);
    }
}

/* ---- histograms --------------------------------------------------------- */

static bool ascend(const uint64List *list)
{
    uint64_t last = 0;

    for (size_t i = 0; i < list->n; i++) {
        if (list->v[i] <= last) {
            return false;
        }
        last = list->v[i];
    }
    return true;
}

bool block_stats_set_histogram(struct block_stats *s, enum block_stats_op op,
                               const uint64List *boundaries)
{
    struct histogram *h = &s->histograms[op];

    if (boundaries && !ascend(boundaries)) {
        return false;
    }
    LOCK_GUARD(&s->lock);
    histogram_clear(h);
    if (boundaries) {
        h->n = boundaries->n;
        h->boundaries = g_memdup2(boundaries->v,
                                  h->n * sizeof(*h->boundaries));
        h->bins = g_new0(uint64_t, h->n + 1);
        atomic_store(&h->on, true);
    }
    return true;
}

/* ---- asking ------------------------------------------------------------- */

static BlockLatencyHistogramInfo *histogram_query(struct block_stats *s,
                                                  enum block_stats_op op)
{
    const struct histogram *h = &s->histograms[op];
    BlockLatencyHistogramInfo *info;

    LOCK_GUARD(&s->lock);
    if (!h->bins) {
        return NULL;
    }
    info = BlockLatencyHistogramInfo_new0();
    info->boundaries = uint64List_new0();
    info->bins = uint64List_new0();
    for (size_t i = 0; i < h->n; i++) {
        qapi_list_append(info->boundaries, h->boundaries[i]);
    }
    for (size_t i = 0; i <= h->n; i++) {
        qapi_list_append(info->bins, h->bins[i]);
    }
    return info;
}

static void query_counters(const struct block_stats *s, BlockDeviceStats *d)
{
    const struct counters *rd = &s->ops[STATS_READ];
    const struct counters *wr = &s->ops[STATS_WRITE];
    const struct counters *flush = &s->ops[STATS_FLUSH];
    const struct counters *unmap = &s->ops[STATS_UNMAP];

    d->rd_bytes = get(&rd->bytes);
    d->wr_bytes = get(&wr->bytes);
    d->unmap_bytes = get(&unmap->bytes);
    d->rd_operations = get(&rd->operations);
    d->wr_operations = get(&wr->operations);
    d->flush_operations = get(&flush->operations);
    d->unmap_operations = get(&unmap->operations);
    d->rd_total_time_ns = get(&rd->total_ns);
    d->wr_total_time_ns = get(&wr->total_ns);
    d->flush_total_time_ns = get(&flush->total_ns);
    d->unmap_total_time_ns = get(&unmap->total_ns);
    d->failed_rd_operations = get(&rd->failed);
    d->failed_wr_operations = get(&wr->failed);
    d->failed_flush_operations = get(&flush->failed);
    d->failed_unmap_operations = get(&unmap->failed);
    d->invalid_rd_operations = get(&rd->invalid);
    d->invalid_wr_operations = get(&wr->invalid);
    d->invalid_flush_operations = get(&flush->invalid);
    d->invalid_unmap_operations = get(&unmap->invalid);
}

BlockDeviceStats *block_stats_query(struct block_stats *s)
{
    BlockDeviceStats *d = BlockDeviceStats_new0();
    int64_t last;

    d->timed_stats = BlockDeviceTimedStatsList_new0();
    if (!s) {
        return d;
    }
    query_counters(s, d);
    last = get(&s->last_ns);
    d->has_idle_time_ns = last > 0;
    d->idle_time_ns = last > 0 ? MAX(clock_ns() - last, 0) : 0;
    d->account_invalid = d->account_failed = true;
    d->rd_latency_histogram = histogram_query(s, STATS_READ);
    d->wr_latency_histogram = histogram_query(s, STATS_WRITE);
    d->flush_latency_histogram = histogram_query(s, STATS_FLUSH);
    return d;
}
