/* SPDX-License-Identifier: MIT */
/*
 * Damaged qcow2 images: what open says (the texts are QEMU's), and what
 * happens when damage is met later: EIO, the corrupt bit, one event.
 */
#include <errno.h>
#include <string.h>
#include "base/pool.h"
#include "block/qcow2/format.h"
#include "qapi/qapi-events.h"
#include "qcow2-util.h"

struct patch {
    int64_t offset;
    int bytes;                  /* 0: no more */
    uint64_t value;
};

static void apply(const char *path, const struct patch *patches)
{
    g_autofree char *data = NULL;
    gsize n;
    GByteArray *image = g_byte_array_new();

    g_assert_true(g_file_get_contents(path, &data, &n, NULL));
    g_byte_array_append(image, (uint8_t *)data, n);
    for (const struct patch *p = patches; p->bytes; p++) {
        uint8_t be[8];
        if (image->len < p->offset + p->bytes) {
            guint old = image->len;
            g_byte_array_set_size(image, p->offset + p->bytes);
            memset(image->data + old, 0, image->len - old);
        }
        store_be64(be, p->value);
        memcpy(image->data + p->offset, be + 8 - p->bytes, p->bytes);
    }
    g_assert_true(g_file_set_contents(path, (char *)image->data, image->len,
                                      NULL));
    g_byte_array_free(image, TRUE);
}

/* ---- open -------------------------------------------------------------- */

struct open_case {
    const char *name;
    struct patch patches[4];
    const char *text;           /* NULL: opens */
    bool read_only;
};

static const struct open_case open_cases[] = {
    { "magic", { { 0, 4, 0 } }, "Image is not in qcow2 format" },
    { "version-1", { { 4, 4, 1 } }, "Unsupported qcow2 version 1" },
    { "version-4", { { 4, 4, 4 } }, "Unsupported qcow2 version 4" },
    { "cluster-bits-8", { { 20, 4, 8 } }, "Unsupported cluster size: 2^8" },
    { "cluster-bits-22", { { 20, 4, 22 } },
      "Unsupported cluster size: 2^22" },
    { "cluster-bits-huge", { { 20, 4, UINT32_MAX } },
      "Unsupported cluster size: 2^4294967295" },
    { "header-short", { { 100, 4, 96 } }, "qcow2 header too short" },
    { "header-long", { { 100, 4, 70000 } },
      "qcow2 header exceeds cluster size" },
    { "refcount-order-7", { { 96, 4, 7 } }, "Reference count entry width too "
      "large; may not exceed 64 bits" },
    { "aes", { { 32, 4, 1 } }, "Use of AES-CBC encrypted qcow2 images is no "
      "longer supported in system emulators" },
    { "luks", { { 32, 4, 2 } },
      "LUKS encryption of qcow2 images is not supported" },
    { "crypt-3", { { 32, 4, 3 } }, "Unsupported encryption method 3" },
    { "size-2-63", { { 24, 8, UINT64_C(1) << 63 } }, "Image is too big" },
    { "size-2-62", { { 24, 8, UINT64_C(1) << 62 } }, "Image is too big" },
    { "size-2-56", { { 24, 8, UINT64_C(1) << 56 } },
      "L1 table is too small" },
    { "size-odd", { { 24, 8, 1000 } }, NULL },
    { "l1-too-large", { { 36, 4, INT32_MAX } }, "Active L1 table too large" },
    { "l1-empty", { { 36, 4, 0 } }, "L1 table is too small" },
    { "l1-unaligned", { { 40, 8, 1 } }, "Active L1 table offset invalid" },
    { "l1-negative", { { 40, 8, UINT64_C(0xffffffffffff0000) } },
      "Active L1 table offset invalid" },
    { "l1-far", { { 40, 8, UINT64_C(0x7fffffffffff0000) } },
      "Could not read L1 table: Input/output error" },
    { "l1-behind-end", { { 40, 8, 0x10000000 } },
      "Could not read L1 table: Input/output error" },
    { "reftable-unaligned", { { 48, 8, 1 } },
      "Reference count table offset invalid" },
    { "reftable-none", { { 56, 4, 0 } },
      "Image does not contain a reference count table" },
    { "reftable-huge", { { 56, 4, INT32_MAX } },
      "Reference count table too large" },
    { "reftable-far", { { 48, 8, UINT64_C(0x7fffffffffff0000) } },
      "Reference count table offset invalid" },
    { "snapshots-many", { { 60, 4, 70000 } }, "Snapshot table too large" },
    { "snapshots-unaligned", { { 60, 4, 1 }, { 64, 8, 1 } },
      "Snapshot table offset invalid" },
    { "snapshots-far", { { 60, 4, 1 },
      { 64, 8, UINT64_C(0x7fffffffffff0000) } },
      "Failed to read snapshot table: Input/output error" },
    { "snapshot-extra", { { 60, 4, 1 }, { 64, 8, 0x20000 },
      { 0x20000 + 36, 4, 2000 } },
      "Too much extra metadata in snapshot table entry" },
    { "snapshot-l1-unaligned", { { 60, 4, 1 }, { 64, 8, 0x50000 },
      { 0x50000, 8, 0x123 } }, "Snapshot L1 table offset invalid" },
    { "backing-long", { { 8, 8, 0x200 }, { 16, 4, 1024 } },
      "Backing file name too long" },
    { "backing-far", { { 8, 8, 0x20000 }, { 16, 4, 10 } },
      "Invalid backing file offset" },
    { "backing-crosses", { { 8, 8, 0xfff8 }, { 16, 4, 10 } },
      "Backing file name too long" },
    { "feature-63", { { 72, 8, UINT64_C(1) << 63 } }, "Unsupported qcow2 "
      "feature(s): Unknown incompatible feature: 8000000000000000" },
    { "feature-named", { { 72, 8, 1 << 5 }, { 0x78, 2, 5 },
      { 0x7a, 8, UINT64_C(0x68756d6d69656200) } }, "Unsupported qcow2 "
      "feature(s): hummieb" },
    { "data-file", { { 72, 8, 4 } },
      "'data-file' is required for this image" },
    { "data-file-gone", { { 72, 8, 4 },
      { 0x70, 8, UINT64_C(0x4441544100000004) },
      { 0x78, 8, UINT64_C(0x2f6e6f2f00000000) } },
      "Could not open '/no/': No such file or directory" },
    { "extended-l2", { { 72, 8, 16 } }, NULL },
    { "extended-l2-small", { { 72, 8, 16 }, { 20, 4, 12 } },
      "Unsupported subcluster size: 128" },
    { "corrupt", { { 72, 8, 2 } },
      "qcow2: Image is corrupt; cannot be opened read/write" },
    { "corrupt-read-only", { { 72, 8, 2 } }, NULL, true },
    { "compression-bit", { { 72, 8, 8 } }, "qcow2: Compression type "
      "incompatible feature bit must not be set" },
    { "compression-type", { { 104, 1, 1 } }, "qcow2: Compression type "
      "incompatible feature bit must be set" },
    { "compression-2", { { 72, 8, 8 }, { 104, 1, 2 } },
      "qcow2: unknown compression type: 2" },
    { "extension-long", { { 0x70, 8, UINT64_C(0x12345678ffffff00) } },
      "Header extension too large" },
    { "format-long", { { 0x70, 8, UINT64_C(0xe2792aca000000c8) } },
      "ERROR: ext_backing_format: len=200 too large (>=16)" },
    /* Damaged bitmaps are reported; the disk opens. */
    { "bitmaps-length", { { 0x70, 8, UINT64_C(0x2385287500000014) } },
      NULL },
    { "bitmaps-reserved", { { 0x70, 8, UINT64_C(0x2385287500000018) } },
      NULL },
    { "crypto-extension", { { 0x70, 8, UINT64_C(0x0537be7700000010) } },
      "CRYPTO header extension only expected with LUKS encryption method" },
};

static void test_open(gconstpointer data)
{
    const struct open_case *c = data;
    g_autofree char *path = test_path("broken.qcow2");
    AUTO_ERROR(err);
    struct image im;
    bool ok;

    CONTROL_GUARD();
    sh_ok("qemu-img create -q -f qcow2 '%s' 64M", path);
    apply(path, c->patches);
    ok = image_open(&im, path, c->read_only, "", &err);
    if (ok) {
        image_close(&im);
    } else {
        node_wait_closed();
    }
    g_assert_cmpstr(ok ? NULL : error_text(err), ==, c->text);
    g_assert_null(node_next(NULL));
}

static void test_truncated(void)
{
    g_autofree char *path = test_path("cut.qcow2");
    AUTO_ERROR(err);
    struct image im;

    CONTROL_GUARD();
    for (int bytes = 0; bytes < 0x30000; bytes += 4999) {
        sh_ok("qemu-img create -q -f qcow2 '%s' 64M; truncate -s %d '%s'",
              path, bytes, path);
        g_assert_false(image_open(&im, path, false, "", &err));
        g_assert_nonnull(error_text(err));
        error_free(g_steal_pointer(&err));
    }
}

/* ---- at run time ------------------------------------------------------- */

static struct {
    struct lock lock;
    int n;
    char *text;
    bool fatal;
} event = { .lock = LOCK_INIT("test-event", LOCK_LEAF) };

static void emit(QAPIEvent type, json_t *object)
{
    json_t *data = json_object_get(object, "data");

    LOCK_GUARD(&event.lock);
    if (type == QAPI_EVENT_BLOCK_IMAGE_CORRUPTED) {
        event.n++;
        g_free(event.text);
        event.text = g_strdup(json_string_value(json_object_get(data, "msg")));
        event.fatal = json_is_true(json_object_get(data, "fatal"));
    }
    json_decref(object);
}

struct run_case {
    const char *name;
    struct patch patches[4];
    const char *text;           /* of the event; NULL: none, only EIO */
    char op;                    /* 'r'ead, 'w'rite, 'z'ero, 'd'iscard */
    bool read_only, v2;
};

#define COPIED (UINT64_C(1) << 63)

/* One L2 table at 0x40000. */
static const struct run_case run_cases[] = {
    { "l2-unaligned", { { 0x30000, 8, COPIED | 0x40200 } },
      "L2 table offset 0x40200 unaligned (L1 index: 0)", 'w' },
    { "l2-unaligned-read", { { 0x30000, 8, COPIED | 0x40200 } },
      "L2 table offset 0x40200 unaligned (L1 index: 0)", 'r' },
    { "l2-unaligned-read-only", { { 0x30000, 8, COPIED | 0x40200 } },
      "L2 table offset 0x40200 unaligned (L1 index: 0)", 'r', true },
    { "l2-is-reftable", { { 0x30000, 8, COPIED | 0x10000 } },
      "Preventing invalid write on metadata (overlaps with refcount table)",
      'w' },
    { "l2-is-refblock", { { 0x30000, 8, COPIED | 0x20000 } },
      "Preventing invalid write on metadata (overlaps with refcount block)",
      'w' },
    { "data-unaligned", { { 0x30000, 8, COPIED | 0x40000 },
                          { 0x40000, 8, COPIED | 0x50200 } },
      "Cluster allocation offset 0x50200 unaligned (L2 offset: 0x40000, "
      "L2 index: 0)", 'w' },
    { "data-unaligned-discard", { { 0x30000, 8, COPIED | 0x40000 },
                                  { 0x40000, 8, COPIED | 0x50200 } },
      "Cluster allocation offset 0x50200 unaligned (L2 offset: 0x40000, "
      "L2 index: 0)", 'd' },
    { "data-on-header", { { 0x30000, 8, COPIED | 0x40000 },
                          { 0x40000, 8, QCOW2_ZERO | COPIED } },
      NULL, 'r' },
    { "data-on-l1", { { 0x30000, 8, COPIED | 0x40000 },
                      { 0x40000, 8, COPIED | 0x30000 } },
      "Preventing invalid write on metadata (overlaps with active L1 table)",
      'w' },
    { "data-on-refblock", { { 0x30000, 8, COPIED | 0x40000 },
                            { 0x40000, 8, COPIED | 0x20000 } },
      "Preventing invalid write on metadata (overlaps with refcount block)",
      'w' },
    { "data-on-l2", { { 0x30000, 8, COPIED | 0x40000 },
                      { 0x40000, 8, COPIED | 0x40000 } },
      "Preventing invalid write on metadata (overlaps with active L2 table)",
      'w' },
    { "refblock-unaligned", { { 0x10000, 8, 0x20200 } },
      "Refblock offset 0x20200 unaligned (reftable index: 0)", 'w' },
    { "refcounts-empty", { { 0x20000, 8, 0 } },
      "Preventing invalid write on metadata (overlaps with qcow2_header)",
      'w' },
    { "refblock-missing", { { 0x10000, 8, 0 } },
      "Preventing invalid write on metadata (overlaps with qcow2_header)",
      'w' },
    { "free-twice", { { 0x30000, 8, COPIED | 0x40000 },
                      { 0x40000, 8, COPIED | 0x60000 }, { 0x60000, 8, 1 } },
      "Freeing a cluster that is free already (host offset: 0x60000)", 'd' },
    { "compressed-garbage", { { 0x30000, 8, COPIED | 0x40000 },
                              { 0x40000, 8, (UINT64_C(1) << 62) | 0x50200 } },
      NULL, 'R' },
    { "subclusters-both", { { 72, 8, 16 }, { 0x30000, 8, COPIED | 0x40000 },
                            { 0x40008, 8, UINT64_C(0x1ffffffff) } },
      "Invalid cluster entry found (L2 offset: 0x40000, L2 index: 0)", 'r' },
    { "subclusters-nowhere", { { 72, 8, 16 },
                               { 0x30000, 8, COPIED | 0x40000 },
                               { 0x40008, 8, 2 } },
      "Invalid cluster entry found (L2 offset: 0x40000, L2 index: 0)", 'w' },
    { "zero-in-v2", { { 0x30000, 8, COPIED | 0x40000 }, { 0x40000, 8, 1 } },
      "Zero cluster entry found in pre-v3 image (L2 offset: 0x40000, "
      "L2 index: 0)", 'r', false, true },
};

static int do_op(struct root *root, char op)
{
    static uint8_t buf[65536];
    int ret = -1, flush = 0;

    CONTROL_YIELD {
        switch (op) {
        case 'r':
        case 'R':
            ret = root_pread(root, 0, sizeof(buf), buf, 0);
            break;
        case 'w':
            ret = root_pwrite(root, 0, sizeof(buf), buf, 0);
            break;
        case 'z':
            ret = root_pwrite_zeroes(root, 0, sizeof(buf), BLK_NO_FALLBACK);
            break;
        default:
            ret = root_pdiscard(root, 0, sizeof(buf));
            /* Refcounts fall when the tables are in the file. */
            flush = root_flush(root);
            break;
        }
    }
    return ret ? ret : flush;
}

static void check_after(const struct run_case *c, const char *path)
{
    g_autofree char *info = sh_text("qemu-img info -U '%s'", path);

    g_assert_cmpint(event.n, ==, 1);
    g_assert_cmpstr(event.text, ==, c->text);
    g_assert_true(event.fatal == !c->read_only);
    if (!c->v2) {
        g_assert_true(!!strstr(info, "corrupt: true") == !c->read_only);
    }
}

static void test_run(gconstpointer data)
{
    const struct run_case *c = data;
    g_autofree char *path = test_path("broken.qcow2");
    struct image im;
    int ret;

    CONTROL_GUARD();
    event.n = 0;
    sh_ok("qemu-img create -q -f qcow2 %s '%s' 64M",
          c->v2 ? "-o compat=0.10" : "", path);
    apply(path, c->patches);
    g_assert_true(image_open(&im, path, c->read_only, "'discard': 'unmap'",
                             NULL));
    ret = do_op(im.root, c->op);
    if (c->text) {
        if (c->op != 'd') {
            g_assert_cmpint(ret, ==, -EIO);
        }
        /* Nothing is written any more, and it is told once. */
        if (!c->read_only) {
            do_op(im.root, 'w');
            g_assert_cmpint(do_op(im.root, 'w'), ==, -EIO);
        }
        do_op(im.root, 'r');
        image_close(&im);
        check_after(c, path);
    } else {
        g_assert_cmpint(ret, ==, c->op == 'R' ? -EIO : 0);
        image_close(&im);
        g_assert_cmpint(event.n, ==, 0);
    }
}

/* ---- options ----------------------------------------------------------- */

static void test_options(void)
{
    static const struct {
        const char *options, *text;
    } cases[] = {
        { "'l2-cache-entry-size': 513", "L2 cache entry size must be a power "
          "of two between 512 and the cluster size (65536)" },
        { "'l2-cache-entry-size': 131072", "L2 cache entry size must be a "
          "power of two between 512 and the cluster size (65536)" },
        { "'cache-size': 65536, 'l2-cache-size': 131072",
          "l2-cache-size may not exceed cache-size" },
        { "'cache-size': 65536, 'refcount-cache-size': 131072",
          "refcount-cache-size may not exceed cache-size" },
        { "'cache-size': 65536, 'l2-cache-size': 65536, "
          "'refcount-cache-size': 0", "cache-size, l2-cache-size and "
          "refcount-cache-size may not be set at the same time" },
        { "'l2-cache-size': 9223372036854775807", "L2 cache size too big" },
        { "'refcount-cache-size': 9223372036854775807",
          "Refcount cache size too big" },
        { "'encrypt': {'format': 'luks'}", "No encryption in image header, "
          "but options specified format 'luks'" },
        { "'overlap-check': 'all', 'cache-clean-interval': 0, "
          "'l2-cache-size': 1, 'lazy-refcounts': true", NULL },
        { "'overlap-check': {'template': 'none', 'main-header': true}",
          NULL },
    };
    g_autofree char *path = test_path("options.qcow2");

    CONTROL_GUARD();
    sh_ok("qemu-img create -q -f qcow2 '%s' 64M", path);
    for (size_t i = 0; i < G_N_ELEMENTS(cases); i++) {
        AUTO_ERROR(err);
        struct image im;
        bool ok = image_open(&im, path, false, cases[i].options, &err);
        if (ok) {
            image_close(&im);
        }
        g_assert_cmpstr(ok ? NULL : error_text(err), ==, cases[i].text);
    }
}

/* Unknown extensions and unknown fields stay when the header is written;
 * autoclear bits do not. */
static void test_header_kept(void)
{
    static const struct patch patches[] = {
        { 88, 8, 0x80 }, { 100, 4, 0x80 },
        { 0x70, 8, UINT64_C(0x1122334455667788) }, { 0x78, 8, 0x99 },
        { 0x80, 8, UINT64_C(0x1234567800000003) },
        { 0x88, 8, UINT64_C(0x6162630000000000) }, { 0x90, 8, 0 }, { 0 },
    };
    g_autofree char *path = test_path("kept.qcow2"), *data = NULL;
    struct image im;
    gsize n;

    CONTROL_GUARD();
    sh_ok("qemu-img create -q -f qcow2 '%s' 64M", path);
    apply(path, patches);
    image_open_ok(&im, path, "'lazy-refcounts': true");
    g_assert_cmpint(image_truncate(&im, 1 << 30, PREALLOC_MODE_OFF), ==, 0);
    image_close(&im);
    g_assert_true(g_file_get_contents(path, &data, &n, NULL));
    g_assert_cmpint(load_be64(data + 88), ==, 0);
    for (int i = 3; i < 7; i++) {
        g_assert_cmpint(load_be64(data + patches[i - 1].offset), ==,
                        patches[i - 1].value);
    }
    g_assert_cmpint(load_be64(data + 24), ==, 1 << 30);
}

/* ---- dirty images ------------------------------------------------------ */

struct dirty_case {
    const char *name, *create;
    const char *damage;         /* shell; $f is the image, $b its first
                                   refcount block, $t the refcount table */
    const char *text;           /* NULL: is mended */
};

static const struct dirty_case dirty_cases[] = {
    { "right", "", "true", NULL },
    { "zeroes", "", "dd if=/dev/zero of=$f bs=512 seek=$((b/512)) count=100 "
      "conv=notrunc", NULL },
    { "ones", "", "head -c 51200 /dev/zero | tr '\\0' '\\377' | dd of=$f "
      "bs=512 seek=$((b/512)) conv=notrunc", NULL },
    { "no-block", "", "dd if=/dev/zero of=$f bs=8 seek=$((t/8)) count=1 "
      "conv=notrunc", NULL },
    { "no-block-512", "-o cluster_size=512,refcount_bits=64",
      "dd if=/dev/zero of=$f bs=8 seek=$((t/8)) count=40 conv=notrunc", NULL },
    { "zeroes-512", "-o cluster_size=512", "dd if=/dev/zero of=$f bs=512 "
      "seek=$((b/512)) count=1 conv=notrunc", NULL },
    { "zeroes-extended", "-o extended_l2=on", "dd if=/dev/zero of=$f bs=512 "
      "seek=$((b/512)) count=100 conv=notrunc", NULL },
    { "block-is-header", "", "printf '\\0\\0\\0\\0\\0\\3\\0\\0' | "
      "dd of=$f bs=1 seek=$t conv=notrunc", "Could not repair dirty image: "
      "The refcount table or its blocks overlap with other structures; try "
      "qemu-img check -r all" },
};

/* Snapshots, a bitmap, compressed and plain clusters; then the damage and the
 * dirty bit. */
static void test_dirty(gconstpointer data)
{
    const struct dirty_case *c = data;
    g_autofree char *path = test_path("dirty.qcow2");
    g_autofree char *raw = test_path("dirty.raw"), *content = NULL;
    g_autofree char *copy = test_path("dirty2.raw");
    AUTO_ERROR(err);
    struct image im;
    bool ok;

    CONTROL_GUARD();
    sh_ok("cd '%s'; yes 0123456789abcde | head -c 1000000 > d0; "
          "truncate -s 2M d0; "
          "qemu-img convert -c -f raw -O qcow2 %s d0 '%s'; "
          "qemu-img snapshot -c one '%s'; "
          "qemu-io -c 'write -P 5 100k 500k' '%s'; "
          "qemu-img bitmap --add -g 512 '%s' b0; "
          "qemu-img convert -O raw '%s' '%s'", test_dir(), c->create, path,
          path, path, path, path, raw);
    sh_ok("f='%s'; t=$((0x$(xxd -p -s 48 -l 8 $f))); "
          "b=$((0x$(xxd -p -s $t -l 8 $f))); %s; "
          "printf '\\%s' | dd of=$f bs=1 seek=79 conv=notrunc", path,
          c->damage, strstr(c->create, "extended") ? "021" : "001");
    ok = image_open(&im, path, false, "", &err);
    g_assert_cmpstr(ok ? NULL : error_text(err), ==, c->text);
    if (ok) {
        image_close(&im);
        image_check(path);
        sh_ok("qemu-img convert -O raw '%s' '%s'; cmp '%s' '%s'", path, copy,
              copy, raw);
        sh_ok("qemu-img bitmap --remove '%s' b0; "
              "qemu-img snapshot -a one '%s'; qemu-img convert -O raw '%s' "
              "'%s'; cmp '%s' '%s'/d0", path, path, path, copy, copy,
              test_dir());
        image_check(path);
    }
}

#define ADD_TABLE(prefix, table, fn)                                        \
    for (size_t i = 0; i < G_N_ELEMENTS(table); i++) {                      \
        g_autofree char *name = g_strconcat(prefix, (table)[i].name, NULL); \
        g_test_add_data_func(name, &(table)[i], fn);                        \
    }

int main(int argc, char **argv)
{
    int ret;

    g_test_init(&argc, &argv, NULL);
    if (!have_program("qemu-img")) {
        return 77;
    }
    qapi_event_set_emit(emit);
    ADD_TABLE("/qcow2-open/", open_cases, test_open);
    g_test_add_func("/qcow2-open/truncated", test_truncated);
    g_test_add_func("/qcow2-open/options", test_options);
    g_test_add_func("/qcow2-open/header-kept", test_header_kept);
    ADD_TABLE("/qcow2-corrupt/", run_cases, test_run);
    if (have_program("xxd")) {
        ADD_TABLE("/qcow2-dirty/", dirty_cases, test_dirty);
    }
    ret = g_test_run();
    pool_shutdown();
    return ret;
}
