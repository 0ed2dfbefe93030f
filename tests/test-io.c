/* SPDX-License-Identifier: MIT */
/* Generic I/O layer over a driver in memory, and over the file driver. */
#include <errno.h>
#include <fcntl.h>
#include <glib/gstdio.h>
#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include "bitmaps/dirty-bitmap.h"
#include "block/driver.h"
#include "block/file-priv.h"
#include "block/zeroes.h"

/* ---- a driver that checks what it is given ------------------------------ */

enum { MEM_BYTES = 256 * 1024, MEM_ALIGN = 4096 };

struct mem_state {
    uint8_t data[MEM_BYTES];
    int64_t n_writes, n_zero_writes, n_flushes, n_reads;
    int fail_write, fail_read;
    bool no_zeroes;
};

static void mem_check(struct node *n, int64_t offset, int64_t bytes)
{
    int64_t align = n->limits.request_alignment;

    g_assert_cmpint(offset % align, ==, 0);
    g_assert_cmpint(bytes % align, ==, 0);
    g_assert_cmpint(bytes, >, 0);
    g_assert_cmpint(offset + bytes, <=, MEM_BYTES);
}

static void mem_check_transfer(struct node *n, int64_t offset, int64_t bytes)
{
    mem_check(n, offset, bytes);
    if (n->limits.max_transfer) {
        g_assert_cmpint(bytes, <=, n->limits.max_transfer);
    }
}

/* Not memcpy: two requests to different bytes of a block are the layer's
 * business, and TSan shall see it if it lets them both in. */
static int mem_pread(struct node *n, int64_t offset, int64_t bytes, void *buf,
                     unsigned flags)
{
    struct mem_state *s = n->state;

    mem_check_transfer(n, offset, bytes);
    __atomic_add_fetch(&s->n_reads, 1, __ATOMIC_RELAXED);
    if (s->fail_read) {
        return s->fail_read;
    }
    for (int64_t i = 0; i < bytes; i++) {
        ((uint8_t *)buf)[i] = __atomic_load_n(&s->data[offset + i],
                                              __ATOMIC_RELAXED);
    }
    sched_yield();
    return 0;
}

static int mem_pwrite(struct node *n, int64_t offset, int64_t bytes,
                      const void *buf, unsigned flags)
{
    struct mem_state *s = n->state;

    mem_check_transfer(n, offset, bytes);
    g_assert_cmpint(flags & BLK_FUA, ==, 0);
    __atomic_add_fetch(&s->n_writes, 1, __ATOMIC_RELAXED);
    if (s->fail_write) {
        return s->fail_write;
    }
    sched_yield();
    for (int64_t i = 0; i < bytes; i++) {
        __atomic_store_n(&s->data[offset + i], ((const uint8_t *)buf)[i],
                         __ATOMIC_RELAXED);
    }
    return 0;
}

static int mem_pwrite_zeroes(struct node *n, int64_t offset, int64_t bytes,
                             unsigned flags)
{
    struct mem_state *s = n->state;

    mem_check(n, offset, bytes);
    __atomic_add_fetch(&s->n_zero_writes, 1, __ATOMIC_RELAXED);
    if (s->no_zeroes) {
        return -ENOTSUP;
    }
    for (int64_t i = 0; i < bytes; i++) {
        __atomic_store_n(&s->data[offset + i], 0, __ATOMIC_RELAXED);
    }
    return 0;
}

static int mem_flush(struct node *n)
{
    struct mem_state *s = n->state;

    s->n_flushes++;
    return 0;
}

static const struct driver mem_driver = {
    .name = "mem", .is_protocol = true,
    .pread = mem_pread, .pwrite = mem_pwrite,
    .pwrite_zeroes = mem_pwrite_zeroes, .flush_to_disk = mem_flush,
};

static void node_setup(struct node *n, const struct driver *drv, size_t state)
{
    memset(n, 0, sizeof(*n));
    n->driver = drv;
    n->state = g_malloc0(state);
    n->bitmaps = dirty_bitmap_list_new();
    range_lock_init(&n->serialising, "test");
}

static void node_teardown(struct node *n)
{
    range_lock_deinit(&n->serialising);
    dirty_bitmap_list_free(n->bitmaps);
    g_free(n->filename);
    g_free(n->state);
}

static void mem_setup(struct node *n)
{
    node_setup(n, &mem_driver, sizeof(struct mem_state));
    n->limits.request_alignment = MEM_ALIGN;
    atomic_store(&n->length_bytes, MEM_BYTES);
}

static void *random_bytes(GRand *rnd, size_t bytes)
{
    uint8_t *buf = g_malloc(bytes);

    for (size_t i = 0; i < bytes; i++) {
        buf[i] = g_rand_int(rnd);
    }
    return buf;
}

/* ---- one thread against a model ----------------------------------------- */

static void test_model(void)
{
    struct node n;
    g_autoptr(GRand) rnd = g_rand_new_with_seed(1);
    g_autofree uint8_t *model = g_malloc0(MEM_BYTES);
    g_autofree uint8_t *got = g_malloc(MEM_BYTES);
    struct mem_state *s;

    mem_setup(&n);
    s = n.state;
    n.limits.max_transfer = 16384;
    for (int step = 0; step < 3000; step++) {
        int64_t offset = g_rand_int_range(rnd, 0, MEM_BYTES);
        int64_t bytes = g_rand_int_range(rnd, 0, MIN(50000,
                                                     MEM_BYTES - offset) + 1);
        int what = g_rand_int_range(rnd, 0, 4);
        s->no_zeroes = g_rand_boolean(rnd);
        if (what == 0) {
            g_assert_cmpint(node_pwrite_zeroes(&n, offset, bytes, 0), ==, 0);
            memset(model + offset, 0, bytes);
        } else if (what == 1) {
            g_autofree uint8_t *buf = random_bytes(rnd, bytes);
            g_assert_cmpint(node_pwrite(&n, offset, bytes, buf, 0), ==, 0);
            memcpy(model + offset, buf, bytes);
        } else {
            g_assert_cmpint(node_pread(&n, offset, bytes, got, 0), ==, 0);
            g_assert_cmpmem(got, bytes, model + offset, bytes);
        }
    }
    g_assert_cmpmem(s->data, MEM_BYTES, model, MEM_BYTES);
    node_teardown(&n);
}

/* ---- many threads, each with bytes of its own in shared blocks ---------- */

enum { N_THREADS = 4 };
static struct node shared_node;

static void *owner_thread(void *arg)
{
    int me = GPOINTER_TO_INT(arg);
    g_autoptr(GRand) rnd = g_rand_new_with_seed(me + 10);
    uint8_t mine[MEM_BYTES / 1000 / N_THREADS + 1] = { 0 };
    int n_mine = 0;

    /* Stretches of 1000 bytes, dealt out in turn: four owners a block. */
    for (int i = me; (i + 1) * 1000 <= MEM_BYTES; i += N_THREADS) {
        n_mine++;
    }
    for (int step = 0; step < 1500; step++) {
        int i = g_rand_int_range(rnd, 0, n_mine);
        int64_t offset = (int64_t)(i * N_THREADS + me) * 1000;
        uint8_t buf[1000];
        if (g_rand_boolean(rnd)) {
            mine[i] = g_rand_int_range(rnd, 0, 5);
            memset(buf, mine[i], sizeof(buf));
            g_assert_cmpint(mine[i] ? node_pwrite(&shared_node, offset, 1000,
                                                  buf, 0)
                            : node_pwrite_zeroes(&shared_node, offset, 1000,
                                                 0), ==, 0);
        } else {
            g_assert_cmpint(node_pread(&shared_node, offset, 1000, buf, 0),
                            ==, 0);
            for (int k = 0; k < 1000; k++) {
                g_assert_cmpint(buf[k], ==, mine[i]);
            }
        }
    }
    return NULL;
}

static void test_unaligned_threads(void)
{
    pthread_t threads[N_THREADS];

    mem_setup(&shared_node);
    for (int i = 0; i < N_THREADS; i++) {
        pthread_create(&threads[i], NULL, owner_thread, GINT_TO_POINTER(i));
    }
    for (int i = 0; i < N_THREADS; i++) {
        pthread_join(threads[i], NULL);
    }
    node_teardown(&shared_node);
}

/* ---- rules -------------------------------------------------------------- */

static void test_ranges(void)
{
    struct node n;
    uint8_t buf[8192];

    mem_setup(&n);
    g_assert_cmpint(node_pread(&n, -1, 1, buf, 0), ==, -EINVAL);
    g_assert_cmpint(node_pread(&n, 0, -1, buf, 0), ==, -EINVAL);
    g_assert_cmpint(node_pread(&n, INT64_MAX, 2, buf, 0), ==, -EINVAL);
    g_assert_cmpint(node_pwrite(&n, INT64_MAX, 2, buf, 0), ==, -EINVAL);
    g_assert_cmpint(node_pread(&n, MEM_BYTES, 0, buf, 0), ==, 0);
    /* Behind the end: zeroes. */
    memset(buf, 1, sizeof(buf));
    g_assert_cmpint(node_pread(&n, MEM_BYTES - 100, 8192, buf, 0), ==, 0);
    g_assert_true(buffer_is_zero(buf, 8192));
    n.read_only = true;
    g_assert_cmpint(node_pwrite(&n, 0, 1, buf, 0), ==, -EPERM);
    g_assert_cmpint(node_pwrite_zeroes(&n, 0, 1, 0), ==, -EPERM);
    g_assert_cmpint(node_pdiscard(&n, 0, 1), ==, -EPERM);
    node_teardown(&n);
}

static void test_flush_generations(void)
{
    struct node n;
    uint8_t buf[MEM_ALIGN] = { 7 };
    struct mem_state *s;

    mem_setup(&n);
    s = n.state;
    g_assert_cmpint(node_flush(&n), ==, 0);
    g_assert_cmpint(s->n_flushes, ==, 0);       /* nothing was written */
    node_pwrite(&n, 0, MEM_ALIGN, buf, 0);
    g_assert_cmpint(node_flush(&n), ==, 0);
    g_assert_cmpint(node_flush(&n), ==, 0);
    g_assert_cmpint(s->n_flushes, ==, 1);
    node_pwrite(&n, 0, MEM_ALIGN, buf, BLK_FUA);    /* by a flush */
    g_assert_cmpint(s->n_flushes, ==, 2);
    node_pwrite_zeroes(&n, 0, 100, BLK_FUA);
    g_assert_cmpint(s->n_flushes, ==, 3);
    n.cache_no_flush = true;
    node_pwrite(&n, 0, MEM_ALIGN, buf, BLK_FUA);
    g_assert_cmpint(node_flush(&n), ==, 0);
    g_assert_cmpint(s->n_flushes, ==, 3);
    node_teardown(&n);
}

static void test_detect_zeroes(void)
{
    struct node n;
    uint8_t buf[MEM_ALIGN] = { 0 };
    struct mem_state *s;

    mem_setup(&n);
    s = n.state;
    node_pwrite(&n, 0, MEM_ALIGN, buf, 0);
    g_assert_cmpint(s->n_zero_writes, ==, 0);
    n.detect_zeroes = true;
    node_pwrite(&n, 0, MEM_ALIGN, buf, 0);
    g_assert_cmpint(s->n_zero_writes, ==, 1);
    g_assert_cmpint(s->n_writes, ==, 1);
    buf[MEM_ALIGN - 1] = 1;
    node_pwrite(&n, 0, MEM_ALIGN, buf, 0);
    g_assert_cmpint(s->n_writes, ==, 2);
    /* Not supported, and no slow way wanted. */
    s->no_zeroes = true;
    g_assert_cmpint(node_pwrite_zeroes(&n, 0, MEM_ALIGN, BLK_NO_FALLBACK), ==,
                    -ENOTSUP);
    node_teardown(&n);
}

static void test_nowait(void)
{
    struct node n;
    uint8_t buf[2 * MEM_ALIGN] = { 1 };
    struct range_hold h;

    mem_setup(&n);
    n.limits.max_transfer = MEM_ALIGN;
    g_assert_cmpint(node_pwrite(&n, 0, MEM_ALIGN, buf, BLK_NOWAIT), ==, 0);
    g_assert_cmpint(node_pwrite(&n, 0, 2 * MEM_ALIGN, buf, BLK_NOWAIT), ==,
                    -EAGAIN);
    g_assert_cmpint(node_pwrite(&n, 0, 100, buf, BLK_NOWAIT), ==, -EAGAIN);
    g_assert_cmpint(node_pwrite(&n, 0, MEM_ALIGN, buf, BLK_NOWAIT | BLK_FUA),
                    ==, -EAGAIN);
    range_lock_acquire(&n.serialising, &h, 0, 100, true);
    g_assert_cmpint(node_pwrite(&n, 0, MEM_ALIGN, buf, BLK_NOWAIT), ==,
                    -EAGAIN);
    range_lock_release(&n.serialising, &h);
    node_teardown(&n);
}

static void test_buffer_is_zero(void)
{
    uint8_t buf[700] = { 0 };

    for (int start = 0; start < 40; start++) {
        for (int bytes = 0; start + bytes <= 700; bytes += 37) {
            g_assert_true(buffer_is_zero(buf + start, bytes));
            for (int i = start; i < start + bytes; i += 11) {
                buf[i] = 0x80;
                g_assert_false(buffer_is_zero(buf + start, bytes));
                buf[i] = 0;
            }
        }
    }
}

/* ---- the file driver ---------------------------------------------------- */

static char *temp_path(void)
{
    return g_strdup_printf("%s/test-io-%d-%u", g_get_tmp_dir(), getpid(),
                           g_random_int());
}

static int file_setup_node(struct node *n, char *path, bool direct)
{
    BlockdevOptions options = {
        .driver = BLOCKDEV_DRIVER_FILE, .u.file.filename = path,
    };

    node_setup(n, &driver_file, driver_file.state_size);
    n->cache_direct = direct;
    n->discard_unmap = true;
    return driver_file.open(n, &options, NULL);
}

static void file_teardown(struct node *n)
{
    driver_file.close(n);
    node_teardown(n);
}

enum { FILE_BYTES = 300 * 1024 + 700 };

/* One random request, checked against MODEL. */
static void file_step(struct node *n, GRand *rnd, uint8_t *model, int step)
{
    int64_t offset = g_rand_int_range(rnd, 0, FILE_BYTES + FILE_BYTES / 2);
    int64_t bytes = g_rand_int_range(rnd, 1, 40000);
    int what = g_rand_int_range(rnd, 0, 5);
    g_autofree uint8_t *buf = g_malloc(bytes + 1);
    struct block_status st;
    int ret;

    if (what == 0) {
        g_assert_cmpint(node_pwrite_zeroes(n, offset, bytes,
                                           g_rand_boolean(rnd) ? BLK_MAY_UNMAP
                                                               : 0), ==, 0);
        memset(model + offset, 0, bytes);
    } else if (what == 1) {
        g_autofree uint8_t *data = random_bytes(rnd, bytes);
        g_assert_cmpint(node_pwrite(n, offset, bytes, data,
                                    step % 50 ? 0 : BLK_FUA), ==, 0);
        memcpy(model + offset, data, bytes);
    } else if (what == 2) {
        /* What it says is zero is zero. */
        g_assert_cmpint(node_block_status(n, true, offset, bytes, &st), ==, 0);
        if (st.bytes && (st.flags & STATUS_ZERO)) {
            g_assert_true(buffer_is_zero(model + offset, st.bytes));
        }
    } else {
        uint8_t *p = buf + (step & 1);
        ret = node_pread(n, offset, bytes, p, what == 3 ? BLK_NOWAIT : 0);
        g_assert_true(ret == 0 || (ret == -EAGAIN && what == 3));
        if (ret == 0) {
            g_assert_cmpmem(p, bytes, model + offset, bytes);
        }
    }
}

static void file_model(bool direct)
{
    struct node n;
    g_autofree char *path = temp_path();
    g_autoptr(GRand) rnd = g_rand_new_with_seed(3);
    g_autofree uint8_t *model = g_malloc0(FILE_BYTES * 2);
    g_autofree char *content = NULL;
    gsize size;

    g_assert_true(g_file_set_contents(path, (char *)model, FILE_BYTES, NULL));
    if (file_setup_node(&n, path, direct) < 0) {
        node_teardown(&n);
        g_unlink(path);
        g_test_skip("no O_DIRECT here");
        return;
    }
    g_assert_cmpint(n.length_bytes, ==, (FILE_BYTES + 511) / 512 * 512);
    for (int step = 0; step < 2000; step++) {
        file_step(&n, rnd, model, step);
    }
    g_assert_cmpint(node_flush(&n), ==, 0);
    g_assert_true(g_file_get_contents(path, &content, &size, NULL));
    g_assert_cmpint(size, <=, n.length_bytes);
    g_assert_cmpmem(content, size, model, size);
    file_teardown(&n);
    g_unlink(path);
}

static void test_file(void)
{
    file_model(false);
}

static void test_file_direct(void)
{
    file_model(true);
}

static void test_file_status(void)
{
    struct node n;
    struct block_status st;
    g_autofree char *path = temp_path();
    uint8_t buf[65536];
    int fd = open(path, O_RDWR | O_CREAT, 0600);

    memset(buf, 1, sizeof(buf));
    g_assert_cmpint(ftruncate(fd, 1 << 20), ==, 0);
    g_assert_cmpint(pwrite(fd, buf, 65536, 128 * 1024), ==, 65536);
    close(fd);
    g_assert_cmpint(file_setup_node(&n, path, false), ==, 0);
    node_block_status(&n, true, 0, 1 << 20, &st);
    g_assert_cmpint(st.bytes, ==, 128 * 1024);
    g_assert_true(st.flags & STATUS_ZERO);
    node_block_status(&n, true, 128 * 1024 + 512, 1 << 20, &st);
    g_assert_cmpint(st.bytes, ==, 65536 - 512);
    g_assert_true(st.flags & STATUS_DATA);
    /* Remembered, until it is no longer true. */
    g_assert_cmpint(node_pwrite(&n, 4096, 4096, buf, 0), ==, 0);
    node_block_status(&n, true, 0, 1 << 20, &st);
    g_assert_cmpint(st.bytes, ==, 4096);
    g_assert_cmpint(node_pdiscard(&n, 128 * 1024, 65536), ==, 0);
    node_block_status(&n, true, 128 * 1024, 1 << 20, &st);
    g_assert_true(st.flags & STATUS_ZERO);
    g_assert_true(st.flags & STATUS_EOF);
    node_block_status(&n, false, 0, 1 << 20, &st);
    g_assert_cmpint(st.bytes, ==, 1 << 20);
    file_teardown(&n);
    g_unlink(path);
}

static void test_file_truncate(void)
{
    struct node n;
    g_autofree char *path = temp_path();
    struct stat st;

    g_assert_true(g_file_set_contents(path, "abc", 3, NULL));
    g_assert_cmpint(file_setup_node(&n, path, false), ==, 0);
    g_assert_cmpint(n.length_bytes, ==, 512);
    g_assert_cmpint(driver_file.truncate(&n, 100000, true,
                                         PREALLOC_MODE_FALLOC, NULL), ==, 0);
    g_assert_cmpint(stat(path, &st), ==, 0);
    g_assert_cmpint(st.st_size, ==, 100000);
    g_assert_cmpint(n.length_bytes, ==, 100352);
    g_assert_cmpint(driver_file.truncate(&n, 10, true, PREALLOC_MODE_FULL,
                                         NULL), <, 0);
    g_assert_cmpint(driver_file.truncate(&n, 10, true, PREALLOC_MODE_OFF,
                                         NULL), ==, 0);
    stat(path, &st);
    g_assert_cmpint(st.st_size, ==, 10);
    file_teardown(&n);
    g_unlink(path);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/io/model", test_model);
    g_test_add_func("/io/unaligned-threads", test_unaligned_threads);
    g_test_add_func("/io/ranges", test_ranges);
    g_test_add_func("/io/flush-generations", test_flush_generations);
    g_test_add_func("/io/detect-zeroes", test_detect_zeroes);
    g_test_add_func("/io/nowait", test_nowait);
    g_test_add_func("/io/buffer-is-zero", test_buffer_is_zero);
    g_test_add_func("/io/file", test_file);
    g_test_add_func("/io/file-direct", test_file_direct);
    g_test_add_func("/io/file-status", test_file_status);
    g_test_add_func("/io/file-truncate", test_file_truncate);
    return g_test_run();
}
