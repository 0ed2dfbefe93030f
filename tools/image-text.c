/* SPDX-License-Identifier: MIT */
/* What blockjobctl image finds, for people. */
#include "tools/image.h"

#include <inttypes.h>
#include <string.h>
#include <time.h>

/* "4 MiB", "1.5 GiB"; owned. */
static char *size_text(int64_t bytes)
{
    static const char *const units[] = {
        "B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB",
    };
    double v = bytes;
    size_t i = 0;

    for (; v >= 1000 && i + 1 < G_N_ELEMENTS(units); i++) {
        v /= 1024;
    }
    return g_strdup_printf("%.3g %s", v, units[i]);
}

static void print_snapshots(FILE *out, const SnapshotInfoList *list)
{
    fprintf(out, "Snapshot list:\n%-10s%-17s%8s%21s%14s\n", "ID", "TAG",
            "VM SIZE", "DATE", "VM CLOCK");
    for (size_t i = 0; i < list->n; i++) {
        const SnapshotInfo *s = list->v[i];
        g_autofree char *size = size_text(s->vm_state_size);
        time_t when = s->date_sec;
        struct tm tm;
        char date[32], clock[32];

        localtime_r(&when, &tm);
        strftime(date, sizeof(date), "%Y-%m-%d %H:%M:%S", &tm);
        snprintf(clock, sizeof(clock), "%02d:%02d:%02d.%03d",
                 (int)(s->vm_clock_sec / 3600),
                 (int)(s->vm_clock_sec / 60 % 60),
                 (int)(s->vm_clock_sec % 60),
                 (int)(s->vm_clock_nsec / 1000000));
        fprintf(out, "%-9s %-16s %8s%21s%14s\n", s->id, s->name, size, date,
                clock);
    }
}

static const char *yes_no(bool yes)
{
    return yes ? "true" : "false";
}

static void print_bitmaps(FILE *out, const Qcow2BitmapInfoList *list)
{
    fprintf(out, "    bitmaps:\n");
    for (size_t i = 0; i < list->n; i++) {
        const Qcow2BitmapInfo *b = list->v[i];

        fprintf(out, "        [%zu]:\n            flags:", i);
        for (size_t k = 0; k < b->flags->n; k++) {
            fprintf(out, " %s", Qcow2BitmapInfoFlags_str(b->flags->v[k]));
        }
        fprintf(out, "\n            name: %s\n            granularity: %"
                PRId64 "\n", b->name, (int64_t)b->granularity);
    }
}

static void print_qcow2(FILE *out, const ImageInfoSpecificQCow2 *q)
{
    fprintf(out, "Format specific information:\n    compat: %s\n"
            "    compression type: %s\n", q->compat,
            Qcow2CompressionType_str(q->compression_type));
    if (q->has_lazy_refcounts) {
        fprintf(out, "    lazy refcounts: %s\n", yes_no(q->lazy_refcounts));
    }
    if (q->bitmaps) {
        print_bitmaps(out, q->bitmaps);
    }
    fprintf(out, "    refcount bits: %" PRId64 "\n",
            (int64_t)q->refcount_bits);
    if (q->data_file) {
        fprintf(out, "    data file: %s\n", q->data_file);
    }
    if (q->has_data_file_raw) {
        fprintf(out, "    data file raw: %s\n", yes_no(q->data_file_raw));
    }
    if (q->has_corrupt) {
        fprintf(out, "    corrupt: %s\n", yes_no(q->corrupt));
    }
    if (q->has_extended_l2) {
        fprintf(out, "    extended l2: %s\n", yes_no(q->extended_l2));
    }
}

static void print_backing(FILE *out, const ImageInfo *info)
{
    if (!info->backing_filename) {
        return;
    }
    fprintf(out, "backing file: %s", info->backing_filename);
    if (!info->full_backing_filename) {
        fprintf(out, " (cannot determine actual path)");
    } else if (strcmp(info->backing_filename, info->full_backing_filename)) {
        fprintf(out, " (actual path: %s)", info->full_backing_filename);
    }
    fprintf(out, "\n");
    if (info->backing_filename_format) {
        fprintf(out, "backing file format: %s\n",
                info->backing_filename_format);
    }
}

static void print_invalidated(FILE *out, const ImageInvalidated *why)
{
    g_autoptr(GDateTime) t = g_date_time_new_from_unix_utc(why->seconds);
    g_autofree char *when = t ? g_date_time_format(t, "%Y-%m-%d %H:%M:%S UTC")
                              : g_strdup("an unknown time");

    fprintf(out, "invalidated: by commit job '%s' at %s\n", why->job_id, when);
}

static void print_one(FILE *out, const ImageInfo *info)
{
    g_autofree char *size = size_text(info->virtual_size);
    g_autofree char *disk = info->has_actual_size
                            ? size_text(info->actual_size)
                            : g_strdup("unavailable");

    fprintf(out, "image: %s\nfile format: %s\nvirtual size: %s (%" PRId64
            " bytes)\ndisk size: %s\n", info->filename, info->format, size,
            info->virtual_size, disk);
    if (info->has_cluster_size) {
        fprintf(out, "cluster_size: %" PRId64 "\n", info->cluster_size);
    }
    if (info->has_dirty_flag && info->dirty_flag) {
        fprintf(out, "cleanly shut down: no\n");
    }
    print_backing(out, info);
    if (info->invalidated) {
        print_invalidated(out, info->invalidated);
    }
    if (info->snapshots) {
        print_snapshots(out, info->snapshots);
    }
    if (info->format_specific) {
        print_qcow2(out, info->format_specific->u.qcow2.data);
    }
}

void image_print_info(FILE *out, const ImageInfo *info)
{
    for (; info; info = info->backing_image) {
        print_one(out, info);
        if (info->backing_image) {
            fprintf(out, "\n");
        }
    }
}

static double percent(int64_t part, int64_t whole)
{
    return whole ? part * 100.0 / whole : 0;
}

void image_print_check(FILE *out, const ImageCheck *c)
{
    if (!c->corruptions && !c->leaks && !c->check_errors) {
        fprintf(out, "No errors were found on the image.\n");
    }
    if (c->corruptions) {
        fprintf(out, "\n%" PRId64 " errors were found on the image.\n"
                "Data may be corrupted, or further writes to the image may "
                "corrupt it.\n", c->corruptions);
    }
    if (c->leaks) {
        fprintf(out, "\n%" PRId64 " leaked clusters were found on the image.\n"
                "This means waste of disk space, but no harm to data.\n",
                c->leaks);
    }
    if (c->check_errors) {
        fprintf(out, "\n%" PRId64 " internal errors have occurred during the "
                "check.\n", c->check_errors);
    }
    if (c->total_clusters && c->allocated_clusters) {
        fprintf(out, "%" PRId64 "/%" PRId64 " = %.2f%% allocated, %.2f%% "
                "fragmented, %.2f%% compressed clusters\n",
                c->allocated_clusters, c->total_clusters,
                percent(c->allocated_clusters, c->total_clusters),
                percent(c->fragmented_clusters, c->allocated_clusters),
                percent(c->compressed_clusters, c->allocated_clusters));
    }
    if (c->has_image_end_offset) {
        fprintf(out, "Image end offset: %" PRId64 "\n", c->image_end_offset);
    }
}

void image_print_map_entry(FILE *out, const MapEntry *e)
{
    if (!e) {
        fprintf(out, "%-16s%-16s%-16s%s\n", "Offset", "Length", "Mapped to",
                "File");
        return;
    }
    if (!e->data || e->zero) {
        return;
    }
    fprintf(out, "%#-16" PRIx64 "%#-16" PRIx64, e->start, e->length);
    if (e->has_offset) {
        fprintf(out, "%#-16" PRIx64 "%s\n", e->offset,
                e->filename ? e->filename : "");
    } else {
        fprintf(out, "%-16s\n", e->compressed ? "compressed" : "-");
    }
}
