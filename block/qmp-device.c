/* SPDX-License-Identifier: MIT */
/* Commands on devices: query-block, block_set_io_throttle. */
#include "base/control.h"
#include "block/backend-priv.h"
#include "block/query.h"
#include "qapi/qapi-commands.h"

/* X(kind, QAPI's member) */
#define LIMITS(X) \
    X(THROTTLE_BPS_TOTAL, bps) X(THROTTLE_BPS_READ, bps_rd) \
    X(THROTTLE_BPS_WRITE, bps_wr) X(THROTTLE_OPS_TOTAL, iops) \
    X(THROTTLE_OPS_READ, iops_rd) X(THROTTLE_OPS_WRITE, iops_wr)

/* ---- query-block -------------------------------------------------------- */

static void add_limits(const struct backend *b, BlockDeviceInfo *info)
{
    struct throttle_limits l;
    const char *group;

    if (!backend_get_limits(b, &group, &l)) {
        return;
    }
#define SHOW(kind, member) \
    info->member = l.limit[kind].avg; \
    info->has_##member##_max = l.limit[kind].max > 0; \
    info->member##_max = l.limit[kind].max; \
    info->has_##member##_max_length = l.limit[kind].max > 0; \
    info->member##_max_length = l.limit[kind].length;
    LIMITS(SHOW)
#undef SHOW
    info->has_iops_size = l.ops_bytes > 0;
    info->iops_size = l.ops_bytes;
    info->group = g_strdup(group);
}

static BlockDeviceInfo *inserted_info(const struct backend *b)
{
    struct node *n = backend_node(b);
    BlockDeviceInfo *info;

    if (!n) {
        return NULL;
    }
    info = node_device_info(node_skip_implicit_filters(n), false);
    info->cache->writeback = !b->writethrough;
    add_limits(b, info);
    return info;
}

static BlockInfo *backend_info(const struct backend *b)
{
    const struct backend_dev *dev = b->dev;
    BlockInfo *info = BlockInfo_new0();

    info->device = g_strdup(backend_name(b));
    info->type = g_strdup("unknown");
    info->removable = !dev || dev->removable;
    if (dev) {
        info->qdev = g_strdup(dev->qdev);
        info->has_tray_open = dev->has_tray;
        info->tray_open = dev->tray_open;
    }
    info->has_io_status = backend_has_policy(b);
    info->io_status = b->io_status;
    info->inserted = inserted_info(b);
    return info;
}

BlockInfoList *qmp_query_block(struct error **errp)
{
    BlockInfoList *list = BlockInfoList_new0();

    control_assert();
    for (struct backend *b = backend_next(NULL); b; b = b->next) {
        if (b->name || b->dev) {
            qapi_list_append(list, backend_info(b));
        }
    }
    return list;
}

/* ---- limits ------------------------------------------------------------- */

static void take_limits(struct throttle_limits *l,
                        const BlockIOThrottle *args)
{
    throttle_limits_init(l);
#define TAKE(kind, member) \
    l->limit[kind].avg = args->member; \
    if (args->has_##member##_max) { \
        l->limit[kind].max = args->member##_max; \
    } \
    if (args->has_##member##_max_length) { \
        l->limit[kind].length = args->member##_max_length; \
    }
    LIMITS(TAKE)
#undef TAKE
    if (args->has_iops_size) {
        l->ops_bytes = args->iops_size;
    }
}

bool qmp_block_set_io_throttle(const BlockIOThrottle *args,
                               struct error **errp)
{
    struct backend *b = backend_lookup(args->device, args->id, errp);
    struct throttle_limits limits, old;
    const char *group;

    if (!b) {
        return false;
    }
    if (!b->root) {
        error_set(errp, "Device has no medium");
        return false;
    }
    take_limits(&limits, args);
    if (!throttle_limits_check(&limits, errp)) {
        return false;
    }
    group = args->group;
    if (!group && !backend_get_limits(b, NULL, &old)) {
        group = args->device ? args->device : args->id;
    }
    backend_ref(b);
    backend_set_limits(b, group, &limits);
    backend_unref(b);
    return true;
}
