/* SPDX-License-Identifier: MIT */
/*
 * A discard and a write that meet at the worst moment: no two guest clusters
 * ever get the same place.
 *
 * The file driver's pwrite() and fallocate() are here; one of them is held
 * back in the middle of a request while the other request, and writes that
 * want new clusters, are let go.
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>
#include "qcow2-util.h"

enum {
    CLUSTER = 65536, N = 16, MARK = 0xa5,
    LONG_ENOUGH_US = 300000,    /* for a request that nothing holds */
};

/* All atomic. */
static int hold_write, hold_discard;    /* 1: the next; 2: is being held */
static int64_t marks_at = -1;           /* where the marked data goes */

static void wait_for(int *what, int value)
{
    while (__atomic_load_n(what, __ATOMIC_SEQ_CST) != value) {
        g_usleep(1000);
    }
}

static void held_here(int *what)
{
    int one = 1;

    if (__atomic_compare_exchange_n(what, &one, 2, false, __ATOMIC_SEQ_CST,
                                    __ATOMIC_SEQ_CST)) {
        wait_for(what, 0);
    }
}

ssize_t pwrite64(int fd, const void *buf, size_t bytes, off64_t offset)
{
    if (bytes > 0 && *(const uint8_t *)buf == MARK) {
        __atomic_store_n(&marks_at, offset, __ATOMIC_SEQ_CST);
        held_here(&hold_write);
    }
    return syscall(SYS_pwrite64, fd, buf, bytes, offset);
}

int fallocate64(int fd, int mode, off64_t offset, off64_t bytes)
{
    if (mode & FALLOC_FL_PUNCH_HOLE) {
        held_here(&hold_discard);
    }
    return syscall(SYS_fallocate, fd, mode, offset, bytes);
}

struct request {
    struct image *im;
    int64_t cluster;
    bool flush;
    int done;                   /* atomic */
    pthread_t thread;
};

static void *run_write(void *opaque)
{
    struct request *r = opaque;
    g_autofree uint8_t *buf = g_malloc(CLUSTER);

    memset(buf, MARK, CLUSTER);
    g_assert_cmpint(root_pwrite(r->im->root, r->cluster * CLUSTER, CLUSTER,
                                buf, 0), ==, 0);
    __atomic_store_n(&r->done, 1, __ATOMIC_SEQ_CST);
    return NULL;
}

static void *run_discard(void *opaque)
{
    struct request *r = opaque;

    g_assert_cmpint(root_pdiscard(r->im->root, r->cluster * CLUSTER, CLUSTER),
                    ==, 0);
    /* Now the place is given back. */
    g_assert_cmpint(root_flush(r->im->root), ==, 0);
    __atomic_store_n(&r->done, 1, __ATOMIC_SEQ_CST);
    return NULL;
}

static void start(struct request *r, struct image *im, int64_t cluster,
                  void *(*fn)(void *))
{
    *r = (struct request) { .im = im, .cluster = cluster };
    pthread_create(&r->thread, NULL, fn, r);
}

/* Clusters that were never written get places: every free one is taken. */
static void write_others(struct image *im, uint8_t *model)
{
    for (int i = N / 2; i < N; i++) {
        memset(model + i * CLUSTER, i + 1, CLUSTER);
        g_assert_cmpint(root_pwrite(im->root, (int64_t)i * CLUSTER, CLUSTER,
                                    model + i * CLUSTER, 0), ==, 0);
    }
}

static char *start_image(struct image *im, const char *prepare,
                         uint8_t *model)
{
    char *path = test_path("race.qcow2");

    sh_ok("rm -f '%s'; qemu-img create -q -f qcow2 '%s' %d && qemu-io -c "
          "'write -P 1 0 %d' '%s' %s '%s'", path, path, N * CLUSTER,
          N / 2 * CLUSTER, path, prepare, path);
    memset(model, 0, N * CLUSTER);
    memset(model, 1, N / 2 * CLUSTER);
    control_lock();
    image_open_ok(im, path, "'discard': 'unmap'");
    control_unlock();
    return path;
}

static void finish(struct image *im, const char *path, const uint8_t *model)
{
    control_lock();
    image_close(im);
    control_unlock();
    image_check(path);
    image_compare(path, model, N * CLUSTER);
}

/* PREPARE empty: the write goes in place.  A snapshot: to a new cluster. */
static void test_write_held(gconstpointer prepare)
{
    g_autofree uint8_t *model = g_malloc(N * CLUSTER);
    struct request write, discard;
    struct image im;
    g_autofree char *path = start_image(&im, prepare, model);
    bool early;

    __atomic_store_n(&hold_write, 1, __ATOMIC_SEQ_CST);
    start(&write, &im, 2, run_write);
    wait_for(&hold_write, 2);
    /* Its place is chosen, its data not written. */
    start(&discard, &im, 2, run_discard);
    g_usleep(LONG_ENOUGH_US);
    early = __atomic_load_n(&discard.done, __ATOMIC_SEQ_CST);
    write_others(&im, model);
    __atomic_store_n(&hold_write, 0, __ATOMIC_SEQ_CST);
    pthread_join(write.thread, NULL);
    pthread_join(discard.thread, NULL);
    /* The discard came second. */
    memset(model + 2 * CLUSTER, 0, CLUSTER);
    finish(&im, path, model);
    g_assert_false(early);
}

/* The file is being told of a discarded cluster: nobody has it yet. */
static void test_discard_held(void)
{
    g_autofree uint8_t *model = g_malloc(N * CLUSTER);
    struct request discard;
    struct image im;
    g_autofree char *path = start_image(&im, "#", model);

    __atomic_store_n(&hold_discard, 1, __ATOMIC_SEQ_CST);
    start(&discard, &im, 2, run_discard);
    wait_for(&hold_discard, 2);
    write_others(&im, model);
    /* The cluster itself is written again, too. */
    memset(model + 2 * CLUSTER, 9, CLUSTER);
    g_assert_cmpint(root_pwrite(im.root, 2 * CLUSTER, CLUSTER,
                                model + 2 * CLUSTER, 0), ==, 0);
    __atomic_store_n(&hold_discard, 0, __ATOMIC_SEQ_CST);
    pthread_join(discard.thread, NULL);
    finish(&im, path, model);
}

/* Discarded and not flushed: the file still points there, so nobody gets the
 * place, not even the same guest cluster. */
static void test_not_flushed(void)
{
    g_autofree uint8_t *model = g_malloc(N * CLUSTER);
    struct request write;
    struct image im;
    g_autofree char *path = start_image(&im, "#", model);
    g_autofree char *text = sh_text(
        "qemu-img map -U --output=json '%s' | "
        "sed -n 's/.*\"offset\": \\([0-9]*\\).*/\\1/p'", path);
    int64_t old = g_ascii_strtoll(text, NULL, 10) + 2 * CLUSTER;

    g_assert_cmpint(old, >, 2 * CLUSTER);
    g_assert_cmpint(root_pdiscard(im.root, 2 * CLUSTER, CLUSTER), ==, 0);
    start(&write, &im, 2, run_write);
    pthread_join(write.thread, NULL);
    g_assert_cmpint(__atomic_load_n(&marks_at, __ATOMIC_SEQ_CST), !=, old);
    memset(model + 2 * CLUSTER, MARK, CLUSTER);
    finish(&im, path, model);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    if (!have_program("qemu-img") || !have_program("qemu-io")) {
        return 77;
    }
    g_test_add_data_func("/qcow2-discard-race/write-held/in-place", "#",
                         test_write_held);
    g_test_add_data_func("/qcow2-discard-race/write-held/new-cluster",
                         "&& qemu-img snapshot -c s", test_write_held);
    g_test_add_func("/qcow2-discard-race/discard-held", test_discard_held);
    g_test_add_func("/qcow2-discard-race/not-flushed", test_not_flushed);
    return g_test_run();
}
