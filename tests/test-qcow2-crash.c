/* SPDX-License-Identifier: MIT */
/*
 * qcow2 and kill -9: whatever the moment, the image has leaks at worst, and
 * every sector reads as something written to it at or after the last flush.
 *
 * A child writes with several threads and is killed; what it did is in shared
 * memory.  A sector holds its number and a stamp that only grows.
 */
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>
#include "qcow2-util.h"

enum { SECTOR = 512, N_SECTORS = 8192, N_THREADS = 4, MAX_RUN = 300 };

/* Shared with the child; a sector is written by one thread only. */
struct record {
    uint32_t next_stamp[N_SECTORS];     /* of the next write */
    uint32_t acked[N_SECTORS];
    uint32_t durable[N_SECTORS];        /* acked before a flush that ended */
    uint32_t last_zero[N_SECTORS];      /* newest write of zeroes begun */
    bool durable_is_zero[N_SECTORS], acked_is_zero[N_SECTORS];
    int64_t writes_left;                /* die before this one; 0: never */
};

/* The file driver's write(), here: the moments that matter are between two
 * of them. */
static struct record *dies_by_count;

ssize_t pwrite64(int fd, const void *buf, size_t bytes, off64_t offset)
{
    if (dies_by_count &&
        __atomic_sub_fetch(&dies_by_count->writes_left, 1,
                           __ATOMIC_SEQ_CST) == 0) {
        kill(getpid(), SIGKILL);
        pause();
    }
    return syscall(SYS_pwrite64, fd, buf, bytes, offset);
}

struct crash_case {
    const char *name, *create, *open, *prepare;
    bool lazy;
    int unit;                   /* sectors of a cluster, for what takes whole
                                   ones: discards, compressed writes; or 0 */
    bool compress;
};

struct worker {
    const struct crash_case *c;
    struct root *root;
    struct record *rec;
    int id;
    uint64_t rng;
};

static uint64_t next(struct worker *w)
{
    w->rng ^= w->rng << 13;
    w->rng ^= w->rng >> 7;
    w->rng ^= w->rng << 17;
    return w->rng >> 8;
}

/* Sectors belong to threads in blocks of 50: clusters are shared.  With a
 * unit a block has some whole clusters. */
static bool owns(const struct worker *w, int sector)
{
    return sector / (w->c->unit ? w->c->unit * 2 : 50) % N_THREADS == w->id;
}

static void do_flush(struct worker *w)
{
    static _Thread_local uint32_t acked[N_SECTORS];
    static _Thread_local bool zero[N_SECTORS];

    for (int i = 0; i < N_SECTORS; i++) {
        if (owns(w, i)) {
            acked[i] = w->rec->acked[i];
            zero[i] = w->rec->acked_is_zero[i];
        }
    }
    g_assert_cmpint(root_flush(w->root), ==, 0);
    for (int i = 0; i < N_SECTORS; i++) {
        if (owns(w, i)) {
            w->rec->durable[i] = acked[i];
            w->rec->durable_is_zero[i] = zero[i];
        }
    }
}

enum kind { WRITE, ZERO, DISCARD, COMPRESS };

static int change(struct worker *w, int start, int n, enum kind kind)
{
    static _Thread_local uint32_t buf[MAX_RUN * SECTOR / 4];
    int64_t offset = (int64_t)start * SECTOR, bytes = (int64_t)n * SECTOR;

    for (int i = start; i < start + n; i++) {
        uint32_t stamp = w->rec->next_stamp[i]++;
        if (kind == ZERO || kind == DISCARD) {
            w->rec->last_zero[i] = stamp;
        }
        for (int k = 0; k < SECTOR / 4; k += 2) {
            buf[(i - start) * SECTOR / 4 + k] = i;
            buf[(i - start) * SECTOR / 4 + k + 1] = stamp;
        }
    }
    switch (kind) {
    case ZERO:
        return root_pwrite_zeroes(w->root, offset, bytes,
                                  next(w) % 2 ? BLK_MAY_UNMAP : 0);
    case DISCARD:
        return root_pdiscard(w->root, offset, bytes);
    default:
        return root_pwrite(w->root, offset, bytes, buf,
                           kind == COMPRESS ? BLK_COMPRESSED : 0);
    }
}

/* What to do next and where; *N 0: nothing. */
static enum kind choose(struct worker *w, int *start, int *n)
{
    enum kind kind = next(w) % 4 == 0 ? ZERO : WRITE;
    int unit = w->c->unit;

    *start = next(w) % N_SECTORS;
    *n = 0;
    if (unit && next(w) % 3 == 0) {
        *start -= *start % unit;
        *n = owns(w, *start) ? unit : 0;
        return w->c->compress && next(w) % 3 ? COMPRESS : DISCARD;
    }
    while (*n < MAX_RUN && *start + *n < N_SECTORS && owns(w, *start + *n) &&
           (*n == 0 || next(w) % 64)) {
        ++*n;
    }
    return kind;
}

static void *worker_run(void *opaque)
{
    struct worker *w = opaque;

    for (;;) {
        int start, n;
        enum kind kind;
        if (next(w) % 12 == 0) {
            do_flush(w);
            continue;
        }
        kind = choose(w, &start, &n);
        if (n > 0) {
            g_assert_cmpint(change(w, start, n, kind), ==, 0);
            for (int i = start; i < start + n; i++) {
                w->rec->acked[i] = w->rec->next_stamp[i] - 1;
                w->rec->acked_is_zero[i] = kind == ZERO || kind == DISCARD;
            }
        }
    }
    return NULL;
}

static void child_run(const struct crash_case *c, const char *path,
                      struct record *rec, int round)
{
    struct worker w[N_THREADS];
    struct image im;
    pthread_t thread;

    if (rec->writes_left > 0) {
        dies_by_count = rec;
    }
    control_lock();
    image_open_ok(&im, path, c->open);
    control_unlock();
    for (int i = 0; i < N_THREADS; i++) {
        w[i] = (struct worker) {
            .c = c, .root = im.root, .rec = rec, .id = i,
            .rng = (round * 16 + i + 1) * UINT64_C(0x9e3779b97f4a7c15),
        };
        pthread_create(&thread, NULL, worker_run, &w[i]);
    }
    pause();
}

static void check_sector(struct record *rec, int i, const uint32_t *data)
{
    bool zero = data[0] == 0 && data[1] == 0;
    uint32_t stamp = data[1];

    for (int k = 2; k < SECTOR / 4; k += 2) {
        g_assert_cmpuint(data[k], ==, data[0]);
        g_assert_cmpuint(data[k + 1], ==, data[1]);
    }
    if (zero) {
        /* Equal: what is durable is that write of zeroes; the kill may have
         * come before its durable_is_zero was set. */
        g_assert_true(rec->durable[i] == 0 || rec->durable_is_zero[i] ||
                      rec->last_zero[i] >= rec->durable[i]);
    } else {
        g_assert_cmpuint(data[0], ==, i);
        g_assert_cmpuint(stamp, >=, rec->durable[i]);
        g_assert_cmpuint(stamp, <, rec->next_stamp[i]);
    }
    /* From here on this is what was written. */
    rec->durable[i] = rec->acked[i] = rec->next_stamp[i] - 1;
    rec->durable_is_zero[i] = rec->acked_is_zero[i] = zero;
    if (!zero) {
        rec->durable[i] = rec->acked[i] = stamp;
    }
}

static void check_content(const char *path, struct record *rec)
{
    g_autofree char *raw = g_strconcat(path, ".raw", NULL);
    g_autofree char *data = NULL;
    gsize n;

    sh_ok("qemu-img convert -O raw '%s' '%s'", path, raw);
    g_assert_true(g_file_get_contents(raw, &data, &n, NULL));
    g_assert_cmpint(n, ==, N_SECTORS * SECTOR);
    for (int i = 0; i < N_SECTORS; i++) {
        check_sector(rec, i, (uint32_t *)(data + (int64_t)i * SECTOR));
    }
}

static void check_image(const struct crash_case *c, const char *path)
{
    int status;

    if (c->lazy) {
        image_reopen_elsewhere(path);       /* mends the refcounts */
        image_check(path);
        return;
    }
    status = sh("qemu-img check '%s'", path);
    if (status != 0 && status != 3) {       /* 3: leaks only */
        g_autofree char *text = sh_text("qemu-img check '%s'", path);
        g_error("%s: %s", path, text);
    }
}

static void test_crash(gconstpointer data)
{
    const struct crash_case *c = data;
    g_autofree char *path = test_path("crash.qcow2");
    struct record *rec = mmap(NULL, sizeof(*rec), PROT_READ | PROT_WRITE,
                              MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    int rounds = g_test_slow() ? 40 : 10;
    int64_t written = 0;

    g_assert_true(rec != MAP_FAILED);
    for (int i = 0; i < N_SECTORS; i++) {
        rec->next_stamp[i] = 1;
    }
    sh_ok("cd '%s' && rm -f data.raw && qemu-img create -q -f qcow2 %s '%s' "
          "%d", test_dir(), c->create, path, N_SECTORS * SECTOR);
    for (int round = 0; round < rounds; round++) {
        pid_t pid;
        int status;
        if (round == rounds / 2 && c->prepare) {
            sh_ok(c->prepare, path);
        }
        rec->writes_left = round % 4 ? g_test_rand_int_range(1, 1500) : 0;
        pid = fork();
        if (pid == 0) {
            child_run(c, path, rec, round);
            _exit(1);
        }
        if (rec->writes_left == 0) {
            g_usleep(30000 + g_test_rand_int_range(0, 150000));
            g_assert_cmpint(kill(pid, SIGKILL), ==, 0);
        }
        g_assert_cmpint(waitpid(pid, &status, 0), ==, pid);
        g_assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
        check_image(c, path);
        check_content(path, rec);
    }
    /* Something was written at all. */
    for (int i = 0; i < N_SECTORS; i++) {
        written += rec->next_stamp[i] - 1;
    }
    g_assert_cmpint(written, >, 0);
    munmap(rec, sizeof(*rec));
}

#define NO_SYNC "'cache': {'no-flush': true}, 'discard': 'unmap'"
#pragma GCC diagnostic ignored "-Wformat-nonliteral"

int main(int argc, char **argv)
{
    static const struct crash_case cases[] = {
        { "synced", "", "", NULL },
        /* The page cache outlives the process: more happens without. */
        { "64k", "", NO_SYNC, NULL },
        { "discard", "-o cluster_size=4k", NO_SYNC ", "
          "'pass-discard-other': true", NULL },
        { "512", "-o cluster_size=512,refcount_bits=64", NO_SYNC, NULL },
        { "tiny-cache", "-o cluster_size=512", NO_SYNC ", "
          "'l2-cache-entry-size': 512, 'l2-cache-size': 512, "
          "'refcount-cache-size': 512", NULL },
        { "snapshot", "-o cluster_size=1k", NO_SYNC,
          "qemu-img snapshot -c s '%s'" },
        { "extended", "-o cluster_size=16k,extended_l2=on", NO_SYNC,
          "qemu-img snapshot -c s '%s'" },
        { "2M", "-o cluster_size=2M", NO_SYNC, NULL },
        { "v2", "-o compat=0.10,cluster_size=8k", NO_SYNC,
          "qemu-img snapshot -c s '%s'" },
        { "refcount-1", "-o refcount_bits=1,cluster_size=4k", NO_SYNC, NULL },
        { "data-file", "-o data_file=$PWD/data.raw,cluster_size=4k", NO_SYNC,
          NULL, false, 8 },
        { "data-file-raw", "-o data_file=$PWD/data.raw,data_file_raw=on",
          NO_SYNC, NULL, false, 128 },
        { "trim", "-o cluster_size=4k", NO_SYNC ", 'pass-discard-other': true",
          "qemu-img snapshot -c s '%s'", false, 8 },
        { "compressed", "-o cluster_size=4k", NO_SYNC,
          "qemu-img snapshot -c s '%s'", false, 8, true },
        { "compressed-ext", "-o cluster_size=16k,extended_l2=on,"
          "compression_type=zstd", NO_SYNC, NULL, false, 32, true },
        { "lazy-all", "-o lazy_refcounts=on,cluster_size=4k", NO_SYNC,
          "qemu-img snapshot -c s '%s'", true, 8, true },
        { "lazy", "-o lazy_refcounts=on,cluster_size=4k", NO_SYNC, NULL,
          true },
        { "lazy-512", "-o lazy_refcounts=on,cluster_size=512,refcount_bits=64",
          NO_SYNC, NULL, true },
    };

    g_test_init(&argc, &argv, NULL);
    if (!have_program("qemu-img")) {
        return 77;
    }
    for (size_t i = 0; i < G_N_ELEMENTS(cases); i++) {
        g_autofree char *name = g_strconcat("/qcow2-crash/", cases[i].name,
                                            NULL);
        g_test_add_data_func(name, &cases[i], test_crash);
    }
    return g_test_run();
}
