/* SPDX-License-Identifier: MIT */
/* info block: devices, or nodes. */
#include "server/hmp/command.h"

#include <inttypes.h>
#include <string.h>
#include "block/image-text.h"
#include "qapi/qapi-commands.h"

static void print_cache(struct hmp *m, const BlockdevCacheInfo *cache)
{
    hmp_printf(m, "    Cache mode:       %s%s%s\n",
               cache->writeback ? "writeback" : "writethrough",
               cache->direct ? ", direct" : "",
               cache->no_flush ? ", ignore flushes" : "");
}

static bool is_limited(const BlockDeviceInfo *i)
{
    return i->bps || i->bps_rd || i->bps_wr || i->iops || i->iops_rd ||
        i->iops_wr;
}

static void print_limits(struct hmp *m, const BlockDeviceInfo *i)
{
    hmp_printf(m, "    I/O throttling:   bps=%" PRId64 " bps_rd=%" PRId64
               " bps_wr=%" PRId64 " bps_max=%" PRId64 " bps_rd_max=%" PRId64
               " bps_wr_max=%" PRId64 " iops=%" PRId64 " iops_rd=%" PRId64
               " iops_wr=%" PRId64 " iops_max=%" PRId64 " iops_rd_max=%"
               PRId64 " iops_wr_max=%" PRId64 " iops_size=%" PRId64
               " group=%s\n",
               i->bps, i->bps_rd, i->bps_wr, i->bps_max, i->bps_rd_max,
               i->bps_wr_max, i->iops, i->iops_rd, i->iops_wr, i->iops_max,
               i->iops_rd_max, i->iops_wr_max, i->iops_size,
               i->group ? i->group : "");
}

static void print_medium(struct hmp *m, const BlockDeviceInfo *i,
                         bool verbose)
{
    print_cache(m, i->cache);
    if (i->backing_file) {
        hmp_printf(m, "    Backing file:     %s (chain depth: %" PRId64
                   ")\n", i->backing_file, i->backing_file_depth);
    }
    if (i->detect_zeroes != BLOCKDEV_DETECT_ZEROES_OPTIONS_OFF) {
        hmp_printf(m, "    Detect zeroes:    %s\n",
                   BlockdevDetectZeroesOptions_str(i->detect_zeroes));
    }
    if (is_limited(i)) {
        print_limits(m, i);
    }
    if (verbose && i->image) {
        hmp_printf(m, "\nImages:\n");
        for (const ImageInfo *n = i->image; n; n = n->backing_image) {
            image_text_info(m->out, n);
        }
    }
}

/* ": FILE (FORMAT, read-only)" */
static void print_file(struct hmp *m, const BlockDeviceInfo *i)
{
    hmp_printf(m, ": %s (%s%s%s%s)\n", i->file, i->drv,
               i->ro ? ", read-only" : "", i->encrypted ? ", encrypted" : "",
               i->active ? "" : ", inactive");
}

static void print_device_name(struct hmp *m, const BlockInfo *d)
{
    const char *node = d->inserted ? d->inserted->node_name : NULL;

    if (*d->device) {
        hmp_printf(m, "%s", d->device);
        if (node) {
            hmp_printf(m, " (%s)", node);
        }
    } else {
        hmp_printf(m, "%s", node ? node : d->qdev ? d->qdev : "<anonymous>");
    }
}

static void print_device(struct hmp *m, const BlockInfo *d, bool verbose)
{
    print_device_name(m, d);
    if (d->inserted) {
        print_file(m, d->inserted);
    } else {
        hmp_printf(m, ": [not inserted]\n");
    }
    if (d->qdev) {
        hmp_printf(m, "    Attached to:      %s\n", d->qdev);
    }
    if (d->has_io_status &&
        d->io_status != BLOCK_DEVICE_IO_STATUS_OK) {
        hmp_printf(m, "    I/O status:       %s\n",
                   BlockDeviceIoStatus_str(d->io_status));
    }
    if (d->removable) {
        hmp_printf(m, "    Removable device: %slocked, tray %s\n",
                   d->locked ? "" : "not ",
                   d->has_tray_open && d->tray_open ? "open" : "closed");
    }
    if (d->inserted) {
        print_medium(m, d->inserted, verbose);
    }
}

/* Those called NAME (NULL: all).  False: there is none of that name. */
static bool print_devices(struct hmp *m, const char *name, bool verbose)
{
    AUTO_ERROR(err);
    g_autoptr(BlockInfoList) list = qmp_query_block(&err);
    bool found = !name;

    hmp_error(m, g_steal_pointer(&err));
    for (size_t i = 0; list && i < list->n; i++) {
        if (name && strcmp(list->v[i]->device, name)) {
            continue;
        }
        /* As QEMU has it: of the whole list, whatever is left out. */
        if (i > 0) {
            hmp_printf(m, "\n");
        }
        print_device(m, list->v[i], verbose);
        found = true;
    }
    return found;
}

static void print_nodes(struct hmp *m, const char *name, bool verbose)
{
    const QueryNamedBlockNodesArgs args = { 0 };
    AUTO_ERROR(err);
    g_autoptr(BlockDeviceInfoList) list =
        qmp_query_named_block_nodes(&args, &err);

    hmp_error(m, g_steal_pointer(&err));
    for (size_t i = 0; list && i < list->n; i++) {
        const BlockDeviceInfo *node = list->v[i];

        if (name && g_strcmp0(node->node_name, name)) {
            continue;
        }
        if (i > 0) {
            hmp_printf(m, "\n");
        }
        hmp_printf(m, "%s", node->node_name ? node->node_name : "");
        print_file(m, node);
        print_medium(m, node, verbose);
    }
}

void hmp_info_block(struct hmp *m, const struct hmp_args *a)
{
    const char *name = hmp_arg_text(a, "device");
    bool verbose = hmp_arg_flag(a, "verbose");

    if (hmp_arg_flag(a, "nodes") || !print_devices(m, name, verbose)) {
        print_nodes(m, name, verbose);
    }
}
