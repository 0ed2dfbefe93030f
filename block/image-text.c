/* SPDX-License-Identifier: MIT */
/* What an image is, for people: see image-text.h. */
#include "block/image-text.h"

#include <inttypes.h>
#include <string.h>
#include <time.h>
#include "qapi/qapi-visit.h"

char *image_size_text(uint64_t bytes)
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

void image_text_snapshot_head(GString *out)
{
    g_string_append_printf(out, "%-10s%-17s%8s%20s%13s%11s", "ID", "TAG",
                           "VM SIZE", "DATE", "VM CLOCK", "ICOUNT");
}

void image_text_snapshot(GString *out, const SnapshotInfo *s)
{
    g_autofree char *size = image_size_text(s->vm_state_size);
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
    g_string_append_printf(out, "%-9s %-16s %8s%20s%13s%11s", s->id, s->name,
                           size, date, clock, count);
}

/* ---- what a format says of itself --------------------------------------- */

static void print_value(GString *out, int depth, json_t *value);

/* "  key: value"; what has parts goes on the lines below. */
static void print_entry(GString *out, int depth, const char *key,
                        json_t *value)
{
    bool has_parts = json_is_object(value) || json_is_array(value);

    g_string_append_printf(out, "%*s%s:%c", depth * 4, "", key,
                           has_parts ? '\n' : ' ');
    print_value(out, depth, value);
    if (!has_parts) {
        g_string_append_printf(out, "\n");
    }
}

static void print_value(GString *out, int depth, json_t *value)
{
    const char *key;
    json_t *item;
    size_t i;

    if (json_is_object(value)) {
        json_object_foreach(value, key, item) {
            g_autofree char *words = g_strdelimit(g_strdup(key), "-", ' ');

            print_entry(out, depth + 1, words, item);
        }
    } else if (json_is_array(value)) {
        json_array_foreach(value, i, item) {
            g_autofree char *index = g_strdup_printf("[%zu]", i);

            print_entry(out, depth + 1, index, item);
        }
    } else if (json_is_string(value)) {
        g_string_append_printf(out, "%s", json_string_value(value));
    } else if (json_is_boolean(value)) {
        g_string_append_printf(out, "%s", json_is_true(value) ? "true" :
                               "false");
    } else if (json_is_integer(value)) {
        g_string_append_printf(out, "%" JSON_INTEGER_FORMAT,
                               json_integer_value(value));
    }
}

static void print_specific(GString *out, const ImageInfoSpecific *specific)
{
    json_t *json = ImageInfoSpecific_to_json(specific);
    /* As QMP writes it, in its order. */
    g_autofree char *text = qapi_json_dump(json_object_get(json, "data"),
                                           false, NULL);
    json_t *data = json_loads(text, 0, NULL);

    if (json_object_size(data) > 0) {
        g_string_append_printf(out, "Format specific information:\n");
        print_value(out, 0, data);
    }
    json_decref(data);
    json_decref(json);
}

/* ---- images ------------------------------------------------------------- */

static void print_backing(GString *out, const ImageInfo *info)
{
    if (!info->backing_filename) {
        return;
    }
    g_string_append_printf(out, "backing file: %s", info->backing_filename);
    if (!info->full_backing_filename) {
        g_string_append_printf(out, " (cannot determine actual path)");
    } else if (strcmp(info->backing_filename, info->full_backing_filename)) {
        g_string_append_printf(out, " (actual path: %s)",
                               info->full_backing_filename);
    }
    g_string_append_printf(out, "\n");
    if (info->backing_filename_format) {
        g_string_append_printf(out, "backing file format: %s\n",
                               info->backing_filename_format);
    }
}

static void print_invalidated(GString *out, const ImageInvalidated *why)
{
    g_autoptr(GDateTime) t = g_date_time_new_from_unix_utc(why->seconds);
    g_autofree char *when = t ? g_date_time_format(t, "%Y-%m-%d %H:%M:%S UTC")
                              : g_strdup("an unknown time");

    g_string_append_printf(out, "invalidated: by commit job '%s' at %s\n",
                           why->job_id, when);
}

void image_text_info(GString *out, const ImageInfo *info)
{
    g_autofree char *size = image_size_text(info->virtual_size);
    g_autofree char *disk = info->has_actual_size
                            ? image_size_text(info->actual_size)
                            : g_strdup("unavailable");

    g_string_append_printf(out,
                           "image: %s\nfile format: %s\nvirtual size: %s (%"
                           PRId64 " bytes)\ndisk size: %s\n", info->filename,
                           info->format, size, info->virtual_size, disk);
    if (info->has_encrypted && info->encrypted) {
        g_string_append_printf(out, "encrypted: yes\n");
    }
    if (info->has_cluster_size) {
        g_string_append_printf(out, "cluster_size: %" PRId64 "\n",
                               info->cluster_size);
    }
    if (info->has_dirty_flag && info->dirty_flag) {
        g_string_append_printf(out, "cleanly shut down: no\n");
    }
    print_backing(out, info);
    if (info->invalidated) {
        print_invalidated(out, info->invalidated);
    }
    if (info->snapshots && info->snapshots->n > 0) {
        g_string_append_printf(out, "Snapshot list:\n");
        image_text_snapshot_head(out);
        g_string_append_printf(out, "\n");
        for (size_t i = 0; i < info->snapshots->n; i++) {
            image_text_snapshot(out, info->snapshots->v[i]);
            g_string_append_printf(out, "\n");
        }
    }
    if (info->format_specific) {
        print_specific(out, info->format_specific);
    }
}
