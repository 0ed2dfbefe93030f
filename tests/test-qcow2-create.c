/* SPDX-License-Identifier: MIT */
/* blockdev-create of qcow2: every option, as QEMU's tools see the result, and
 * what is refused, in QEMU's words. */
#include <string.h>
#include "base/pool.h"
#include "qcow2-util.h"

struct error_case {
    const char *name;
    int64_t size;
    const char *options, *text;
};

static const struct error_case errors[] = {
    { "size-odd", 513, "",
      "Image size must be a multiple of 512 bytes" },
    { "size-max", INT64_MAX - 511, "", "Could not resize image: "
      "offset(9223372036854775296) exceeds maximum(9223372035781033984)" },
    { "size-l1", INT64_C(1) << 60, "", "Could not resize image: Failed to "
      "grow the L1 table: File too large" },
    { "size-l1-512", INT64_C(1) << 40, "'cluster-size': 512", "Could not "
      "resize image: Failed to grow the L1 table: File too large" },
    { "cluster-0", 1 << 20, "'cluster-size': 0",
      "Cluster size must be a power of two between 512 and 2048k" },
    { "cluster-256", 1 << 20, "'cluster-size': 256",
      "Cluster size must be a power of two between 512 and 2048k" },
    { "cluster-3000", 1 << 20, "'cluster-size': 3000",
      "Cluster size must be a power of two between 512 and 2048k" },
    { "cluster-4M", 1 << 20, "'cluster-size': 4194304",
      "Cluster size must be a power of two between 512 and 2048k" },
    { "refcount-0", 1 << 20, "'refcount-bits': 0", "Refcount width must be a "
      "power of two and may not exceed 64 bits" },
    { "refcount-negative", 1 << 20, "'refcount-bits': -1", "Refcount width "
      "must be a power of two and may not exceed 64 bits" },
    { "refcount-128", 1 << 20, "'refcount-bits': 128", "Refcount width must "
      "be a power of two and may not exceed 64 bits" },
    { "refcount-v2", 1 << 20, "'refcount-bits': 8, 'version': 'v2'",
      "Different refcount widths than 16 bits require compatibility level 1.1 "
      "or above (use version=v3 or greater)" },
    { "lazy-v2", 1 << 20, "'lazy-refcounts': true, 'version': 'v2'",
      "Lazy refcounts only supported with compatibility level 1.1 and above "
      "(use version=v3 or greater)" },
    { "zstd-v2", 1 << 20, "'compression-type': 'zstd', 'version': 'v2'",
      "Non-zlib compression type is only supported with compatibility level "
      "1.1 and above (use version=v3 or greater)" },
    { "backing-prealloc", 1 << 20, "'backing-file': 'x', "
      "'preallocation': 'full'", "Backing file and preallocation can only be "
      "used at the same time if extended_l2 is on" },
    { "format-alone", 1 << 20, "'backing-fmt': 'qcow2'",
      "Backing format cannot be used without backing file" },
    { "l2-v2", 1 << 20, "'extended-l2': true, 'version': 'v2'",
      "Extended L2 entries are only supported with compatibility level 1.1 "
      "and above (use version=v3 or greater)" },
    { "l2-small", 1 << 20, "'extended-l2': true, 'cluster-size': 4096",
      "Extended L2 entries are only supported with cluster sizes of at least "
      "16384 bytes" },
    { "data-file-raw", 1 << 20, "'data-file-raw': true",
      "data-file-raw requires data-file" },
    { "data-file-v2", 1 << 20, "'data-file': 'x', 'version': 'v2'",
      "External data files are only supported with compatibility level 1.1 "
      "and above (use version=v3 or greater)" },
};

static void test_error(gconstpointer data)
{
    const struct error_case *c = data;
    g_autofree char *path = test_path("refused.qcow2");
    AUTO_ERROR(err);

    CONTROL_GUARD();
    g_assert_false(image_create(path, c->size, c->options, &err));
    g_assert_cmpstr(error_text(err), ==, c->text);
    g_assert_null(node_next(NULL));
}

struct create_case {
    const char *name;
    int64_t size;
    const char *options;
    const char *info[4];        /* what qemu-img info must say */
};

static const struct create_case creates[] = {
    { "default", 64 << 20, "", { "virtual size: 64 MiB", "compat: 1.1",
      "cluster_size: 65536", "refcount bits: 16" } },
    { "empty", 0, "", { "virtual size: 0 B" } },
    { "v2", 64 << 20, "'version': 'v2'", { "compat: 0.10" } },
    { "512", INT64_C(2) << 30, "'cluster-size': 512",
      { "cluster_size: 512" } },
    { "512-rc64", INT64_C(2) << 30, "'cluster-size': 512, "
      "'refcount-bits': 64", { "refcount bits: 64" } },
    { "512-largest", INT64_C(128) << 30, "'cluster-size': 512",
      { "virtual size: 128 GiB" } },
    { "2M", 64 << 20, "'cluster-size': 2097152",
      { "cluster_size: 2097152" } },
    { "rc1", 64 << 20, "'refcount-bits': 1", { "refcount bits: 1\n" } },
    { "rc2", 64 << 20, "'refcount-bits': 2", { "refcount bits: 2\n" } },
    { "rc4", 64 << 20, "'refcount-bits': 4", { "refcount bits: 4\n" } },
    { "rc8", 64 << 20, "'refcount-bits': 8", { "refcount bits: 8\n" } },
    { "rc32", 64 << 20, "'refcount-bits': 32", { "refcount bits: 32" } },
    { "lazy", 64 << 20, "'lazy-refcounts': true",
      { "lazy refcounts: true" } },
    { "zstd", 64 << 20, "'compression-type': 'zstd'",
      { "compression type: zstd" } },
    { "64T", INT64_C(1) << 46, "'cluster-size': 2097152",
      { "virtual size: 64 TiB" } },
    { "metadata", 20 << 20, "'preallocation': 'metadata'",
      { "virtual size: 20 MiB" } },
    { "metadata-512", 3 << 20, "'preallocation': 'metadata', "
      "'cluster-size': 512, 'refcount-bits': 64",
      { "virtual size: 3 MiB" } },
    { "extended", 64 << 20, "'extended-l2': true",
      { "extended l2: true" } },
    { "extended-metadata", 64 << 20, "'extended-l2': true, "
      "'preallocation': 'metadata'", { "extended l2: true" } },
    { "falloc", 20 << 20, "'preallocation': 'falloc'",
      { "virtual size: 20 MiB", "disk size: 20" } },
    { "full", 20 << 20, "'preallocation': 'full'",
      { "virtual size: 20 MiB", "disk size: 20" } },
};

static void test_create(gconstpointer data)
{
    const struct create_case *c = data;
    g_autofree char *path = test_path("new.qcow2"), *info = NULL;
    AUTO_ERROR(err);

    CONTROL_GUARD();
    if (!image_create(path, c->size, c->options, &err)) {
        g_error("%s", error_text(err));
    }
    image_check(path);
    info = sh_text("qemu-img info '%s'", path);
    for (size_t i = 0; i < G_N_ELEMENTS(c->info) && c->info[i]; i++) {
        if (!strstr(info, c->info[i])) {
            g_error("no '%s' in %s", c->info[i], info);
        }
    }
    if (c->size >= 1 << 20) {
        sh_ok("qemu-io -f qcow2 -c 'read -P 0 0 1M' -c 'write -P 1 0 1M' "
              "'%s' | grep -v 'verification failed'", path);
        image_check(path);
    }
}

/* A fresh image is as long as QEMU's: tests of managers compare it. */
static void test_file_length(void)
{
    g_autofree char *path = test_path("length.qcow2"), *text = NULL;

    CONTROL_GUARD();
    g_assert_true(image_create(path, 64 << 20, "", NULL));
    text = sh_text("stat -c %%s '%s'", path);
    g_assert_cmpstr(text, ==, "196616\n");
}

static void test_backing(void)
{
    g_autofree char *path = test_path("over.qcow2"), *info = NULL;
    g_autofree char *base = test_path("base.qcow2");
    AUTO_ERROR(err);
    struct image im;

    CONTROL_GUARD();
    sh_ok("qemu-img create -q -f qcow2 '%s' 64M; "
          "qemu-io -c 'write -P 7 1M 1M' '%s'", base, base);
    g_assert_true(image_create(path, 64 << 20, "'backing-file': 'base.qcow2', "
                               "'backing-fmt': 'qcow2'", NULL));
    info = sh_text("qemu-img info '%s'", path);
    g_assert_nonnull(strstr(info, "backing file: base.qcow2"));
    g_assert_nonnull(strstr(info, "backing file format: qcow2"));
    sh_ok("qemu-io -f qcow2 -c 'read -P 7 1M 1M' '%s' | "
          "grep -v 'verification failed'", path);
    image_open_ok(&im, path, "");
    g_assert_nonnull(node_backing(im.node));
    g_assert_cmpint(image_truncate(&im, 128 << 20, PREALLOC_MODE_FULL), !=,
                    0);
    image_close(&im);
    /* The name does not fit. */
    {
        g_autofree char *name = g_strnfill(1000, 'x');
        g_autofree char *options = g_strdup_printf(
            "'cluster-size': 512, 'backing-file': '%s'", name);
        g_assert_false(image_create(path, 1 << 20, options, &err));
        g_assert_nonnull(strstr(error_text(err), "Could not assign backing "
                                "file"));
    }
}

static void test_data_file(gconstpointer raw)
{
    g_autofree char *path = test_path("d.qcow2"), *data = test_path("d.data");
    g_autofree char *options = g_strdup_printf("'data-file': {'driver': "
        "'file', 'filename': '%s'}, 'data-file-raw': %s", data,
        raw ? "true" : "false");
    g_autofree char *info = NULL;
    AUTO_ERROR(err);

    CONTROL_GUARD();
    sh_ok("yes | head -c 1000000 > '%s'", data);
    if (!image_create(path, 4 << 20, options, &err)) {
        g_error("%s", error_text(err));
    }
    image_check(path);
    info = sh_text("qemu-img info '%s'; stat -c '%%s bytes' '%s'", path, data);
    g_assert_nonnull(strstr(info, "data file: "));
    g_assert_nonnull(strstr(info, raw ? "data file raw: true"
                                      : "data file raw: false"));
    g_assert_nonnull(strstr(info, "4194304 bytes"));
    sh_ok("qemu-io -f qcow2 -c 'read -P 0 0 4M' -c 'write -P 1 0 1M' "
          "'%s' | grep -v 'verification failed'", path);
    image_check(path);
}

/* An old, longer file: nothing of it shows. */
static void test_over_old(void)
{
    g_autofree char *path = test_path("old.qcow2");
    g_autofree uint8_t *zero = g_malloc0(4 << 20);

    CONTROL_GUARD();
    sh_ok("yes | head -c 4000000 > '%s'", path);
    g_assert_true(image_create(path, 4 << 20, "'preallocation': 'metadata'",
                               NULL));
    image_check(path);
    image_compare(path, zero, 4 << 20);
}

static void test_info(void)
{
    g_autofree char *path = test_path("info.qcow2");
    ImageInfoSpecific *spec;
    ImageInfo info = { 0 };
    struct image im;

    CONTROL_GUARD();
    sh_ok("qemu-img create -q -f qcow2 -o refcount_bits=8,lazy_refcounts=on,"
          "cluster_size=4k '%s' 1M; qemu-img snapshot -c one '%s'; "
          "qemu-img bitmap --add '%s' b0", path, path, path);
    image_open_ok(&im, path, "");
    spec = im.node->driver->specific_info(im.node, NULL);
    g_assert_cmpint(spec->type, ==, IMAGE_INFO_SPECIFIC_KIND_QCOW2);
    g_assert_cmpstr(spec->u.qcow2.data->compat, ==, "1.1");
    g_assert_cmpint(spec->u.qcow2.data->refcount_bits, ==, 8);
    g_assert_true(spec->u.qcow2.data->lazy_refcounts);
    g_assert_false(spec->u.qcow2.data->corrupt);
    g_assert_cmpint(spec->u.qcow2.data->bitmaps->n, ==, 1);
    ImageInfoSpecific_free(spec);
    im.node->driver->image_info(im.node, &info);
    g_assert_cmpint(info.cluster_size, ==, 4096);
    g_assert_cmpint(info.snapshots->n, ==, 1);
    g_assert_cmpstr(info.snapshots->v[0]->name, ==, "one");
    g_assert_cmpstr(info.snapshots->v[0]->id, ==, "1");
    SnapshotInfoList_free(info.snapshots);
    image_close(&im);
}

int main(int argc, char **argv)
{
    int ret;

    g_test_init(&argc, &argv, NULL);
    if (!have_program("qemu-img")) {
        return 77;
    }
    for (size_t i = 0; i < G_N_ELEMENTS(errors); i++) {
        g_autofree char *name = g_strconcat("/qcow2-create/error/",
                                            errors[i].name, NULL);
        g_test_add_data_func(name, &errors[i], test_error);
    }
    for (size_t i = 0; i < G_N_ELEMENTS(creates); i++) {
        g_autofree char *name = g_strconcat("/qcow2-create/",
                                            creates[i].name, NULL);
        g_test_add_data_func(name, &creates[i], test_create);
    }
    g_test_add_func("/qcow2-create/file-length", test_file_length);
    g_test_add_func("/qcow2-create/backing", test_backing);
    g_test_add_data_func("/qcow2-create/data-file", NULL, test_data_file);
    g_test_add_data_func("/qcow2-create/data-file-raw", "raw",
                         test_data_file);
    g_test_add_func("/qcow2-create/over-old", test_over_old);
    g_test_add_func("/qcow2-create/info", test_info);
    ret = g_test_run();
    pool_shutdown();
    return ret;
}
