/* SPDX-License-Identifier: MIT */
/*
 * The target of drive-mirror.
 *
 * A target is opened without the files below it: those of a new one are the
 * source's own, which it gets when it takes the source's place, and those of
 * an existing one may be made as late as that.
 */
#include "blockjobs/mirror-target.h"

#include "base/control.h"
#include "block/driver.h"
#include "block/new-image.h"

/* What the header of a new image names: sync=top what is below the source,
 * sync=none the source (all that is not written reads from there). */
static struct node *backing_for(MirrorSyncMode sync, struct node *source)
{
    struct node *backing;

    switch (sync) {
    case MIRROR_SYNC_MODE_TOP:
        backing = node_backing(node_skip_filters(source));
        return backing ? node_skip_filters(backing) : NULL;
    case MIRROR_SYNC_MODE_NONE:
        return node_skip_filters(source);
    default:
        return NULL;
    }
}

struct node *mirror_target_open(const DriveMirror *args, MirrorSyncMode sync,
                                struct node *source,
                                enum mirror_backing *backing,
                                struct error **errp)
{
    bool existing = args->has_mode && args->mode == NEW_IMAGE_MODE_EXISTING;
    const char *format = args->format ? args->format
                         : existing ? NULL
                         : node_driver_name(node_skip_filters(source));
    struct new_image image = {
        .filename = args->target, .format = format,
        .length_bytes = node_length(source),
        .backing = backing_for(sync, source),
    };
    struct node_target target = {
        .filename = args->target, .format = format,
        .node_name = args->node_name,
    };
    struct node *like, *n;

    control_assert();
    if (!existing && !new_image_create(&image, errp)) {
        return NULL;
    }
    *backing = existing ? MIRROR_BACKING_OPEN
               : image.backing ? MIRROR_BACKING_OF_SOURCE
               : MIRROR_BACKING_AS_IS;
    like = node_ref(node_skip_filters(source));
    target.like = like;
    n = node_open_target(&target, errp);
    node_unref(like);
    return n;
}
