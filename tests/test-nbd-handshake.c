/* SPDX-License-Identifier: MIT */
/* The handshake of the NBD server: every option, and what is not one. */
#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>
#include "base/control.h"
#include "bitmaps/dirty-bitmap.h"
#include "nbd-fake.h"

struct fixture {
    struct fake_server server;
    struct fake_node *disk, *other;
    struct peer peer;
};

static void setup(struct fixture *f, gconstpointer unused)
{
    f->disk = fake_node_new("disk", 65536);
    f->other = fake_node_new("other", 12345);
    fake_server_start(&f->server, 0, 10);
    fake_export(&f->server, f->disk, "disk", true);
    fake_export(&f->server, f->other, "other", false);
    peer_connect(&f->peer, f->server.path);
}

static void teardown(struct fixture *f, gconstpointer unused)
{
    if (f->peer.fd >= 0) {
        peer_close(&f->peer);
    }
    fake_server_stop(&f->server);
    fake_wait_no_roots();
    fake_node_free(f->disk);
    fake_node_free(f->other);
}

/* ---- exports ------------------------------------------------------------ */

static void test_go(struct fixture *f, gconstpointer unused)
{
    peer_hello(&f->peer, 3);
    peer_go(&f->peer, NULL, "disk", true);
    g_assert_cmpint(f->peer.size, ==, 65536);
    g_assert_cmphex(f->peer.flags, ==, 0xded);
}

static void test_go_read_only(struct fixture *f, gconstpointer unused)
{
    peer_hello(&f->peer, 3);
    peer_go(&f->peer, NULL, "other", false);
    g_assert_cmpint(f->peer.size, ==, 12345);
    g_assert_cmphex(f->peer.flags, ==, 0x50f);
}

static void check_unknown(struct peer *p, const char *name, const char *text)
{
    g_autoptr(GByteArray) g = g_byte_array_new();
    g_autofree char *payload = NULL;

    peer_put_string(g, name);
    peer_put16(g, 0);
    peer_send_option(p, NBD_OPT_GO, g->data, g->len);
    g_assert_cmphex(peer_reply(p, NBD_OPT_GO, &payload, NULL), ==,
                    NBD_REP_ERR_UNKNOWN);
    g_assert_cmpstr(payload, ==, text);
}

static void test_unknown(struct fixture *f, gconstpointer unused)
{
    g_autofree char *a79 = g_strnfill(79, 'a');
    g_autofree char *a80 = g_strnfill(80, 'a');
    g_autofree char *a4096 = g_strnfill(4096, 'a');
    g_autofree char *text79 = g_strdup_printf("export '%s' not present", a79);
    g_autofree char *text80 =
        g_strdup_printf("export '%s...' not present", a80);

    peer_hello(&f->peer, 3);
    check_unknown(&f->peer, "", "export '' not present");
    check_unknown(&f->peer, a79, text79);
    check_unknown(&f->peer, a80, text80);
    check_unknown(&f->peer, a4096, text80);
    peer_go(&f->peer, NULL, "disk", false);
}

static void test_info(struct fixture *f, gconstpointer unused)
{
    g_autoptr(GByteArray) g = g_byte_array_new();
    struct nbd_wire_info_block_size sizes = { 0 };
    struct peer *p = &f->peer;
    uint32_t rep, seen = 0;

    peer_hello(p, 3);
    peer_put_string(g, "other");
    peer_put16(g, 2);
    peer_put16(g, NBD_INFO_NAME);
    peer_put16(g, 999);         /* unknown ones are left out */
    peer_send_option(p, NBD_OPT_INFO, g->data, g->len);
    do {
        g_autofree char *payload = NULL;

        rep = peer_reply(p, NBD_OPT_INFO, &payload, NULL);
        if (rep == NBD_REP_INFO) {
            seen |= 1 << nbd_get16(payload);
            if (nbd_get16(payload) == NBD_INFO_NAME) {
                g_assert_cmpstr(payload + 2, ==, "other");
            } else if (nbd_get16(payload) == NBD_INFO_BLOCK_SIZE) {
                memcpy(&sizes, payload, sizeof(sizes));
            }
        }
    } while (rep != NBD_REP_ACK);
    g_assert_cmphex(seen, ==, 1 << NBD_INFO_NAME | 1 << NBD_INFO_BLOCK_SIZE |
                    1 << NBD_INFO_EXPORT);
    g_assert_cmpint(GUINT32_FROM_BE(sizes.minimum), ==, 1);
    g_assert_cmpint(GUINT32_FROM_BE(sizes.preferred), ==, 4096);
    g_assert_cmpint(GUINT32_FROM_BE(sizes.maximum), ==, 32 << 20);
    peer_go(p, NULL, "disk", false);
}

static void test_export_name(struct fixture *f, gconstpointer unused)
{
    struct nbd_wire_export_name_reply reply;
    struct peer p;
    size_t head = G_STRUCT_OFFSET(struct nbd_wire_export_name_reply, zeroes);

    peer_hello(&f->peer, NBD_FIXED_NEWSTYLE | NBD_NO_ZEROES);
    peer_send_option(&f->peer, NBD_OPT_EXPORT_NAME, "disk", 4);
    peer_recv(&f->peer, &reply, head);
    g_assert_cmpint(GUINT64_FROM_BE(reply.size), ==, 65536);
    g_assert_cmpint(peer_call(&f->peer, &(struct peer_request){
                                  .cmd = NBD_CMD_FLUSH }, NULL), ==, 0);

    /* The oldest clients: no flags, no options but this one. */
    peer_connect(&p, f->server.path);
    peer_hello(&p, 0);
    peer_send_option(&p, NBD_OPT_EXPORT_NAME, "other", 5);
    peer_recv(&p, &reply, sizeof(reply));
    g_assert_cmpint(GUINT64_FROM_BE(reply.size), ==, 12345);
    for (size_t i = 0; i < sizeof(reply.zeroes); i++) {
        g_assert_cmpint(reply.zeroes[i], ==, 0);
    }
    g_assert_cmpint(peer_call(&p, &(struct peer_request){
                                  .cmd = NBD_CMD_FLUSH }, NULL), ==, 0);
    peer_close(&p);
}

static void test_export_name_unknown(struct fixture *f, gconstpointer unused)
{
    peer_hello(&f->peer, 3);
    peer_send_option(&f->peer, NBD_OPT_EXPORT_NAME, "nope", 4);
    peer_expect_closed(&f->peer);
}

static void test_list(struct fixture *f, gconstpointer unused)
{
    static const char *const names[] = { "disk", "other" };

    peer_hello(&f->peer, 3);
    peer_option(&f->peer, NBD_OPT_LIST, "x", 1, NBD_REP_ERR_INVALID);
    peer_send_option(&f->peer, NBD_OPT_LIST, NULL, 0);
    for (size_t i = 0; i < G_N_ELEMENTS(names); i++) {
        g_autofree char *payload = NULL;

        g_assert_cmphex(peer_reply(&f->peer, NBD_OPT_LIST, &payload, NULL),
                        ==, NBD_REP_SERVER);
        g_assert_cmpint(nbd_get32(payload), ==, strlen(names[i]));
        g_assert_cmpstr(payload + 4, ==, names[i]);
    }
    g_assert_cmphex(peer_reply(&f->peer, NBD_OPT_LIST, NULL, NULL), ==,
                    NBD_REP_ACK);
}

/* ---- other options ------------------------------------------------------ */

static void test_refused(struct fixture *f, gconstpointer unused)
{
    struct peer *p = &f->peer;
    g_autofree char *big = g_malloc0(1 << 20);

    peer_hello(p, 3);
    peer_option(p, NBD_OPT_STARTTLS, NULL, 0, NBD_REP_ERR_POLICY);
    peer_option(p, NBD_OPT_STARTTLS, "x", 1, NBD_REP_ERR_INVALID);
    peer_option(p, 4, NULL, 0, NBD_REP_ERR_UNSUP);
    peer_option(p, 12345678, "what is this", 12, NBD_REP_ERR_UNSUP);
    peer_option(p, 12345678, big, 1 << 20, NBD_REP_ERR_UNSUP);
    peer_option(p, NBD_OPT_GO, big, 1 << 20, NBD_REP_ERR_TOO_BIG);
    peer_option(p, NBD_OPT_STRUCTURED_REPLY, "x", 1, NBD_REP_ERR_INVALID);
    peer_option(p, NBD_OPT_STRUCTURED_REPLY, NULL, 0, NBD_REP_ACK);
    peer_option(p, NBD_OPT_STRUCTURED_REPLY, NULL, 0, NBD_REP_ERR_INVALID);
    peer_option(p, NBD_OPT_EXTENDED_HEADERS, "x", 1, NBD_REP_ERR_INVALID);
    peer_option(p, NBD_OPT_EXTENDED_HEADERS, NULL, 0, NBD_REP_ACK);
    peer_option(p, NBD_OPT_EXTENDED_HEADERS, NULL, 0, NBD_REP_ERR_INVALID);
    peer_option(p, NBD_OPT_ABORT, NULL, 0, NBD_REP_ACK);
    peer_expect_closed(p);
}

/* Each would read past the end of the option, or leaves some of it over. */
static void test_malformed_info(struct fixture *f, gconstpointer unused)
{
    static const struct {
        const char *data;
        uint32_t length;
    } bad[] = {
        { "", 0 }, { "\0\0\0", 3 }, { "\0\0\0\4disk", 8 },
        { "\0\0\0\5disk\0\0", 10 }, { "\377\377\377\377disk\0\0", 10 },
        { "\0\0\0\4disk\0\1", 10 }, { "\0\0\0\4disk\0\1\0", 11 },
        { "\0\0\0\4disk\0\0\0\1", 12 }, { "\0\0\0\4di\0k\0\0", 10 },
        { "\0\0\0\4disk\377\377\0\1", 12 }, { "\x80\0\0\4disk\0\0", 10 },
    };

    peer_hello(&f->peer, 3);
    for (size_t i = 0; i < G_N_ELEMENTS(bad); i++) {
        peer_option(&f->peer, NBD_OPT_GO, bad[i].data, bad[i].length,
                    NBD_REP_ERR_INVALID);
        peer_option(&f->peer, NBD_OPT_INFO, bad[i].data, bad[i].length,
                    NBD_REP_ERR_INVALID);
    }
    peer_go(&f->peer, NULL, "disk", true);
}

static void test_bad_frames(struct fixture *f, gconstpointer unused)
{
    static const uint8_t http[] = "GET / HTTP/1.1\r\nHost: here\r\n\r\n";
    struct peer p;

    peer_hello(&f->peer, 3);
    peer_send(&f->peer, http, sizeof(http));
    peer_expect_closed(&f->peer);

    peer_connect(&p, f->server.path);
    peer_hello(&p, 0xff);           /* flags that nobody defined */
    peer_expect_closed(&p);

    peer_connect(&p, f->server.path);
    peer_hello(&p, 3);
    peer_send_option(&p, NBD_OPT_LIST, NULL, UINT32_MAX);
    peer_expect_closed(&p);

    peer_connect(&p, f->server.path);
    peer_hello(&p, 0);              /* not fixed: may not haggle */
    peer_send_option(&p, NBD_OPT_LIST, NULL, 0);
    peer_expect_closed(&p);

    peer_connect(&p, f->server.path);
    peer_hello(&p, 3);
    peer_send_option(&p, NBD_OPT_GO, NULL, 100);
    peer_close(&p);                 /* in the middle of an option */
}

/* ---- contexts ----------------------------------------------------------- */

static void context_option(struct peer *p, uint32_t option, const char *export,
                           const char *const *queries)
{
    g_autoptr(GByteArray) g = g_byte_array_new();
    uint32_t n = 0;

    while (queries[n]) {
        n++;
    }
    peer_put_string(g, export);
    peer_put32(g, n);
    for (uint32_t i = 0; i < n; i++) {
        peer_put_string(g, queries[i]);
    }
    peer_send_option(p, option, g->data, g->len);
}

/* EXPECTED: the names of the answer in their order. */
static void check_contexts(struct peer *p, uint32_t option,
                           const char *const *queries,
                           const char *const *expected)
{
    context_option(p, option, "full", queries);
    for (; *expected; expected++) {
        g_autofree char *payload = NULL;

        g_assert_cmphex(peer_reply(p, option, &payload, NULL), ==,
                        NBD_REP_META_CONTEXT);
        g_assert_cmpstr(payload + 4, ==, *expected);
    }
    g_assert_cmphex(peer_reply(p, option, NULL, NULL), ==, NBD_REP_ACK);
}

#define LIST(...) ((const char *const[]){ __VA_ARGS__ __VA_OPT__(,) NULL })

static void add_full_export(struct fixture *f)
{
    struct nbd_export_options options = {
        .id = "full", .name = "full", .server = f->server.server,
        .node = &f->disk->node, .writable = true, .allocation_depth = true,
    };
    struct nbd_export *e;

    CONTROL_GUARD();
    e = nbd_export_new(&options, NULL);
    for (int i = 0; i < 2; i++) {
        struct dirty_bitmap *bitmap =
            dirty_bitmap_new(f->disk->node.bitmaps, i ? "b1" : "b0", 4096,
                             65536, NULL);

        g_assert_true(nbd_export_add_bitmap(e, &f->disk->node, bitmap, NULL));
        g_assert_true(dirty_bitmap_busy(bitmap));
        g_assert_false(nbd_export_add_bitmap(e, &f->disk->node, bitmap, NULL));
    }
    nbd_export_publish(e);
}

static void test_contexts(struct fixture *f, gconstpointer unused)
{
    struct peer *p = &f->peer;

    add_full_export(f);
    peer_hello(p, 3);
    check_contexts(p, NBD_OPT_LIST_META_CONTEXT, LIST(),
                   LIST("base:allocation", "qemu:allocation-depth",
                        "qemu:dirty-bitmap:b0", "qemu:dirty-bitmap:b1"));
    check_contexts(p, NBD_OPT_LIST_META_CONTEXT, LIST("base:", "nope:x"),
                   LIST("base:allocation"));
    check_contexts(p, NBD_OPT_LIST_META_CONTEXT, LIST("qemu:dirty-bitmap:"),
                   LIST("qemu:dirty-bitmap:b0", "qemu:dirty-bitmap:b1"));
    check_contexts(p, NBD_OPT_LIST_META_CONTEXT,
                   LIST("qemu:", "base:allocation", "base:allocation"),
                   LIST("base:allocation", "qemu:allocation-depth",
                        "qemu:dirty-bitmap:b0", "qemu:dirty-bitmap:b1"));

    context_option(p, NBD_OPT_SET_META_CONTEXT, "full",
                   LIST("base:allocation"));
    g_assert_cmphex(peer_reply(p, NBD_OPT_SET_META_CONTEXT, NULL, NULL), ==,
                    NBD_REP_ERR_INVALID);
    peer_option(p, NBD_OPT_STRUCTURED_REPLY, NULL, 0, NBD_REP_ACK);
    p->structured = true;
    check_contexts(p, NBD_OPT_SET_META_CONTEXT, LIST("base:"), LIST());
    check_contexts(p, NBD_OPT_SET_META_CONTEXT,
                   LIST("qemu:dirty-bitmap:b1", "base:allocation", "zzz"),
                   LIST("base:allocation", "qemu:dirty-bitmap:b1"));
    context_option(p, NBD_OPT_SET_META_CONTEXT, "nope", LIST());
    g_assert_cmphex(peer_reply(p, NBD_OPT_SET_META_CONTEXT, NULL, NULL), ==,
                    NBD_REP_ERR_UNKNOWN);
}

/* Contexts of one export are worth nothing on another. */
static void test_contexts_other_export(struct fixture *f, gconstpointer unused)
{
    struct peer_request status = {
        .cmd = NBD_CMD_BLOCK_STATUS, .length = 4096,
    };
    struct peer *p = &f->peer;

    add_full_export(f);
    peer_hello(p, 3);
    peer_option(p, NBD_OPT_STRUCTURED_REPLY, NULL, 0, NBD_REP_ACK);
    p->structured = true;
    check_contexts(p, NBD_OPT_SET_META_CONTEXT, LIST("base:allocation"),
                   LIST("base:allocation"));
    peer_go(p, NULL, "disk", true);
    g_assert_cmpint(peer_call(p, &status, NULL), ==, NBD_EINVAL);
}

static void test_contexts_malformed(struct fixture *f, gconstpointer unused)
{
    static const struct {
        const char *data;
        uint32_t length;
    } bad[] = {
        { "", 0 }, { "\0\0\0\4disk", 8 }, { "\0\0\0\4disk\0\0\0\1", 12 },
        { "\0\0\0\4disk\0\0\0\1\0\0\0\5base:", 20 },
        { "\0\0\0\4disk\0\0\0\0x", 13 },
        { "\0\0\0\4disk\377\377\377\377\0\0\0\0", 16 },
        { "\0\0\0\4disk\0\0\0\1\0\0\0\6base:", 21 },
    };

    peer_hello(&f->peer, 3);
    peer_option(&f->peer, NBD_OPT_STRUCTURED_REPLY, NULL, 0, NBD_REP_ACK);
    for (size_t i = 0; i < G_N_ELEMENTS(bad); i++) {
        peer_option(&f->peer, NBD_OPT_LIST_META_CONTEXT, bad[i].data,
                    bad[i].length, NBD_REP_ERR_INVALID);
        peer_option(&f->peer, NBD_OPT_SET_META_CONTEXT, bad[i].data,
                    bad[i].length, NBD_REP_ERR_INVALID);
    }
    peer_go(&f->peer, NULL, "disk", false);
}

/* ---- time --------------------------------------------------------------- */

/* Who says nothing, or too little, is gone after the limit. */
static void test_time_limit(void)
{
    struct fake_server s;
    struct peer silent, slow;
    int64_t begin_ns = clock_ns();

    fake_server_start(&s, 0, 1);
    peer_connect(&silent, s.path);
    peer_connect(&slow, s.path);
    peer_hello(&slow, 3);
    for (int i = 0; i < 4; i++) {
        uint8_t byte = "IHAVEOPT"[i];

        peer_send(&slow, &byte, 1);
        g_usleep(100000);
    }
    peer_expect_closed(&silent);
    peer_expect_closed(&slow);
    g_assert_cmpint(clock_ns() - begin_ns, <, INT64_C(5000000000));
    fake_server_stop(&s);
}

/* Nor do they keep the server from stopping. */
static void test_silent_at_stop(void)
{
    struct fake_server s;
    struct peer p[3];
    int64_t begin_ns;

    fake_server_start(&s, 0, 0);
    for (int i = 0; i < 3; i++) {
        peer_connect(&p[i], s.path);
    }
    peer_hello(&p[1], 3);
    begin_ns = clock_ns();
    fake_server_stop(&s);
    g_assert_cmpint(clock_ns() - begin_ns, <, INT64_C(2000000000));
    for (int i = 0; i < 3; i++) {
        peer_expect_closed(&p[i]);
    }
}

#define ADD(name, fn) \
    g_test_add("/nbd/handshake/" name, struct fixture, NULL, setup, fn, \
               teardown)

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    ADD("go", test_go);
    ADD("go-read-only", test_go_read_only);
    ADD("unknown", test_unknown);
    ADD("info", test_info);
    ADD("export-name", test_export_name);
    ADD("export-name-unknown", test_export_name_unknown);
    ADD("list", test_list);
    ADD("refused", test_refused);
    ADD("malformed-info", test_malformed_info);
    ADD("bad-frames", test_bad_frames);
    ADD("contexts", test_contexts);
    ADD("contexts-other-export", test_contexts_other_export);
    ADD("contexts-malformed", test_contexts_malformed);
    g_test_add_func("/nbd/handshake/time-limit", test_time_limit);
    g_test_add_func("/nbd/handshake/silent-at-stop", test_silent_at_stop);
    return g_test_run();
}
