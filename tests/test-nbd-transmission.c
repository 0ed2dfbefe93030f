/* SPDX-License-Identifier: MIT */
/* Requests and replies of the NBD server, good and bad. */
#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>
#include "base/control.h"
#include "bitmaps/dirty-bitmap.h"
#include "nbd-fake.h"

enum { M = 1 << 20, DISK_BYTES = 4 << 20 };

struct fixture {
    struct fake_server server;
    struct fake_node *disk, *base;
    struct peer peer;           /* in transmission on "disk" */
    uint8_t *buf;               /* DISK_BYTES */
};

static void setup(struct fixture *f, gconstpointer structured)
{
    f->disk = fake_node_new("disk", DISK_BYTES);
    f->base = fake_node_new("base", DISK_BYTES / 2);
    f->buf = g_malloc(DISK_BYTES);
    fake_server_start(&f->server, 0, 10);
    fake_export(&f->server, f->disk, "disk", true);
    fake_export(&f->server, f->disk, "ro", false);
    peer_go(&f->peer, f->server.path, "disk", structured != NULL);
}

static void teardown(struct fixture *f, gconstpointer unused)
{
    if (f->peer.fd >= 0) {
        peer_close(&f->peer);
    }
    fake_server_stop(&f->server);
    fake_wait_no_roots();
    fake_node_free(f->disk);
    fake_node_free(f->base);
    g_free(f->buf);
}

static void set(bool *knob, bool value)
{
    __atomic_store_n(knob, value, __ATOMIC_RELAXED);
}

static uint32_t call(struct fixture *f, uint16_t cmd, uint16_t flags,
                     uint64_t offset, uint32_t length)
{
    struct peer_request r = {
        .cmd = cmd, .flags = flags, .offset = offset, .length = length,
        .payload = cmd == NBD_CMD_WRITE ? f->buf : NULL,
    };

    return peer_call(&f->peer, &r, f->buf);
}

static void check_pattern(const uint8_t *buf, int64_t offset, int64_t bytes)
{
    for (int64_t i = 0; i < bytes; i++) {
        if (buf[i] != fake_pattern(offset + i)) {
            g_error("byte %" G_GINT64_FORMAT " of %" G_GINT64_FORMAT
                    " is wrong", i, bytes);
        }
    }
}

static void check_read(struct fixture *f, uint16_t flags, int64_t offset,
                       int64_t bytes)
{
    memset(f->buf, 0xee, bytes);
    g_assert_cmpint(call(f, NBD_CMD_READ, flags, offset, bytes), ==, 0);
    check_pattern(f->buf, offset, bytes);
}

/* ---- reading and writing ------------------------------------------------ */

static void test_read(struct fixture *f, gconstpointer structured)
{
    static const int sizes[] = {
        0, 1, 511, 4096, 65536, 65537, 300000, DISK_BYTES - 7,
    };

    for (int block = 0; block < 2; block++) {
        set(&f->disk->would_block, block);
        for (size_t i = 0; i < G_N_ELEMENTS(sizes); i++) {
            check_read(f, 0, 7, sizes[i]);
            check_read(f, 0, DISK_BYTES - sizes[i], sizes[i]);
            if (structured) {
                check_read(f, NBD_CMD_FLAG_DF, 3, sizes[i] ? sizes[i] - 1 : 0);
            }
        }
    }
    g_assert_cmpint(f->disk->n_nowait, >, 0);
}

static void test_write(struct fixture *f, gconstpointer structured)
{
    static const int sizes[] = { 0, 1, 4096, 65536, 65537, 1 << 20 };

    for (int block = 0; block < 2; block++) {
        set(&f->disk->would_block, block);
        for (size_t i = 0; i < G_N_ELEMENTS(sizes); i++) {
            memset(f->buf, 0x40 + i + 10 * block, sizes[i]);
            g_assert_cmpint(call(f, NBD_CMD_WRITE, 0, 100, sizes[i]), ==, 0);
            memset(f->buf, 0, sizes[i]);
            g_assert_cmpint(call(f, NBD_CMD_READ, 0, 100, sizes[i]), ==, 0);
            for (int k = 0; k < sizes[i]; k++) {
                g_assert_cmpint(f->buf[k], ==, 0x40 + i + 10 * block);
            }
        }
    }
    g_assert_cmpint(f->disk->n_fua, ==, 0);
    check_read(f, 0, 100 + (1 << 20), 4096);
}

/* A disk whose writes wait though they should not gets them in parallel. */
static void test_slow_writes(struct fixture *f, gconstpointer unused)
{
    int n_nowait;

    f->disk->nowait_delay_us = 10000;
    g_assert_cmpint(call(f, NBD_CMD_WRITE, 0, 0, 512), ==, 0);
    n_nowait = f->disk->n_nowait;
    g_assert_cmpint(n_nowait, ==, 1);
    g_assert_cmpint(call(f, NBD_CMD_WRITE, 0, 0, 512), ==, 0);
    g_assert_cmpint(f->disk->n_nowait, ==, n_nowait);
    g_usleep(250000);
    g_assert_cmpint(call(f, NBD_CMD_WRITE, 0, 0, 512), ==, 0);
    g_assert_cmpint(f->disk->n_nowait, ==, n_nowait + 1);
    g_assert_cmpint(f->disk->n_writes, ==, 3);
}

static void test_holes(struct fixture *f, gconstpointer unused)
{
    f->disk->hole_offset = 1 << 20;
    f->disk->hole_bytes = 1 << 20;
    memset(f->disk->data + (1 << 20), 0, 1 << 20);
    g_assert_cmpint(call(f, NBD_CMD_READ, 0, 0, DISK_BYTES), ==, 0);
    g_assert_cmpint(peer_n_holes, ==, 1);
    check_pattern(f->buf, 0, 1 << 20);
    for (int i = 1 << 20; i < 2 << 20; i++) {
        g_assert_cmpint(f->buf[i], ==, 0);
    }
    check_pattern(f->buf + (2 << 20), 2 << 20, 2 << 20);
    g_assert_cmpint(call(f, NBD_CMD_READ, 0, (1 << 20) + 5, 200000), ==, 0);
    g_assert_cmpint(peer_n_holes, ==, 1);
    /* Small reads are looked at, not asked about. */
    for (int block = 0; block < 2; block++) {
        set(&f->disk->would_block, block);
        g_assert_cmpint(call(f, NBD_CMD_READ, 0, M, 4096), ==, 0);
        g_assert_cmpint(peer_n_holes, ==, !block);
        g_assert_cmpint(f->buf[4095], ==, 0);
        g_assert_cmpint(call(f, NBD_CMD_READ, 0, M - 1, 4096), ==, 0);
        g_assert_cmpint(peer_n_holes, ==, 0);
        check_pattern(f->buf, M - 1, 1);
    }
    for (int bytes = 0; bytes < 130; bytes++) {
        g_assert_cmpint(call(f, NBD_CMD_READ, 0, 2 * M - 1000, bytes), ==, 0);
    }
    g_assert_cmpint(call(f, NBD_CMD_READ, NBD_CMD_FLAG_DF, 0, DISK_BYTES), ==,
                    0);
    g_assert_cmpint(peer_n_holes, ==, 0);
    check_pattern(f->buf, 0, 1 << 20);
}

static void test_fua_flush(struct fixture *f, gconstpointer unused)
{
    struct fake_node *d = f->disk;

    g_assert_cmpint(call(f, NBD_CMD_WRITE, NBD_CMD_FLAG_FUA, 0, 512), ==, 0);
    g_assert_cmpint(d->n_fua, ==, 1);
    g_assert_cmpint(call(f, NBD_CMD_FLUSH, 0, 0, 0), ==, 0);
    g_assert_cmpint(d->n_flushes, ==, 1);
    g_assert_cmpint(call(f, NBD_CMD_TRIM, 0, 0, 512), ==, 0);
    g_assert_cmpint(d->n_trims, ==, 1);
    g_assert_cmpint(d->n_flushes, ==, 1);
    g_assert_cmpint(call(f, NBD_CMD_TRIM, NBD_CMD_FLAG_FUA, 0, DISK_BYTES), ==,
                    0);
    g_assert_cmpint(d->n_flushes, ==, 2);
    g_assert_cmpint(call(f, NBD_CMD_CACHE, 0, 0, DISK_BYTES), ==, 0);
    g_assert_cmpint(d->n_reads, >, 0);
    check_read(f, NBD_CMD_FLAG_FUA, 4096, 512);
}

static void test_write_zeroes(struct fixture *f, gconstpointer unused)
{
    struct fake_node *d = f->disk;

    g_assert_cmpint(call(f, NBD_CMD_WRITE_ZEROES, 0, 0, 1 << 20), ==, 0);
    g_assert_cmpint(d->n_zeroes, ==, 1);
    g_assert_cmpint(d->n_unmap, ==, 1);
    g_assert_cmpint(call(f, NBD_CMD_WRITE_ZEROES,
                         NBD_CMD_FLAG_NO_HOLE | NBD_CMD_FLAG_FUA, 0, 4096), ==,
                    0);
    g_assert_cmpint(d->n_unmap, ==, 1);
    g_assert_cmpint(d->n_fua, ==, 1);
    g_assert_cmpint(call(f, NBD_CMD_WRITE_ZEROES, NBD_CMD_FLAG_FAST_ZERO, 0,
                         4096), ==, NBD_ENOTSUP);
    g_assert_cmpint(d->n_no_fallback, ==, 1);
    g_assert_cmpint(call(f, NBD_CMD_READ, 0, 0, 1 << 20), ==, 0);
    for (int i = 0; i < 1 << 20; i++) {
        g_assert_cmpint(f->buf[i], ==, 0);
    }
    check_read(f, 0, 1 << 20, 4096);
}

static void test_writethrough(void)
{
    struct fake_node *n = fake_node_new("n", 65536);
    struct fake_server s;
    struct nbd_export_options options = {
        .id = "wt", .name = "wt", .node = &n->node, .writable = true,
        .writethrough = true,
    };
    struct peer p;
    uint8_t buf[512] = { 1 };

    fake_server_start(&s, 0, 10);
    control_lock();
    options.server = s.server;
    nbd_export_publish(nbd_export_new(&options, NULL));
    control_unlock();
    peer_go(&p, s.path, "wt", true);
    g_assert_cmpint(peer_call(&p, &(struct peer_request){
        .cmd = NBD_CMD_WRITE, .length = 512, .payload = buf }, NULL), ==, 0);
    g_assert_cmpint(n->n_fua, ==, 1);
    peer_close(&p);
    fake_server_stop(&s);
    fake_node_free(n);
}

/* ---- many in flight ----------------------------------------------------- */

/* Replies come in any order: count them. */
static void test_depth(struct fixture *f, gconstpointer unused)
{
    enum { N = 500 };
    bool seen[N + 1] = { false };

    f->disk->would_block = true;
    f->disk->delay_us = 2000;
    for (int i = 0; i < N; i++) {
        g_assert_cmpint(peer_request(&f->peer, &(struct peer_request){
            .cmd = NBD_CMD_FLUSH }), ==, i + 1);
    }
    for (int i = 0; i < N; i++) {
        struct nbd_wire_simple_reply reply;
        uint64_t cookie;

        peer_recv(&f->peer, &reply, sizeof(reply));
        cookie = GUINT64_FROM_BE(reply.cookie);
        g_assert_cmpint(reply.error, ==, 0);
        g_assert_cmpint(cookie, <=, N);
        g_assert_false(seen[cookie]);
        seen[cookie] = true;
    }
}

/* A whole disk asked for many times before the first byte is read: what
 * waits is bounded by the server, and nothing is lost. */
static void test_slow_reader(struct fixture *f, gconstpointer unused)
{
    enum { N = 60 };
    struct peer_request r = { .cmd = NBD_CMD_READ, .length = DISK_BYTES };

    for (int i = 0; i < N; i++) {
        peer_request(&f->peer, &r);
    }
    g_usleep(200000);
    for (int i = 0; i < N; i++) {
        struct nbd_wire_simple_reply reply;

        peer_recv(&f->peer, &reply, sizeof(reply));
        g_assert_cmpint(reply.error, ==, 0);
        peer_recv(&f->peer, f->buf, DISK_BYTES);
        check_pattern(f->buf, 0, 4096);
    }
}

/* Good-bye right behind requests: their replies come still. */
static void test_disc(struct fixture *f, gconstpointer unused)
{
    struct peer_request flush = { .cmd = NBD_CMD_FLUSH };
    struct peer_request read = { .cmd = NBD_CMD_READ, .length = 4096 };
    uint64_t cookie;

    f->disk->delay_us = 50000;
    cookie = peer_request(&f->peer, &read);
    peer_request(&f->peer, &flush);
    peer_request(&f->peer, &(struct peer_request){ .cmd = NBD_CMD_DISC });
    g_assert_cmpint(peer_result(&f->peer, cookie, &read, f->buf), ==, 0);
    g_assert_cmpint(peer_result(&f->peer, cookie + 1, &flush, NULL), ==, 0);
    peer_expect_closed(&f->peer);
}

/* ---- bad requests ------------------------------------------------------- */

static void test_range(struct fixture *f, gconstpointer unused)
{
    g_assert_cmpint(call(f, NBD_CMD_READ, 0, DISK_BYTES, 1), ==, NBD_EINVAL);
    g_assert_cmpint(call(f, NBD_CMD_READ, 0, DISK_BYTES - 1, 2), ==,
                    NBD_EINVAL);
    g_assert_cmpint(call(f, NBD_CMD_READ, 0, UINT64_MAX, 1), ==, NBD_EINVAL);
    g_assert_cmpint(call(f, NBD_CMD_READ, 0, UINT64_MAX - 511, 512), ==,
                    NBD_EINVAL);
    g_assert_cmpint(call(f, NBD_CMD_READ, 0, INT64_MAX, 1), ==, NBD_EINVAL);
    g_assert_cmpint(call(f, NBD_CMD_WRITE, 0, DISK_BYTES - 1, 2), ==,
                    NBD_ENOSPC);
    g_assert_cmpint(call(f, NBD_CMD_WRITE, 0, UINT64_MAX, 65537), ==,
                    NBD_ENOSPC);
    g_assert_cmpint(call(f, NBD_CMD_WRITE_ZEROES, 0, 1, DISK_BYTES), ==,
                    NBD_ENOSPC);
    g_assert_cmpint(call(f, NBD_CMD_TRIM, 0, 1, UINT32_MAX), ==, NBD_EINVAL);
    g_assert_cmpint(call(f, NBD_CMD_CACHE, 0, 1, DISK_BYTES), ==, NBD_EINVAL);
    check_read(f, 0, DISK_BYTES - 512, 512);
}

static void test_flags(struct fixture *f, gconstpointer structured)
{
    g_assert_cmpint(call(f, NBD_CMD_READ, 0x8000, 0, 512), ==, NBD_EINVAL);
    g_assert_cmpint(call(f, NBD_CMD_READ, NBD_CMD_FLAG_NO_HOLE, 0, 512), ==,
                    NBD_EINVAL);
    g_assert_cmpint(call(f, NBD_CMD_READ, NBD_CMD_FLAG_DF, 0, 512), ==,
                    structured ? 0 : NBD_EINVAL);
    g_assert_cmpint(call(f, NBD_CMD_WRITE, NBD_CMD_FLAG_DF, 0, 512), ==,
                    NBD_EINVAL);
    g_assert_cmpint(call(f, 77, 0, 0, 512), ==, NBD_EINVAL);
    g_assert_cmpint(call(f, NBD_CMD_BLOCK_STATUS, 0, 0, 512), ==, NBD_EINVAL);
    check_read(f, 0, 0, 512);
}

static void test_read_only(struct fixture *f, gconstpointer unused)
{
    peer_close(&f->peer);
    peer_go(&f->peer, f->server.path, "ro", true);
    g_assert_cmphex(f->peer.flags, ==, 0x58f);
    g_assert_cmpint(call(f, NBD_CMD_WRITE, 0, 0, 65537), ==, NBD_EPERM);
    g_assert_cmpint(call(f, NBD_CMD_TRIM, 0, 0, 512), ==, NBD_EPERM);
    g_assert_cmpint(call(f, NBD_CMD_WRITE_ZEROES, 0, 0, 512), ==, NBD_EPERM);
    check_read(f, 0, 0, 65537);
    g_assert_cmpint(f->disk->n_writes, ==, 0);
}

static void test_errors(struct fixture *f, gconstpointer unused)
{
    f->disk->fail = -ENOSPC;
    g_assert_cmpint(call(f, NBD_CMD_WRITE, 0, 0, 512), ==, NBD_ENOSPC);
    g_assert_cmpint(call(f, NBD_CMD_WRITE, 0, 0, 1 << 20), ==, NBD_ENOSPC);
    f->disk->fail = -ETIMEDOUT;
    g_assert_cmpint(call(f, NBD_CMD_READ, 0, 0, 512), ==, NBD_EIO);
    g_assert_cmpint(call(f, NBD_CMD_READ, 0, 0, 1 << 20), ==, NBD_EIO);
    g_assert_cmpint(call(f, NBD_CMD_FLUSH, 0, 0, 0), ==, NBD_EIO);
    f->disk->fail = 0;
    check_read(f, 0, 0, 1 << 20);
}

/* Refused at once, whether the payload comes or not. */
static void test_write_4g(struct fixture *f, gconstpointer unused)
{
    struct peer_request r = { .cmd = NBD_CMD_WRITE, .length = UINT32_MAX };
    uint64_t cookie = peer_request(&f->peer, &r);
    struct peer p;

    g_assert_cmpint(peer_result(&f->peer, cookie, &r, NULL), ==, NBD_EINVAL);
    peer_close(&f->peer);

    peer_go(&p, f->server.path, "disk", true);
    r.length = (32 << 20) + 1;
    r.payload = g_malloc0(r.length);
    g_assert_cmpint(peer_call(&p, &r, NULL), ==, NBD_EINVAL);
    g_assert_cmpint(peer_call(&p, &(struct peer_request){
        .cmd = NBD_CMD_READ, .length = 33 << 20 }, NULL), ==, NBD_EINVAL);
    g_assert_cmpint(peer_call(&p, &(struct peer_request){
        .cmd = NBD_CMD_FLUSH }, NULL), ==, 0);
    peer_close(&p);
    g_free((void *)r.payload);
}

static void test_wrong_magic(struct fixture *f, gconstpointer unused)
{
    uint8_t garbage[sizeof(struct nbd_wire_request)] = { 0x25, 0x60, 0x95 };

    peer_send(&f->peer, garbage, sizeof(garbage));
    peer_expect_closed(&f->peer);
}

/* Clients that die in the middle of what they say, or before they hear. */
static void test_sudden_death(struct fixture *f, gconstpointer unused)
{
    struct peer_request write = { .cmd = NBD_CMD_WRITE, .length = 1 << 20 };
    struct peer_request read = { .cmd = NBD_CMD_READ, .length = 1 << 20 };
    struct peer p;

    f->disk->delay_us = 20000;
    peer_request(&f->peer, &write);
    peer_send(&f->peer, f->buf, 1000);
    peer_close(&f->peer);

    peer_go(&p, f->server.path, "disk", true);
    peer_send(&p, "\x25\x60", 2);
    peer_close(&p);

    peer_go(&p, f->server.path, "disk", true);
    for (int i = 0; i < 100; i++) {
        peer_request(&p, &read);
    }
    peer_close(&p);

    peer_go(&f->peer, f->server.path, "disk", true);
    check_read(f, 0, 0, 4096);
}

/* ---- block status ------------------------------------------------------- */

static void set_contexts(struct peer *p, const char *export,
                         const char *const *names, int n)
{
    g_autoptr(GByteArray) g = g_byte_array_new();

    peer_option(p, NBD_OPT_STRUCTURED_REPLY, NULL, 0, NBD_REP_ACK);
    p->structured = true;
    peer_put_string(g, export);
    peer_put32(g, n);
    for (int i = 0; i < n; i++) {
        peer_put_string(g, names[i]);
    }
    peer_send_option(p, NBD_OPT_SET_META_CONTEXT, g->data, g->len);
    for (int i = 0; i < n; i++) {
        g_assert_cmphex(peer_reply(p, NBD_OPT_SET_META_CONTEXT, NULL, NULL),
                        ==, NBD_REP_META_CONTEXT);
    }
    g_assert_cmphex(peer_reply(p, NBD_OPT_SET_META_CONTEXT, NULL, NULL), ==,
                    NBD_REP_ACK);
}

/* Compare the chunk at *AT (see peer_chunk()); moves *AT past it. */
static void check_extents(const uint8_t **at, uint32_t id,
                          const uint32_t *pairs, uint32_t n)
{
    uint32_t bytes;

    memcpy(&bytes, *at, sizeof(bytes));
    *at += sizeof(bytes);
    g_assert_cmpuint(bytes, ==, 4 + n * 8);
    g_assert_cmpuint(nbd_get32(*at), ==, id);
    for (uint32_t i = 0; i < 2 * n; i++) {
        g_assert_cmpuint(nbd_get32(*at + 4 + 4 * i), ==, pairs[i]);
    }
    *at += bytes;
}

static void add_status_export(struct fixture *f)
{
    struct nbd_export_options options = {
        .id = "status", .name = "status", .server = f->server.server,
        .node = &f->disk->node, .writable = true, .allocation_depth = true,
    };
    struct dirty_bitmap *bitmap;
    struct nbd_export *e;

    CONTROL_GUARD();
    f->disk->hole_offset = M;
    f->disk->hole_bytes = 2 * M;
    f->disk->backing = f->base;         /* ends at 2 MiB */
    f->base->hole_offset = M + M / 2;
    f->base->hole_bytes = 4096;
    bitmap = dirty_bitmap_new(f->disk->node.bitmaps, "b", 65536, DISK_BYTES,
                              NULL);
    dirty_bitmap_mark(bitmap, 65536, 10);
    dirty_bitmap_mark(bitmap, 3 * 65536, 65537);
    e = nbd_export_new(&options, NULL);
    g_assert_true(nbd_export_add_bitmap(e, &f->disk->node, bitmap, NULL));
    nbd_export_publish(e);
}

static void test_block_status(struct fixture *f, gconstpointer unused)
{
    static const char *const names[] = {
        "base:allocation", "qemu:allocation-depth", "qemu:dirty-bitmap:b",
    };
    static const uint32_t base[] = { M, 0, 2 * M, 3, M, 0 };
    static const uint32_t depth[] = {
        M, 1, M / 2, 2, 4096, 0, M / 2 - 4096, 2, M, 0, M, 1,
    };
    static const uint32_t dirty[] = {
        65536, 0, 65536, 1, 65536, 0, 131072, 1, DISK_BYTES - 5 * 65536, 0,
    };
    static const uint32_t one[] = { 65536, 0 };
    struct peer_request r = {
        .cmd = NBD_CMD_BLOCK_STATUS, .length = DISK_BYTES,
    };
    const uint8_t *at = f->buf;
    struct peer *p = &f->peer;

    add_status_export(f);
    peer_close(p);
    peer_connect(p, f->server.path);
    peer_hello(p, 3);
    set_contexts(p, "status", names, 3);
    peer_go(p, NULL, "status", true);
    g_assert_cmpint(peer_call(p, &r, f->buf), ==, 0);
    check_extents(&at, 0, base, 3);
    check_extents(&at, 1, depth, 6);
    check_extents(&at, 2, dirty, 5);

    /* One each, not longer than was asked for. */
    r.flags = NBD_CMD_FLAG_REQ_ONE;
    r.length = 65536;
    at = f->buf;
    g_assert_cmpint(peer_call(p, &r, f->buf), ==, 0);
    for (uint32_t id = 0; id < 3; id++) {
        check_extents(&at, id, (const uint32_t[]){ 65536, id == 1 }, 1);
    }
    r.length = DISK_BYTES;
    at = f->buf;
    g_assert_cmpint(peer_call(p, &r, f->buf), ==, 0);
    check_extents(&at, 0, base, 1);
    check_extents(&at, 1, depth, 1);
    check_extents(&at, 2, one, 1);

    r.offset = 1;
    g_assert_cmpint(peer_call(p, &r, f->buf), ==, NBD_EINVAL);
    r.length = r.offset = 0;
    g_assert_cmpint(peer_call(p, &r, f->buf), ==, NBD_EINVAL);
}

/* ---- drain -------------------------------------------------------------- */

static void test_drain(struct fixture *f, gconstpointer unused)
{
    struct peer_request r = { .cmd = NBD_CMD_READ, .length = 4096 };
    uint64_t first;
    char byte;

    for (int block = 0; block < 2; block++) {
        set(&f->disk->would_block, block);
        check_read(f, 0, 0, 4096);
        fake_drain(f->disk, true);
        first = peer_request(&f->peer, &r);
        if (!block) {       /* workers' replies come in any order */
            peer_request(&f->peer, &r);
        }
        g_usleep(50000);
        g_assert_cmpint(recv(f->peer.fd, &byte, 1, MSG_DONTWAIT), ==, -1);
        fake_drain(f->disk, false);
        g_assert_cmpint(peer_result(&f->peer, first, &r, f->buf), ==, 0);
        if (!block) {
            g_assert_cmpint(peer_result(&f->peer, first + 1, &r, f->buf), ==,
                            0);
        }
    }
}

/* The disk is smaller than the client was told. */
static void test_shrunk(struct fixture *f, gconstpointer unused)
{
    atomic_store(&f->disk->node.length_bytes, 4096);
    g_assert_cmpint(call(f, NBD_CMD_READ, 0, 4096, 512), ==, NBD_EIO);
    g_assert_cmpint(call(f, NBD_CMD_WRITE, 0, 4096, 512), ==, NBD_EIO);
    check_read(f, 0, 0, 4096);
}

#define ADD(name, fn) do { \
    g_test_add("/nbd/transmission/simple/" name, struct fixture, NULL, \
               setup, fn, teardown); \
    g_test_add("/nbd/transmission/structured/" name, struct fixture, "", \
               setup, fn, teardown); \
} while (0)
#define ADD1(name, fn, structured) \
    g_test_add("/nbd/transmission/" name, struct fixture, structured, setup, \
               fn, teardown)

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    ADD("read", test_read);
    ADD("write", test_write);
    ADD1("slow-writes", test_slow_writes, NULL);
    ADD1("holes", test_holes, "");
    ADD("fua-flush", test_fua_flush);
    ADD("write-zeroes", test_write_zeroes);
    g_test_add_func("/nbd/transmission/writethrough", test_writethrough);
    ADD("depth", test_depth);
    ADD1("slow-reader", test_slow_reader, NULL);
    ADD1("disc", test_disc, NULL);
    ADD("range", test_range);
    ADD("flags", test_flags);
    ADD1("read-only", test_read_only, NULL);
    ADD("errors", test_errors);
    ADD("write-4g", test_write_4g);
    ADD1("wrong-magic", test_wrong_magic, NULL);
    ADD1("sudden-death", test_sudden_death, NULL);
    ADD1("block-status", test_block_status, NULL);
    ADD("drain", test_drain);
    ADD("shrunk", test_shrunk);
    return g_test_run();
}
