/* SPDX-License-Identifier: MIT */
/*
 * Internal snapshots against a model: whatever is written, resized, deleted,
 * by us and by qemu-img, each snapshot reads as the disk did when it was
 * made, and the image has neither errors nor leaks.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include "qcow2-util.h"

enum { MAX_SNAPSHOTS = 8, DISK = 3 << 20 };

struct state {
    uint8_t *data;
    int64_t bytes;
    char *name;
};

struct run {
    char *path;
    struct image im;
    uint64_t rng;
    int64_t bytes;
    uint8_t *model;             /* room for 2 * DISK */
    struct state snapshots[MAX_SNAPSHOTS];
    int n, n_made;
    int compress;               /* cluster size, or 0 */
    const char *open;
};

static int64_t below(struct run *r, int64_t n)
{
    r->rng ^= r->rng << 13;
    r->rng ^= r->rng >> 7;
    r->rng ^= r->rng << 17;
    return (r->rng >> 11) % n;
}

static void open_image(struct run *r)
{
    control_lock();
    image_open_ok(&r->im, r->path, r->open);
    control_unlock();
}

static void close_image(struct run *r)
{
    control_lock();
    image_close(&r->im);
    control_unlock();
}

static void do_write(struct run *r)
{
    int64_t max = MIN(r->bytes, 300000);
    int64_t bytes = 512 * (1 + below(r, max / 512));
    int64_t offset = 512 * below(r, (r->bytes - bytes) / 512 + 1);
    int kind = below(r, 8);
    int ret;

    if (r->compress && kind < 3) {
        offset &= -(int64_t)r->compress;
        bytes = MIN(r->compress, r->bytes - offset);
        memset(r->model + offset, 1 + below(r, 255), bytes);
        ret = root_pwrite(r->im.root, offset, bytes, r->model + offset,
                          BLK_COMPRESSED);
    } else if (kind == 7) {
        memset(r->model + offset, 0, bytes);
        ret = root_pwrite_zeroes(r->im.root, offset, bytes, BLK_MAY_UNMAP);
    } else {
        memset(r->model + offset, 1 + below(r, 255), bytes);
        ret = root_pwrite(r->im.root, offset, bytes, r->model + offset, 0);
    }
    g_assert_cmpint(ret, ==, 0);
}

static bool take(struct run *r, const char *name, struct error **errp)
{
    struct drain *d;
    bool ok = false;

    control_lock();
    d = drain_begin(&r->im.node, 1);
    CONTROL_YIELD {
        ok = r->im.node->driver->snapshot_create(r->im.node, name, errp);
    }
    drain_end(&d);
    control_unlock();
    return ok;
}

static void do_create(struct run *r)
{
    struct state *s = &r->snapshots[r->n];
    AUTO_ERROR(err);

    s->name = g_strdup_printf("s%d", r->n_made++);
    if (!take(r, s->name, &err)) {
        g_error("%s", error_text(err));
    }
    s->data = g_memdup2(r->model, r->bytes);
    s->bytes = r->bytes;
    r->n++;
}

static void do_delete(struct run *r, bool ours)
{
    int i = below(r, r->n);
    struct state *s = &r->snapshots[i];

    if (ours) {
        AUTO_ERROR(err);
        SnapshotInfo *info = NULL;
        struct drain *d;
        control_lock();
        d = drain_begin(&r->im.node, 1);
        if (!r->im.node->driver->snapshot_delete(r->im.node, NULL, s->name,
                                                 &info, &err)) {
            g_error("%s", error_text(err));
        }
        drain_end(&d);
        control_unlock();
        g_assert_cmpstr(info->name, ==, s->name);
        SnapshotInfo_free(info);
    } else {
        close_image(r);
        sh_ok("qemu-img snapshot -d '%s' '%s'", s->name, r->path);
        open_image(r);
    }
    g_free(s->data);
    g_free(s->name);
    *s = r->snapshots[--r->n];
}

static void do_resize(struct run *r)
{
    int64_t bytes = 512 * (1 + below(r, 2 * DISK / 512));

    control_lock();
    g_assert_cmpint(image_truncate(&r->im, bytes, PREALLOC_MODE_OFF), ==, 0);
    control_unlock();
    if (bytes > r->bytes) {
        memset(r->model + r->bytes, 0, bytes - r->bytes);
    }
    r->bytes = bytes;
}

static void check_snapshot(struct run *r, const struct state *s)
{
    g_autofree char *raw = g_strconcat(r->path, ".sn", NULL);
    g_autofree char *data = NULL;
    gsize n;

    sh_ok("qemu-img convert -f qcow2 -O raw -l 'snapshot.name=%s' '%s' '%s'",
          s->name, r->path, raw);
    g_assert_true(g_file_get_contents(raw, &data, &n, NULL));
    /* qemu-img gives it the disk's length of now. */
    g_assert_cmpint(memcmp(data, s->data, MIN((int64_t)n, s->bytes)), ==, 0);
}

static void check_all(struct run *r)
{
    SnapshotInfoList *list;

    control_lock();
    list = r->im.node->driver->snapshot_list(r->im.node);
    control_unlock();
    SnapshotInfoList_free(list);
    close_image(r);
    image_check(r->path);
    image_compare(r->path, r->model, r->bytes);
    for (int i = 0; i < r->n; i++) {
        check_snapshot(r, &r->snapshots[i]);
    }
}

static void step(struct run *r, bool resize)
{
    int what = below(r, 10);

    if (what < 3 && r->n < MAX_SNAPSHOTS) {
        do_create(r);
    } else if (what < 5 && r->n > 0) {
        do_delete(r, what == 3 || below(r, 3));
    } else if (what == 5 && resize) {
        do_resize(r);
    }
    for (int i = below(r, 6); i >= 0; i--) {
        do_write(r);
    }
}

struct snapshot_case {
    const char *name, *create, *open;
    int compress;
    bool no_resize;
};

static void test_random(gconstpointer opaque)
{
    const struct snapshot_case *c = opaque;
    struct run r = {
        .path = test_path("snap.qcow2"), .bytes = DISK,
        .rng = g_test_rand_int_range(1, INT32_MAX), .compress = c->compress,
        .model = g_malloc0(2 * DISK), .open = c->open,
    };
    int rounds = g_test_slow() ? 20 : 3;

    g_test_message("seed %" G_GUINT64_FORMAT, r.rng);
    sh_ok("rm -f '%s'; qemu-img create -q -f qcow2 %s '%s' %d", r.path,
          c->create, r.path, DISK);
    for (int round = 0; round < rounds; round++) {
        open_image(&r);
        for (int i = 0; i < 12; i++) {
            step(&r, !c->no_resize);
        }
        check_all(&r);
    }
    /* Apply by qemu-img: it reads right, and we go on from there. */
    if (r.n > 0) {
        const struct state *s = &r.snapshots[0];
        sh_ok("qemu-img snapshot -a '%s' '%s'", s->name, r.path);
        image_check(r.path);
        r.bytes = s->bytes;
        memcpy(r.model, s->data, r.bytes);
        image_compare(r.path, r.model, r.bytes);
    }
    open_image(&r);
    while (r.n > 0) {
        do_delete(&r, true);
    }
    do_write(&r);
    check_all(&r);
    g_free(r.model);
    g_free(r.path);
}

/* A count that would not fit its width: nothing changes. */
static void test_overflow(gconstpointer opaque)
{
    int bits = GPOINTER_TO_INT(opaque), n = 0;
    struct run r = { .path = test_path("overflow.qcow2"), .open = "" };
    AUTO_ERROR(err);

    sh_ok("rm -f '%s'; qemu-img create -q -f qcow2 -o refcount_bits=%d '%s' "
          "1M && qemu-io -c 'write -P 3 0 512k' '%s'", r.path, bits, r.path,
          r.path);
    open_image(&r);
    for (;;) {
        g_autofree char *name = g_strdup_printf("s%d", n);
        if (!take(&r, name, &err)) {
            break;
        }
        n++;
        g_assert_cmpint(n, <, 1 << bits);
    }
    g_assert_cmpint(n, ==, (1 << bits) - 2);
    g_assert_cmpstr(error_text(err), ==, "Invalid argument");
    close_image(&r);
    image_check(r.path);
    sh_ok("test $(qemu-img snapshot -l '%s' | grep -c ' s[0-9]') = %d",
          r.path, n);
    g_free(r.path);
}

static void test_refused(void)
{
    struct run r = { .path = test_path("data.qcow2"), .open = "" };
    AUTO_ERROR(err);
    AUTO_ERROR(none);

    sh_ok("cd '%s' && qemu-img create -q -f qcow2 -o data_file=data.raw '%s' "
          "1M", test_dir(), r.path);
    open_image(&r);
    g_assert_false(take(&r, "s", &err));
    g_assert_cmpstr(error_text(err), ==, "Operation not supported");
    close_image(&r);
    sh_ok("qemu-img create -q -f qcow2 '%s' 1M", r.path);
    open_image(&r);
    control_lock();
    g_assert_false(r.im.node->driver->snapshot_delete(r.im.node, "1", NULL,
                                                      NULL, &none));
    control_unlock();
    g_assert_cmpstr(error_text(none), ==, "Can't find the snapshot");
    close_image(&r);
    g_free(r.path);
}

/* Bitmaps stay, and what an entry has that we do not know. */
static void test_kept(void)
{
    struct run r = { .path = test_path("kept.qcow2"), .open = "" };
    AUTO_ERROR(err);

    sh_ok("rm -f '%s'; qemu-img create -q -f qcow2 '%s' 1M && qemu-img bitmap "
          "--add '%s' b && qemu-io -c 'write 0 64k' '%s' && qemu-img snapshot "
          "-c one '%s'", r.path, r.path, r.path, r.path, r.path);
    open_image(&r);
    if (!take(&r, "two", &err)) {
        g_error("%s", error_text(err));
    }
    close_image(&r);
    image_check(r.path);
    sh_ok("qemu-img info '%s' | grep -A4 'bitmaps:' | grep -q 'name: b'",
          r.path);
    sh_ok("qemu-img snapshot -l '%s' | grep -q '^2 *two'", r.path);
    g_free(r.path);
}

int main(int argc, char **argv)
{
    static const struct snapshot_case cases[] = {
        { "default", "", "" },
        { "discard", "", "'discard': 'unmap', 'pass-discard-other': true" },
        { "v2", "-o compat=0.10", "", 0, true },
        { "512", "-o cluster_size=512", "" },
        { "2M", "-o cluster_size=2M", "" },
        { "refcount-4", "-o refcount_bits=4,cluster_size=4k", "" },
        { "refcount-8", "-o refcount_bits=8,cluster_size=1k", "" },
        { "refcount-32", "-o refcount_bits=32,cluster_size=16k", "" },
        { "refcount-64", "-o refcount_bits=64,cluster_size=512", "" },
        { "extended", "-o extended_l2=on,cluster_size=16k", "" },
        { "lazy", "-o lazy_refcounts=on,cluster_size=4k", "" },
        { "compressed", "-o cluster_size=64k", "", 65536 },
        { "zstd", "-o cluster_size=4k,compression_type=zstd", "", 4096 },
        { "overlap-all", "-o cluster_size=4k", "'overlap-check': 'all'" },
    };
    static const int widths[] = { 1, 2, 4 };

    g_test_init(&argc, &argv, NULL);
    if (!have_program("qemu-img") || !have_program("qemu-io")) {
        return 77;
    }
    for (size_t i = 0; i < G_N_ELEMENTS(cases); i++) {
        g_autofree char *name = g_strconcat("/qcow2-snapshots/random/",
                                            cases[i].name, NULL);
        g_test_add_data_func(name, &cases[i], test_random);
    }
    for (size_t i = 0; i < G_N_ELEMENTS(widths); i++) {
        g_autofree char *name = g_strdup_printf("/qcow2-snapshots/overflow/%d",
                                                widths[i]);
        g_test_add_data_func(name, GINT_TO_POINTER(widths[i]), test_overflow);
    }
    g_test_add_func("/qcow2-snapshots/refused", test_refused);
    g_test_add_func("/qcow2-snapshots/kept", test_kept);
    return g_test_run();
}
