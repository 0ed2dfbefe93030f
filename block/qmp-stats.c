/* SPDX-License-Identifier: MIT */
/*
 * Commands: query-blockstats, block-latency-histogram-set,
 * block-set-write-threshold.
 *
 * Backends have statistics, and exports' roots have.
 */
#include <string.h>
#include "base/control.h"
#include "block/backend.h"
#include "block/graph-priv.h"
#include "block/stats.h"
#include "block/write-threshold.h"
#include "qapi/qapi-commands.h"

/* ---- nodes -------------------------------------------------------------- */

/* One node, without what is below. */
static BlockStats *stats_of_node(struct node *n)
{
    BlockStats *s = BlockStats_new0();

    s->node_name = g_strdup(node_name(n));
    s->stats = block_stats_query(NULL);
    s->stats->wr_highest_offset = atomic_load(&n->wr_highest_offset);
    if (n->driver->specific_stats) {
        s->driver_specific = n->driver->specific_stats(n);
    }
    return s;
}

static struct node *shown(struct node *n)
{
    return n ? node_skip_implicit_filters(n) : NULL;
}

static struct node *storage_of(const struct node *n)
{
    return n->file ? n->file->node : NULL;
}

/* N with what it stores in (of a filter: what it filters) and, if WITH_BACKING,
 * its backing chain with theirs. */
static BlockStats *stats_below(struct node *n, bool with_backing)
{
    BlockStats *first = NULL, **next = &first;

    for (; n; n = with_backing ? shown(node_backing(n)) : NULL) {
        BlockStats **parent = next;

        for (struct node *p = n; p; p = storage_of(p)) {
            *parent = stats_of_node(p);
            parent = &(*parent)->parent;
        }
        next = &(*next)->backing;
    }
    return first;
}

static BlockStatsList *all_nodes(void)
{
    BlockStatsList *list = BlockStatsList_new0();
    struct node *oldest = node_next(NULL);

    while (oldest && oldest->older) {
        oldest = oldest->older;
    }
    for (struct node *n = oldest; n; n = n->newer) {
        qapi_list_append(list, stats_below(n, false));
    }
    return list;
}

/* ---- roots -------------------------------------------------------------- */

static const char *export_id(const struct root *r)
{
    return r->stats && r->ops && r->ops->export_id
           ? r->ops->export_id(r->opaque) : NULL;
}

static gint older_root(gconstpointer a, gconstpointer b)
{
    const struct root *ra = *(struct root *const *)a;
    const struct root *rb = *(struct root *const *)b;

    return ra->serial < rb->serial ? -1 : 1;
}

/* Oldest first. */
static GPtrArray *all_exports(void)
{
    GPtrArray *roots = g_ptr_array_new();

    for (struct node *n = node_next(NULL); n; n = node_next(n)) {
        for (struct child *c = n->parents; c; c = c->next_parent) {
            if (c->root && export_id(c->root)) {
                g_ptr_array_add(roots, c->root);
            }
        }
    }
    g_ptr_array_sort(roots, older_root);
    return roots;
}

/* An empty device has numbers, too. */
static BlockStats *stats_of_backend(const struct backend *b)
{
    struct node *n = shown(backend_node(b));
    BlockStats *s = n ? stats_below(n, true) : BlockStats_new0();
    int64_t highest = n ? s->stats->wr_highest_offset : 0;

    BlockDeviceStats_free(s->stats);
    s->stats = block_stats_query(backend_stats(b));
    s->stats->wr_highest_offset = highest;
    s->device = g_strdup(backend_name(b));
    s->qdev = backend_dev(b) ? g_strdup(backend_dev(b)->qdev) : NULL;
    return s;
}

static BlockStats *stats_of_root(const struct root *r)
{
    struct node *n = shown(r->link.node);
    BlockStats *s = stats_below(n, true);
    int64_t highest = s->stats->wr_highest_offset;

    BlockDeviceStats_free(s->stats);
    s->stats = block_stats_query(r->stats);
    s->stats->wr_highest_offset = highest;
    s->device = g_strdup("");
    s->export = g_strdup(export_id(r));
    return s;
}

BlockStatsList *qmp_query_blockstats(const QueryBlockstatsArgs *args,
                                     struct error **errp)
{
    g_autoptr(GPtrArray) roots = NULL;
    BlockStatsList *list;

    control_assert();
    if (args->has_query_nodes && args->query_nodes) {
        return all_nodes();
    }
    list = BlockStatsList_new0();
    for (struct backend *b = backend_next(NULL); b; b = backend_next(b)) {
        if (backend_name(b)[0] || backend_dev(b)) {
            qapi_list_append(list, stats_of_backend(b));
        }
    }
    if (args->has_exports && args->exports) {
        roots = all_exports();
        for (guint i = 0; i < roots->len; i++) {
            qapi_list_append(list, stats_of_root(roots->pdata[i]));
        }
    }
    return list;
}

/* ---- histograms --------------------------------------------------------- */

static struct block_stats *find_stats(const char *id, struct error **errp)
{
    g_autoptr(GPtrArray) roots = all_exports();
    struct backend *b = backend_find_by_dev(id);

    if (b) {
        return backend_stats(b);
    }
    for (guint i = 0; i < roots->len; i++) {
        struct root *r = roots->pdata[i];

        if (strcmp(export_id(r), id) == 0) {
            return r->stats;
        }
    }
    error_set_class(errp, ERROR_DEVICE_NOT_FOUND, "Device '%s' not found", id);
    return NULL;
}

bool qmp_block_latency_histogram_set(const BlockLatencyHistogramSetArgs *args,
                                     struct error **errp)
{
    const struct {
        enum block_stats_op op;
        const char *what;
        const uint64List *own;
    } kinds[] = {
        { STATS_READ, "read", args->boundaries_read },
        { STATS_WRITE, "write", args->boundaries_write },
        { STATS_FLUSH, "flush", args->boundaries_flush },
    };
    bool remove = !args->boundaries && !args->boundaries_read &&
                  !args->boundaries_write && !args->boundaries_flush;
    struct block_stats *stats = find_stats(args->id, errp);

    for (size_t i = 0; stats && i < G_N_ELEMENTS(kinds); i++) {
        const uint64List *list = kinds[i].own ? kinds[i].own
                                              : args->boundaries;

        if ((list || remove) &&
            !block_stats_set_histogram(stats, kinds[i].op, list)) {
            error_set(errp, "Device '%s' set %s boundaries fail", args->id,
                      kinds[i].what);
            return false;
        }
    }
    return stats;
}

/* ---- write threshold ---------------------------------------------------- */

bool qmp_block_set_write_threshold(const BlockSetWriteThresholdArgs *args,
                                   struct error **errp)
{
    struct node *n = node_find(args->node_name);

    if (!n) {
        error_set(errp, "Device '%s' not found", args->node_name);
        return false;
    }
    write_threshold_set(n, args->write_threshold);
    return true;
}
