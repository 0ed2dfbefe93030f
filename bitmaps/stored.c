/* SPDX-License-Identifier: MIT */
/* Stored bitmaps: see stored.h. */
#include "bitmaps/stored.h"

#include <inttypes.h>
#include <string.h>

#define TABLE_OFFSET_MASK   UINT64_C(0x00fffffffffffe00)
#define TABLE_RESERVED_MASK UINT64_C(0xff000000000001fe)

/* ---- numbers on disk: big-endian ---------------------------------------- */

static uint64_t load_be(const uint8_t *p, unsigned bytes)
{
    uint64_t v = 0;

    while (bytes--) {
        v = v << 8 | *p++;
    }
    return v;
}

static void store_be(uint8_t *p, uint64_t v, unsigned bytes)
{
    while (bytes--) {
        p[bytes] = v;
        v >>= 8;
    }
}

/* ---- directory in memory ------------------------------------------------ */

static void bitmap_free(void *opaque)
{
    struct stored_bitmap *b = opaque;

    g_free(b->name);
    g_free(b->extra);
    g_free(b->fault);
    g_free(b);
}

struct stored_directory *stored_directory_new(void)
{
    struct stored_directory *d = g_new0(struct stored_directory, 1);

    d->bitmaps = g_ptr_array_new_with_free_func(bitmap_free);
    d->by_name = g_hash_table_new(g_str_hash, g_str_equal);
    return d;
}

void stored_directory_free(struct stored_directory *d)
{
    if (d) {
        g_hash_table_unref(d->by_name);
        g_ptr_array_unref(d->bitmaps);
        g_free(d);
    }
}

static void directory_append(struct stored_directory *d,
                             struct stored_bitmap *b)
{
    g_ptr_array_add(d->bitmaps, b);
    if (!b->nameless) {
        g_hash_table_insert(d->by_name, b->name, b);
    }
}

struct stored_directory *stored_directory_copy(const struct stored_directory *d)
{
    struct stored_directory *copy = stored_directory_new();

    for (unsigned i = 0; i < stored_directory_count(d); i++) {
        struct stored_bitmap *from = stored_directory_at(d, i);
        struct stored_bitmap *b = g_memdup2(from, sizeof(*from));

        b->name = g_memdup2(from->name, from->name_bytes + 1);
        b->extra = g_memdup2(from->extra, from->extra_bytes);
        b->fault = g_strdup(from->fault);
        directory_append(copy, b);
    }
    return copy;
}

unsigned stored_directory_count(const struct stored_directory *d)
{
    return d->bitmaps->len;
}

struct stored_bitmap *stored_directory_at(const struct stored_directory *d,
                                          unsigned i)
{
    return g_ptr_array_index(d->bitmaps, i);
}

struct stored_bitmap *stored_directory_find(const struct stored_directory *d,
                                            const char *name)
{
    return g_hash_table_lookup(d->by_name, name);
}

struct stored_bitmap *stored_directory_add(struct stored_directory *d,
                                           const char *name,
                                           unsigned granularity_bits)
{
    struct stored_bitmap *b = g_new0(struct stored_bitmap, 1);

    g_assert(!stored_directory_find(d, name));
    g_assert(strlen(name) > 0 && strlen(name) <= STORED_MAX_NAME);
    b->type = STORED_TYPE_DIRTY;
    b->granularity_bits = granularity_bits;
    b->name = g_strdup(name);
    b->name_bytes = strlen(name);
    directory_append(d, b);
    return b;
}

void stored_directory_remove(struct stored_directory *d,
                             struct stored_bitmap *b)
{
    if (!b->nameless) {
        g_hash_table_remove(d->by_name, b->name);
    }
    g_ptr_array_remove(d->bitmaps, b);
}

/* ---- sizes -------------------------------------------------------------- */

static int64_t shift_up(int64_t n, unsigned bits)
{
    return (n >> bits) + ((n & ((INT64_C(1) << bits) - 1)) != 0);
}

int64_t stored_entry_bytes(size_t name_bytes, size_t extra_bytes)
{
    return shift_up(STORED_ENTRY_BYTES + name_bytes + extra_bytes, 3) << 3;
}

int64_t stored_directory_bytes(const struct stored_directory *d)
{
    int64_t bytes = 0;

    for (unsigned i = 0; i < stored_directory_count(d); i++) {
        struct stored_bitmap *b = stored_directory_at(d, i);

        bytes += stored_entry_bytes(b->name_bytes, b->extra_bytes);
    }
    return bytes;
}

int64_t stored_data_bytes(int64_t disk_bytes, unsigned granularity_bits)
{
    return shift_up(shift_up(disk_bytes, granularity_bits), 3);
}

int64_t stored_table_entries(const struct stored_geometry *geometry,
                             unsigned granularity_bits)
{
    return shift_up(stored_data_bytes(geometry->disk_bytes, granularity_bits),
                    geometry->cluster_bits);
}

/* Is [offset, offset+bytes) whole clusters of the file, not the header? */
static bool in_file(uint64_t offset, uint64_t bytes,
                    const struct stored_geometry *geometry)
{
    uint64_t cluster = UINT64_C(1) << geometry->cluster_bits;
    uint64_t end = ((uint64_t)geometry->file_bytes + cluster - 1) & -cluster;

    return offset != 0 && (offset & (cluster - 1)) == 0 && offset < end &&
           bytes <= end - offset;
}

enum stored_cluster stored_table_entry(uint64_t e,
                                       const struct stored_geometry *geometry,
                                       int64_t *offset)
{
    uint64_t at = e & TABLE_OFFSET_MASK;

    if (e & TABLE_RESERVED_MASK) {
        return STORED_CLUSTER_BAD;
    }
    if (at == 0) {
        return e & STORED_TABLE_ONES ? STORED_CLUSTER_ONES
                                     : STORED_CLUSTER_ZEROES;
    }
    if ((e & STORED_TABLE_ONES) ||
        !in_file(at, UINT64_C(1) << geometry->cluster_bits, geometry)) {
        return STORED_CLUSTER_BAD;
    }
    *offset = at;
    return STORED_CLUSTER_AT;
}

/* ---- decoding ----------------------------------------------------------- */

/* Text that can be a bitmap's name in a JSON message. */
static bool name_is_text(const struct stored_bitmap *b)
{
    return b->name_bytes > 0 &&
           memchr(b->name, 0, b->name_bytes) == NULL &&
           g_utf8_validate_len(b->name, b->name_bytes, NULL);
}

/* Of what is in the entry itself: can it be used?  NULL or an owned text. */
static char *find_fault(const struct stored_bitmap *b)
{
    if (!name_is_text(b)) {
        return g_strdup("its name is not valid text");
    }
    if (b->name_bytes > STORED_MAX_NAME) {
        return g_strdup_printf("its name is longer than %d bytes",
                               STORED_MAX_NAME);
    }
    if (b->type != STORED_TYPE_DIRTY) {
        return g_strdup_printf("its type %u is not supported", b->type);
    }
    if (b->flags & ~STORED_FLAGS_KNOWN) {
        return g_strdup_printf("its flags 0x%" PRIx32 " are not supported",
                               b->flags);
    }
    if (b->extra_bytes && !(b->flags & STORED_EXTRA_COMPATIBLE)) {
        return g_strdup("it has extra data of unknown meaning");
    }
    if (b->granularity_bits < STORED_MIN_GRANULARITY_BITS ||
        b->granularity_bits > STORED_MAX_GRANULARITY_BITS) {
        return g_strdup_printf("its granularity of 2^%u bytes is not"
                               " supported", b->granularity_bits);
    }
    return NULL;
}

/* Of its place in the file and its size. */
static char *find_table_fault(const struct stored_bitmap *b,
                              const struct stored_geometry *geometry)
{
    int64_t data_bytes = stored_data_bytes(geometry->disk_bytes,
                                           b->granularity_bits);

    if (!in_file(b->table_offset, b->table_entries * UINT64_C(8), geometry)) {
        return g_strdup_printf("its table at 0x%" PRIx64 " is not in the file",
                               b->table_offset);
    }
    if (b->table_entries * UINT64_C(8) > STORED_MAX_DATA_BYTES) {
        return g_strdup("its table is too large");
    }
    if (b->flags & STORED_IN_USE) {
        return NULL;                    /* its size may be of another day */
    }
    if (data_bytes > STORED_MAX_DATA_BYTES) {
        return g_strdup_printf("its %" PRId64 " bytes are more than the %d"
                               " that are supported", data_bytes,
                               STORED_MAX_DATA_BYTES);
    }
    if (b->table_entries != stored_table_entries(geometry,
                                                 b->granularity_bits)) {
        return g_strdup_printf("its table has %" PRIu32 " entries, not %"
                               PRId64, b->table_entries,
                               stored_table_entries(geometry,
                                                    b->granularity_bits));
    }
    return NULL;
}

/* BUF holds the whole entry. */
static struct stored_bitmap *entry_decode(const uint8_t *buf)
{
    struct stored_bitmap *b = g_new0(struct stored_bitmap, 1);

    b->table_offset = load_be(buf, 8);
    b->table_entries = load_be(buf + 8, 4);
    b->flags = load_be(buf + 12, 4);
    b->type = buf[16];
    b->granularity_bits = buf[17];
    b->name_bytes = load_be(buf + 18, 2);
    b->extra_bytes = load_be(buf + 20, 4);
    buf += STORED_ENTRY_BYTES;
    b->extra = g_memdup2(buf, b->extra_bytes);
    b->name = g_malloc(b->name_bytes + 1);
    memcpy(b->name, buf + b->extra_bytes, b->name_bytes);
    b->name[b->name_bytes] = 0;
    return b;
}

static void entry_check(struct stored_directory *d, struct stored_bitmap *b,
                        const struct stored_geometry *geometry)
{
    b->fault = find_fault(b);
    if (!b->fault) {
        b->fault = find_table_fault(b, geometry);
    }
    b->nameless = !name_is_text(b) || b->name_bytes > STORED_MAX_NAME;
    if (!b->nameless && stored_directory_find(d, b->name)) {
        b->nameless = true;
        g_free(b->fault);
        b->fault = g_strdup("another bitmap has the same name");
    }
}

struct stored_directory *stored_directory_decode(
    const uint8_t *buf, size_t bytes, uint32_t n,
    const struct stored_geometry *geometry, struct error **errp)
{
    struct stored_directory *d = stored_directory_new();
    size_t at = 0;

    while (at < bytes) {
        const uint8_t *entry = buf + at;
        uint64_t entry_bytes;
        struct stored_bitmap *b;

        if (stored_directory_count(d) == n) {
            error_set(errp, "The bitmap directory has more than %" PRIu32
                      " entries", n);
            goto fail;
        }
        entry_bytes = bytes - at < STORED_ENTRY_BYTES ? UINT64_MAX
            : (uint64_t)stored_entry_bytes(load_be(entry + 18, 2),
                                           load_be(entry + 20, 4));
        if (entry_bytes > bytes - at) {
            error_set(errp, "Entry %u of the bitmap directory ends behind the"
                      " directory", stored_directory_count(d));
            goto fail;
        }
        b = entry_decode(entry);
        entry_check(d, b, geometry);
        directory_append(d, b);
        at += entry_bytes;
    }
    if (stored_directory_count(d) < n) {
        error_set(errp, "The bitmap directory has %u entries, not %" PRIu32,
                  stored_directory_count(d), n);
        goto fail;
    }
    return d;

fail:
    stored_directory_free(d);
    return NULL;
}

/* ---- encoding ----------------------------------------------------------- */

static void entry_encode(const struct stored_bitmap *b, uint8_t *buf)
{
    memset(buf, 0, stored_entry_bytes(b->name_bytes, b->extra_bytes));
    store_be(buf, b->table_offset, 8);
    store_be(buf + 8, b->table_entries, 4);
    store_be(buf + 12, b->flags, 4);
    buf[16] = b->type;
    buf[17] = b->granularity_bits;
    store_be(buf + 18, b->name_bytes, 2);
    store_be(buf + 20, b->extra_bytes, 4);
    buf += STORED_ENTRY_BYTES;
    if (b->extra_bytes) {
        memcpy(buf, b->extra, b->extra_bytes);
    }
    memcpy(buf + b->extra_bytes, b->name, b->name_bytes);
}

void stored_directory_encode(const struct stored_directory *d, uint8_t *buf)
{
    for (unsigned i = 0; i < stored_directory_count(d); i++) {
        struct stored_bitmap *b = stored_directory_at(d, i);

        entry_encode(b, buf);
        buf += stored_entry_bytes(b->name_bytes, b->extra_bytes);
    }
}
