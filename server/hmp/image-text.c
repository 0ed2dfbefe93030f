/* SPDX-License-Identifier: MIT */
/* What an image is, for people: see text.h. */
#include "server/hmp/text.h"

#include <inttypes.h>
#include <string.h>
#include <time.h>
#include "qapi/qapi-visit.h"

char *hmp_size_text(uint64_t bytes)
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

/* ---- snapshots ---------------------------------------------------------- */

void hmp_print_snapshot_head(struct hmp *m)
{
    hmp_printf(m, "%-10s%-17s%8s%20s%13s%11s", "ID", "TAG", "VM SIZE",
               "DATE", "VM CLOCK", "ICOUNT");
}

void hmp_print_snapshot(struct hmp *m, const SnapshotInfo *s)
{
    g_autofree char *size = hmp_size_text(s->vm_state_size);
    g_autofree char *count = s->has_icount && s->icount != -1
                             ? g_strdup_printf("%" PRId64, s->icount)
                             : g_strdup("");
    time_t when = s->date_sec;
    struct tm tm;
    char date[32], clock[48];

    localtime_r(&when, &tm);
    strftime(date, sizeof(date), "%Y-%m-%d %H:%M:%S", &tm);
    snprintf(clock, sizeof(clock), "%02d:%02d:%02d.%03d",
             (int)(s->vm_clock_sec / 3600), (int)(s->vm_clock_sec / 60 % 60),
             (int)(s->vm_clock_sec % 60), (int)(s->vm_clock_nsec / 1000000));
    hmp_printf(m, "%-9s %-16s %8s%20s%13s%11s", s->id, s->name, size, date,
               clock, count);
}

/* ---- what a format says of itself --------------------------------------- */

static void print_value(struct hmp *m, int depth, json_t *value);

/* "  key: value"; what has parts goes on the lines below. */
static void print_entry(struct hmp *m, int depth, const char *key,
                        json_t *value)
{
    bool has_parts = json_is_object(value) || json_is_array(value);

    hmp_printf(m, "%*s%s:%c", depth * 4, "", key, has_parts ? '\n' : ' ');
    print_value(m, depth, value);
    if (!has_parts) {
        hmp_printf(m, "\n");
    }
}

static void print_value(struct hmp *m, int depth, json_t *value)
{
    const char *key;
    json_t *item;
    size_t i;

    if (json_is_object(value)) {
        json_object_foreach(value, key, item) {
            g_autofree char *words = g_strdelimit(g_strdup(key), "-", ' ');

            print_entry(m, depth + 1, words, item);
        }
    } else if (json_is_array(value)) {
        json_array_foreach(value, i, item) {
            g_autofree char *index = g_strdup_printf("[%zu]", i);

            print_entry(m, depth + 1, index, item);
        }
    } else if (json_is_string(value)) {
        hmp_printf(m, "%s", json_string_value(value));
    } else if (json_is_boolean(value)) {
        hmp_printf(m, "%s", json_is_true(value) ? "true" : "false");
    } else if (json_is_integer(value)) {
        hmp_printf(m, "%" JSON_INTEGER_FORMAT, json_integer_value(value));
    }
}

static void print_specific(struct hmp *m, const ImageInfoSpecific *specific)
{
    json_t *json = ImageInfoSpecific_to_json(specific);
    /* As QMP writes it, in its order. */
    g_autofree char *text = qapi_json_dump(json_object_get(json, "data"),
                                           false, NULL);
    json_t *data = json_loads(text, 0, NULL);

    if (json_object_size(data) > 0) {
        hmp_printf(m, "Format specific information:\n");
        print_value(m, 0, data);
    }
    json_decref(data);
    json_decref(json);
}

/* ---- images ------------------------------------------------------------- */

static void print_backing(struct hmp *m, const ImageInfo *info)
{
    if (!info->backing_filename) {
        return;
    }
    hmp_printf(m, "backing file: %s", info->backing_filename);
    if (!info->full_backing_filename) {
        hmp_printf(m, " (cannot determine actual path)");
    } else if (strcmp(info->backing_filename, info->full_backing_filename)) {
        hmp_printf(m, " (actual path: %s)", info->full_backing_filename);
    }
    hmp_printf(m, "\n");
    if (info->backing_filename_format) {
        hmp_printf(m, "backing file format: %s\n",
                   info->backing_filename_format);
    }
}

static void print_one(struct hmp *m, const ImageInfo *info)
{
    g_autofree char *size = hmp_size_text(info->virtual_size);
    g_autofree char *disk = info->has_actual_size
                            ? hmp_size_text(info->actual_size)
                            : g_strdup("unavailable");

    hmp_printf(m, "image: %s\nfile format: %s\nvirtual size: %s (%" PRId64
               " bytes)\ndisk size: %s\n", info->filename, info->format, size,
               info->virtual_size, disk);
    if (info->has_encrypted && info->encrypted) {
        hmp_printf(m, "encrypted: yes\n");
    }
    if (info->has_cluster_size) {
        hmp_printf(m, "cluster_size: %" PRId64 "\n", info->cluster_size);
    }
    if (info->has_dirty_flag && info->dirty_flag) {
        hmp_printf(m, "cleanly shut down: no\n");
    }
    print_backing(m, info);
    if (info->snapshots && info->snapshots->n > 0) {
        hmp_printf(m, "Snapshot list:\n");
        hmp_print_snapshot_head(m);
        hmp_printf(m, "\n");
        for (size_t i = 0; i < info->snapshots->n; i++) {
            hmp_print_snapshot(m, info->snapshots->v[i]);
            hmp_printf(m, "\n");
        }
    }
    if (info->format_specific) {
        print_specific(m, info->format_specific);
    }
}

void hmp_print_image(struct hmp *m, const ImageInfo *info)
{
    for (; info; info = info->backing_image) {
        print_one(m, info);
    }
}
