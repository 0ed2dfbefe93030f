/* SPDX-License-Identifier: MIT */
/*
 * Stored bitmaps: the byte layout of qcow2's specification, what is refused,
 * what is set aside, and that all that is not understood comes out again as
 * it went in.
 */
#include "bitmaps/stored.h"

#include <string.h>

#define KIB INT64_C(1024)
#define MIB (1024 * KIB)

/* 16 MiB disk, 64 KiB clusters, a file of 8 clusters. */
static const struct stored_geometry geometry = {
    .cluster_bits = 16, .disk_bytes = 16 * MIB, .file_bytes = 512 * KIB,
};

/* As Debian's QEMU 7.2 wrote them: D (disabled), P (enabled). */
static const uint8_t qemu_directory[] = {
    0, 0, 0, 0, 0, 4, 0, 0,     0, 0, 0, 1,     0, 0, 0, 0,
    1, 16, 0, 1,                0, 0, 0, 0,
    'D', 0, 0, 0, 0, 0, 0, 0,
    0, 0, 0, 0, 0, 5, 0, 0,     0, 0, 0, 1,     0, 0, 0, 2,
    1, 16, 0, 1,                0, 0, 0, 0,
    'P', 0, 0, 0, 0, 0, 0, 0,
};

static struct stored_directory *decode(const uint8_t *buf, size_t bytes,
                                       uint32_t n)
{
    return stored_directory_decode(buf, bytes, n, &geometry, NULL);
}

static void assert_encodes_to(const struct stored_directory *d,
                              const uint8_t *expected, size_t bytes)
{
    g_autofree uint8_t *buf = g_malloc(bytes + 1);

    g_assert_cmpint(stored_directory_bytes(d), ==, bytes);
    buf[bytes] = 0xee;
    stored_directory_encode(d, buf);
    g_assert_cmpmem(buf, bytes, expected, bytes);
    g_assert_cmpint(buf[bytes], ==, 0xee);
}

static void test_layout(void)
{
    struct stored_directory *d = decode(qemu_directory,
                                        sizeof(qemu_directory), 2);
    struct stored_directory *copy;
    struct stored_bitmap *b;

    g_assert_nonnull(d);
    g_assert_cmpint(stored_directory_count(d), ==, 2);
    b = stored_directory_at(d, 0);
    g_assert_cmpstr(b->name, ==, "D");
    g_assert_cmpstr(b->fault, ==, NULL);
    g_assert_cmphex(b->table_offset, ==, 0x40000);
    g_assert_cmpint(b->table_entries, ==, 1);
    g_assert_cmpint(b->granularity_bits, ==, 16);
    g_assert_cmphex(b->flags, ==, 0);
    b = stored_directory_find(d, "P");
    g_assert_cmphex(b->flags, ==, STORED_AUTO);
    g_assert_null(stored_directory_find(d, "Q"));
    assert_encodes_to(d, qemu_directory, sizeof(qemu_directory));

    copy = stored_directory_copy(d);
    stored_directory_free(d);
    assert_encodes_to(copy, qemu_directory, sizeof(qemu_directory));
    stored_directory_remove(copy, stored_directory_find(copy, "D"));
    assert_encodes_to(copy, qemu_directory + 32, 32);
    b = stored_directory_add(copy, "D", 16);
    b->table_offset = 0x40000;
    b->table_entries = 1;
    g_assert_cmpint(stored_directory_bytes(copy), ==, 64);
    g_assert_true(stored_directory_at(copy, 1) == b);
    stored_directory_free(copy);
}

/* ---- one entry, changed ------------------------------------------------- */

struct change {
    const char *what;
    int at, bytes;
    uint64_t value;
    const char *fault;          /* NULL: none */
};

static const struct change changes[] = {
    { "as-it-is", 0, 8, 0x40000, NULL },
    { "table-unaligned", 0, 8, 0x40200,
      "its table at 0x40200 is not in the file" },
    { "table-at-0", 0, 8, 0, "its table at 0x0 is not in the file" },
    { "table-behind-end", 0, 8, 0x80000,
      "its table at 0x80000 is not in the file" },
    { "table-beyond-all", 0, 8, UINT64_MAX - 0xffff,
      "its table at 0xffffffffffff0000 is not in the file" },
    { "table-empty", 8, 4, 0, "its table has 0 entries, not 1" },
    { "table-longer", 8, 4, 2, "its table has 2 entries, not 1" },
    { "table-leaves-file", 8, 4, 0xffffffff,
      "its table at 0x40000 is not in the file" },
    { "flag-in-use", 12, 4, 1, NULL },
    { "flag-unknown", 12, 4, 8, "its flags 0x8 are not supported" },
    { "flag-highest", 12, 4, 0x80000000,
      "its flags 0x80000000 are not supported" },
    { "type-0", 16, 1, 0, "its type 0 is not supported" },
    { "type-2", 16, 1, 2, "its type 2 is not supported" },
    { "granularity-8", 17, 1, 8,
      "its granularity of 2^8 bytes is not supported" },
    { "granularity-9", 17, 1, 9, NULL },
    { "granularity-31", 17, 1, 31, NULL },
    { "granularity-32", 17, 1, 32,
      "its granularity of 2^32 bytes is not supported" },
    { "granularity-255", 17, 1, 255,
      "its granularity of 2^255 bytes is not supported" },
    { "name-not-utf8", 24, 1, 0xff, "its name is not valid text" },
    { "name-nul", 24, 1, 0, "its name is not valid text" },
};

static void test_change(gconstpointer data)
{
    const struct change *c = data;
    uint8_t buf[32];
    struct stored_directory *d;
    struct stored_bitmap *b;

    memcpy(buf, qemu_directory, sizeof(buf));
    for (int i = 0; i < c->bytes; i++) {
        buf[c->at + i] = c->value >> 8 * (c->bytes - 1 - i);
    }
    d = decode(buf, sizeof(buf), 1);
    g_assert_nonnull(d);
    b = stored_directory_at(d, 0);
    g_assert_cmpstr(b->fault, ==, c->fault);
    g_assert_cmpint(b->nameless, ==, g_str_has_prefix(c->what, "name-"));
    g_assert_true(stored_directory_find(d, "D") ==
                  (b->nameless ? NULL : b));
    assert_encodes_to(d, buf, sizeof(buf));         /* stored.h, I1 */
    stored_directory_free(d);
}

/* In use: the size may be another one, but the table must be in the file. */
static void test_in_use(void)
{
    uint8_t buf[32];
    struct stored_directory *d;

    memcpy(buf, qemu_directory, sizeof(buf));
    buf[11] = 2;
    buf[15] = STORED_IN_USE;
    d = decode(buf, sizeof(buf), 1);
    g_assert_cmpstr(stored_directory_at(d, 0)->fault, ==, NULL);
    stored_directory_free(d);
    buf[8] = 1;
    d = decode(buf, sizeof(buf), 1);
    g_assert_nonnull(stored_directory_at(d, 0)->fault);
    stored_directory_free(d);
}

static void test_extra_data(void)
{
    static const uint8_t entry[] = {
        0, 0, 0, 0, 0, 4, 0, 0,     0, 0, 0, 1,     0, 0, 0, 6,
        1, 16, 0, 3,                0, 0, 0, 5,
        0xde, 0xad, 0, 0xbe, 0xef, 'X', 'Y', 'Z',
    };
    struct stored_directory *d = decode(entry, sizeof(entry), 1);
    struct stored_bitmap *b = stored_directory_find(d, "XYZ");
    uint8_t buf[sizeof(entry)];

    g_assert_cmpstr(b->fault, ==, NULL);
    g_assert_cmpmem(b->extra, b->extra_bytes, entry + 24, 5);
    assert_encodes_to(d, entry, sizeof(entry));
    stored_directory_free(d);

    memcpy(buf, entry, sizeof(buf));
    buf[15] = 2;                            /* not extra_data_compatible */
    d = decode(buf, sizeof(buf), 1);
    b = stored_directory_find(d, "XYZ");
    g_assert_cmpstr(b->fault, ==, "it has extra data of unknown meaning");
    assert_encodes_to(d, buf, sizeof(buf));
    stored_directory_free(d);
}

static void test_names(void)
{
    uint8_t buf[64], *large;
    struct stored_directory *d;
    struct stored_bitmap *b;
    const size_t bytes = 24 + 1024;

    /* Twice the same: the second is nameless, both are kept. */
    memcpy(buf, qemu_directory, sizeof(buf));
    buf[32 + 24] = 'D';
    d = decode(buf, sizeof(buf), 2);
    g_assert_cmpint(stored_directory_count(d), ==, 2);
    b = stored_directory_at(d, 1);
    g_assert_true(b->nameless);
    g_assert_cmpstr(b->fault, ==, "another bitmap has the same name");
    g_assert_true(stored_directory_find(d, "D") == stored_directory_at(d, 0));
    assert_encodes_to(d, buf, sizeof(buf));
    stored_directory_remove(d, b);
    g_assert_true(stored_directory_find(d, "D") == stored_directory_at(d, 0));
    stored_directory_free(d);

    large = g_malloc(bytes);
    memcpy(large, qemu_directory, 24);
    memset(large + 24, 'x', 1024);
    large[18] = 1023 >> 8;
    large[19] = 1023 & 0xff;
    large[bytes - 1] = 0;
    d = decode(large, bytes, 1);
    g_assert_cmpstr(stored_directory_at(d, 0)->fault, ==, NULL);
    g_assert_cmpint(strlen(stored_directory_at(d, 0)->name), ==, 1023);
    stored_directory_free(d);
    large[18] = 1024 >> 8;
    large[19] = 0;
    large[bytes - 1] = 'x';
    d = decode(large, bytes, 1);
    g_assert_cmpstr(stored_directory_at(d, 0)->fault, ==,
                    "its name is longer than 1023 bytes");
    g_assert_true(stored_directory_at(d, 0)->nameless);
    assert_encodes_to(d, large, bytes);
    stored_directory_free(d);
    g_free(large);
}

/* Entries that cannot be told apart: the whole directory is refused. */
static void assert_refused(const uint8_t *buf, size_t bytes, uint32_t n,
                           const char *text)
{
    g_autofree uint8_t *exact = g_memdup2(buf, bytes);  /* for ASan */
    AUTO_ERROR(err);

    g_assert_null(stored_directory_decode(exact, bytes, n, &geometry, &err));
    g_assert_cmpstr(error_text(err), ==, text);
}

static void test_refused(void)
{
    uint8_t buf[64];

    memcpy(buf, qemu_directory, sizeof(buf));
    assert_refused(buf, 64, 1, "The bitmap directory has more than 1 entries");
    assert_refused(buf, 64, 3, "The bitmap directory has 2 entries, not 3");
    assert_refused(buf, 0, 1, "The bitmap directory has 0 entries, not 1");
    for (size_t bytes = 33; bytes < 64; bytes++) {
        assert_refused(buf, bytes, 2, "Entry 1 of the bitmap directory ends"
                       " behind the directory");
    }
    buf[18] = 0xff;                         /* name */
    assert_refused(buf, 64, 2, "Entry 0 of the bitmap directory ends behind"
                   " the directory");
    buf[18] = 0;
    memset(buf + 20, 0xff, 4);              /* extra data */
    assert_refused(buf, 64, 2, "Entry 0 of the bitmap directory ends behind"
                   " the directory");
}

/* ---- tables ------------------------------------------------------------- */

static void test_table(void)
{
    int64_t at;

    g_assert_cmpint(stored_table_entry(0, &geometry, &at), ==,
                    STORED_CLUSTER_ZEROES);
    g_assert_cmpint(stored_table_entry(1, &geometry, &at), ==,
                    STORED_CLUSTER_ONES);
    g_assert_cmpint(stored_table_entry(0x70000, &geometry, &at), ==,
                    STORED_CLUSTER_AT);
    g_assert_cmphex(at, ==, 0x70000);
    for (int bit = 1; bit < 64; bit++) {
        /* Reserved, unaligned, or behind the end; but for two good ones. */
        bool good = bit == 16 || bit == 17 || bit == 18;

        g_assert_cmpint(stored_table_entry(UINT64_C(1) << bit, &geometry,
                                           &at), ==,
                        good ? STORED_CLUSTER_AT : STORED_CLUSTER_BAD);
    }
    g_assert_cmpint(stored_table_entry(0x70001, &geometry, &at), ==,
                    STORED_CLUSTER_BAD);
}

static void test_sizes(void)
{
    const int64_t longest = INT64_C(9223372035781033984);
    struct stored_geometry g = { .cluster_bits = 9, .disk_bytes = 1 };

    g_assert_cmpint(stored_data_bytes(0, 9), ==, 0);
    g_assert_cmpint(stored_data_bytes(1, 31), ==, 1);
    g_assert_cmpint(stored_data_bytes(8 * 512, 9), ==, 1);
    g_assert_cmpint(stored_data_bytes(8 * 512 + 1, 9), ==, 2);
    g_assert_cmpint(stored_data_bytes(8 * KIB * MIB * MIB, 9), ==,
                    2 * KIB * MIB * MIB / 1024);
    g_assert_cmpint(stored_data_bytes(longest, 9), ==,
                    INT64_C(2251799813423104));
    g_assert_cmpint(stored_table_entries(&g, 9), ==, 1);
    g.disk_bytes = 512 * 8 * 512 + 1;
    g_assert_cmpint(stored_table_entries(&g, 9), ==, 2);
    g.disk_bytes = INT64_MAX;
    g_assert_cmpint(stored_table_entries(&g, 9), ==, INT64_C(1) << 42);
    g_assert_cmpint(stored_entry_bytes(1, 0), ==, 32);
    g_assert_cmpint(stored_entry_bytes(8, 0), ==, 32);
    g_assert_cmpint(stored_entry_bytes(8, 1), ==, 40);
    g_assert_cmpint(stored_entry_bytes(0xffff, UINT32_MAX), ==,
                    INT64_C(4295032856));
}

/* A disk so large that the bitmap is not loaded, whatever its table says. */
static void test_too_large(void)
{
    const struct stored_geometry vast = {
        .cluster_bits = 16, .disk_bytes = INT64_C(1) << 50,
        .file_bytes = 512 * KIB,
    };
    uint8_t buf[32];
    struct stored_directory *d;

    memcpy(buf, qemu_directory, sizeof(buf));
    d = stored_directory_decode(buf, sizeof(buf), 1, &vast, NULL);
    g_assert_cmpstr(stored_directory_at(d, 0)->fault, ==,
                    "its 2147483648 bytes are more than the 536870912 that"
                    " are supported");
    stored_directory_free(d);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/stored/layout", test_layout);
    for (size_t i = 0; i < G_N_ELEMENTS(changes); i++) {
        g_autofree char *path = g_strdup_printf("/stored/change/%s",
                                                changes[i].what);

        g_test_add_data_func(path, &changes[i], test_change);
    }
    g_test_add_func("/stored/in-use", test_in_use);
    g_test_add_func("/stored/extra-data", test_extra_data);
    g_test_add_func("/stored/names", test_names);
    g_test_add_func("/stored/refused", test_refused);
    g_test_add_func("/stored/table", test_table);
    g_test_add_func("/stored/sizes", test_sizes);
    g_test_add_func("/stored/too-large", test_too_large);
    return g_test_run();
}
