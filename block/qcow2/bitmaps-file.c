/* SPDX-License-Identifier: MIT */
/*
 * qcow2 bitmaps, the reading: directory, tables, which clusters they occupy.
 * Numbers come from the file: nothing is read or allocated by one that was
 * not checked against the file's length and stored.h's limits.
 */
#include <errno.h>
#include <inttypes.h>
#include "block/qcow2/bitmaps-priv.h"

/* Entries of a table that are read at once. */
#define TABLE_STEP 65536

struct stored_geometry qcow2_bitmaps_geometry(const struct qcow2 *s)
{
    return (struct stored_geometry) {
        .cluster_bits = s->cluster_bits,
        .disk_bytes = s->hdr.size,
        .file_bytes = node_length(qcow2_file(s)),
    };
}

struct stored_directory *qcow2_bitmaps_copy_directory(struct qcow2 *s)
{
    struct qcow2_bitmaps *state = qcow2_bitmaps_of(s);

    LOCK_GUARD(&state->lock);
    return stored_directory_copy(state->dir);
}

void qcow2_bitmaps_set_directory(struct qcow2 *s, struct stored_directory *dir)
{
    struct qcow2_bitmaps *state = qcow2_bitmaps_of(s);
    struct stored_directory *old;

    {
        LOCK_GUARD(&state->lock);
        old = state->dir;
        state->dir = dir;
    }
    stored_directory_free(old);
}

bool qcow2_bitmaps_hits_metadata(struct qcow2 *s, int64_t offset,
                                 int64_t bytes)
{
    LOCK_GUARD(&s->lock);
    return qcow2_find_overlap(s, QCOW2_OL_CACHED & ~QCOW2_OL_BITMAPS, offset,
                              bytes) != 0;
}

static bool check_extension(struct qcow2 *s, struct error **errp)
{
    const struct qcow2_bitmaps_ext *e = &s->bitmaps;
    int64_t file_bytes = qcow2_cluster_end(s, node_length(qcow2_file(s)));

    if (e->directory_bytes > STORED_MAX_DIRECTORY_BYTES) {
        error_set(errp, "The bitmap directory's size of %" PRIu64 " bytes"
                  " exceeds the maximum of %d", e->directory_bytes,
                  STORED_MAX_DIRECTORY_BYTES);
        return false;
    }
    if (e->directory_offset == 0 || e->directory_offset > file_bytes ||
        e->directory_bytes > file_bytes - e->directory_offset) {
        error_set(errp, "The bitmap directory at 0x%" PRIx64 " is not in the"
                  " file", e->directory_offset);
        return false;
    }
    if (qcow2_bitmaps_hits_metadata(s, e->directory_offset,
                                    e->directory_bytes)) {
        error_set(errp, "The bitmap directory at 0x%" PRIx64 " overlaps other"
                  " metadata", e->directory_offset);
        return false;
    }
    return true;
}

struct stored_directory *qcow2_bitmaps_read_directory(struct qcow2 *s,
                                                      struct error **errp)
{
    const struct qcow2_bitmaps_ext *e = &s->bitmaps;
    struct stored_geometry geometry = qcow2_bitmaps_geometry(s);
    g_autofree uint8_t *buf = NULL;
    int ret = -ENOMEM;

    if (!check_extension(s, errp)) {
        return NULL;
    }
    buf = g_try_malloc(e->directory_bytes + 1);
    if (buf) {
        ret = qcow2_file_pread(s, e->directory_offset, e->directory_bytes, buf,
                               0);
    }
    if (ret < 0) {
        error_set_errno(errp, -ret, "Could not read the bitmap directory");
        return NULL;
    }
    return stored_directory_decode(buf, e->directory_bytes, e->n_bitmaps,
                                   &geometry, errp);
}

int qcow2_bitmaps_read_table(struct qcow2 *s, const struct stored_bitmap *b,
                             uint32_t first, uint32_t n, uint64_t *table)
{
    int ret = qcow2_file_pread(s, b->table_offset + first * INT64_C(8),
                               n * INT64_C(8), table, 0);

    for (uint32_t i = 0; ret == 0 && i < n; i++) {
        table[i] = be64toh(table[i]);
    }
    return ret;
}

/* ---- which clusters ----------------------------------------------------- */

/* A run of clusters that grows as long as they follow each other. */
struct run {
    qcow2_bitmaps_extent_fn *fn;
    void *opaque;
    int64_t offset, bytes;
};

static int run_end(struct run *r)
{
    int64_t bytes = r->bytes;

    r->bytes = 0;
    return bytes ? r->fn(r->opaque, r->offset, bytes) : 0;
}

static int run_add(struct run *r, int64_t offset, int64_t bytes)
{
    int ret = 0;

    if (offset != r->offset + r->bytes) {
        ret = run_end(r);
        r->offset = offset;
    }
    r->bytes += bytes;
    return ret;
}

static int each_in_table(struct qcow2 *s, const struct stored_bitmap *b,
                         struct run *run)
{
    struct stored_geometry geometry = qcow2_bitmaps_geometry(s);
    g_autofree uint64_t *table = g_new(uint64_t, TABLE_STEP);

    for (uint32_t at = 0; at < b->table_entries; at += TABLE_STEP) {
        uint32_t n = MIN(TABLE_STEP, b->table_entries - at);
        int ret = qcow2_bitmaps_read_table(s, b, at, n, table);

        for (uint32_t i = 0; ret == 0 && i < n; i++) {
            int64_t offset;

            if (stored_table_entry(table[i], &geometry, &offset) ==
                STORED_CLUSTER_AT) {
                ret = run_add(run, offset, s->cluster_bytes);
            }
        }
        if (ret < 0) {
            return ret;
        }
    }
    return run_end(run);
}

/* Is its table where one can be? */
static bool table_in_file(struct qcow2 *s, const struct stored_bitmap *b)
{
    int64_t file_bytes = qcow2_cluster_end(s, node_length(qcow2_file(s)));
    int64_t bytes = b->table_entries * INT64_C(8);

    return b->table_offset != 0 && b->table_offset < file_bytes &&
           b->table_offset % s->cluster_bytes == 0 &&
           bytes <= file_bytes - (int64_t)b->table_offset;
}

int qcow2_bitmaps_each_of(struct qcow2 *s, const struct stored_bitmap *b,
                          qcow2_bitmaps_extent_fn *fn, void *opaque)
{
    struct run run = { .fn = fn, .opaque = opaque };
    int ret;

    if (!table_in_file(s, b)) {
        return 0;
    }
    /* Each entry of the table once, then the data: FN may free the table. */
    ret = each_in_table(s, b, &run);
    if (ret < 0 || b->table_entries == 0) {
        return ret;
    }
    return fn(opaque, b->table_offset, b->table_entries * INT64_C(8));
}

int qcow2_bitmaps_each_extent(struct qcow2 *s, qcow2_bitmaps_extent_fn *fn,
                              void *opaque, struct error **errp)
{
    struct stored_directory *dir;
    int ret;

    if (s->bitmaps.n_bitmaps == 0 ||
        !(s->hdr.autoclear & QCOW2_AUTOCLEAR_BITMAPS)) {
        return 0;
    }
    dir = qcow2_bitmaps_read_directory(s, NULL);
    if (!dir) {
        return 0;               /* it will be set aside */
    }
    ret = fn(opaque, s->bitmaps.directory_offset, s->bitmaps.directory_bytes);
    for (unsigned i = 0; ret == 0 && i < stored_directory_count(dir); i++) {
        ret = qcow2_bitmaps_each_of(s, stored_directory_at(dir, i), fn,
                                    opaque);
    }
    stored_directory_free(dir);
    if (ret < 0) {
        error_set_errno(errp, -ret, "Could not read the bitmaps");
    }
    return ret;
}
