/* SPDX-License-Identifier: MIT */
/*
 * Persistent bitmaps and kill -9: a child opens an image, writes, adds and
 * removes bitmaps, closes; it dies before its Nth write to the file, for
 * every N.  Whatever it left behind must open, have leaks at worst, and no
 * bitmap may claim to be good that misses a write which is in the file.
 */
#include <glib/gstdio.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>
#include "base/pool.h"
#include "bitmaps/dirty-bitmap.h"
#include "block/bitmap.h"
#include "qapi/qapi-commands.h"
#include "qcow2-util.h"

enum { DISK = 16 << 20, GRANULARITY = 65536, N_WRITES = 5 };

static int64_t writes_left;     /* atomic; the child dies before this one */

ssize_t pwrite64(int fd, const void *buf, size_t bytes, off64_t offset)
{
    if (__atomic_sub_fetch(&writes_left, 1, __ATOMIC_SEQ_CST) == 0) {
        kill(getpid(), SIGKILL);
        pause();
    }
    return syscall(SYS_pwrite64, fd, buf, bytes, offset);
}

static int64_t offset_of(int write)
{
    return (int64_t)(write * 37 + 1) * GRANULARITY;
}

/* ---- the child ---------------------------------------------------------- */

static int child(int64_t dies_at, const char *path)
{
    uint8_t buf[4096];
    struct image im;
    BlockDirtyBitmap b = { .node = (char *)"n", .name = (char *)"b" };
    BlockDirtyBitmapAdd c = {
        .node = (char *)"n", .name = (char *)"c", .has_persistent = true,
        .persistent = true,
    };

    memset(buf, 0x55, sizeof(buf));
    __atomic_store_n(&writes_left, dies_at, __ATOMIC_SEQ_CST);
    control_lock();
    image_open_ok(&im, path, "'node-name': 'n'");
    for (int i = 0; i < N_WRITES; i++) {
        g_assert_cmpint(root_pwrite(im.root, offset_of(i), sizeof(buf), buf,
                                    0), ==, 0);
        if (i == 2) {
            g_assert_true(qmp_block_dirty_bitmap_remove(&b, NULL));
            g_assert_true(qmp_block_dirty_bitmap_add(&c, NULL));
        }
    }
    image_close(&im);
    control_unlock();
    pool_shutdown();
    return 0;
}

/* ---- what it left behind ------------------------------------------------ */

static void verify_bitmap(struct image *im, struct dirty_bitmap *bm)
{
    const char *name = dirty_bitmap_name(bm);
    uint8_t byte;

    if (dirty_bitmap_inconsistent(bm)) {
        return;
    }
    for (int i = name[0] == 'c' ? 3 : 0; i < N_WRITES; i++) {
        g_assert_cmpint(root_pread(im->root, offset_of(i), 1, &byte, 0), ==,
                        0);
        if (byte && !bits_test(dirty_bitmap_bits(bm),
                               offset_of(i) / dirty_bitmap_granularity(bm))) {
            g_error("bitmap '%s' misses write %d", name, i);
        }
    }
}

static void verify(const char *path, bool completed)
{
    struct image im;
    int ret = sh("qemu-img check -q '%s'", path);

    g_assert_true(ret == 0 || (!completed && ret == 3));
    control_lock();
    g_assert_true(image_open(&im, path, true, "'node-name': 'n'", NULL));
    for (struct dirty_bitmap *bm = dirty_bitmap_next(im.node->bitmaps, NULL);
         bm; bm = dirty_bitmap_next(im.node->bitmaps, bm)) {
        verify_bitmap(&im, bm);
    }
    g_assert_nonnull(dirty_bitmap_find(im.node->bitmaps, "a"));
    if (completed) {
        g_assert_false(dirty_bitmap_inconsistent(
            dirty_bitmap_find(im.node->bitmaps, "a")));
        g_assert_null(dirty_bitmap_find(im.node->bitmaps, "b"));
        g_assert_nonnull(dirty_bitmap_find(im.node->bitmaps, "c"));
    }
    image_close(&im);
    /* And QEMU writes to it. */
    control_unlock();
    sh_ok("qemu-io -c 'write 0 4k' '%s'", path);
}

/* ---- every moment ------------------------------------------------------- */

static char *self;

/* Has it come to its end? */
static bool run_child(int64_t dies_at, const char *path)
{
    g_autofree char *number = g_strdup_printf("%d", (int)dies_at);
    char *argv[] = { self, (char *)"--child", number, (char *)path, NULL };
    int status;

    g_assert_true(g_spawn_sync(NULL, argv, NULL, G_SPAWN_DEFAULT, NULL, NULL,
                               NULL, NULL, &status, NULL));
    g_assert_true((WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL) ||
                  (WIFEXITED(status) && WEXITSTATUS(status) == 0));
    return WIFEXITED(status);
}

static void test_every_moment(gconstpointer options)
{
    g_autofree char *path = test_path("crash.qcow2");
    bool completed = false;
    int64_t n;

    for (n = 1; !completed; n++) {
        sh_ok("qemu-img create -q -f qcow2 %s '%s' %d", (const char *)options,
              path, (int)DISK);
        sh_ok("qemu-img bitmap --add '%s' a", path);
        sh_ok("qemu-img bitmap --add '%s' b", path);
        completed = run_child(n, path);
        verify(path, completed);
        g_unlink(path);
    }
    g_test_message("%d moments", (int)n);
    g_assert_cmpint(n, >, 15);
}

int main(int argc, char **argv)
{
    int ret;

    if (argc == 4 && strcmp(argv[1], "--child") == 0) {
        return child(atoll(argv[2]), argv[3]);
    }
    g_test_init(&argc, &argv, NULL);
    if (!have_program("qemu-img")) {
        return 77;
    }
    self = argv[0];
    g_test_add_data_func("/qcow2-bitmap-crash/64k", "", test_every_moment);
    g_test_add_data_func("/qcow2-bitmap-crash/512",
                         "-o cluster_size=512,refcount_bits=64",
                         test_every_moment);
    ret = g_test_run();
    pool_shutdown();
    return ret;
}
