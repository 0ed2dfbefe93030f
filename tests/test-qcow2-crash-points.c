/* SPDX-License-Identifier: MIT */
/*
 * qcow2 and kill -9 before the first write, before the second, and so on
 * until the operation is through: whatever the moment, the image is the old
 * one or the new one, with leaks at worst; lazy images are whole when they
 * have been opened again.
 */
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>
#include "qcow2-util.h"

enum { MIB = 1 << 20, MAX_POINTS = 4000 };

/* Shared with the child: die before this write; 0: never. */
static int64_t *writes_left;
static bool counting;

/* The file driver's write(), here. */
ssize_t pwrite64(int fd, const void *buf, size_t bytes, off64_t offset)
{
    if (counting && __atomic_sub_fetch(writes_left, 1, __ATOMIC_SEQ_CST) == 0) {
        kill(getpid(), SIGKILL);
        pause();
    }
    return syscall(SYS_pwrite64, fd, buf, bytes, offset);
}

/* ---- operations: control lock held, the node is drained where it must be */

static void op_discard(struct image *im)
{
    control_unlock();
    g_assert_cmpint(root_pdiscard(im->root, 0, MIB), ==, 0);
    g_assert_cmpint(root_flush(im->root), ==, 0);
    control_lock();
}

static void op_write(struct image *im)
{
    g_autofree char *buf = g_malloc(MIB);

    memset(buf, 7, MIB);
    control_unlock();
    g_assert_cmpint(root_pwrite(im->root, MIB / 2, MIB, buf, 0), ==, 0);
    g_assert_cmpint(root_flush(im->root), ==, 0);
    control_lock();
}

static void op_create(struct image *im)
{
    struct drain *d = drain_begin(&im->node, 1);
    AUTO_ERROR(err);

    if (!im->node->driver->snapshot_create(im->node, "new", &err)) {
        g_error("%s", error_text(err));
    }
    drain_end(&d);
}

static void op_delete(struct image *im)
{
    struct drain *d = drain_begin(&im->node, 1);
    AUTO_ERROR(err);

    if (!im->node->driver->snapshot_delete(im->node, NULL, "one", NULL,
                                           &err)) {
        g_error("%s", error_text(err));
    }
    drain_end(&d);
}

static void op_grow(struct image *im)
{
    g_assert_cmpint(image_truncate(im, 8 * MIB, PREALLOC_MODE_OFF), ==, 0);
}

static void op_shrink(struct image *im)
{
    g_assert_cmpint(image_truncate(im, MIB, PREALLOC_MODE_OFF), ==, 0);
}

static void op_preallocate(struct image *im)
{
    g_assert_cmpint(image_truncate(im, 6 * MIB, PREALLOC_MODE_METADATA), ==,
                    0);
}

static void op_backing(struct image *im)
{
    struct drain *d = drain_begin(&im->node, 1);
    AUTO_ERROR(err);

    if (im->node->driver->change_backing_file(im->node, "base.raw", "raw",
                                              &err) < 0) {
        g_error("%s", error_text(err));
    }
    drain_end(&d);
}

static void op_amend(struct image *im)
{
    BlockdevAmendOptions o = {
        .driver = BLOCKDEV_DRIVER_QCOW2,
        .u.qcow2 = {
            .has_version = true, .version = BLOCKDEV_QCOW2_VERSION_V3,
            .has_lazy_refcounts = true, .lazy_refcounts = true,
        },
    };
    struct drain *d = drain_begin(&im->node, 1);
    AUTO_ERROR(err);

    if (!im->node->driver->amend(im->node, &o, false, &err)) {
        g_error("%s", error_text(err));
    }
    drain_end(&d);
}

struct point_case {
    const char *name;
    const char *create;         /* -o of qemu-img create */
    const char *prepare;        /* shell; %1$s is the image */
    void (*op)(struct image *im);
    int64_t length_before, length_after;
    char tail;                  /* what [1M, 2M) may read as afterwards */
    bool lazy;
};

/* ---- running ----------------------------------------------------------- */

static void child_run(const struct point_case *c, const char *path)
{
    struct image im;

    control_lock();
    image_open_ok(&im, path, "'discard': 'unmap', "
                  "'cache': {'no-flush': true}");
    counting = true;
    c->op(&im);
    image_close(&im);
    _exit(0);
}

/* True: the operation got through to its end. */
static bool run_to(const struct point_case *c, const char *path, int64_t point)
{
    int status;
    pid_t pid;

    *writes_left = point;
    pid = fork();
    if (pid == 0) {
        child_run(c, path);
    }
    g_assert_cmpint(waitpid(pid, &status, 0), ==, pid);
    if (WIFSIGNALED(status)) {
        g_assert_cmpint(WTERMSIG(status), ==, SIGKILL);
        return false;
    }
    g_assert_cmpint(status, ==, 0);
    return true;
}

static void check_image(const struct point_case *c, const char *path,
                        int64_t point, bool through)
{
    int status;

    if (c->lazy) {
        image_reopen_elsewhere(path);
    }
    status = sh("qemu-img check '%s'", path);
    if (status != 0 && (c->lazy || through || status != 3)) {
        g_autofree char *text = sh_text("qemu-img check '%s'", path);
        g_error("%s: killed before write %" G_GINT64_FORMAT ": %s", c->name,
                point, text);
    }
}

static void check_range(const char *data, int64_t start, int64_t end,
                        const char *allowed, size_t n)
{
    for (int64_t i = start; i < end; i++) {
        g_assert_nonnull(memchr(allowed, data[i], n));
    }
}

/* Before: ones in the first MiB, twos in the second. */
static void check_content(const struct point_case *c, const char *path)
{
    g_autofree char *raw = g_strconcat(path, ".raw", NULL);
    g_autofree char *data = NULL;
    const char first[] = { 1, c->op == op_discard ? 0 : 1,
                           c->op == op_write ? 7 : 1 };
    const char second[] = { 2, c->tail };
    gsize n;

    sh_ok("qemu-img convert -O raw '%s' '%s'", path, raw);
    g_assert_true(g_file_get_contents(raw, &data, &n, NULL));
    g_assert_true((int64_t)n == c->length_before ||
                  (int64_t)n == c->length_after);
    check_range(data, 0, MIB, first, sizeof(first));
    if (n > MIB) {
        check_range(data, MIB, 2 * MIB, second, sizeof(second));
    }
}

#pragma GCC diagnostic ignored "-Wformat-nonliteral"

static void test_points(gconstpointer opaque)
{
    const struct point_case *c = opaque;
    g_autofree char *path = test_path("points.qcow2");
    g_autofree char *image = test_path("start.qcow2");
    bool through = false;
    int64_t point, step = 1;

    writes_left = mmap(NULL, sizeof(*writes_left), PROT_READ | PROT_WRITE,
                       MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    g_assert_true(writes_left != MAP_FAILED);
    sh_ok("rm -f '%s'; qemu-img create -q -f qcow2 %s '%s' 4M && qemu-io "
          "-c 'write -P 1 0 1M' -c 'write -P 2 1M 1M' '%s'", image, c->create,
          image, image);
    sh_ok("truncate -s 4M '%s/base.raw'", test_dir());
    if (c->prepare) {
        sh_ok(c->prepare, image);
    }
    for (point = 1; !through; point += step) {
        g_assert_cmpint(point, <, MAX_POINTS);
        sh_ok("cp '%s' '%s'", image, path);
        through = run_to(c, path, point);
        check_image(c, path, point, through);
        check_content(c, path);
        if (!g_test_slow() && point >= 60) {
            step = 7;           /* the long ones repeat themselves */
        }
    }
    g_test_message("%s: %" G_GINT64_FORMAT " points", c->name, point - 1);
    munmap(writes_left, sizeof(*writes_left));
}

#define SNAPSHOTS "qemu-img snapshot -c one '%1$s' && qemu-io -c 'write -P 2 " \
    "1M 64k' '%1$s' && qemu-img snapshot -c two '%1$s'"
#define COMPRESSED "qemu-io -c 'discard 0 1M' -c 'write -c -P 1 0 512k' -c " \
    "'write -c -P 1 512k 512k' '%1$s'; qemu-img snapshot -c one '%1$s'"

int main(int argc, char **argv)
{
    static const struct point_case cases[] = {
        { "discard", "", NULL, op_discard, 4 * MIB, 4 * MIB, 2, false },
        { "discard-lazy", "-o lazy_refcounts=on,cluster_size=4k", NULL,
          op_discard, 4 * MIB, 4 * MIB, 2, true },
        { "write-lazy", "-o lazy_refcounts=on,cluster_size=16k",
          "qemu-img snapshot -c one '%s'", op_write, 4 * MIB, 4 * MIB, 7,
          true },
        { "snapshot-create", "", NULL, op_create, 4 * MIB, 4 * MIB, 2,
          false },
        { "snapshot-create-v2", "-o compat=0.10", SNAPSHOTS, op_create,
          4 * MIB, 4 * MIB, 2, false },
        { "snapshot-create-512", "-o cluster_size=512,refcount_bits=64",
          NULL, op_create, 4 * MIB, 4 * MIB, 2, false },
        { "snapshot-create-ext", "-o cluster_size=16k,extended_l2=on",
          SNAPSHOTS, op_create, 4 * MIB, 4 * MIB, 2, false },
        { "snapshot-create-compressed", "-o cluster_size=64k", COMPRESSED,
          op_create, 4 * MIB, 4 * MIB, 2, false },
        { "snapshot-create-lazy", "-o lazy_refcounts=on,cluster_size=4k",
          SNAPSHOTS, op_create, 4 * MIB, 4 * MIB, 2, true },
        { "snapshot-delete", "", SNAPSHOTS, op_delete, 4 * MIB, 4 * MIB, 2,
          false },
        { "snapshot-delete-512", "-o cluster_size=512,refcount_bits=8",
          SNAPSHOTS, op_delete, 4 * MIB, 4 * MIB, 2, false },
        { "snapshot-delete-compressed", "-o cluster_size=64k", COMPRESSED,
          op_delete, 4 * MIB, 4 * MIB, 2, false },
        { "snapshot-delete-lazy", "-o lazy_refcounts=on,cluster_size=4k",
          SNAPSHOTS, op_delete, 4 * MIB, 4 * MIB, 2, true },
        { "grow", "-o cluster_size=512", SNAPSHOTS, op_grow, 4 * MIB, 8 * MIB,
          2, false },
        { "shrink", "-o cluster_size=4k", NULL, op_shrink, 4 * MIB, MIB, 0,
          false },
        { "shrink-lazy", "-o cluster_size=4k,lazy_refcounts=on", SNAPSHOTS,
          op_shrink, 4 * MIB, MIB, 0, true },
        { "preallocate", "-o cluster_size=4k", NULL, op_preallocate, 4 * MIB,
          6 * MIB, 2, false },
        { "backing", "", NULL, op_backing, 4 * MIB, 4 * MIB, 2, false },
        { "amend", "-o compat=0.10", NULL, op_amend, 4 * MIB, 4 * MIB, 2,
          false },
    };

    g_test_init(&argc, &argv, NULL);
    if (!have_program("qemu-img") || !have_program("qemu-io")) {
        return 77;
    }
    for (size_t i = 0; i < G_N_ELEMENTS(cases); i++) {
        g_autofree char *name = g_strconcat("/qcow2-crash-points/",
                                            cases[i].name, NULL);
        g_test_add_data_func(name, &cases[i], test_points);
    }
    return g_test_run();
}
