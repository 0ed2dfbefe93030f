/* SPDX-License-Identifier: MIT */
/*
 * Persistent bitmaps in real images: what we store QEMU's tools load, what
 * they store we load, at every granularity; crashes, damage, removal, limits.
 */
#include <glib/gstdio.h>
#include <inttypes.h>
#include <string.h>
#include <unistd.h>
#include "base/pool.h"
#include "bitmaps/dirty-bitmap.h"
#include "block/bitmap.h"
#include "block/qcow2/qcow2.h"
#include "qapi/qapi-commands.h"
#include "qcow2-util.h"

#define KIB INT64_C(1024)
#define MIB (1024 * KIB)
#define NAMED "'node-name': 'n', 'backing': null"

static char *file;              /* the image, per test */

static void setup(void)
{
    file = test_path("b.qcow2");
    control_lock();
}

static void teardown(void)
{
    node_wait_closed();
    g_assert_null(node_next(NULL));
    control_unlock();
    g_unlink(file);
    g_clear_pointer(&file, g_free);
}

static void make_image(int64_t size, const char *options)
{
    sh_ok("qemu-img create -q -f qcow2 %s '%s' %" PRId64, options, file, size);
}

/* ---- commands ----------------------------------------------------------- */

static bool try_add(const char *name, uint32_t granularity, bool persistent,
                    bool disabled, struct error **errp)
{
    BlockDirtyBitmapAdd args = {
        .node = (char *)"n", .name = (char *)name,
        .has_granularity = granularity != 0, .granularity = granularity,
        .has_persistent = true, .persistent = persistent,
        .has_disabled = true, .disabled = disabled,
    };

    return qmp_block_dirty_bitmap_add(&args, errp);
}

static void add(const char *name, uint32_t granularity)
{
    g_assert_true(try_add(name, granularity, true, false, NULL));
}

static bool try_remove(const char *name, struct error **errp)
{
    BlockDirtyBitmap args = { .node = (char *)"n", .name = (char *)name };

    return qmp_block_dirty_bitmap_remove(&args, errp);
}

static struct dirty_bitmap *find(const struct image *im, const char *name)
{
    return dirty_bitmap_find(im->node->bitmaps, name);
}

static void assert_error(struct error *err, const char *text)
{
    g_assert_cmpstr(err ? error_text(err) : NULL, ==, text);
}

/* "name flags, name flags": d disabled, p persistent, i inconsistent, r
 * readonly. */
static void assert_list(struct image *im, const char *expected)
{
    g_autoptr(GString) s = g_string_new(NULL);

    for (struct dirty_bitmap *bm = dirty_bitmap_next(im->node->bitmaps, NULL);
         bm; bm = dirty_bitmap_next(im->node->bitmaps, bm)) {
        g_string_append_printf(s, "%s%s %s%s%s%s", s->len ? ", " : "",
                               dirty_bitmap_name(bm),
                               dirty_bitmap_enabled(bm) ? "" : "d",
                               dirty_bitmap_persistent(bm) ? "p" : "",
                               dirty_bitmap_inconsistent(bm) ? "i" : "",
                               dirty_bitmap_readonly(bm) ? "r" : "");
    }
    g_assert_cmpstr(s->str, ==, expected);
}

/* "name [flags] granularity" as qemu-img info lists them. */
static void assert_info(const char *expected)
{
    g_autofree char *text = sh_text(
        "qemu-img info -U --output=json '%s' | python3 -c \"import json,sys;"
        "d=json.load(sys.stdin)['format-specific']['data'].get('bitmaps',[]);"
        "print(', '.join('%%s %%s %%d' %% (b['name'],'+'.join(b['flags']),"
        "b['granularity']) for b in d), end='')\"", file);

    g_assert_cmpstr(text, ==, expected);
}

/* ---- content ------------------------------------------------------------ */

/* Random writes and a few fixed ones; the bitmaps follow. */
static void write_pattern(struct image *im, int seed)
{
    g_autoptr(GRand) r = g_rand_new_with_seed(seed);
    int64_t length = root_length(im->root);
    g_autofree uint8_t *buf = g_malloc0(MIB);

    for (int i = 0; i < 60; i++) {
        int64_t bytes = g_rand_int_range(r, 1, i % 10 ? 3000 : 400000);
        int64_t offset = (int64_t)(g_rand_double(r) * (length - bytes));

        g_assert_cmpint(root_pwrite(im->root, offset, bytes, buf, 0), ==, 0);
    }
    g_assert_cmpint(root_pwrite(im->root, length - 1, 1, buf, 0), ==, 0);
}

static bool same_bits(const struct bits *a, const struct bits *b)
{
    int64_t n = bits_size(a);

    if (bits_size(b) != n || bits_total(a) != bits_total(b)) {
        return false;
    }
    for (int64_t i = bits_next_set(a, 0, n); i < n;
         i = bits_next_set(a, i + 1, n)) {
        if (!bits_test(b, i)) {
            return false;
        }
    }
    return true;
}

static struct bits *bits_of(struct image *im, const char *name)
{
    struct bits *b = bits_clone(dirty_bitmap_bits(find(im, name)));

    g_assert_nonnull(b);
    return b;
}

/*
 * We write and store "ours"; qemu-img loads it, merges it into a bitmap that
 * it makes and stores; we load both.
 */
static void round_trip(int cluster_bits, int granularity_bits, int64_t size)
{
    g_autofree char *options = g_strdup_printf("-o cluster_size=%d",
                                               1 << cluster_bits);
    struct image im;
    struct bits *b;
    uint32_t granularity = UINT32_C(1) << granularity_bits;

    make_image(size, options);
    image_open_ok(&im, file, NAMED);
    add("ours", granularity);
    write_pattern(&im, cluster_bits * 100 + granularity_bits);
    b = bits_of(&im, "ours");
    image_close(&im);
    image_check(file);
    sh_ok("qemu-img bitmap --add --disable -g %u '%s' theirs", granularity,
          file);
    sh_ok("qemu-img bitmap --merge ours '%s' theirs", file);
    image_check(file);
    image_open_ok(&im, file, NAMED);
    g_assert_true(same_bits(b, dirty_bitmap_bits(find(&im, "ours"))));
    g_assert_true(same_bits(b, dirty_bitmap_bits(find(&im, "theirs"))));
    g_assert_true(dirty_bitmap_enabled(find(&im, "ours")));
    g_assert_false(dirty_bitmap_enabled(find(&im, "theirs")));
    g_assert_cmpint(dirty_bitmap_granularity(find(&im, "theirs")), ==,
                    granularity);
    image_close(&im);
    image_check(file);
    bits_free(b);
    g_unlink(file);
}

static void test_granularities(void)
{
    setup();
    for (int g = 9; g <= 31; g++) {
        round_trip(16, g, 64 * MIB + 512);
    }
    teardown();
}

static void test_clusters(void)
{
    setup();
    for (int c = 9; c <= 21; c++) {
        round_trip(c, 9, 24 * MIB);     /* 6 KiB of bits: many clusters */
        round_trip(c, 12, 2 * MIB);
    }
    teardown();
}

/* Zero, full and mixed clusters, and the tail. */
static void test_ones(void)
{
    struct image im;
    struct bits *b;
    g_autofree uint8_t *buf = g_malloc0(MIB);

    setup();
    make_image(9 * MIB, "-o cluster_size=512");     /* 2 MiB per cluster */
    image_open_ok(&im, file, NAMED);
    add("ones", 512);
    for (int64_t at = 2 * MIB; at < 6 * MIB; at += MIB) {
        g_assert_cmpint(root_pwrite(im.root, at, MIB, buf, 0), ==, 0);
    }
    g_assert_cmpint(root_pwrite(im.root, 8 * MIB, MIB, buf, 0), ==, 0);
    b = bits_of(&im, "ones");
    image_close(&im);
    image_check(file);
    sh_ok("qemu-img bitmap --add -g 512 '%s' t", file);
    sh_ok("qemu-img bitmap --merge ones '%s' t", file);
    image_check(file);
    image_open_ok(&im, file, NAMED);
    g_assert_true(same_bits(b, dirty_bitmap_bits(find(&im, "ones"))));
    g_assert_true(same_bits(b, dirty_bitmap_bits(find(&im, "t"))));
    image_close(&im);
    bits_free(b);
    teardown();
}

/* ---- order, flags, in use ----------------------------------------------- */

/* COMPAT.md 7: the order in the file and after a reload. */
static void test_order(void)
{
    struct image im;

    setup();
    make_image(16 * MIB, "");
    image_open_ok(&im, file, NAMED);
    add("Small", 0);
    add("Medium", 0);
    add("Large", 0);
    g_assert_true(try_add("temporary", 0, false, false, NULL));
    assert_info("");
    image_close(&im);
    assert_info("Large auto 65536, Medium auto 65536, Small auto 65536");
    image_open_ok(&im, file, NAMED);
    assert_list(&im, "Small p, Medium p, Large p");
    assert_info("Large in-use+auto 65536, Medium in-use+auto 65536, "
                "Small in-use+auto 65536");
    add("New", 4096);
    dirty_bitmap_set_enabled(find(&im, "Medium"), false);
    image_close(&im);
    assert_info("Large auto 65536, Medium  65536, Small auto 65536, "
                "New auto 4096");
    image_open_ok(&im, file, NAMED);
    assert_list(&im, "New p, Small p, Medium dp, Large p");
    image_close(&im);
    image_check(file);
    teardown();
}

/* A crash: the file as it was while it was open. */
static void test_crash(void)
{
    struct image im;

    setup();
    make_image(16 * MIB, "");
    sh_ok("qemu-img bitmap --add '%s' a && qemu-img bitmap --add --disable "
          "'%s' b", file, file);
    image_open_ok(&im, file, NAMED);
    assert_list(&im, "b dp, a p");
    sh_ok("cp '%s' '%s.crash'", file, file);
    image_close(&im);
    sh_ok("mv '%s.crash' '%s'", file, file);
    assert_info("a in-use+auto 65536, b in-use 65536");
    image_open_ok(&im, file, NAMED);
    assert_list(&im, "b dpi, a dpi");
    {
        AUTO_ERROR(err);
        g_assert_false(try_add("a", 0, true, false, &err));
        assert_error(err, "Bitmap already exists: a");
    }
    {
        AUTO_ERROR(err);
        BlockDirtyBitmap args = { .node = (char *)"n", .name = (char *)"a" };
        g_assert_false(qmp_block_dirty_bitmap_clear(&args, &err));
        assert_error(err, "Bitmap 'a' is inconsistent and cannot be used");
    }
    add("c", 0);
    image_close(&im);
    image_check(file);
    assert_info("a in-use+auto 65536, b in-use 65536, c auto 65536");
    image_open_ok(&im, file, NAMED);
    g_assert_true(try_remove("b", NULL));
    assert_info("a in-use+auto 65536, c in-use+auto 65536");
    g_assert_true(try_remove("a", NULL));
    g_assert_true(try_remove("c", NULL));
    assert_info("");
    image_close(&im);
    image_check(file);
    teardown();
}

/* Stored, loaded and stored again: nothing leaks, the file stays small. */
static void test_no_leak(void)
{
    struct image im;
    GStatBuf st;
    int64_t size = 0;

    setup();
    make_image(64 * MIB, "-o cluster_size=4096");
    for (int i = 0; i < 12; i++) {
        image_open_ok(&im, file, NAMED);
        if (i == 0) {
            add("a", 512);
            add("b", 1024);
        }
        if (i < 2) {
            write_pattern(&im, 1);
        }
        image_close(&im);
        image_check(file);
        g_assert_cmpint(g_stat(file, &st), ==, 0);
        if (i == 4) {
            size = st.st_size;
        }
    }
    g_assert_cmpint(st.st_size, <=, size);
    teardown();
}

static void test_read_only(void)
{
    struct image im;

    setup();
    make_image(16 * MIB, "");
    sh_ok("qemu-img bitmap --add '%s' a", file);
    g_assert_true(image_open(&im, file, true, NAMED, NULL));
    assert_list(&im, "a pr");
    assert_info("a auto 65536");
    {
        AUTO_ERROR(err);
        g_assert_false(try_add("p", 0, true, false, &err));
        assert_error(err, "Can't make bitmap 'p' persistent in 'n': the node"
                     " is read-only");
    }
    {
        AUTO_ERROR(err);
        g_assert_false(try_remove("a", &err));
        assert_error(err, "Bitmap 'a' is readonly and cannot be modified");
    }
    g_assert_true(try_add("t", 0, false, false, NULL));
    g_assert_true(try_remove("t", NULL));
    image_close(&im);
    assert_info("a auto 65536");
    teardown();
}

static void test_resize(void)
{
    struct image im;
    struct bits *b;

    setup();
    make_image(16 * MIB, "");
    image_open_ok(&im, file, NAMED);
    add("a", 4096);
    write_pattern(&im, 1);
    g_assert_cmpint(image_truncate(&im, 40 * MIB, PREALLOC_MODE_OFF), ==, 0);
    write_pattern(&im, 2);
    b = bits_of(&im, "a");
    g_assert_cmpint(bits_size(b), ==, 40 * MIB / 4096);
    image_close(&im);
    image_check(file);
    assert_info("a auto 4096");
    image_open_ok(&im, file, NAMED);
    g_assert_true(same_bits(b, dirty_bitmap_bits(find(&im, "a"))));
    g_assert_cmpint(image_truncate(&im, 16 * MIB, PREALLOC_MODE_OFF), ==, 0);
    image_close(&im);
    image_check(file);
    image_open_ok(&im, file, NAMED);
    g_assert_true(bits_resize(b, 16 * MIB / 4096));
    g_assert_true(same_bits(b, dirty_bitmap_bits(find(&im, "a"))));
    image_close(&im);
    bits_free(b);
    teardown();
}

static void test_limits(void)
{
    struct image im;

    setup();
    make_image(8 * KIB * KIB * MIB, "");
    image_open_ok(&im, file, NAMED);
    {
        AUTO_ERROR(err);
        g_assert_false(try_add("fine", 1024, true, false, &err));
        assert_error(err, "Can't make bitmap 'fine' persistent in 'n': Too much"
                     " space will be occupied by the bitmap. Use larger"
                     " granularity");
    }
    g_assert_null(find(&im, "fine"));
    add("good", 2048);
    image_close(&im);
    image_check(file);
    assert_info("good auto 2048");
    g_unlink(file);

    make_image(MIB, "-o compat=0.10");
    image_open_ok(&im, file, NAMED);
    {
        AUTO_ERROR(err);
        g_assert_false(try_add("v2", 0, true, false, &err));
        assert_error(err, "Can't make bitmap 'v2' persistent in 'n': Cannot"
                     " store dirty bitmaps in qcow2 v2 files");
    }
    g_assert_true(try_add("v2", 0, false, false, NULL));
    image_close(&im);
    teardown();
}

/* ---- damage ------------------------------------------------------------- */

static void poke(int64_t offset, const void *data, size_t bytes)
{
    FILE *f = fopen(file, "r+");

    g_assert_nonnull(f);
    g_assert_cmpint(fseek(f, offset, SEEK_SET), ==, 0);
    g_assert_cmpint(fwrite(data, bytes, 1, f), ==, 1);
    fclose(f);
}

/* Big-endian. */
static void poke_number(int64_t offset, int bytes, uint64_t v)
{
    uint8_t buf[8];

    for (int i = bytes; i-- > 0; v >>= 8) {
        buf[i] = v;
    }
    poke(offset, buf, bytes);
}

static uint64_t peek(int64_t offset, int bytes)
{
    g_autofree char *data = NULL;
    uint64_t v = 0;
    gsize size;

    g_assert_true(g_file_get_contents(file, &data, &size, NULL));
    for (int i = 0; i < bytes; i++) {
        v = v << 8 | (uint8_t)data[offset + i];
    }
    return v;
}

/* Where the data of the bitmaps extension is. */
static int64_t find_extension(void)
{
    int64_t at = peek(100, 4);

    while (peek(at, 4) != 0x23852875) {
        g_assert_cmphex(peek(at, 4), !=, 0);
        at += 8 + ((peek(at + 4, 4) + 7) & ~7);
    }
    return at + 8;
}

struct damage {
    const char *what;
    enum { EXTENSION, DIRECTORY, TABLE, HEADER } where;
    int at, bytes;
    uint64_t value;
    const char *list;           /* after open for writing */
    bool readable;              /* by QEMU, after we closed it */
};

static const struct damage damages[] = {
    { "autoclear-0", HEADER, 88, 8, 0, "", true },
    { "no-bitmaps", EXTENSION, 0, 4, 0, "", true },
    { "too-many", EXTENSION, 0, 4, 65536, "", true },
    { "one-more", EXTENSION, 0, 4, 3, "", true },
    { "one-less", EXTENSION, 0, 4, 1, "", true },
    { "reserved", EXTENSION, 4, 4, 1, "", true },
    { "directory-huge", EXTENSION, 8, 8, UINT64_C(1) << 62, "", true },
    { "directory-large", EXTENSION, 8, 8, 67107840, "", true },
    { "directory-short", EXTENSION, 8, 8, 56, "", true },
    { "directory-unaligned", EXTENSION, 16, 8, 0x40001, "", true },
    { "directory-at-header", EXTENSION, 16, 8, 0, "", true },
    { "directory-at-refcounts", EXTENSION, 16, 8, 0x10000, "", true },
    { "directory-past-end", EXTENSION, 16, 8, UINT64_C(1) << 60, "", true },
    { "table-unaligned", DIRECTORY, 0, 8, 0x40200, "P p, D dpi", false },
    { "table-empty", DIRECTORY, 8, 4, 0, "P p, D dpi", false },
    { "table-long", DIRECTORY, 8, 4, 0x7fffffff, "P p, D dpi", false },
    { "flags", DIRECTORY, 12, 4, 0x10, "P p, D dpi", false },
    { "type", DIRECTORY, 16, 1, 7, "P p, D dpi", false },
    { "granularity", DIRECTORY, 17, 1, 60, "P p, D dpi", false },
    { "name-binary", DIRECTORY, 24, 1, 0xfe, "P p", true },
    { "name-twice", DIRECTORY, 24, 1, 'P', "P dp", true },
    { "entry-reserved", TABLE, 0, 8, 2, "P p, D dpi", false },
    { "entry-past-end", TABLE, 0, 8, UINT64_C(1) << 50, "P p, D dpi", true },
    { "entry-ones", TABLE, 0, 8, 1, "P p, D dp", true },
};

/*
 * The disk opens and is written to; the bitmaps that are good are good; the
 * damaged ones are there until they are removed.
 */
static void test_damage(gconstpointer data)
{
    const struct damage *d = data;
    g_autofree uint8_t *buf = g_malloc0(4096);
    struct image im;
    int64_t extension, directory, where;

    setup();
    make_image(16 * MIB, "");
    sh_ok("qemu-img bitmap --add --disable '%s' D", file);
    sh_ok("qemu-img bitmap --add '%s' P", file);
    extension = find_extension();
    directory = peek(extension + 16, 8);
    where = d->where == EXTENSION ? extension
            : d->where == DIRECTORY ? directory
            : d->where == TABLE ? (int64_t)peek(directory, 8) : 0;
    poke_number(where + d->at, d->bytes, d->value);

    g_assert_true(image_open(&im, file, true, NAMED, NULL));
    image_close(&im);
    image_open_ok(&im, file, NAMED);
    assert_list(&im, d->list);
    g_assert_cmpint(root_pwrite(im.root, 0, 4096, buf, 0), ==, 0);
    {
        AUTO_ERROR(err);
        Qcow2BitmapInfoList *list;
        g_assert_true(qcow2_bitmaps_info(im.node->state, &list, &err));
        Qcow2BitmapInfoList_free(list);
    }
    image_close(&im);
    g_assert_cmpint(sh("qemu-io -c 'write 0 4k' '%s'", file) == 0, ==,
                    d->readable);

    image_open_ok(&im, file, NAMED);
    add("Z", 0);
    if (find(&im, "D")) {
        g_assert_true(try_remove("D", NULL));
    }
    image_close(&im);
    image_open_ok(&im, file, NAMED);
    g_assert_nonnull(find(&im, "Z"));
    g_assert_null(find(&im, "D"));
    image_close(&im);
    teardown();
}

/* An image of 1 TiB whose bitmaps say "all ones" to the last bit. */
static void test_memory_bomb(void)
{
    struct image im;
    int64_t directory, table;
    int n_loaded = 0;

    setup();
    make_image(8 * KIB * KIB * MIB, "-o cluster_size=2M");
    for (int i = 0; i < 6; i++) {       /* 512 MiB of bits each */
        sh_ok("qemu-img bitmap --add --disable -g 2048 '%s' b%d", file, i);
    }
    directory = peek(find_extension() + 16, 8);
    for (int i = 0; i < 6; i++) {
        table = peek(directory + 32 * i, 8);
        for (int k = 0; k < 256; k++) {
            poke_number(table + 8 * k, 8, 1);
        }
    }
    g_assert_true(image_open(&im, file, true, NAMED, NULL));
    for (int i = 0; i < 6; i++) {
        g_autofree char *name = g_strdup_printf("b%d", i);

        n_loaded += !dirty_bitmap_inconsistent(find(&im, name));
    }
    g_assert_cmpint(n_loaded, ==, 4);
    image_close(&im);
    teardown();
}

int main(int argc, char **argv)
{
    int ret;

    g_test_init(&argc, &argv, NULL);
    if (!have_program("qemu-img")) {
        return 77;
    }
    g_test_add_func("/qcow2-bitmaps/granularities", test_granularities);
    g_test_add_func("/qcow2-bitmaps/clusters", test_clusters);
    g_test_add_func("/qcow2-bitmaps/ones", test_ones);
    g_test_add_func("/qcow2-bitmaps/order", test_order);
    g_test_add_func("/qcow2-bitmaps/crash", test_crash);
    g_test_add_func("/qcow2-bitmaps/no-leak", test_no_leak);
    g_test_add_func("/qcow2-bitmaps/read-only", test_read_only);
    g_test_add_func("/qcow2-bitmaps/resize", test_resize);
    g_test_add_func("/qcow2-bitmaps/limits", test_limits);
    for (size_t i = 0; i < G_N_ELEMENTS(damages); i++) {
        g_autofree char *path = g_strdup_printf("/qcow2-bitmaps/damage/%s",
                                                damages[i].what);

        g_test_add_data_func(path, &damages[i], test_damage);
    }
    if (g_test_slow()) {
        g_test_add_func("/qcow2-bitmaps/memory-bomb", test_memory_bomb);
    }
    ret = g_test_run();
    pool_shutdown();
    return ret;
}
