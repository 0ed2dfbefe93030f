/* SPDX-License-Identifier: MIT */
/*
 * Accounting: counters, histograms while others count, write thresholds.
 */
#include <errno.h>
#include <pthread.h>
#include <string.h>
#include "base/control.h"
#include "base/pool.h"
#include "block/graph-priv.h"
#include "block/stats.h"
#include "block/write-threshold.h"
#include "qapi/qapi-commands.h"
#include "qapi/qapi-events.h"

enum { N_THREADS = 4, N_REQUESTS = 20000 };

static uint64List *list_of(size_t n, const uint64_t *values)
{
    uint64List *list = uint64List_new0();

    for (size_t i = 0; i < n; i++) {
        qapi_list_append(list, values[i]);
    }
    return list;
}

#define LIST(...) \
    list_of(sizeof((uint64_t[]){ __VA_ARGS__ }) / sizeof(uint64_t), \
            (uint64_t[]){ __VA_ARGS__ })

/* ---- counters ----------------------------------------------------------- */

static void test_counters(void)
{
    struct block_stats *s = block_stats_new();
    g_autoptr(BlockDeviceStats) first = block_stats_query(s);
    g_autoptr(BlockDeviceStats) d = NULL;
    int64_t start = block_stats_start(s);

    g_assert_false(first->has_idle_time_ns);
    g_assert_true(first->account_failed && first->account_invalid);
    block_stats_done(s, STATS_READ, 512, start, 0);
    block_stats_done(s, STATS_READ, 512, start, -EIO);
    block_stats_done(s, STATS_WRITE, 4096, start, 0);
    block_stats_done(s, STATS_FLUSH, 0, start, 0);
    block_stats_done(s, STATS_UNMAP, 65536, start, 0);
    block_stats_invalid(s, STATS_WRITE);
    d = block_stats_query(s);
    g_assert_cmpint(d->rd_bytes, ==, 512);
    g_assert_cmpint(d->rd_operations, ==, 1);
    g_assert_cmpint(d->failed_rd_operations, ==, 1);
    g_assert_cmpint(d->wr_bytes, ==, 4096);
    g_assert_cmpint(d->flush_operations, ==, 1);
    g_assert_cmpint(d->unmap_bytes, ==, 65536);
    g_assert_cmpint(d->invalid_wr_operations, ==, 1);
    g_assert_cmpint(d->invalid_rd_operations, ==, 0);
    g_assert_true(d->has_idle_time_ns);
    block_stats_free(s);
}

static void test_none(void)
{
    g_autoptr(BlockDeviceStats) d = block_stats_query(NULL);

    g_assert_cmpint(block_stats_start(NULL), ==, 0);
    block_stats_done(NULL, STATS_READ, 1, 0, 0);
    block_stats_invalid(NULL, STATS_READ);
    block_stats_free(NULL);
    g_assert_false(d->account_failed);
}

/* ---- histograms --------------------------------------------------------- */

/* A request of NS nanoseconds, and a little. */
static void request_of(struct block_stats *s, int64_t ns)
{
    block_stats_done(s, STATS_WRITE, 1, clock_ns() - ns, 0);
}

static void test_bins(void)
{
    const int64_t second = 1000000000;
    g_autoptr(uint64List) bounds = LIST(second, 10 * second, 100 * second);
    struct block_stats *s = block_stats_new();
    g_autoptr(BlockDeviceStats) d = NULL;

    g_assert_true(block_stats_set_histogram(s, STATS_WRITE, bounds));
    request_of(s, 0);
    request_of(s, second);          /* a boundary is in the bin above it */
    request_of(s, 9 * second);
    request_of(s, 10 * second);
    request_of(s, 1000 * second);
    request_of(s, 100 * second);
    d = block_stats_query(s);
    g_assert_null(d->rd_latency_histogram);
    g_assert_cmpuint(d->wr_latency_histogram->bins->n, ==, 4);
    g_assert_cmpuint(d->wr_latency_histogram->bins->v[0], ==, 1);
    g_assert_cmpuint(d->wr_latency_histogram->bins->v[1], ==, 2);
    g_assert_cmpuint(d->wr_latency_histogram->bins->v[2], ==, 1);
    g_assert_cmpuint(d->wr_latency_histogram->bins->v[3], ==, 2);
    block_stats_free(s);
}

static void test_boundaries(void)
{
    struct block_stats *s = block_stats_new();
    g_autoptr(uint64List) good = LIST(1, 2, UINT64_MAX), none = NULL;
    g_autoptr(uint64List) zero = LIST(0, 1), same = LIST(3, 3);
    g_autoptr(uint64List) falling = LIST(5, 4);
    g_autoptr(BlockDeviceStats) d = NULL, e = NULL;

    none = uint64List_new0();
    g_assert_true(block_stats_set_histogram(s, STATS_READ, good));
    g_assert_false(block_stats_set_histogram(s, STATS_READ, zero));
    g_assert_false(block_stats_set_histogram(s, STATS_READ, same));
    g_assert_false(block_stats_set_histogram(s, STATS_READ, falling));
    d = block_stats_query(s);
    g_assert_cmpuint(d->rd_latency_histogram->boundaries->n, ==, 3);
    g_assert_true(block_stats_set_histogram(s, STATS_READ, none));
    block_stats_done(s, STATS_READ, 1, clock_ns(), 0);
    e = block_stats_query(s);
    g_assert_cmpuint(e->rd_latency_histogram->bins->n, ==, 1);
    g_assert_cmpuint(e->rd_latency_histogram->bins->v[0], ==, 1);
    g_assert_true(block_stats_set_histogram(s, STATS_READ, NULL));
    block_stats_free(s);
}

/* ---- at the same time --------------------------------------------------- */

static void *count_many(void *opaque)
{
    struct block_stats *s = opaque;

    for (int i = 0; i < N_REQUESTS; i++) {
        block_stats_done(s, STATS_READ, 3, block_stats_start(s), 0);
    }
    return NULL;
}

static void test_threads(void)
{
    struct block_stats *s = block_stats_new();
    g_autoptr(BlockDeviceStats) d = NULL;
    pthread_t threads[N_THREADS];

    for (int i = 0; i < N_THREADS; i++) {
        g_assert_cmpint(pthread_create(&threads[i], NULL, count_many, s), ==,
                        0);
    }
    for (int i = 0; i < 200; i++) {
        g_autoptr(uint64List) bounds = LIST(100 + i, 10000);
        g_autoptr(BlockDeviceStats) now = NULL;

        block_stats_set_histogram(s, STATS_READ, i % 3 ? bounds : NULL);
        now = block_stats_query(s);
        g_assert_true(!now->rd_latency_histogram == !(i % 3));
    }
    for (int i = 0; i < N_THREADS; i++) {
        pthread_join(threads[i], NULL);
    }
    d = block_stats_query(s);
    g_assert_cmpint(d->rd_operations, ==, N_THREADS * N_REQUESTS);
    g_assert_cmpint(d->rd_bytes, ==, 3 * N_THREADS * N_REQUESTS);
    block_stats_free(s);
}

/* ---- roots, commands ---------------------------------------------------- */

static const char *test_export_id(void *opaque)
{
    return opaque;
}

static struct node *null_node(const char *name)
{
    g_autoptr(BlockdevOptions) o = BlockdevOptions_new0();
    struct node *n;

    o->driver = BLOCKDEV_DRIVER_NULL_CO;
    o->node_name = g_strdup(name);
    o->has_discard = true;
    o->discard = BLOCKDEV_DISCARD_OPTIONS_UNMAP;
    n = node_open(o, NULL);
    g_assert_nonnull(n);
    return n;
}

static struct root *root_on(struct node *n, const char *id)
{
    static const struct root_ops ops = { .export_id = test_export_id };
    struct root_options o = {
        .name = "root", .ops = id ? &ops : NULL, .opaque = (void *)id,
        .perm = PERM_CONSISTENT_READ | PERM_WRITE, .shared = PERM_ALL,
    };
    struct root *r = root_new(n, &o, NULL);

    g_assert_nonnull(r);
    return r;
}

static void test_roots(void)
{
    QueryBlockstatsArgs all = { .has_exports = true, .exports = true };
    BlockLatencyHistogramSetArgs set = { .id = (char *)"nope" };
    g_autoptr(BlockStatsList) list = NULL;
    AUTO_ERROR(err);

    CONTROL_GUARD();
    struct node *n = null_node("n");
    struct root *plain = root_on(n, NULL);
    struct root *a = root_on(n, "a"), *b = root_on(n, "b");

    g_assert_null(root_stats(plain));
    block_stats_done(root_stats(b), STATS_WRITE, 7, clock_ns(), 0);
    list = qmp_query_blockstats(&all, NULL);
    g_assert_cmpuint(list->n, ==, 2);
    g_assert_cmpstr(list->v[0]->export, ==, "a");
    g_assert_cmpint(list->v[1]->stats->wr_bytes, ==, 7);
    g_assert_false(qmp_block_latency_histogram_set(&set, &err));
    g_assert_cmpint(error_get_class(err), ==, ERROR_DEVICE_NOT_FOUND);
    set.id = (char *)"b";
    set.boundaries = LIST(5);
    g_assert_true(qmp_block_latency_histogram_set(&set, NULL));
    uint64List_free(set.boundaries);
    root_free(&plain);
    root_free(&a);
    root_free(&b);
    node_unref(n);
}

/* ---- write thresholds --------------------------------------------------- */

static int n_events;            /* control lock */
static uint64_t exceeded;

static void note_event(QAPIEvent id, json_t *object)
{
    json_t *data = json_object_get(object, "data");

    if (id == QAPI_EVENT_BLOCK_WRITE_THRESHOLD) {
        n_events++;
        exceeded = json_integer_value(json_object_get(data,
                                                      "amount-exceeded"));
    }
    json_decref(object);
}

static void *write_many(void *opaque)
{
    static const uint8_t buf[512];

    for (int i = 0; i < 2000; i++) {
        g_assert_cmpint(root_pwrite(opaque, i * 512, sizeof(buf), buf, 0), ==,
                        0);
    }
    return NULL;
}

/* Of many writers that cross it, one tells. */
static void test_threshold(void)
{
    pthread_t threads[N_THREADS];

    CONTROL_GUARD();
    struct node *n = null_node("n");
    struct root *r = root_on(n, NULL);

    qapi_event_set_emit(note_event);
    for (int round = 1; round <= 5; round++) {
        write_threshold_set(n, 1000 * 512);
        for (int i = 0; i < N_THREADS; i++) {
            pthread_create(&threads[i], NULL, write_many, r);
        }
        CONTROL_YIELD {
            for (int i = 0; i < N_THREADS; i++) {
                pthread_join(threads[i], NULL);
            }
        }
        while (n_events < round) {
            CONTROL_YIELD {
                g_usleep(1000);
            }
        }
        g_assert_cmpuint(write_threshold_get(n), ==, 0);
        g_assert_cmpuint(exceeded, >=, 512);
        g_assert_cmpuint(exceeded % 512, ==, 0);
    }
    CONTROL_YIELD {
        g_usleep(20000);
    }
    g_assert_cmpint(n_events, ==, 5);
    root_free(&r);
    node_unref(n);
}

int main(int argc, char **argv)
{
    int ret;

    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/stats/counters", test_counters);
    g_test_add_func("/stats/none", test_none);
    g_test_add_func("/stats/bins", test_bins);
    g_test_add_func("/stats/boundaries", test_boundaries);
    g_test_add_func("/stats/threads", test_threads);
    g_test_add_func("/stats/roots", test_roots);
    g_test_add_func("/stats/threshold", test_threshold);
    ret = g_test_run();
    pool_shutdown();
    return ret;
}
