/* SPDX-License-Identifier: MIT */
/* Commands of the NBD server, the life of exports, listening sockets. */
#include <errno.h>
#include <glib/gstdio.h>
#include <netinet/in.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>
#include "base/control.h"
#include "bitmaps/dirty-bitmap.h"
#include "nbd-fake.h"
#include "nbd/nbd.h"
#include "qapi/qapi-commands.h"
#include "qapi/qapi-events.h"
#include "qapi/qapi-visit.h"

static GString *events;         /* ids of deleted exports; control lock */

static void on_event(QAPIEvent event, json_t *object)
{
    const json_t *data = json_object_get(object, "data");

    control_assert();
    g_assert_cmpint(event, ==, QAPI_EVENT_BLOCK_EXPORT_DELETED);
    g_string_append_printf(events, "%s ",
                           json_string_value(json_object_get(data, "id")));
    json_decref(object);
}

struct fixture {
    struct fake_node *disk, *base;
    char *dir, *path;
};

static void setup(struct fixture *f, gconstpointer unused)
{
    f->disk = fake_node_new("disk", 65536);
    f->base = fake_node_new("base", 65536);
    f->disk->backing = f->base;
    f->dir = g_dir_make_tmp("nbd-test-XXXXXX", NULL);
    f->path = g_build_filename(f->dir, "sock", NULL);
    events = g_string_new("");
    qapi_event_set_emit(on_event);
}

static void teardown(struct fixture *f, gconstpointer unused)
{
    control_lock();
    nbd_stop_all();
    control_unlock();
    fake_wait_no_roots();
    g_assert_cmpint(g_rmdir(f->dir), ==, 0);
    fake_node_free(f->disk);
    fake_node_free(f->base);
    g_free(f->path);
    g_free(f->dir);
    g_string_free(events, true);
}

/* Run a command given as JSON, as a monitor would; its error text or "". */
static char *run(const char *name, const char *fmt, ...)
    G_GNUC_PRINTF(2, 3);

static bool command(const char *name, json_t *args, struct error **errp)
{
#define TYPED(cmd, Type, call) \
    if (strcmp(name, cmd) == 0) { \
        g_autoptr(Type) typed = Type##_from_json(args, errp); \
        return typed && call(typed, errp); \
    }
    TYPED("block-export-add", BlockExportOptions, qmp_block_export_add)
    TYPED("block-export-del", BlockExportDelArgs, qmp_block_export_del)
    TYPED("nbd-server-add", NbdServerAddOptions, qmp_nbd_server_add)
    TYPED("nbd-server-remove", NbdServerRemoveArgs, qmp_nbd_server_remove)
    TYPED("nbd-server-start", NbdServerStartArgs, qmp_nbd_server_start)
    TYPED("nbd-server-stop", NbdServerStopArgs, qmp_nbd_server_stop)
    g_assert_not_reached();
}

static char *run(const char *name, const char *fmt, ...)
{
    g_autofree char *text = NULL;
    AUTO_ERROR(err);
    json_t *args;
    va_list ap;
    bool ok;

    va_start(ap, fmt);
    text = g_strdup_vprintf(fmt, ap);
    va_end(ap);
    for (char *c = text; *c; c++) {
        *c = *c == '\'' ? '"' : *c;
    }
    args = json_loads(text, 0, NULL);
    g_assert_nonnull(args);
    control_lock();
    ok = command(name, args, &err);
    control_unlock();
    json_decref(args);
    g_assert_true(ok == !err);
    return g_strdup(err ? error_text(err) : "");
}

#define EXPECT(expected, name, ...) do { \
    g_autofree char *text_ = run(name, __VA_ARGS__); \
    g_assert_cmpstr(text_, ==, expected); \
} while (0)
#define OK(name, ...) EXPECT("", name, __VA_ARGS__)

static void start(struct fixture *f, const char *more)
{
    OK("nbd-server-start",
       "{'addr': {'type': 'unix', 'data': {'path': '%s'}}%s}", f->path, more);
}

static void expect_events(const char *expected)
{
    CONTROL_GUARD();
    g_assert_cmpstr(events->str, ==, expected);
    g_string_truncate(events, 0);
}

/* Wait until that many exports are left. */
static void wait_exports(int n)
{
    CONTROL_GUARD();
    for (;;) {
        g_autoptr(BlockExportInfoList) list = qmp_query_block_exports(NULL);

        if (list->n == (size_t)n) {
            return;
        }
        g_assert_true(control_wait_until(clock_ns() + INT64_C(10000000000)));
    }
}

/* ---- commands ----------------------------------------------------------- */

static void test_not_running(struct fixture *f, gconstpointer unused)
{
    EXPECT("NBD server not running", "nbd-server-stop", "{}");
    EXPECT("NBD server not running", "block-export-add",
           "{'type': 'nbd', 'id': 'e', 'node-name': 'disk'}");
    EXPECT("NBD server not running", "nbd-server-add", "{'device': 'disk'}");
    EXPECT("Cannot find device='' nor node-name='n'", "block-export-add",
           "{'type': 'nbd', 'id': 'e', 'node-name': 'n'}");
    EXPECT("Cannot find device='n' nor node-name='n'", "nbd-server-add",
           "{'device': 'n'}");
}

static void test_start_errors(struct fixture *f, gconstpointer unused)
{
    g_autofree char *x200 = g_strnfill(200, 'x');
    g_autofree char *long_text =
        g_strdup_printf("UNIX socket path '%s' is too long", x200);
    g_autofree char *text = NULL;
    struct stat st;

#define UNIX "{'addr': {'type': 'unix', 'data': {'path': '%s'}}}"
#define INET "{'addr': {'type': 'inet', 'data': {'host': '%s', 'port': '%s'}}}"
    EXPECT(long_text, "nbd-server-start", UNIX, x200);
    EXPECT("Failed to bind socket to /nonexistent/a: No such file or "
           "directory", "nbd-server-start", UNIX, "/nonexistent/a");
    EXPECT("No TLS credentials with id 't0'", "nbd-server-start",
           "{'addr': {'type': 'unix', 'data': {'path': 'a'}}, "
           "'tls-creds': 't0'}");
    EXPECT("address resolution failed for 127.0.0.1:99999: Servname not "
           "supported for ai_socktype", "nbd-server-start", INET, "127.0.0.1",
           "99999");
    EXPECT("address resolution failed for 127.0.0.1:-1: Servname not "
           "supported for ai_socktype", "nbd-server-start", INET, "127.0.0.1",
           "-1");
    EXPECT("Cannot disable IPv4 and IPv6 at same time", "nbd-server-start",
           "{'addr': {'type': 'inet', 'data': {'host': '', 'port': '0', "
           "'ipv4': false, 'ipv6': false}}}");
    EXPECT("File descriptor named 'foo' not found", "nbd-server-start",
           "{'addr': {'type': 'fd', 'data': {'str': 'foo'}}}");
    EXPECT("File descriptor '987' is not a listening socket",
           "nbd-server-start",
           "{'addr': {'type': 'fd', 'data': {'str': '987'}}}");

    /* A file in the way stays; what a dead server left does not. */
    g_assert_true(g_file_set_contents(f->path, "precious", -1, NULL));
    text = run("nbd-server-start", UNIX, f->path);
    g_assert_true(g_str_has_suffix(text, ": Address already in use"));
    g_assert_cmpint(stat(f->path, &st), ==, 0);
    g_assert_cmpint(st.st_size, ==, 8);
    unlink(f->path);
    start(f, "");
    EXPECT("NBD server already running", "nbd-server-start", UNIX, f->path);
    OK("nbd-server-stop", "{}");
    g_assert_false(g_file_test(f->path, G_FILE_TEST_EXISTS));
}

static void test_add_errors(struct fixture *f, gconstpointer unused)
{
    start(f, "");
    OK("block-export-add", "{'type': 'nbd', 'id': 'e', 'node-name': 'disk'}");
    EXPECT("Block export id 'e' is already in use", "block-export-add",
           "{'type': 'nbd', 'id': 'e', 'node-name': 'disk', 'name': 'x'}");
    EXPECT("NBD server already has export named 'disk'", "block-export-add",
           "{'type': 'nbd', 'id': 'e2', 'node-name': 'disk'}");
    EXPECT("NBD server already has export named 'disk'", "nbd-server-add",
           "{'device': 'disk'}");
    EXPECT("Invalid block export id", "block-export-add",
           "{'type': 'nbd', 'id': 'e@', 'node-name': 'disk', 'name': 'x'}");
    EXPECT("Invalid block export id", "block-export-add",
           "{'type': 'nbd', 'id': '', 'node-name': 'disk', 'name': 'x'}");
    EXPECT("iothread \"t\" not found", "block-export-add",
           "{'type': 'nbd', 'id': 'y', 'node-name': 'disk', 'name': 'x', "
           "'iothread': 't'}");
    f->base->node.read_only = true;
    EXPECT("Cannot export read-only node as writable", "block-export-add",
           "{'type': 'nbd', 'id': 'b', 'node-name': 'base', "
           "'writable': true}");
    OK("nbd-server-add", "{'device': 'base', 'writable': true}");
    EXPECT("Export 'nope' is not found", "block-export-del", "{'id': 'nope'}");
    EXPECT("Export 'nope' is not found", "nbd-server-remove",
           "{'name': 'nope'}");
    expect_events("");
    OK("nbd-server-stop", "{}");
    expect_events("e base ");
}

static void test_bitmaps(struct fixture *f, gconstpointer unused)
{
    struct dirty_bitmap *bitmap;

    start(f, "");
    control_lock();
    bitmap = dirty_bitmap_new(f->base->node.bitmaps, "b", 4096, 65536, NULL);
    control_unlock();
    EXPECT("Bitmap 'nope' is not found", "block-export-add",
           "{'type': 'nbd', 'id': 'e', 'node-name': 'disk', "
           "'bitmaps': ['nope']}");
    EXPECT("Dirty bitmap 'nope' not found", "block-export-add",
           "{'type': 'nbd', 'id': 'e', 'node-name': 'disk', "
           "'bitmaps': [{'node': 'base', 'name': 'nope'}]}");
    EXPECT("Enabled bitmap 'b' incompatible with readonly export",
           "block-export-add",
           "{'type': 'nbd', 'id': 'e', 'node-name': 'disk', "
           "'bitmaps': ['b']}");
    OK("block-export-add",
       "{'type': 'nbd', 'id': 'e', 'node-name': 'disk', 'writable': true, "
       "'bitmaps': [{'node': 'base', 'name': 'b'}]}");
    g_assert_true(dirty_bitmap_busy(bitmap));
    EXPECT("Bitmap 'b' is currently in use by another operation and cannot "
           "be used", "nbd-server-add",
           "{'device': 'disk', 'name': 'x', 'writable': true, "
           "'bitmap': 'b'}");
    OK("block-export-del", "{'id': 'e'}");
    expect_events("e ");
    g_assert_false(dirty_bitmap_busy(bitmap));
    OK("nbd-server-add", "{'device': 'disk', 'writable': true, "
       "'bitmap': 'b'}");
    OK("nbd-server-stop", "{}");
    g_assert_false(dirty_bitmap_busy(bitmap));
}

static void test_query(struct fixture *f, gconstpointer unused)
{
    start(f, "");
    OK("block-export-add", "{'type': 'nbd', 'id': 'a', 'node-name': 'disk'}");
    OK("nbd-server-add", "{'device': 'base'}");
    CONTROL_GUARD();
    g_autoptr(BlockExportInfoList) list = qmp_query_block_exports(NULL);
    g_assert_cmpint(list->n, ==, 2);
    g_assert_cmpstr(list->v[0]->id, ==, "base");
    g_assert_cmpstr(list->v[1]->id, ==, "a");
    g_assert_cmpstr(list->v[1]->node_name, ==, "disk");
    g_assert_false(list->v[1]->shutting_down);
}

/* ---- clients and removal ------------------------------------------------ */

static void check_read(struct peer *p)
{
    uint8_t buf[512];

    g_assert_cmpint(peer_call(p, &(struct peer_request){
        .cmd = NBD_CMD_READ, .length = sizeof(buf) }, buf), ==, 0);
    g_assert_cmpint(buf[5], ==, fake_pattern(5));
}

static void test_safe_and_hard(struct fixture *f, gconstpointer unused)
{
    struct peer a, b, other;

    start(f, "");
    OK("block-export-add", "{'type': 'nbd', 'id': 'e', 'node-name': 'disk'}");
    OK("block-export-add", "{'type': 'nbd', 'id': 'o', 'node-name': 'base'}");
    peer_go(&a, f->path, "disk", true);
    peer_go(&b, f->path, "disk", false);
    peer_go(&other, f->path, "base", true);
    EXPECT("export 'e' still in use", "block-export-del", "{'id': 'e'}");
    EXPECT("export 'e' still in use", "nbd-server-remove", "{'name': 'e'}");
    expect_events("");
    check_read(&a);
    check_read(&b);
    OK("nbd-server-remove", "{'name': 'e', 'mode': 'hard'}");
    expect_events("e ");
    peer_expect_closed(&a);
    peer_expect_closed(&b);
    check_read(&other);
    OK("block-export-del", "{'id': 'o', 'mode': 'hard'}");
    peer_expect_closed(&other);
    wait_exports(0);
    expect_events("o ");
    /* The name and the id can be used again. */
    OK("block-export-add", "{'type': 'nbd', 'id': 'e', 'node-name': 'disk'}");
    peer_go(&a, f->path, "disk", true);
    check_read(&a);
    peer_close(&a);
}

/* A client that has left does not hinder a safe removal for long. */
static void test_safe_after_leaving(struct fixture *f, gconstpointer unused)
{
    struct peer a;
    int tries = 0;

    start(f, "");
    OK("nbd-server-add", "{'device': 'disk'}");
    peer_go(&a, f->path, "disk", true);
    peer_close(&a);
    for (;;) {
        g_autofree char *text = run("nbd-server-remove", "{'name': 'disk'}");

        if (!*text) {
            break;
        }
        g_assert_cmpstr(text, ==, "export 'disk' still in use");
        g_assert_cmpint(tries++, <, 1000);
        g_usleep(10000);
    }
    expect_events("disk ");
}

/* Requests that hang hold up what waits for them, and nothing else. */
static void test_hard_while_busy(struct fixture *f, gconstpointer unused)
{
    struct peer a;

    start(f, "");
    OK("nbd-server-add", "{'device': 'disk', 'writable': true}");
    peer_go(&a, f->path, "disk", true);
    fake_drain(f->disk, true);
    peer_request(&a, &(struct peer_request){ .cmd = NBD_CMD_FLUSH });
    peer_request(&a, &(struct peer_request){ .cmd = NBD_CMD_READ,
                                             .length = 512 });
    g_usleep(20000);
    OK("block-export-del", "{'id': 'disk', 'mode': 'hard'}");
    EXPECT("Export 'disk' is already shutting down", "block-export-del",
           "{'id': 'disk', 'mode': 'hard'}");
    control_lock();
    g_autoptr(BlockExportInfoList) list = qmp_query_block_exports(NULL);
    control_unlock();
    g_assert_cmpint(list->n, ==, 1);
    g_assert_true(list->v[0]->shutting_down);
    EXPECT("Block export id 'disk' is already in use", "nbd-server-add",
           "{'device': 'disk'}");
    expect_events("");
    fake_drain(f->disk, false);
    wait_exports(0);
    expect_events("disk ");
    peer_close(&a);
}

static void test_stop_with_clients(struct fixture *f, gconstpointer unused)
{
    struct peer p[4];

    start(f, "");
    OK("nbd-server-add", "{'device': 'disk', 'writable': true}");
    OK("nbd-server-add", "{'device': 'base', 'writable': true}");
    f->disk->delay_us = 30000;
    for (int i = 0; i < 4; i++) {
        peer_go(&p[i], f->path, i & 1 ? "disk" : "base", true);
        peer_request(&p[i], &(struct peer_request){ .cmd = NBD_CMD_FLUSH });
    }
    OK("nbd-server-stop", "{}");
    CONTROL_GUARD();
    g_assert_cmpint(events->len, ==, strlen("base disk "));
    for (int i = 0; i < 4; i++) {
        peer_expect_closed(&p[i]);
    }
}

/* Clients that do not read what they asked for: sending waits for them. */
static void test_stop_while_sending(struct fixture *f, gconstpointer unused)
{
    struct peer_request r = { .cmd = NBD_CMD_READ, .length = 65536 };
    int64_t begin_ns;
    struct peer p[2];

    start(f, "");
    OK("nbd-server-add", "{'device': 'disk'}");
    for (int i = 0; i < 2; i++) {
        __atomic_store_n(&f->disk->would_block, i, __ATOMIC_RELAXED);
        peer_go(&p[i], f->path, "disk", true);
        for (int k = 0; k < 100; k++) {
            peer_request(&p[i], &r);
        }
        g_usleep(100000);
    }
    begin_ns = clock_ns();
    OK("nbd-server-stop", "{}");
    g_assert_cmpint(clock_ns() - begin_ns, <, INT64_C(2000000000));
    for (int i = 0; i < 2; i++) {
        peer_expect_closed(&p[i]);
    }
}

static bool has_greeting(struct peer *p, int timeout_ms)
{
    struct pollfd poll_fd = { .fd = p->fd, .events = POLLIN };

    return poll(&poll_fd, 1, timeout_ms) == 1;
}

static void test_max_connections(struct fixture *f, gconstpointer unused)
{
    struct peer a, b, c;

    start(f, ", 'max-connections': 2");
    OK("nbd-server-add", "{'device': 'disk'}");
    peer_go(&a, f->path, "disk", true);
    g_assert_true(a.flags & NBD_FLAG_CAN_MULTI_CONN);
    peer_connect(&b, f->path);
    g_assert_true(has_greeting(&b, 5000));
    peer_connect(&c, f->path);
    g_assert_false(has_greeting(&c, 200));
    check_read(&a);
    peer_close(&b);
    g_assert_true(has_greeting(&c, 5000));
    peer_hello(&c, 3);
    peer_go(&c, NULL, "disk", true);
    check_read(&c);
    peer_close(&a);
    peer_close(&c);
    OK("nbd-server-stop", "{}");

    start(f, ", 'max-connections': 1");
    OK("nbd-server-add", "{'device': 'disk'}");
    peer_go(&a, f->path, "disk", true);
    g_assert_false(a.flags & NBD_FLAG_CAN_MULTI_CONN);
    peer_close(&a);
}

/* ---- other sockets ------------------------------------------------------ */

static void test_inet(struct fixture *f, gconstpointer unused)
{
    struct nbd_inet_address address = {
        .host = "127.0.0.1", .port = "0", .has_ipv4 = true, .ipv4 = true,
    };
    struct nbd_listener *l = nbd_listen_inet(&address, NULL), *next;
    struct sockaddr_in bound;
    socklen_t length = sizeof(bound);
    g_autofree char *port = NULL;
    AUTO_ERROR(err);

    g_assert_nonnull(l);
    g_assert_cmpint(l->n_fds, ==, 1);
    getsockname(l->fds[0], (struct sockaddr *)&bound, &length);
    port = g_strdup_printf("%d", ntohs(bound.sin_port));
    address.port = port;
    g_assert_null(nbd_listen_inet(&address, &err));
    g_assert_cmpstr(error_text(err), ==,
                    "Failed to find an available port: Address already in "
                    "use");
    address.to = MIN(ntohs(bound.sin_port) + 20, 65535);
    next = nbd_listen_inet(&address, NULL);
    g_assert_nonnull(next);
    nbd_listener_close(&next);
    nbd_listener_close(&l);
    g_assert_null(l);
}

static void test_fd(struct fixture *f, gconstpointer unused)
{
    struct sockaddr_un address = { .sun_family = AF_UNIX };
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    struct peer p;

    strcpy(address.sun_path, f->path);
    g_assert_cmpint(bind(fd, (struct sockaddr *)&address, sizeof(address)),
                    ==, 0);
    g_assert_cmpint(listen(fd, 1), ==, 0);
    OK("nbd-server-start",
       "{'addr': {'type': 'fd', 'data': {'str': '%d'}}}", fd);
    OK("nbd-server-add", "{'device': 'disk'}");
    peer_go(&p, f->path, "disk", true);
    check_read(&p);
    peer_close(&p);
    OK("nbd-server-stop", "{}");
    unlink(f->path);            /* it was not the server's */
}

/* Clients come and go while exports do. */
struct churn {
    struct fixture *f;
    int n;                      /* rounds */
};

static void *churn_client(void *opaque)
{
    struct churn *churn = opaque;

    for (int i = 0; i < churn->n; i++) {
        struct peer p;

        peer_connect(&p, churn->f->path);
        peer_hello(&p, 3);
        peer_send_option(&p, NBD_OPT_EXPORT_NAME, "disk", 4);
        if (i % 3) {
            char buf[64];

            recv(p.fd, buf, sizeof(buf), 0);
        }
        peer_close(&p);
    }
    return NULL;
}

static void test_churn(struct fixture *f, gconstpointer unused)
{
    struct churn churn = { f, 150 };
    pthread_t threads[2];

    start(f, "");
    for (int i = 0; i < 2; i++) {
        pthread_create(&threads[i], NULL, churn_client, &churn);
    }
    for (int i = 0; i < 100; i++) {
        OK("nbd-server-add", "{'device': 'disk'}");
        g_usleep(1000);
        OK("nbd-server-remove", "{'name': 'disk', 'mode': 'hard'}");
    }
    for (int i = 0; i < 2; i++) {
        pthread_join(threads[i], NULL);
    }
}

#define ADD(name, fn) \
    g_test_add("/nbd/server/" name, struct fixture, NULL, setup, fn, teardown)

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    ADD("not-running", test_not_running);
    ADD("start-errors", test_start_errors);
    ADD("add-errors", test_add_errors);
    ADD("bitmaps", test_bitmaps);
    ADD("query", test_query);
    ADD("safe-and-hard", test_safe_and_hard);
    ADD("safe-after-leaving", test_safe_after_leaving);
    ADD("hard-while-busy", test_hard_while_busy);
    ADD("stop-with-clients", test_stop_with_clients);
    ADD("stop-while-sending", test_stop_while_sending);
    ADD("max-connections", test_max_connections);
    ADD("inet", test_inet);
    ADD("fd", test_fd);
    ADD("churn", test_churn);
    return g_test_run();
}
