/* SPDX-License-Identifier: MIT */
/*
 * qcow2 under any sequence of requests, against a flat copy of the disk.
 *
 * The input is a program: the first bytes choose how the image is made, each
 * five after that are one step (what, where, how long).  Reads must be as in
 * the model; at the end, and whenever the image is reopened, our own check
 * must find neither leak nor corruption.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "tests/qcow2-util.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum {
    DISK_BYTES = 1 << 20,
    CONFIG_BYTES = 3, STEP_BYTES = 5,
    MAX_STEPS = 200,
    UNIT = 512,                 /* of offsets and lengths */
};

enum step {
    STEP_READ, STEP_WRITE, STEP_ZERO, STEP_ZERO_UNMAP, STEP_DISCARD,
    STEP_COMPRESS, STEP_FLUSH, STEP_REOPEN, STEP_SNAPSHOT,
    STEP_SNAPSHOT_DELETE, STEP_GROW, N_STEPS,
};

struct run {
    struct image im;
    char *path;                 /* owned */
    int64_t cluster_bytes, length;
    bool compresses;
    unsigned n_snapshots, next_snapshot;
};

static uint8_t model[2 * DISK_BYTES], buf[2 * DISK_BYTES];

/* ---- the image ---------------------------------------------------------- */

static char *create_options(const uint8_t *config, int64_t *cluster_bytes)
{
    static const int clusters[] = { 512, 1024, 4096, 16384, 65536, 131072 };
    static const int widths[] = { 1, 2, 4, 8, 16, 32, 64 };
    bool v2 = config[1] & 1, subs = config[1] & 2, lazy = config[1] & 4;
    int width = v2 ? 16 : widths[config[2] % G_N_ELEMENTS(widths)];

    *cluster_bytes = clusters[config[0] % G_N_ELEMENTS(clusters)];
    subs = subs && !v2 && *cluster_bytes >= 16384;
    return g_strdup_printf(
        "'cluster-size': %d, 'version': '%s', 'refcount-bits': %d, "
        "'extended-l2': %s, 'lazy-refcounts': %s",
        (int)*cluster_bytes, v2 ? "v2" : "v3", width,
        subs ? "true" : "false", lazy && !v2 ? "true" : "false");
}

static void found(void *opaque, const char *text)
{
    fprintf(stderr, "check: %s\n", text);
}

static void check_image(struct run *r)
{
    static const struct image_check_ops ops = { .problem = found };
    g_autoptr(ImageCheck) check = ImageCheck_new0();
    AUTO_ERROR(err);
    struct image im;
    bool ok = false;

    if (!image_open(&im, r->path, true, "", &err)) {
        g_error("cannot be opened to check: %s", error_text(err));
    }
    CONTROL_YIELD {
        ok = im.node->driver->check(im.node, check, &ops, NULL, &err);
    }
    if (!ok || check->corruptions || check->leaks || check->check_errors) {
        g_error("the image is not clean: %s", ok ? "" : error_text(err));
    }
    image_close(&im);
}

static void reopen(struct run *r)
{
    image_close(&r->im);
    check_image(r);
    image_open_ok(&r->im, r->path, "'discard': 'unmap'");
}

/* ---- steps -------------------------------------------------------------- */

static void read_and_compare(struct run *r, int64_t offset, int64_t bytes)
{
    int ret = root_pread(r->im.root, offset, bytes, buf, 0);

    if (ret < 0 || memcmp(buf, model + offset, bytes) != 0) {
        g_error("read %" PRId64 "+%" PRId64 ": %d", offset, bytes, ret);
    }
}

static void must(int ret, const char *what)
{
    if (ret < 0) {
        g_error("%s: %s", what, strerror(-ret));
    }
}

static void write_some(struct run *r, int64_t offset, int64_t bytes,
                       uint8_t seed)
{
    for (int64_t i = 0; i < bytes; i++) {
        model[offset + i] = seed + (uint8_t)(i >> 7);
    }
    must(root_pwrite(r->im.root, offset, bytes, model + offset, 0), "write");
}

/* Whole clusters; over data it may be refused, and then nothing changed. */
static void compress_some(struct run *r, int64_t offset, int64_t bytes,
                          uint8_t seed)
{
    int ret;

    offset &= -r->cluster_bytes;
    bytes = MIN((bytes + r->cluster_bytes - 1) & -r->cluster_bytes,
                r->length - offset);
    memset(buf, seed, bytes);
    ret = root_pwrite(r->im.root, offset, bytes, buf, BLK_COMPRESSED);
    if (ret == 0) {
        memcpy(model + offset, buf, bytes);
    } else {
        must(root_pread(r->im.root, offset, bytes, model + offset, 0),
             "read behind a refused compressed write");
    }
}

static void discard_some(struct run *r, int64_t offset, int64_t bytes)
{
    must(root_pdiscard(r->im.root, offset, bytes), "discard");
    /* What it reads as is the format's choice; the edges stay. */
    must(root_pread(r->im.root, offset, bytes, buf, 0), "read");
    for (int64_t i = 0; i < bytes; i++) {
        if (buf[i] != model[offset + i] && buf[i] != 0) {
            g_error("discard left something else at %" PRId64, offset + i);
        }
    }
    memcpy(model + offset, buf, bytes);
}

static void snapshot(struct run *r)
{
    g_autofree char *name = g_strdup_printf("s%u", r->next_snapshot++);
    struct node *n = r->im.node;
    struct drain *d = drain_begin(&n, 1);
    bool ok = false;

    /* With refcounts of one bit there is no room for a second user. */
    CONTROL_YIELD {
        ok = n->driver->snapshot_create(n, name, NULL);
    }
    r->n_snapshots += ok;
    drain_end(&d);
}

static void snapshot_delete(struct run *r, uint8_t which)
{
    struct node *n = r->im.node;
    g_autoptr(SnapshotInfoList) list = n->driver->snapshot_list(n);
    SnapshotInfo *info = NULL;
    struct drain *d;
    bool ok = false;

    if (!list || list->n == 0) {
        return;
    }
    d = drain_begin(&n, 1);
    CONTROL_YIELD {
        ok = n->driver->snapshot_delete(n, list->v[which % list->n]->id, NULL,
                                        &info, NULL);
    }
    drain_end(&d);
    if (!ok) {
        g_error("a snapshot cannot be deleted");
    }
    SnapshotInfo_free(info);
}

/* Once; the new part reads as zeroes. */
static void grow(struct run *r)
{
    if (r->length == DISK_BYTES &&
        image_truncate(&r->im, DISK_BYTES + 100 * UNIT,
                       PREALLOC_MODE_OFF) == 0) {
        r->length = DISK_BYTES + 100 * UNIT;
    }
}

static void io_step(struct run *r, enum step what, int64_t offset,
                    int64_t bytes, uint8_t seed)
{
    CONTROL_YIELD {
        switch (what) {
        case STEP_WRITE:
            write_some(r, offset, bytes, seed);
            break;
        case STEP_ZERO:
        case STEP_ZERO_UNMAP:
            memset(model + offset, 0, bytes);
            must(root_pwrite_zeroes(r->im.root, offset, bytes,
                                    what == STEP_ZERO_UNMAP ? BLK_MAY_UNMAP
                                                            : 0), "zero");
            break;
        case STEP_DISCARD:
            discard_some(r, offset, bytes);
            break;
        case STEP_COMPRESS:
            compress_some(r, offset, bytes, seed);
            break;
        case STEP_FLUSH:
            must(root_flush(r->im.root), "flush");
            break;
        default:
            break;
        }
        read_and_compare(r, offset, bytes);
    }
}

static void step(struct run *r, const uint8_t *s)
{
    enum step what = s[0] % N_STEPS;
    int64_t units = r->length / UNIT;
    int64_t offset = (s[1] << 8 | s[2]) % units * UNIT;
    int64_t bytes = MIN((s[3] % 64 + 1) * (s[3] & 128 ? 8 : 1) * UNIT,
                        r->length - offset);

    switch (what) {
    case STEP_REOPEN:
        reopen(r);
        break;
    case STEP_SNAPSHOT:
        snapshot(r);
        break;
    case STEP_SNAPSHOT_DELETE:
        snapshot_delete(r, s[1]);
        break;
    case STEP_GROW:
        grow(r);
        break;
    default:
        io_step(r, what, offset, bytes, s[4]);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct run r = { .length = DISK_BYTES };
    g_autofree char *options = NULL;
    AUTO_ERROR(err);

    if (size < CONFIG_BYTES ||
        size > CONFIG_BYTES + MAX_STEPS * STEP_BYTES) {
        return 0;
    }
    r.path = test_path("fuzz.qcow2");
    remove(r.path);
    memset(model, 0, sizeof(model));
    options = create_options(data, &r.cluster_bytes);
    CONTROL_GUARD();
    if (!image_create(r.path, DISK_BYTES, options, &err)) {
        g_error("create: %s", error_text(err));
    }
    image_open_ok(&r.im, r.path, "'discard': 'unmap'");
    for (data += CONFIG_BYTES, size -= CONFIG_BYTES; size >= STEP_BYTES;
         data += STEP_BYTES, size -= STEP_BYTES) {
        step(&r, data);
    }
    CONTROL_YIELD {
        read_and_compare(&r, 0, r.length);
    }
    reopen(&r);
    CONTROL_YIELD {
        read_and_compare(&r, 0, r.length);
    }
    image_close(&r.im);
    g_free(r.path);
    return 0;
}
