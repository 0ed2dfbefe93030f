/* SPDX-License-Identifier: MIT */
/* Backup: which arguments make sense together.  Texts are QEMU's. */
#include "bitmaps/dirty-bitmap.h"
#include "block/driver.h"
#include "block/filters/copy-before-write.h"
#include "blockjobs/backup-priv.h"

static bool check_perf(const BackupPerf *p, struct error **errp)
{
    if (!p) {
        return true;
    }
    if (p->has_max_workers &&
        (p->max_workers < 1 || p->max_workers > INT_MAX)) {
        error_set(errp, "max-workers must be between 1 and %d", INT_MAX);
        return false;
    }
    if (p->has_max_chunk && p->max_chunk < 0) {
        error_set(errp, "max-chunk must be zero (which means no limit) or "
                  "positive");
        return false;
    }
    return true;
}

/* A bitmap is there: is it of use? */
static bool check_bitmap(struct backup *b, MirrorSyncMode sync,
                         struct error **errp)
{
    const BackupCommon *a = b->common;

    b->bitmap = dirty_bitmap_find(b->source->bitmaps, a->bitmap);
    if (!b->bitmap) {
        error_set(errp, "Bitmap '%s' could not be found", a->bitmap);
        return false;
    }
    if (!a->has_bitmap_mode && a->sync != MIRROR_SYNC_MODE_INCREMENTAL) {
        error_set(errp, "Bitmap sync mode must be given when providing a "
                  "bitmap");
        return false;
    }
    b->bitmap_mode = a->has_bitmap_mode ? a->bitmap_mode
                                        : BITMAP_SYNC_MODE_ON_SUCCESS;
    if (!dirty_bitmap_check(b->bitmap, DIRTY_BITMAP_ALLOW_RO, errp)) {
        return false;
    }
    if (sync == MIRROR_SYNC_MODE_NONE) {
        error_set(errp, "sync mode '%s' does not produce meaningful bitmap "
                  "outputs", MirrorSyncMode_str(sync));
        return false;
    }
    if (b->bitmap_mode == BITMAP_SYNC_MODE_NEVER &&
        sync != MIRROR_SYNC_MODE_BITMAP) {
        error_set(errp, "Bitmap sync mode '%s' has no meaningful effect when "
                  "combined with sync mode '%s'",
                  BitmapSyncMode_str(b->bitmap_mode),
                  MirrorSyncMode_str(sync));
        return false;
    }
    return b->bitmap_mode == BITMAP_SYNC_MODE_NEVER ||
           dirty_bitmap_check(b->bitmap, DIRTY_BITMAP_DEFAULT, errp);
}

static bool check_sync(struct backup *b, struct error **errp)
{
    const BackupCommon *a = b->common;
    MirrorSyncMode sync = a->sync;

    b->bitmap = NULL;
    b->use_bitmap_bits = sync == MIRROR_SYNC_MODE_BITMAP ||
                         sync == MIRROR_SYNC_MODE_INCREMENTAL;
    if (b->use_bitmap_bits && !a->bitmap) {
        error_set(errp, "must provide a valid bitmap name for '%s' sync mode",
                  MirrorSyncMode_str(sync));
        return false;
    }
    if (sync == MIRROR_SYNC_MODE_INCREMENTAL) {
        if (a->has_bitmap_mode &&
            a->bitmap_mode != BITMAP_SYNC_MODE_ON_SUCCESS) {
            error_set(errp, "Bitmap sync mode must be '%s' when using sync "
                      "mode '%s'",
                      BitmapSyncMode_str(BITMAP_SYNC_MODE_ON_SUCCESS),
                      MirrorSyncMode_str(sync));
            return false;
        }
        sync = MIRROR_SYNC_MODE_BITMAP;
    }
    if (a->bitmap) {
        return check_bitmap(b, sync, errp);
    }
    if (a->has_bitmap_mode) {
        error_set(errp, "Cannot specify bitmap sync mode without a bitmap");
        return false;
    }
    return true;
}

/* A filter hands compressed writes on; what stores them decides. */
static bool check_compress(const struct backup *b, struct error **errp)
{
    if (b->common->has_compress && b->common->compress &&
        !(b->target->supported_write_flags & BLK_COMPRESSED)) {
        error_set(errp, "Compression is not supported for this drive ");
        return false;
    }
    return true;
}

static bool check_nodes(const struct backup *b, struct error **errp)
{
    if (b->source == b->target) {
        error_set(errp, "Source and target cannot be the same");
        return false;
    }
    if (!node_op_allowed(b->source, NODE_OP_BACKUP_SOURCE, errp) ||
        !node_op_allowed(b->target, NODE_OP_BACKUP_TARGET, errp)) {
        return false;
    }
    if (node_length(b->source) != node_length(b->target)) {
        error_set(errp, "Source and target image have different sizes");
        return false;
    }
    return node_check_invalidated(b->source, errp);
}

static bool find_cluster_size(struct backup *b, struct error **errp)
{
    const BackupPerf *p = b->common->x_perf;

    b->cluster_bytes = cbw_cluster_bytes(b->target,
                                         p && p->has_min_cluster_size
                                         ? p->min_cluster_size : 0, errp);
    if (!b->cluster_bytes) {
        return false;
    }
    if (p && p->has_max_chunk && p->max_chunk > 0 &&
        p->max_chunk < b->cluster_bytes) {
        error_set(errp, "Required max-chunk (%" G_GINT64_FORMAT ") is less "
                  "than backup cluster size (%" G_GINT64_FORMAT ")",
                  p->max_chunk, b->cluster_bytes);
        return false;
    }
    return true;
}

bool backup_check(struct backup *b, struct error **errp)
{
    return check_perf(b->common->x_perf, errp) && check_sync(b, errp) &&
           check_nodes(b, errp) && check_compress(b, errp) &&
           find_cluster_size(b, errp);
}
