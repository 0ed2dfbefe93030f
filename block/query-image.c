/* SPDX-License-Identifier: MIT */
/* ImageInfo: what an image is, with what it is based on. */
#include "block/query.h"

#include "base/control.h"
#include "block/drivers.h"
#include "block/filename.h"

/* The node whose storage N shows as it is: raw and filters add nothing. */
static struct node *storage_node(struct node *n)
{
    while (n->driver->is_filter || n->driver == &driver_raw) {
        struct node *below = n->file ? n->file->node : node_filtered(n);

        if (!below) {
            break;
        }
        n = below;
    }
    return n;
}

/* Of the node or, where it has none of its own, of what it stores in; an
 * external data file does not count, nor does it for QEMU. */
static int64_t allocated_bytes(struct node *n)
{
    int64_t sum = 0, bytes;

    if (n->driver == &driver_blkdebug || n->driver == &driver_blkverify) {
        return -ENOTSUP;        /* as QEMU has it */
    }
    if (n->driver->allocated_bytes) {
        return n->driver->allocated_bytes(n);
    }
    if (n->file) {
        return allocated_bytes(n->file->node);
    }
    for (const struct child *c = n->children; c; c = c->next_sibling) {
        if (c->role & (ROLE_DATA | ROLE_METADATA | ROLE_FILTERED)) {
            bytes = allocated_bytes(c->node);
            if (bytes < 0) {
                return bytes;
            }
            sum += bytes;
        }
    }
    return n->children ? sum : -ENOTSUP;
}

static void add_backing_names(struct node *n, ImageInfo *info)
{
    if (!n->header_backing_file || info->backing_filename) {
        return;
    }
    info->backing_filename = g_strdup(n->header_backing_file);
    info->full_backing_filename = node_resolved_backing_name(n, NULL);
    info->backing_filename_format = g_strdup(n->header_backing_format);
}

static ImageInfo *image_info_alone(struct node *n)
{
    ImageInfo *info = ImageInfo_new0();
    struct node *storage = storage_node(n);
    int64_t bytes = allocated_bytes(n);
    int64_t cluster = node_cluster_bytes(storage);

    info->filename = g_strdup(node_filename(n));
    info->format = g_strdup(node_driver_name(n));
    info->virtual_size = (node_length(n) + 511) & ~INT64_C(511);
    info->has_actual_size = bytes >= 0;
    info->actual_size = MAX(bytes, 0);
    info->has_cluster_size = cluster > 0;
    info->cluster_size = cluster;
    info->has_dirty_flag = storage->driver != &driver_null_co &&
                           storage->driver != &driver_null_aio;
    add_backing_names(n, info);
    if (n->driver->specific_info) {
        info->format_specific = n->driver->specific_info(n, NULL);
    }
    if (storage->driver->image_info) {
        storage->driver->image_info(storage, info);
    }
    return info;
}

/* The image below in the sense of backing-image; implicit filters are not
 * shown, nor are others between. */
static struct node *next_image(struct node *n)
{
    struct node *below = node_backing(n);

    if (!below && n->driver->is_filter) {
        below = node_filtered(n);
    }
    return below ? node_skip_implicit_filters(below) : NULL;
}

ImageInfo *node_image_info(struct node *n, bool nested)
{
    ImageInfo *info, *last;

    control_assert();
    info = last = image_info_alone(n);
    for (n = next_image(n); nested && n; n = next_image(n)) {
        last = last->backing_image = image_info_alone(n);
    }
    return info;
}
