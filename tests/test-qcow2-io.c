/* SPDX-License-Identifier: MIT */
/*
 * qcow2 against a flat model: whatever is written is read, here and by
 * qemu-img, and the image has no errors and no leaks.
 */
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include "base/pool.h"
#include "qcow2-util.h"

static const int64_t DISK = 6 * 1024 * 1024 + 3 * 512;

struct rng {
    uint64_t state;
};

static uint64_t rng_next(struct rng *r)
{
    r->state ^= r->state << 13;
    r->state ^= r->state >> 7;
    r->state ^= r->state << 17;
    return r->state;
}

static int64_t rng_below(struct rng *r, int64_t n)
{
    return (rng_next(r) >> 11) % n;
}

static void fill(struct rng *r, uint8_t *buf, int64_t bytes)
{
    uint64_t v = rng_next(r);

    for (int64_t i = 0; i < bytes; i++) {
        buf[i] = v >> (8 * (i & 7));
    }
    if (bytes >= 8) {
        memcpy(buf + bytes - 8, &bytes, 8);
    }
}

/* ---- one worker: owns the blocks whose number is its own modulo all ---- */

struct worker {
    struct root *root;
    uint8_t *model;
    int64_t length, block;
    int64_t compress;           /* cluster size: some writes compressed */
    int id, n_workers, n_ops;
    struct rng rng;
    bool may_fail;              /* the file may not grow */
    int n_failed;
};

/* A range inside one block of this worker. */
static void pick(struct worker *w, int64_t *offset, int64_t *bytes)
{
    int64_t n_blocks = (w->length + w->block - 1) / w->block;
    int64_t i = rng_below(&w->rng, (n_blocks + w->n_workers - 1 - w->id) /
                                   w->n_workers);
    int64_t start = (i * w->n_workers + w->id) * w->block;
    int64_t end = MIN(start + w->block, w->length);

    if (rng_below(&w->rng, 3) == 0) {
        *offset = start;
        *bytes = end - start;
        return;
    }
    *offset = start + rng_below(&w->rng, end - start);
    *bytes = 1 + rng_below(&w->rng, end - *offset);
}

static void check_read(struct worker *w, int64_t offset, int64_t bytes,
                       unsigned flags)
{
    g_autofree uint8_t *buf = g_malloc(bytes);
    int ret = root_pread(w->root, offset, bytes, buf, flags);

    if (ret == -EAGAIN && flags) {
        ret = root_pread(w->root, offset, bytes, buf, 0);
    }
    g_assert_cmpint(ret, ==, 0);
    if (memcmp(buf, w->model + offset, bytes) != 0) {
        int64_t i = 0;
        while (buf[i] == w->model[offset + i]) {
            i++;
        }
        g_error("read of %" G_GINT64_FORMAT "+%" G_GINT64_FORMAT
                " differs at %" G_GINT64_FORMAT ": %02x, not %02x", offset,
                bytes, offset + i, buf[i], w->model[offset + i]);
    }
}

/* A change of the range ended with RET.  A failed one may have been done in
 * part, but it can be read. */
static void check_changed(struct worker *w, int64_t offset, int64_t bytes,
                          int ret)
{
    if (w->may_fail && ret == -EFBIG) {
        w->n_failed++;
        ret = root_pread(w->root, offset, bytes, w->model + offset, 0);
    }
    g_assert_cmpint(ret, ==, 0);
}

static void do_write(struct worker *w, int64_t offset, int64_t bytes)
{
    unsigned flags = rng_below(&w->rng, 2) ? BLK_NOWAIT : 0;
    int ret;

    fill(&w->rng, w->model + offset, bytes);
    ret = root_pwrite(w->root, offset, bytes, w->model + offset, flags);
    if (ret == -EAGAIN && flags) {
        ret = root_pwrite(w->root, offset, bytes, w->model + offset, 0);
    }
    check_changed(w, offset, bytes, ret);
}

/* Whole clusters of this worker's, compressed; some do not get smaller. */
static void do_compressed(struct worker *w, int64_t offset, int64_t bytes)
{
    int64_t end = MIN((offset / w->block + 1) * w->block, w->length);

    offset = offset / w->compress * w->compress;
    if (offset / w->block * w->block > offset) {
        return;
    }
    bytes = MIN(bytes / w->compress * w->compress, end - offset);
    for (int64_t i = 0; i < bytes; i += 8) {
        uint64_t v = rng_next(&w->rng) & (i & 4096 ? 0xff : UINT64_MAX);
        memcpy(w->model + offset + i, &v, MIN(8, bytes - i));
    }
    g_assert_cmpint(root_pwrite(w->root, offset, bytes, w->model + offset,
                                BLK_COMPRESSED), ==, 0);
}

static void do_op(struct worker *w)
{
    int64_t offset, bytes;
    int ret = 0;

    pick(w, &offset, &bytes);
    if (w->compress && rng_below(&w->rng, 3) == 0) {
        do_compressed(w, offset, bytes);
        return;
    }
    switch (rng_below(&w->rng, 10)) {
    case 0:
    case 1:
    case 2:
    case 3:
        do_write(w, offset, bytes);
        break;
    case 4:
        memset(w->model + offset, 0, bytes);
        ret = root_pwrite_zeroes(w->root, offset, bytes,
                                 rng_below(&w->rng, 2) ? BLK_MAY_UNMAP : 0);
        check_changed(w, offset, bytes, ret);
        return;
    case 5:
        /* What a discard leaves is looked up; other tests say what. */
        ret = root_pdiscard(w->root, offset, bytes);
        if (ret == 0 || (w->may_fail && ret == -EFBIG)) {
            ret = root_pread(w->root, offset, bytes, w->model + offset, 0);
        }
        break;
    case 6:
        if (rng_below(&w->rng, 4) == 0) {
            ret = root_flush(w->root);
            ret = w->may_fail && ret == -EFBIG ? 0 : ret;
        }
        break;
    default:
        check_read(w, offset, bytes, rng_below(&w->rng, 2) ? BLK_NOWAIT : 0);
        break;
    }
    g_assert_cmpint(ret, ==, 0);
}

static void *worker_run(void *opaque)
{
    struct worker *w = opaque;

    for (int i = 0; i < w->n_ops; i++) {
        do_op(w);
    }
    return NULL;
}

/* How many changes failed; none must unless MAY_FAIL. */
static int run_failing_workers(struct image *im, uint8_t *model,
                               int64_t block, int n_workers, int n_ops,
                               bool may_fail)
{
    struct worker w[16];
    pthread_t threads[16];
    int n_failed = 0;

    CONTROL_YIELD {
        for (int i = 0; i < n_workers; i++) {
            w[i] = (struct worker) {
                .root = im->root, .model = model, .block = block, .id = i,
                .length = root_length(im->root), .n_workers = n_workers,
                .n_ops = n_ops, .may_fail = may_fail,
                .compress = block % node_cluster_bytes(im->node) ? 0
                            : node_cluster_bytes(im->node),
                .rng = { g_test_rand_int() * UINT64_C(2654435761) + 1 + i },
            };
            pthread_create(&threads[i], NULL, worker_run, &w[i]);
        }
        for (int i = 0; i < n_workers; i++) {
            pthread_join(threads[i], NULL);
            n_failed += w[i].n_failed;
        }
        w[0].n_workers = 1;
        check_read(&w[0], 0, w[0].length, 0);
    }
    return n_failed;
}

static void run_workers(struct image *im, uint8_t *model, int64_t block,
                        int n_workers, int n_ops)
{
    run_failing_workers(im, model, block, n_workers, n_ops, false);
}

/* ---- cases ------------------------------------------------------------- */

struct image_case {
    const char *name;
    const char *create;         /* options of qemu-img create */
    const char *open;           /* options of the node */
    int64_t block;
    int n_workers, n_ops;
};

static const struct image_case cases[] = {
    { "default", "", "", 70000, 1, 600 },
    { "threads", "", "", 5000, 6, 500 },
    { "threads-discard", "", "'discard': 'unmap'", 200000, 6, 300 },
    { "v2", "-o compat=0.10", "'discard': 'unmap'", 70000, 2, 300 },
    { "512", "-o cluster_size=512", "'discard': 'unmap'", 5000, 4, 500 },
    { "512-rc64", "-o cluster_size=512,refcount_bits=64", "", 9000, 4, 500 },
    { "512-rc1", "-o cluster_size=512,refcount_bits=1", "", 9000, 4, 500 },
    { "1k-rc2", "-o cluster_size=1k,refcount_bits=2", "", 9000, 4, 300 },
    { "4k-rc4", "-o cluster_size=4k,refcount_bits=4", "", 9000, 4, 300 },
    { "4k-rc8", "-o cluster_size=4k,refcount_bits=8",
      "'discard': 'unmap'", 9000, 4, 300 },
    { "64k-rc32", "-o refcount_bits=32", "", 90000, 4, 200 },
    { "2M", "-o cluster_size=2M", "'discard': 'unmap'", 300000, 4, 100 },
    { "tiny-cache", "-o cluster_size=512", "'l2-cache-entry-size': 512, "
      "'l2-cache-size': 512, 'refcount-cache-size': 512", 9000, 4, 500 },
    { "lazy", "-o lazy_refcounts=on,cluster_size=4k", "", 30000, 4, 300 },
    { "metadata", "-o preallocation=metadata", "'discard': 'unmap'", 90000,
      4, 300 },
    { "no-unref", "-o cluster_size=16k", "'discard': 'unmap', "
      "'discard-no-unref': true", 50000, 4, 300 },
    /* Blocks of whole clusters: these write compressed clusters too. */
    { "compress", "", "'discard': 'unmap'", 262144, 3, 200 },
    { "compress-512", "-o cluster_size=512", "'discard': 'unmap'", 8192, 4,
      300 },
    { "compress-4k", "-o cluster_size=4k,refcount_bits=2",
      "'discard': 'unmap'", 16384, 4, 300 },
    { "compress-zstd", "-o cluster_size=4k,compression_type=zstd",
      "'discard': 'unmap'", 16384, 4, 300 },
    { "compress-v2", "-o compat=0.10,cluster_size=4k", "'discard': 'unmap'",
      16384, 4, 300 },
    { "compress-extended", "-o extended_l2=on,cluster_size=16k",
      "'discard': 'unmap'", 65536, 4, 300 },
    { "compress-2M", "-o cluster_size=2M", "", 2097152, 2, 60 },
    { "extended", "-o extended_l2=on", "'discard': 'unmap'", 30000, 4, 400 },
    { "extended-16k", "-o extended_l2=on,cluster_size=16k",
      "'discard': 'unmap'", 9000, 4, 500 },
    { "extended-2M", "-o extended_l2=on,cluster_size=2M", "", 90000, 4, 200 },
    { "extended-metadata", "-o extended_l2=on,preallocation=metadata",
      "'discard': 'unmap'", 30000, 4, 300 },
    { "extended-no-unref", "-o extended_l2=on", "'discard': 'unmap', "
      "'discard-no-unref': true", 30000, 4, 300 },
    { "data-file", "-o data_file=%DATA%", "'discard': 'unmap'", 30000, 4,
      300 },
    { "data-file-raw", "-o data_file=%DATA%,data_file_raw=on",
      "'discard': 'unmap'", 30000, 4, 300 },
    { "data-file-extended", "-o data_file=%DATA%,extended_l2=on",
      "'discard': 'unmap'", 30000, 4, 300 },
    { "data-file-raw-extended", "-o data_file=%DATA%,data_file_raw=on,"
      "extended_l2=on,cluster_size=16k", "'discard': 'unmap'", 9000, 4, 300 },
    { "pass-other", "-o cluster_size=4k", "'discard': 'unmap', "
      "'pass-discard-other': true", 50000, 4, 300 },
};

static void test_case(gconstpointer data)
{
    const struct image_case *c = data;
    g_autofree char *path = test_path("case.qcow2");
    g_autofree uint8_t *model = g_malloc0(DISK);
    g_autofree char *data_file = test_path("case.data");
    char **parts = g_strsplit(c->create, "%DATA%", 2);
    g_autofree char *create = g_strjoinv(data_file, parts);
    struct image im;

    CONTROL_GUARD();
    g_strfreev(parts);
    sh_ok("rm -f %s; qemu-img create -q -f qcow2 %s %s %" G_GINT64_FORMAT,
          data_file, create, path, DISK);
    for (int round = 0; round < 2; round++) {
        image_open_ok(&im, path, c->open);
        run_workers(&im, model, c->block, c->n_workers, c->n_ops);
        image_close(&im);
        image_check(path);
        image_compare(path, model, DISK);
        if (strstr(create, "data_file_raw")) {
            sh_ok("qemu-img compare -f raw -F qcow2 %s %s", data_file, path);
        }
    }
}

/* ---- things below and beside ------------------------------------------- */

static uint8_t *random_model(const char *raw, int64_t bytes)
{
    struct rng r = { 88172645463325252 };
    uint8_t *model = g_malloc(bytes);

    for (int64_t i = 0; i < bytes; i += 4096) {
        fill(&r, model + i, MIN(4096, bytes - i));
    }
    if (raw) {
        g_assert_true(g_file_set_contents(raw, (char *)model, bytes, NULL));
    }
    return model;
}

/* A backing file shorter than the overlay. */
static void test_backing(gconstpointer data)
{
    const char *create = data;
    g_autofree char *base = test_path("base.raw"), *path = test_path("o.qcow2");
    int64_t base_bytes = 3 * 1024 * 1024 + 512;
    g_autofree uint8_t *below = random_model(base, base_bytes);
    g_autofree uint8_t *model = g_malloc0(DISK);
    struct image im;

    CONTROL_GUARD();
    memcpy(model, below, base_bytes);
    sh_ok("qemu-img create -q -f qcow2 %s -b %s -F raw %s %" G_GINT64_FORMAT,
          create, base, path, DISK);
    image_open_ok(&im, path, "'discard': 'unmap'");
    run_workers(&im, model, 9000, 4, 200);
    image_close(&im);
    image_check(path);
    image_compare(path, model, DISK);
    sh_ok("qemu-img compare -q %s %s >/dev/null; cmp -n %" G_GINT64_FORMAT
          " %s %s", base, base, base_bytes, base, base);
}

/* Internal snapshots keep what they had. */
static void test_snapshot(gconstpointer data)
{
    const char *create = data;
    g_autofree char *path = test_path("s.qcow2"), *raw = test_path("s.raw");
    g_autofree uint8_t *before = random_model(raw, DISK);
    g_autofree uint8_t *model = g_memdup2(before, DISK);
    struct image im;

    CONTROL_GUARD();
    sh_ok("qemu-img convert -f raw -O qcow2 %s %s %s", create, raw, path);
    sh_ok("qemu-img snapshot -c one %s", path);
    image_open_ok(&im, path, "'discard': 'unmap'");
    run_workers(&im, model, 9000, 4, 200);
    image_close(&im);
    image_check(path);
    image_compare(path, model, DISK);
    sh_ok("qemu-img snapshot -a one %s", path);
    image_check(path);
    image_compare(path, before, DISK);
    sh_ok("qemu-img snapshot -d one %s", path);
    image_check(path);
}

/* Compressed clusters are read, and overwritten. */
static void test_compressed(gconstpointer data)
{
    const char *create = data;
    g_autofree char *path = test_path("c.qcow2"), *raw = test_path("c.raw");
    g_autofree uint8_t *model = random_model(raw, DISK);
    struct image im;

    CONTROL_GUARD();
    sh_ok("qemu-img convert -c -f raw -O qcow2 %s %s %s", create, raw, path);
    image_open_ok(&im, path, "'discard': 'unmap'");
    run_workers(&im, model, 9000, 4, 150);
    image_close(&im);
    image_check(path);
    image_compare(path, model, DISK);
}

/* Growing and shrinking between rounds of writes. */
static void test_resize(gconstpointer data)
{
    const char *create = data;
    static const int64_t lengths[] = {
        6 << 20, 9 << 20, (9 << 20) + 512, 40 << 20, 5 << 20, (1 << 20) + 1024,
        (1 << 20) + 4096, 3 << 20,
    };
    g_autofree char *path = test_path("r.qcow2");
    g_autofree uint8_t *model = g_malloc0(40 << 20);
    struct image im;

    CONTROL_GUARD();
    sh_ok("qemu-img create -q -f qcow2 %s %s 6M", create, path);
    image_open_ok(&im, path, "");
    for (size_t i = 0; i < G_N_ELEMENTS(lengths); i++) {
        int64_t old = node_length(im.node);
        g_assert_cmpint(image_truncate(&im, lengths[i], PREALLOC_MODE_OFF),
                        ==, 0);
        g_assert_cmpint(node_length(im.node), ==, lengths[i]);
        if (lengths[i] < old) {
            memset(model + lengths[i], 0, (40 << 20) - lengths[i]);
        }
        run_workers(&im, model, 50000, 3, 60);
    }
    image_close(&im);
    image_check(path);
    image_compare(path, model, lengths[G_N_ELEMENTS(lengths) - 1]);
}

static void limit_files(rlim_t bytes)
{
    struct rlimit limit;

    g_assert_cmpint(getrlimit(RLIMIT_FSIZE, &limit), ==, 0);
    limit.rlim_cur = MIN(bytes, limit.rlim_max);
    g_assert_cmpint(setrlimit(RLIMIT_FSIZE, &limit), ==, 0);
}

/* A file that may not grow, as on a full disk: requests fail, what was there
 * stays, and when there is room again all goes on. */
static void test_full(gconstpointer data)
{
    const char *create = data;
    g_autofree char *path = test_path("full.qcow2");
    g_autofree uint8_t *model = g_malloc0(DISK);
    struct image im;
    int n_failed;

    CONTROL_GUARD();
    signal(SIGXFSZ, SIG_IGN);
    sh_ok("qemu-img create -q -f qcow2 %s %s %" G_GINT64_FORMAT, create, path,
          DISK);
    image_open_ok(&im, path, "'discard': 'unmap'");
    limit_files(3 << 20);
    n_failed = run_failing_workers(&im, model, 90000, 4, 200, true);
    limit_files(RLIM_INFINITY);
    g_assert_cmpint(n_failed, >, 0);
    run_workers(&im, model, 9000, 4, 100);
    image_close(&im);
    image_check(path);
    image_compare(path, model, DISK);
}

static void test_prealloc(gconstpointer data)
{
    PreallocMode mode = GPOINTER_TO_INT(data);
    g_autofree char *path = test_path("p.qcow2");
    g_autofree uint8_t *model = g_malloc0(DISK + (8 << 20));
    struct image im;

    CONTROL_GUARD();
    sh_ok("qemu-img create -q -f qcow2 %s %" G_GINT64_FORMAT, path, DISK);
    image_open_ok(&im, path, "'discard': 'unmap'");
    run_workers(&im, model, 50000, 3, 100);
    g_assert_cmpint(image_truncate(&im, DISK + 100, mode), !=, 0);
    g_assert_cmpint(image_truncate(&im, ((DISK + 65535) & -65536) + (4 << 20),
                                   mode), ==, 0);
    run_workers(&im, model, 50000, 3, 100);
    image_close(&im);
    image_check(path);
    image_compare(path, model, ((DISK + 65535) & -65536) + (4 << 20));
}

int main(int argc, char **argv)
{
    static const struct {
        const char *name, *create;
    } variants[] = {
        { "64k", "" }, { "512", "-o cluster_size=512" },
        { "v2", "-o compat=0.10" }, { "zstd", "-o compression_type=zstd" },
        { "2M", "-o cluster_size=2M" },
        { "extended", "-o extended_l2=on" },
        { "extended-16k", "-o extended_l2=on,cluster_size=16k" },
    };
    int ret;

    g_test_init(&argc, &argv, NULL);
    if (!have_program("qemu-img")) {
        return 77;
    }
    for (size_t i = 0; i < G_N_ELEMENTS(cases); i++) {
        g_autofree char *name = g_strconcat("/qcow2-io/", cases[i].name, NULL);
        g_test_add_data_func(name, &cases[i], test_case);
    }
    for (size_t i = 0; i < G_N_ELEMENTS(variants); i++) {
        static const struct {
            const char *name;
            void (*fn)(gconstpointer);
        } tests[] = {
            { "backing", test_backing }, { "snapshot", test_snapshot },
            { "compressed", test_compressed }, { "resize", test_resize },
            { "full", test_full },
        };
        for (size_t k = 0; k < G_N_ELEMENTS(tests); k++) {
            g_autofree char *name = g_strconcat("/qcow2-io/", tests[k].name,
                                                "/", variants[i].name, NULL);
            g_test_add_data_func(name, variants[i].create, tests[k].fn);
        }
    }
    for (int i = 0; i < 2; i++) {
        g_autofree char *text = g_strdup_printf(
            "-o data_file=%s/resize.data,data_file_raw=%s", test_dir(),
            i ? "on" : "off");
        const char *create = g_intern_string(text);
        g_test_add_data_func(i ? "/qcow2-io/resize/data-file-raw"
                               : "/qcow2-io/resize/data-file",
                             create, test_resize);
    }
    for (int mode = PREALLOC_MODE_METADATA; mode <= PREALLOC_MODE_FULL;
         mode++) {
        g_autofree char *name = g_strconcat("/qcow2-io/grow-",
                                            PreallocMode_str(mode), NULL);
        g_test_add_data_func(name, GINT_TO_POINTER(mode), test_prealloc);
    }
    ret = g_test_run();
    pool_shutdown();
    return ret;
}
