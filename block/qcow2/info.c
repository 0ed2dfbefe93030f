/* SPDX-License-Identifier: MIT */
/* What queries say of a qcow2 image. */
#include "block/qcow2/qcow2.h"

static ImageInfoSpecificQCow2 *make_info(struct qcow2 *s)
{
    ImageInfoSpecificQCow2 *info = ImageInfoSpecificQCow2_new0();

    LOCK_GUARD(&s->lock);
    info->refcount_bits = 1 << s->refcount_order;
    info->compression_type =
        s->hdr.compression_type == QCOW2_COMPRESSION_ZSTD
        ? QCOW2_COMPRESSION_TYPE_ZSTD : QCOW2_COMPRESSION_TYPE_ZLIB;
    if (s->hdr.version < 3) {
        info->compat = g_strdup("0.10");
        return info;
    }
    info->compat = g_strdup("1.1");
    if (s->data) {
        const struct qcow2_ext *name = qcow2_ext_find(s->exts,
                                                      QCOW2_EXT_DATA_FILE);
        info->data_file = name ? g_strndup((char *)name->data, name->bytes)
                               : NULL;
        info->has_data_file_raw = true;
        info->data_file_raw = s->data_raw;
    }
    info->has_lazy_refcounts = true;
    info->lazy_refcounts = s->hdr.compatible & QCOW2_COMPAT_LAZY_REFCOUNTS;
    info->has_corrupt = true;
    info->corrupt = s->corrupt ||
                    (s->hdr.incompatible & QCOW2_INCOMPAT_CORRUPT);
    info->has_extended_l2 = true;
    info->extended_l2 = s->n_subs > 1;
    return info;
}

ImageInfoSpecific *qcow2_specific_info(struct node *n, struct error **errp)
{
    struct qcow2 *s = n->state;
    ImageInfoSpecific *spec;
    Qcow2BitmapInfoList *bitmaps = NULL;

    if (s->hdr.version >= 3 && !qcow2_bitmaps_info(s, &bitmaps, errp)) {
        return NULL;
    }
    spec = ImageInfoSpecific_new0();
    spec->type = IMAGE_INFO_SPECIFIC_KIND_QCOW2;
    spec->u.qcow2.data = make_info(s);
    spec->u.qcow2.data->bitmaps = bitmaps;
    return spec;
}

SnapshotInfo *qcow2_snapshot_info(const struct qcow2_snapshot *sn)
{
    SnapshotInfo *info = SnapshotInfo_new0();

    info->id = g_strdup(sn->id);
    info->name = g_strdup(sn->name);
    info->vm_state_size = sn->vm_state_bytes;
    info->date_sec = sn->date_sec;
    info->date_nsec = sn->date_nsec;
    info->vm_clock_sec = sn->vm_clock_nsec / 1000000000;
    info->vm_clock_nsec = sn->vm_clock_nsec % 1000000000;
    info->has_icount = sn->has_icount;
    info->icount = sn->icount;
    return info;
}

/* Lock held. */
static SnapshotInfoList *list_snapshots(const struct qcow2 *s)
{
    SnapshotInfoList *list = SnapshotInfoList_new0();

    for (guint i = 0; s->snapshots && i < s->snapshots->len; i++) {
        qapi_list_append(list, qcow2_snapshot_info(
            &g_array_index(s->snapshots, struct qcow2_snapshot, i)));
    }
    return list;
}

void qcow2_image_info(struct node *n, ImageInfo *info)
{
    struct qcow2 *s = n->state;

    LOCK_GUARD(&s->lock);
    info->has_cluster_size = true;
    info->cluster_size = s->cluster_bytes;
    info->has_dirty_flag = true;
    info->dirty_flag = s->hdr.incompatible & QCOW2_INCOMPAT_DIRTY;
    if (s->snapshots && s->snapshots->len > 0) {
        info->snapshots = list_snapshots(s);
    }
}

SnapshotInfoList *qcow2_snapshot_list(struct node *n)
{
    struct qcow2 *s = n->state;

    LOCK_GUARD(&s->lock);
    return s->data ? NULL : list_snapshots(s);
}
