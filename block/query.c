/* SPDX-License-Identifier: MIT */
/* BlockDeviceInfo: a node with its place in the graph. */
#include "block/query.h"

#include "base/control.h"
#include "block/bitmap.h"
#include "block/driver.h"
#include "block/write-threshold.h"

static int backing_depth(struct node *n)
{
    int depth = 0;

    for (;;) {
        n = node_skip_filters(n);
        n = n ? node_backing(n) : NULL;
        if (!n) {
            return depth;
        }
        depth++;
    }
}

static BlockdevChildList *children_info(const struct node *n)
{
    BlockdevChildList *list = BlockdevChildList_new0();

    for (const struct child *c = n->children; c; c = c->next_sibling) {
        BlockdevChild *child = BlockdevChild_new0();

        child->child = g_strdup(c->name);
        child->node_name = g_strdup(node_name(c->node));
        qapi_list_append(list, child);
    }
    return list;
}

static BlockdevDetectZeroesOptions detect_zeroes(const struct node *n)
{
    if (n->detect_zeroes_unmap) {
        return BLOCKDEV_DETECT_ZEROES_OPTIONS_UNMAP;
    }
    return n->detect_zeroes ? BLOCKDEV_DETECT_ZEROES_OPTIONS_ON
                            : BLOCKDEV_DETECT_ZEROES_OPTIONS_OFF;
}

static char *backing_name(struct node *n)
{
    struct node *backing = node_backing(n);

    return backing
           ? g_strdup(node_filename(node_skip_implicit_filters(backing)))
           : NULL;
}

ImageInvalidated *node_invalidated_info(const struct node *n)
{
    ImageInvalidated *info;

    control_assert();
    if (!n->invalidated) {
        return NULL;
    }
    info = ImageInvalidated_new0();
    info->job_id = g_strdup(n->invalidated->job_id);
    info->seconds = n->invalidated->seconds;
    return info;
}

BlockDeviceInfo *node_device_info(struct node *n, bool flat)
{
    BlockDeviceInfo *info = BlockDeviceInfo_new0();

    control_assert();
    info->file = g_strdup(node_filename(n));
    info->node_name = g_strdup(node_name(n));
    info->drv = g_strdup(node_driver_name(n));
    info->ro = n->read_only;
    info->active = !n->inactive;
    info->backing_file = backing_name(n);
    info->backing_file_depth = flat ? 0 : backing_depth(n);
    info->children = children_info(n);
    info->detect_zeroes = detect_zeroes(n);
    info->cache = BlockdevCacheInfo_new0();
    info->cache->writeback = true;
    info->cache->direct = n->cache_direct;
    info->cache->no_flush = n->cache_no_flush;
    info->image = node_image_info(n, !flat);
    info->write_threshold = (int64_t)write_threshold_get(n);
    info->dirty_bitmaps = dirty_bitmaps_query(n);
    return info;
}
