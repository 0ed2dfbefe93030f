/* SPDX-License-Identifier: MIT */
/* info blockstats. */
#include "server/hmp/command.h"

#include <inttypes.h>
#include "qapi/qapi-commands.h"

static void print_stats(struct hmp *m, const BlockStats *b)
{
    const BlockDeviceStats *s = b->stats;

    hmp_printf(m, "%s: rd_bytes=%" PRId64 " wr_bytes=%" PRId64
               " rd_operations=%" PRId64 " wr_operations=%" PRId64
               " flush_operations=%" PRId64 " wr_total_time_ns=%" PRId64
               " rd_total_time_ns=%" PRId64 " flush_total_time_ns=%" PRId64
               " rd_merged=%" PRId64 " wr_merged=%" PRId64
               " idle_time_ns=%" PRId64 "\n",
               b->device, s->rd_bytes, s->wr_bytes, s->rd_operations,
               s->wr_operations, s->flush_operations, s->wr_total_time_ns,
               s->rd_total_time_ns, s->flush_total_time_ns, s->rd_merged,
               s->wr_merged, s->idle_time_ns);
}

void hmp_info_blockstats(struct hmp *m, const struct hmp_args *a)
{
    const QueryBlockstatsArgs args = { 0 };
    struct error *err = NULL;
    g_autoptr(BlockStatsList) list = qmp_query_blockstats(&args, &err);

    for (size_t i = 0; list && i < list->n; i++) {
        if (list->v[i]->device) {
            print_stats(m, list->v[i]);
        }
    }
    hmp_error(m, err);
}
