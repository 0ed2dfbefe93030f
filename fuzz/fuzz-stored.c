/* SPDX-License-Identifier: MIT */
/*
 * Stored bitmaps: any bytes as a bitmap directory and as table entries.  What
 * is accepted must come out again as it went in, but for padding, and what
 * has no fault must be as large as the disk says.
 */
#include <stdlib.h>
#include <string.h>
#include "bitmaps/stored.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* First bytes of the input: what the image is like. */
enum { HEAD_BYTES = 8 };

static void require(bool condition)
{
    if (!condition) {
        abort();
    }
}

static void check_entry(const struct stored_directory *d,
                        const struct stored_bitmap *b,
                        const struct stored_geometry *g)
{
    int64_t file_end = (g->file_bytes | ((1 << g->cluster_bits) - 1)) + 1;

    require(strlen(b->name) <= b->name_bytes);
    if (!b->nameless) {
        require(stored_directory_find(d, b->name) == b);
        require(g_utf8_validate(b->name, -1, NULL));
    }
    if (b->fault) {
        return;
    }
    require(!b->nameless);
    require(b->granularity_bits >= 9 && b->granularity_bits <= 31);
    require(b->table_offset + b->table_entries * UINT64_C(8) <= file_end);
    if (!(b->flags & STORED_IN_USE)) {
        require(b->table_entries ==
                stored_table_entries(g, b->granularity_bits));
        require(stored_data_bytes(g->disk_bytes, b->granularity_bits) <=
                STORED_MAX_DATA_BYTES);
    }
}

static void check_round_trip(const struct stored_directory *d,
                             const struct stored_geometry *g, size_t size)
{
    int64_t bytes = stored_directory_bytes(d);
    g_autofree uint8_t *buf = g_malloc(bytes + 1);
    g_autofree uint8_t *again = g_malloc(bytes + 1);
    struct stored_directory *e;

    require(bytes == size);
    stored_directory_encode(d, buf);
    e = stored_directory_decode(buf, bytes, stored_directory_count(d), g,
                                NULL);
    require(e != NULL);
    stored_directory_encode(e, again);
    require(memcmp(buf, again, bytes) == 0);
    for (unsigned i = 0; i < stored_directory_count(d); i++) {
        require(g_strcmp0(stored_directory_at(d, i)->fault,
                          stored_directory_at(e, i)->fault) == 0);
    }
    stored_directory_free(e);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct stored_geometry g;
    struct stored_directory *d, *copy;
    int64_t at;

    if (size < HEAD_BYTES) {
        return 0;
    }
    g.cluster_bits = 9 + data[0] % 13;
    g.disk_bytes = ((INT64_C(1) << data[1] % 63) - 1) | data[2];
    g.file_bytes = INT64_C(1) << (9 + data[3] % 40);
    d = stored_directory_decode(data + HEAD_BYTES, size - HEAD_BYTES,
                                data[4], &g, NULL);
    if (d) {
        for (unsigned i = 0; i < stored_directory_count(d); i++) {
            check_entry(d, stored_directory_at(d, i), &g);
        }
        check_round_trip(d, &g, size - HEAD_BYTES);
        copy = stored_directory_copy(d);
        while (stored_directory_count(copy)) {
            stored_directory_remove(copy, stored_directory_at(copy, 0));
        }
        stored_directory_free(copy);
        stored_directory_free(d);
    }
    for (size_t i = 0; i + 8 <= size; i += 8) {
        uint64_t entry;

        memcpy(&entry, data + i, 8);
        if (stored_table_entry(entry, &g, &at) == STORED_CLUSTER_AT) {
            require(at > 0 && at % (INT64_C(1) << g.cluster_bits) == 0);
        }
    }
    return 0;
}
