/* SPDX-License-Identifier: MIT */
/* The NBD client: calls, many at once, lost connections, giving up, names. */
#include <errno.h>
#include <glib/gstdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>
#include "base/control.h"
#include "base/pool.h"
#include "block/cancel.h"
#include "block/nbd/client.h"
#include "block/nbd/filename.h"
#include "nbd-fake.h"

enum { DISK_BYTES = 4 << 20 };
#define SECOND_NS INT64_C(1000000000)

struct fixture {
    struct fake_server server;
    struct fake_node *disk;
    SocketAddress address;
    char *dir, *path;           /* the client's way to the server: a link */
};

static void server_start(struct fixture *f, int max_connections)
{
    fake_server_start(&f->server, max_connections, 10);
    fake_export(&f->server, f->disk, "disk", true);
    g_assert_cmpint(symlink(f->server.path, f->path), ==, 0);
}

static void server_stop(struct fixture *f)
{
    g_unlink(f->path);
    fake_server_stop(&f->server);
}

static void setup(struct fixture *f, gconstpointer max_connections)
{
    f->disk = fake_node_new("disk", DISK_BYTES);
    f->dir = g_dir_make_tmp("nbd-client-XXXXXX", NULL);
    f->path = g_build_filename(f->dir, "sock", NULL);
    f->address.type = SOCKET_ADDRESS_TYPE_UNIX;
    f->address.u.q_unix.path = f->path;
    server_start(f, GPOINTER_TO_INT(max_connections));
}

static void teardown(struct fixture *f, gconstpointer unused)
{
    if (f->server.server) {
        server_stop(f);
    }
    g_assert_cmpint(g_rmdir(f->dir), ==, 0);
    g_free(f->path);
    g_free(f->dir);
    fake_node_free(f->disk);
}

static struct nbd_client *connect_to(struct fixture *f, uint32_t delay)
{
    AUTO_ERROR(err);
    int ret = 0;
    struct nbd_client_options options = {
        .server = &f->address, .export = "disk", .context = "base:allocation",
        .reconnect_delay = delay,
    };
    struct nbd_client *c = nbd_client_new(&options, &ret, &err);

    if (!c) {
        g_error("%s (%d)", error_text(err), ret);
    }
    return c;
}

static int call(struct nbd_client *c, enum nbd_call_type type, int64_t offset,
                int64_t bytes, void *buf)
{
    struct nbd_call one = {
        .type = type, .offset = offset, .bytes = bytes, .buf = buf,
    };

    return nbd_client_call(c, &one, 0);
}

/* ---- calls -------------------------------------------------------------- */

static void test_calls(struct fixture *f, gconstpointer unused)
{
    struct nbd_client *c = connect_to(f, 0);
    const struct nbd_info *info = nbd_client_info(c);
    g_autofree uint8_t *buf = g_malloc(DISK_BYTES);
    struct nbd_call status = {
        .type = NBD_CALL_STATUS, .offset = 65536, .bytes = DISK_BYTES - 65536,
    };

    g_assert_cmpint(info->length, ==, DISK_BYTES);
    g_assert_cmpint(info->min_bytes, ==, 1);
    g_assert_cmpint(info->max_bytes, ==, 32 << 20);
    g_assert_true(info->can_flush && info->can_fua && info->can_trim &&
                  info->can_zero && info->can_fast_zero && info->can_status &&
                  !info->read_only);
    g_assert_cmpint(call(c, NBD_CALL_READ, 0, DISK_BYTES, buf), ==, 0);
    for (int i = 0; i < DISK_BYTES; i += 511) {
        g_assert_cmpint(buf[i], ==, fake_pattern(i));
    }
    memset(buf, 0x5a, 100000);
    g_assert_cmpint(call(c, NBD_CALL_WRITE, 7, 100000, buf), ==, 0);
    g_assert_cmpint(f->disk->data[6], ==, fake_pattern(6));
    g_assert_cmpint(f->disk->data[100006], ==, 0x5a);
    g_assert_cmpint(call(c, NBD_CALL_ZERO, 7, 10, NULL), ==, 0);
    g_assert_cmpint(f->disk->data[16], ==, 0);
    g_assert_cmpint(f->disk->n_unmap, ==, 1);
    g_assert_cmpint(call(c, NBD_CALL_FLUSH, 0, 0, NULL), ==, 0);
    g_assert_cmpint(f->disk->n_flushes, ==, 1);
    g_assert_cmpint(call(c, NBD_CALL_TRIM, 0, 512, NULL), ==, 0);
    g_assert_cmpint(f->disk->n_trims, ==, 1);
    f->disk->hole_offset = 1 << 20;
    f->disk->hole_bytes = 1 << 20;
    g_assert_cmpint(nbd_client_call(c, &status, 0), ==, 0);
    g_assert_cmpint(status.extent_bytes, ==, (1 << 20) - 65536);
    g_assert_cmpint(status.extent_flags, ==, 0);
    nbd_client_close(&c);
}

static void test_errors(struct fixture *f, gconstpointer unused)
{
    struct nbd_client *c = connect_to(f, 0);
    uint8_t buf[512] = { 0 };

    f->disk->would_block = true;
    f->disk->fail = -ENOSPC;
    g_assert_cmpint(call(c, NBD_CALL_WRITE, 0, 512, buf), ==, -ENOSPC);
    f->disk->fail = -EIO;
    g_assert_cmpint(call(c, NBD_CALL_READ, 0, 512, buf), ==, -EIO);
    g_assert_cmpint(call(c, NBD_CALL_FLUSH, 0, 0, NULL), ==, -EIO);
    f->disk->fail = 0;
    g_assert_cmpint(call(c, NBD_CALL_READ, 0, 512, buf), ==, 0);
    g_assert_cmpint(call(c, NBD_CALL_READ, DISK_BYTES, 512, buf), <, 0);
    g_assert_cmpint(call(c, NBD_CALL_READ, 0, 512, buf), ==, 0);
    nbd_client_close(&c);
}

static void test_cannot_connect(struct fixture *f, gconstpointer unused)
{
    AUTO_ERROR(err);
    AUTO_ERROR(err2);
    int ret = 0;
    struct nbd_client_options options = {
        .server = &f->address, .export = "nope", .context = "base:allocation",
    };

    g_assert_null(nbd_client_new(&options, &ret, &err));
    g_assert_cmpint(ret, ==, -ENOENT);
    g_assert_cmpstr(error_text(err), ==, "Requested export not available");
    server_stop(f);
    g_assert_null(nbd_client_new(&options, &ret, &err2));
    g_assert_cmpint(ret, ==, -ENOENT);
    g_assert_nonnull(strstr(error_text(err2), "Failed to connect to"));
}

/* ---- many at once ------------------------------------------------------- */

struct worker {
    pthread_t thread;
    struct nbd_client *client;
    int number;
    int n_errors;               /* ... until .client answers again */
    bool *stop;                 /* atomic; NULL: a fixed number of rounds */
};

/* Each in its own stretch of the disk. */
static void *work(void *arg)
{
    enum { BYTES = 30000 };
    struct worker *w = arg;
    g_autofree uint8_t *out = g_malloc(BYTES), *in = g_malloc(BYTES);
    int64_t offset = w->number * 65536;

    for (int i = 0; w->stop ? !__atomic_load_n(w->stop, __ATOMIC_RELAXED)
                            : i < 200; i++) {
        int bytes = 1 + (i * 7919 + w->number) % BYTES;

        memset(out, i + w->number, bytes);
        if (call(w->client, NBD_CALL_WRITE, offset, bytes, out) < 0 ||
            call(w->client, NBD_CALL_READ, offset, bytes, in) < 0) {
            w->n_errors++;
            continue;
        }
        g_assert_cmpint(memcmp(in, out, bytes), ==, 0);
    }
    return NULL;
}

static void start_workers(struct worker *w, int n, struct nbd_client *c,
                          bool *stop)
{
    for (int i = 0; i < n; i++) {
        w[i] = (struct worker){ .client = c, .number = i, .stop = stop };
        g_assert_cmpint(pthread_create(&w[i].thread, NULL, work, &w[i]), ==,
                        0);
    }
}

static int join_workers(struct worker *w, int n)
{
    int n_errors = 0;

    for (int i = 0; i < n; i++) {
        pthread_join(w[i].thread, NULL);
        n_errors += w[i].n_errors;
    }
    return n_errors;
}

static void test_parallel(struct fixture *f, gconstpointer max_connections)
{
    struct worker w[16];
    struct nbd_client *c = connect_to(f, 0);

    g_assert_cmpint(nbd_client_info(c)->can_multi_conn, ==,
                    max_connections == NULL);
    f->disk->would_block = true;
    start_workers(w, G_N_ELEMENTS(w), c, NULL);
    g_assert_cmpint(join_workers(w, G_N_ELEMENTS(w)), ==, 0);
    nbd_client_close(&c);
}

/* ---- lost --------------------------------------------------------------- */

/* The server comes and goes; nothing is lost, nobody gets other data. */
static void test_outages(struct fixture *f, gconstpointer unused)
{
    struct worker w[8];
    bool stop = false;
    struct nbd_client *c = connect_to(f, 30);

    start_workers(w, G_N_ELEMENTS(w), c, &stop);
    for (int i = 0; i < 6; i++) {
        g_usleep(30000);
        server_stop(f);
        g_usleep(i * 20000);
        server_start(f, i % 2);
    }
    /* One that may be used once is not what the first one was; never mind. */
    g_usleep(100000);
    __atomic_store_n(&stop, true, __ATOMIC_RELAXED);
    g_assert_cmpint(join_workers(w, G_N_ELEMENTS(w)), ==, 0);
    nbd_client_close(&c);
}

static void test_no_delay(struct fixture *f, gconstpointer unused)
{
    struct nbd_client *c = connect_to(f, 0);
    uint8_t buf[512];
    int64_t end_ns;

    server_stop(f);
    g_assert_cmpint(call(c, NBD_CALL_READ, 0, 512, buf), ==, -EIO);
    g_assert_cmpint(call(c, NBD_CALL_READ, 0, 512, buf), ==, -EIO);
    server_start(f, 0);
    end_ns = clock_ns() + 10 * SECOND_NS;
    while (call(c, NBD_CALL_READ, 0, 512, buf) < 0) {
        g_assert_cmpint(clock_ns(), <, end_ns);
        g_usleep(1000);
    }
    nbd_client_close(&c);
}

static void test_delay_ends(struct fixture *f, gconstpointer unused)
{
    struct nbd_client *c = connect_to(f, 1);
    uint8_t buf[512];
    int64_t begin_ns = clock_ns();

    server_stop(f);
    g_assert_cmpint(call(c, NBD_CALL_READ, 0, 512, buf), ==, -EIO);
    g_assert_cmpint(clock_ns() - begin_ns, >, SECOND_NS * 8 / 10);
    begin_ns = clock_ns();
    g_assert_cmpint(call(c, NBD_CALL_READ, 0, 512, buf), ==, -EIO);
    g_assert_cmpint(clock_ns() - begin_ns, <, SECOND_NS * 8 / 10);
    nbd_client_close(&c);
}

static void *cancel_soon(void *client)
{
    g_usleep(300000);
    nbd_client_cancel(client);
    return NULL;
}

/* A cancel ends the wait for a server that is gone. */
static void test_cancel_wait(struct fixture *f, gconstpointer unused)
{
    struct nbd_client *c = connect_to(f, 1000);
    uint8_t buf[512];
    pthread_t thread;
    int64_t begin_ns = clock_ns();

    server_stop(f);
    pthread_create(&thread, NULL, cancel_soon, c);
    g_assert_cmpint(call(c, NBD_CALL_READ, 0, 512, buf), ==, -EIO);
    g_assert_cmpint(clock_ns() - begin_ns, <, 5 * SECOND_NS);
    pthread_join(thread, NULL);
    nbd_client_close(&c);
}

/* A server that accepts and then says nothing more. */
struct mute {
    pthread_t thread;
    int listen_fd;
};

static void *mute_thread(void *arg)
{
    struct mute *m = arg;
    int fd = accept(m->listen_fd, NULL, NULL);
    char buf[4096];

    while (fd >= 0 && read(fd, buf, sizeof(buf)) > 0) {
        /* and forgets it */
    }
    close(fd);
    return NULL;
}

/* Requests that the server has are given up some time after a cancel. */
static void test_cancel_silence(struct fixture *f, gconstpointer unused)
{
    struct nbd_client *c = connect_to(f, 1000);
    uint8_t buf[512];
    pthread_t thread;
    int64_t begin_ns = clock_ns();

    fake_drain(f->disk, true);
    pthread_create(&thread, NULL, cancel_soon, c);
    g_assert_cmpint(call(c, NBD_CALL_READ, 0, 512, buf), ==, -EIO);
    g_assert_cmpint(clock_ns() - begin_ns, >, SECOND_NS);
    g_assert_cmpint(clock_ns() - begin_ns, <, 6 * SECOND_NS);
    pthread_join(thread, NULL);
    fake_drain(f->disk, false);
    nbd_client_close(&c);
}

/* A limit of its own: the flush of a node that closes. */
static void test_limited_call(struct fixture *f, gconstpointer unused)
{
    struct nbd_client *c = connect_to(f, 1000);
    struct nbd_call flush = { .type = NBD_CALL_FLUSH };
    int64_t begin_ns = clock_ns();

    fake_drain(f->disk, true);
    g_assert_cmpint(nbd_client_call(c, &flush, SECOND_NS / 2), ==, -EIO);
    g_assert_cmpint(clock_ns() - begin_ns, <, 5 * SECOND_NS);
    fake_drain(f->disk, false);
    nbd_client_close(&c);
}

/* A cancel does no harm where the server answers. */
static void test_cancel_harmless(struct fixture *f, gconstpointer unused)
{
    struct nbd_client *c = connect_to(f, 0);
    uint8_t buf[512];
    int64_t end_ns = clock_ns() + 3 * SECOND_NS;

    f->disk->would_block = true;
    f->disk->delay_us = 1000;
    nbd_client_cancel(c);
    while (clock_ns() < end_ns) {
        g_assert_cmpint(call(c, NBD_CALL_READ, 0, 512, buf), ==, 0);
    }
    nbd_client_close(&c);
}

/* The handshake has a limit, and closing ends what goes on behind. */
static void test_mute_server(struct fixture *f, gconstpointer unused)
{
    struct sockaddr_un address = { .sun_family = AF_UNIX };
    struct nbd_client *c = connect_to(f, 1000);
    struct mute m = { .listen_fd = socket(AF_UNIX, SOCK_STREAM, 0) };
    uint8_t buf[512];
    pthread_t thread;
    int64_t begin_ns = clock_ns();

    server_stop(f);
    g_strlcpy(address.sun_path, f->path, sizeof(address.sun_path));
    g_assert_cmpint(bind(m.listen_fd, (struct sockaddr *)&address,
                         sizeof(address)), ==, 0);
    g_assert_cmpint(listen(m.listen_fd, 5), ==, 0);
    pthread_create(&m.thread, NULL, mute_thread, &m);
    pthread_create(&thread, NULL, cancel_soon, c);
    g_assert_cmpint(call(c, NBD_CALL_READ, 0, 512, buf), ==, -EIO);
    pthread_join(thread, NULL);
    nbd_client_close(&c);
    pthread_join(m.thread, NULL);       /* the attempt is over */
    g_assert_cmpint(clock_ns() - begin_ns, <, 5 * SECOND_NS);
    close(m.listen_fd);
    g_unlink(f->path);
}

/* ---- file names --------------------------------------------------------- */

static void check_name(const char *name, const char *again)
{
    AUTO_ERROR(err);
    g_autoptr(BlockdevOptions) o = nbd_filename_parse(name, &err);
    g_autofree char *made = NULL;

    if (!o) {
        g_error("%s: %s", name, error_text(err));
    }
    g_assert_cmpint(o->driver, ==, BLOCKDEV_DRIVER_NBD);
    made = nbd_filename_make(&o->u.nbd);
    g_assert_cmpstr(made, ==, again);
}

static void test_names(void)
{
    static const char *const names[][2] = {
        { "nbd://host", "nbd://host:10809" },
        { "nbd://host/", "nbd://host:10809" },
        { "nbd://host:1/a/b", "nbd://host:1/a/b" },
        { "nbd+tcp://host:1/a", "nbd://host:1/a" },
        { "nbd://[::1]:1/a", "nbd://[::1]:1/a" },
        { "nbd://host:1/a%20b%3Fc%25", "nbd://host:1/a%20b%3Fc%25" },
        { "nbd+unix:///a?socket=/x/y", "nbd+unix:///a?socket=/x/y" },
        { "nbd+unix://?socket=s", "nbd+unix://?socket=s" },
        { "nbd+unix:///?socket=s%20t%26u", "nbd+unix://?socket=s%20t%26u" },
        { "nbd:host:1", "nbd://host:1" },
        { "nbd:[::1]:1:exportname=x", "nbd://[::1]:1/x" },
        { "nbd:unix:/a:b:exportname=c d", "nbd+unix:///c%20d?socket=/a:b" },
        { "nbds://h/x?tls-creds=t", "" },
        { "nbds+unix:///x?socket=s&tls-creds=t&tls-hostname=h", "" },
    };
    static const char *const bad[] = {
        "nbd:", "nbd:h", "nbd:h:", "nbd://", "nbd:///x", "nbd+unix:///x",
        "nbd+unix://h/x?socket=s", "nbd://h?socket=s", "nbds://h",
        "nbd://h?tls-creds=t", "nbd://h?x=y", "nbd://h:70000", "nbds:h:1",
        "nbd://h?a", "nbd+unix:h:1", "nbd://h/%zz",
    };

    for (size_t i = 0; i < G_N_ELEMENTS(names); i++) {
        g_assert_true(nbd_filename_matches(names[i][0]));
        check_name(names[i][0], names[i][1]);
    }
    for (size_t i = 0; i < G_N_ELEMENTS(bad); i++) {
        AUTO_ERROR(err);

        g_assert_null(nbd_filename_parse(bad[i], &err));
        g_assert_nonnull(err);
    }
    g_assert_false(nbd_filename_matches("nbdx://h"));
    g_assert_false(nbd_filename_matches("file"));
}

/* Last: it holds for the rest of the process. */
static void test_process_ends(struct fixture *f, gconstpointer unused)
{
    struct nbd_client *c = connect_to(f, 1000);
    uint8_t buf[512];
    int64_t begin_ns = clock_ns();

    fake_drain(f->disk, true);
    cancel_waits();
    g_assert_cmpint(call(c, NBD_CALL_READ, 0, 512, buf), ==, -EIO);
    g_assert_cmpint(clock_ns() - begin_ns, <, 5 * SECOND_NS);
    fake_drain(f->disk, false);
    nbd_client_close(&c);
}

#define ADD(path, max, fn) \
    g_test_add("/nbd-client/" path, struct fixture, GINT_TO_POINTER(max), \
               setup, fn, teardown)

int main(int argc, char **argv)
{
    int ret;

    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/nbd-client/names", test_names);
    ADD("calls", 0, test_calls);
    ADD("errors", 0, test_errors);
    ADD("cannot-connect", 0, test_cannot_connect);
    ADD("parallel/multi-conn", 0, test_parallel);
    ADD("parallel/one", 1, test_parallel);
    ADD("outages", 0, test_outages);
    ADD("no-delay", 0, test_no_delay);
    ADD("delay-ends", 0, test_delay_ends);
    ADD("cancel/wait", 0, test_cancel_wait);
    ADD("cancel/silence", 0, test_cancel_silence);
    ADD("cancel/limited-call", 0, test_limited_call);
    ADD("cancel/harmless", 0, test_cancel_harmless);
    ADD("cancel/mute-server", 0, test_mute_server);
    g_test_add("/nbd-client-last/process-ends", struct fixture, NULL, setup,
               test_process_ends, teardown);
    ret = g_test_run();
    pool_shutdown();
    return ret;
}
