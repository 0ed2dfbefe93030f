/* SPDX-License-Identifier: MIT */
/* What blockjobctl image finds, for people. */
#include "tools/image.h"

#include <inttypes.h>
#include "block/image-text.h"

void image_print_info(FILE *out, const ImageInfo *info)
{
    for (; info; info = info->backing_image) {
        g_autoptr(GString) text = g_string_new(NULL);

        image_text_info(text, info);
        fprintf(out, "%s%s", text->str, info->backing_image ? "\n" : "");
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
