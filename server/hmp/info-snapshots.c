/* SPDX-License-Identifier: MIT */
/*
 * info snapshots: those that all disks have together, as if a machine's state
 * went with them, then those of one disk alone.
 */
#include "server/hmp/command.h"

#include <string.h>
#include "block/driver.h"
#include "block/image-text.h"
#include "qapi/qapi-commands.h"

/* A writable image; all borrowed. */
struct disk {
    const char *name;
    const BlockDeviceInfo *info;
};

struct disks {
    BlockInfoList *devices;         /* owned */
    BlockDeviceInfoList *nodes;     /* owned */
    GArray *list;                   /* owned; of struct disk */
};

static void add(struct disks *d, const char *name,
                const BlockDeviceInfo *info)
{
    struct disk disk = { .name = name, .info = info };

    if (!info->ro) {
        g_array_append_val(d->list, disk);
    }
}

/* Devices, then nodes that only the monitor has. */
static bool find_disks(struct disks *d, struct error **errp)
{
    const QueryNamedBlockNodesArgs args = { 0 };

    d->list = g_array_new(FALSE, FALSE, sizeof(struct disk));
    d->devices = qmp_query_block(errp);
    d->nodes = d->devices ? qmp_query_named_block_nodes(&args, errp) : NULL;
    if (!d->nodes) {
        return false;
    }
    for (size_t i = 0; i < d->devices->n; i++) {
        const BlockInfo *b = d->devices->v[i];

        if (b->inserted) {
            add(d, *b->device ? b->device : b->inserted->node_name,
                b->inserted);
        }
    }
    for (size_t i = 0; i < d->nodes->n; i++) {
        const BlockDeviceInfo *info = d->nodes->v[i];
        const struct node *n = node_find(info->node_name);

        if (n && n->monitor_owned && !n->parents) {
            add(d, info->node_name, info);
        }
    }
    return true;
}

static void disks_free(struct disks *d)
{
    BlockInfoList_free(d->devices);
    BlockDeviceInfoList_free(d->nodes);
    g_array_free(d->list, TRUE);
}

static const struct disk *disk_at(const struct disks *d, guint i)
{
    return &g_array_index(d->list, struct disk, i);
}

static size_t n_snapshots(const struct disk *disk)
{
    const ImageInfo *image = disk->info->image;

    return image && image->snapshots ? image->snapshots->n : 0;
}

static const SnapshotInfo *snapshot(const struct disk *disk, size_t i)
{
    return disk->info->image->snapshots->v[i];
}

static bool all_have(const struct disks *d, const char *name)
{
    for (guint i = 0; i < d->list->len; i++) {
        size_t k = 0, n = n_snapshots(disk_at(d, i));

        while (k < n && strcmp(snapshot(disk_at(d, i), k)->name, name)) {
            k++;
        }
        if (k == n) {
            return false;
        }
    }
    return true;
}

static void print_head(struct hmp *m)
{
    image_text_snapshot_head(m->out);
    hmp_printf(m, "\n");
}

static void print_together(struct hmp *m, const struct disks *d,
                           const struct disk *first)
{
    bool any = false;

    hmp_printf(m, "List of snapshots present on all disks:\n");
    for (size_t i = 0; i < n_snapshots(first); i++) {
        SnapshotInfo s = *snapshot(first, i);
        static char no_id[] = "--";

        if (!all_have(d, s.name)) {
            continue;
        }
        if (!any) {
            print_head(m);
        }
        any = true;
        s.id = no_id;
        image_text_snapshot(m->out, &s);
        hmp_printf(m, "\n");
    }
    if (!any) {
        hmp_printf(m, "None\n");
    }
}

static void print_alone(struct hmp *m, const struct disks *d,
                        const struct disk *disk)
{
    bool any = false;

    for (size_t i = 0; i < n_snapshots(disk); i++) {
        const SnapshotInfo *s = snapshot(disk, i);

        if (all_have(d, s->name)) {
            continue;
        }
        if (!any) {
            hmp_printf(m, "\nList of partial (non-loadable) snapshots on "
                       "'%s':\n", disk->name);
            print_head(m);
        }
        any = true;
        image_text_snapshot(m->out, s);
        hmp_printf(m, "\n");
    }
}

static void print_all(struct hmp *m, const struct disks *d)
{
    const struct disk *first = NULL;
    size_t n = 0;

    for (guint i = 0; i < d->list->len; i++) {
        n += n_snapshots(disk_at(d, i));
        if (!first && !strcmp(disk_at(d, i)->info->drv, "qcow2")) {
            first = disk_at(d, i);
        }
    }
    if (!first) {
        hmp_printf(m, "no block device can store vmstate for snapshot\n");
        return;
    }
    if (n == 0) {
        hmp_printf(m, "There is no snapshot available.\n");
        return;
    }
    print_together(m, d, first);
    for (guint i = 0; i < d->list->len; i++) {
        print_alone(m, d, disk_at(d, i));
    }
}

void hmp_info_snapshots(struct hmp *m, const struct hmp_args *a)
{
    struct disks disks = { 0 };
    struct error *err = NULL;

    if (find_disks(&disks, &err)) {
        print_all(m, &disks);
    }
    hmp_error(m, err);
    disks_free(&disks);
}
