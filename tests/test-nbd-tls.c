/* SPDX-License-Identifier: MIT */
/*
 * TLS of the NBD server: what only a client of our own can do to it.
 *
 * The client's TLS is done by a thread of its own (struct pump) between the
 * server's socket and one on which the test talks in the open, so that all
 * of nbd-fake.h works as it is.
 */
#include <errno.h>
#include <fcntl.h>
#include <glib/gstdio.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>
#include <gnutls/gnutls.h>
#include "base/control.h"
#include "block/objects/tls-creds.h"
#include "nbd-fake.h"
#include "qapi/qapi-visit.h"

#define LOAD(x) __atomic_load_n(&(x), __ATOMIC_RELAXED)
#define STORE(x, v) __atomic_store_n(&(x), v, __ATOMIC_RELAXED)

enum { DISK_BYTES = 4 << 20, PUMP_BUFFER = 1 << 20 };

/* ---- the client's side of TLS ------------------------------------------- */

struct pump {
    gnutls_session_t session;
    gnutls_psk_client_credentials_t creds;
    int net, plain;             /* the server; the test */
    pthread_t thread;
    bool running;               /* it is to be joined */
    int update_every_ms;        /* key updates, both directions; 0: none */
    /* When the thread has ended. */
    int handshake, received;    /* results of gnutls */
    bool rehandshake;           /* try one when all is set up */
};

static bool wait_for(int fd, short events)
{
    struct pollfd p = { fd, events };

    return poll(&p, 1, 10000) > 0;
}

/* From the server to the test.  False: it is over. */
static bool pump_in(struct pump *pump)
{
    static __thread char buf[65536];
    ssize_t n = gnutls_record_recv(pump->session, buf, sizeof(buf));

    if (n == GNUTLS_E_AGAIN) {
        return true;
    }
    pump->received = n;
    for (ssize_t at = 0; at < n;) {
        ssize_t sent = send(pump->plain, buf + at, n - at, MSG_NOSIGNAL);

        if (sent < 0) {
            return false;
        }
        at += sent;
    }
    return n > 0;
}

/* SEND(): reading goes on while it cannot be sent. */
#define PUMP_SEND(pump, call)                                               \
    ({                                                                      \
        ssize_t n_;                                                         \
        while ((n_ = (call)) == GNUTLS_E_AGAIN) {                           \
            if (!pump_in(pump) || !wait_for((pump)->net, POLLIN | POLLOUT)) \
            {                                                               \
                n_ = -1;                                                    \
                break;                                                      \
            }                                                               \
        }                                                                   \
        n_;                                                                 \
    })

static bool pump_out(struct pump *pump)
{
    static __thread char buf[65536];
    ssize_t n = recv(pump->plain, buf, sizeof(buf), MSG_DONTWAIT);

    if (n < 0 && errno == EAGAIN) {
        return true;
    }
    for (ssize_t at = 0; at < n;) {
        ssize_t sent = PUMP_SEND(pump, gnutls_record_send(
            pump->session, buf + at, n - at));

        if (sent < 0) {
            return false;
        }
        at += sent;
    }
    return n > 0;
}

static void pump_run(struct pump *pump)
{
    int64_t next_ns = clock_ns();

    for (;;) {
        struct pollfd p[] = {
            { pump->net, POLLIN }, { pump->plain, POLLIN },
        };

        if (gnutls_record_check_pending(pump->session) == 0) {
            poll(p, 2, pump->update_every_ms ? pump->update_every_ms : 10000);
        }
        if (pump->update_every_ms && clock_ns() >= next_ns) {
            next_ns = clock_ns() + pump->update_every_ms * 1000000;
            if (PUMP_SEND(pump, gnutls_session_key_update(
                              pump->session, GNUTLS_KU_PEER)) < 0) {
                return;
            }
        }
        if (!pump_in(pump) || !pump_out(pump)) {
            return;
        }
    }
}

static void *pump_thread(void *arg)
{
    struct pump *pump = arg;

    do {
        pump->handshake = gnutls_handshake(pump->session);
    } while (pump->handshake < 0 && wait_for(pump->net, POLLIN) &&
             !gnutls_error_is_fatal(pump->handshake));
    if (pump->handshake == 0) {
        fcntl(pump->net, F_SETFL, O_NONBLOCK);
        if (pump->rehandshake) {
            do {
                pump->received = gnutls_handshake(pump->session);
            } while (pump->received == GNUTLS_E_AGAIN &&
                     wait_for(pump->net, POLLIN));
        } else {
            pump_run(pump);
        }
    }
    shutdown(pump->net, SHUT_RDWR);
    shutdown(pump->plain, SHUT_RDWR);
    return NULL;
}

/* Go on with P, which has had its reply to STARTTLS, under TLS as USERNAME. */
static void pump_start(struct pump *pump, struct peer *p,
                       const char *username, const char *key,
                       const char *priority)
{
    gnutls_datum_t datum = { (uint8_t *)key, strlen(key) };
    int timeout = 10, size = PUMP_BUFFER, fds[2];

    gnutls_init(&pump->session, GNUTLS_CLIENT | GNUTLS_NO_SIGNAL);
    gnutls_psk_allocate_client_credentials(&pump->creds);
    gnutls_psk_set_client_credentials(pump->creds, username, &datum,
                                      GNUTLS_PSK_KEY_HEX);
    gnutls_credentials_set(pump->session, GNUTLS_CRD_PSK, pump->creds);
    g_assert_cmpint(gnutls_priority_set_direct(pump->session, priority, NULL),
                    ==, 0);
    g_assert_cmpint(socketpair(AF_UNIX, SOCK_STREAM, 0, fds), ==, 0);
    for (int i = 0; i < 2; i++) {
        struct timeval t = { .tv_sec = timeout };

        setsockopt(fds[i], SOL_SOCKET, SO_RCVTIMEO, &t, sizeof(t));
        setsockopt(fds[i], SOL_SOCKET, SO_SNDTIMEO, &t, sizeof(t));
        setsockopt(fds[i], SOL_SOCKET, SO_SNDBUF, &size, sizeof(size));
    }
    pump->net = p->fd;
    pump->plain = fds[0];
    p->fd = fds[1];
    gnutls_transport_set_int(pump->session, pump->net);
    pthread_create(&pump->thread, NULL, pump_thread, pump);
    pump->running = true;
}

/* Until the server has closed, or the test has (peer_close()). */
static void pump_wait(struct pump *pump)
{
    if (pump->running) {
        pthread_join(pump->thread, NULL);
        pump->running = false;
    }
}

static void pump_end(struct pump *pump)
{
    pump_wait(pump);
    gnutls_deinit(pump->session);
    gnutls_psk_free_client_credentials(pump->creds);
    close(pump->net);
    close(pump->plain);
}

/* ---- fixture ------------------------------------------------------------ */

#define KEY "00112233445566778899aabbccddeeff"
#define TLS13 "NORMAL:-VERS-ALL:+VERS-TLS1.3:+ECDHE-PSK:+DHE-PSK:+PSK"
#define TLS12 "NORMAL:-VERS-ALL:+VERS-TLS1.2:+ECDHE-PSK:+DHE-PSK:+PSK"

struct fixture {
    char *keys_dir, *keys;
    struct fake_server server;
    struct fake_node *disk;
    struct peer peer;
    struct pump pump;
};

static void object_from(const char *fmt, ...) G_GNUC_PRINTF(1, 2);
static void object_from(const char *fmt, ...)
{
    g_autofree char *text = NULL;
    g_autoptr(ObjectOptions) options = NULL;
    json_t *json;
    va_list ap;

    va_start(ap, fmt);
    text = g_strdup_vprintf(fmt, ap);
    va_end(ap);
    json = json_loads(g_strdelimit(text, "'", '"'), 0, NULL);
    options = ObjectOptions_from_json(json, NULL);
    json_decref(json);
    g_assert_true(object_add(options, NULL));
}

static void setup(struct fixture *f, gconstpointer authz)
{
    struct nbd_server_options options = {
        .handshake_max_seconds = 2, .tls_authz = authz,
    };
    struct nbd_unix_address address = { 0 };

    f->keys_dir = g_dir_make_tmp("nbd-tls-test-XXXXXX", NULL);
    f->keys = g_build_filename(f->keys_dir, "keys.psk", NULL);
    g_assert_true(g_file_set_contents(f->keys, "alice:" KEY "\nbob:" KEY "\n",
                                      -1, NULL));
    control_lock();
    object_from("{'qom-type': 'tls-creds-psk', 'id': 'tls', 'dir': '%s', "
                "'endpoint': 'server'}", f->keys_dir);
    object_from("{'qom-type': 'authz-simple', 'id': 'alice', "
                "'identity': 'alice'}");
    options.tls_creds = tls_creds_get(
        "tls", Q_CRYPTO_TLS_CREDS_ENDPOINT_SERVER, NULL);
    g_assert_true(object_del("tls", NULL));     /* the server keeps it */
    control_unlock();
    f->server.dir = g_dir_make_tmp("nbd-test-XXXXXX", NULL);
    address.path = f->server.path =
        g_build_filename(f->server.dir, "sock", NULL);
    f->server.server = nbd_server_new(nbd_listen_unix(&address, NULL),
                                      &options, NULL);
    f->disk = fake_node_new("disk", DISK_BYTES);
    fake_export(&f->server, f->disk, "disk", true);
    f->peer.fd = -1;
}

static void teardown(struct fixture *f, gconstpointer authz)
{
    if (f->peer.fd >= 0) {
        peer_close(&f->peer);
    }
    if (f->pump.session) {
        pump_end(&f->pump);
    }
    fake_server_stop(&f->server);
    fake_wait_no_roots();
    fake_node_free(f->disk);
    control_lock();
    objects_free();
    control_unlock();
    g_unlink(f->keys);
    g_rmdir(f->keys_dir);
    g_free(f->keys);
    g_free(f->keys_dir);
}

/* Up to the reply to STARTTLS. */
static void start(struct fixture *f)
{
    peer_connect(&f->peer, f->server.path);
    peer_hello(&f->peer, 3);
    peer_option(&f->peer, NBD_OPT_STARTTLS, NULL, 0, NBD_REP_ACK);
}

static void start_tls(struct fixture *f, const char *priority)
{
    start(f);
    pump_start(&f->pump, &f->peer, "alice", KEY, priority);
}

static void check_refused(struct fixture *f)
{
    char c;

    g_assert_cmpint(recv(f->peer.fd, &c, 1, 0), <=, 0);
}

/* ---- bytes -------------------------------------------------------------- */

static void check_disk(struct fixture *f)
{
    static const uint32_t lengths[] = { 1, 512, 16383, 16384, 16385, 65536,
                                        300000, 1 << 20, DISK_BYTES };
    g_autofree uint8_t *buf = g_malloc(DISK_BYTES);

    for (size_t i = 0; i < G_N_ELEMENTS(lengths); i++) {
        struct peer_request r = { .cmd = NBD_CMD_READ, .length = lengths[i] };

        r.offset = DISK_BYTES - lengths[i];
        g_assert_cmpint(peer_call(&f->peer, &r, buf), ==, 0);
        for (uint32_t at = 0; at < lengths[i]; at++) {
            g_assert_cmpint(buf[at], ==, fake_pattern(r.offset + at));
        }
        r.cmd = NBD_CMD_WRITE;
        r.payload = buf;
        g_assert_cmpint(peer_call(&f->peer, &r, NULL), ==, 0);
    }
}

static void test_bytes(struct fixture *f, const char *priority)
{
    struct peer_request bye = { .cmd = NBD_CMD_DISC };

    start_tls(f, priority);
    peer_go(&f->peer, NULL, "disk", true);
    check_disk(f);
    peer_request(&f->peer, &bye);
    check_refused(f);
    pump_wait(&f->pump);
    g_assert_cmpint(f->pump.handshake, ==, 0);
    g_assert_cmpint(f->pump.received, ==, 0);   /* close_notify came */
}

static void test_tls13(struct fixture *f, gconstpointer unused)
{
    test_bytes(f, TLS13);
}

static void test_tls12(struct fixture *f, gconstpointer unused)
{
    test_bytes(f, TLS12);
}

/* ---- both directions at once -------------------------------------------- */

struct load {
    struct fixture *f;
    bool stop;                  /* atomic */
    int n_sent;                 /* atomic */
};

enum { LOAD_READ_BYTES = 512 << 10, LOAD_WRITE_BYTES = 200 << 10,
       LOAD_IN_FLIGHT = 24 };

static void *load_thread(void *arg)
{
    struct load *l = arg;
    g_autofree uint8_t *data = g_malloc(LOAD_WRITE_BYTES);
    int n_done = 0;

    for (int i = 0; i < LOAD_WRITE_BYTES; i++) {
        data[i] = fake_pattern(i);
    }
    while (!LOAD(l->stop) || n_done % 2) {
        struct peer_request r = { .cmd = NBD_CMD_READ,
                                  .length = LOAD_READ_BYTES };

        if (n_done % 2) {
            r = (struct peer_request){ .cmd = NBD_CMD_WRITE,
                .length = LOAD_WRITE_BYTES, .payload = data };
        }
        peer_request(&l->f->peer, &r);
        STORE(l->n_sent, ++n_done);
    }
    return NULL;
}

/* Simple replies, in any order; odd cookies are reads. */
static void load_reply(struct peer *p, uint8_t *buf)
{
    struct nbd_wire_simple_reply reply;

    peer_recv(p, &reply, sizeof(reply));
    g_assert_cmphex(GUINT32_FROM_BE(reply.magic), ==, NBD_SIMPLE_REPLY_MAGIC);
    g_assert_cmpint(reply.error, ==, 0);
    if (GUINT64_FROM_BE(reply.cookie) % 2) {
        peer_recv(p, buf, LOAD_READ_BYTES);
        for (int i = 0; i < LOAD_READ_BYTES; i += 61) {
            g_assert_cmpint(buf[i], ==, fake_pattern(i));
        }
    }
}

/*
 * Workers send while the connection's thread receives, and the client has
 * keys changed all the time: nothing gets lost or mixed up.
 */
static void run_load(struct fixture *f)
{
    g_autofree uint8_t *buf = g_malloc(LOAD_READ_BYTES);
    struct load l = { .f = f };
    int64_t end_ns = clock_ns() + INT64_C(1500) * 1000000;
    int n_received = 0;
    pthread_t thread;

    STORE(f->disk->would_block, true);      /* all requests to workers */
    pthread_create(&thread, NULL, load_thread, &l);
    while (clock_ns() < end_ns) {
        load_reply(&f->peer, buf);
        n_received++;
    }
    STORE(l.stop, true);
    /* Who sends may wait for us to receive. */
    while (pthread_tryjoin_np(thread, NULL) != 0) {
        if (n_received < LOAD(l.n_sent)) {
            load_reply(&f->peer, buf);
            n_received++;
        }
    }
    while (n_received < LOAD(l.n_sent)) {
        load_reply(&f->peer, buf);
        n_received++;
    }
    g_test_message("%d requests", n_received);
    g_assert_cmpint(n_received, >, 20);
}

static void test_key_updates(struct fixture *f, gconstpointer unused)
{
    f->pump.update_every_ms = 150;      /* gnutls allows 8 in a second */
    start_tls(f, TLS13);
    peer_go(&f->peer, NULL, "disk", false);
    run_load(f);
}

static void test_load_tls12(struct fixture *f, gconstpointer unused)
{
    start_tls(f, TLS12);
    peer_go(&f->peer, NULL, "disk", false);
    run_load(f);
}

/* More than can be meant well: hung up on, nothing worse. */
static void test_key_update_flood(struct fixture *f, gconstpointer unused)
{
    f->pump.update_every_ms = 1;
    start_tls(f, TLS13);
    pump_wait(&f->pump);
    g_assert_cmpint(f->pump.handshake, ==, 0);
}

static void test_rehandshake(struct fixture *f, gconstpointer unused)
{
    f->pump.rehandshake = true;
    start_tls(f, TLS12);
    check_refused(f);
    pump_wait(&f->pump);
    g_assert_cmpint(f->pump.handshake, ==, 0);
    g_assert_cmpint(f->pump.received, <, 0);
}

/* ---- who ---------------------------------------------------------------- */

static void test_wrong_key(struct fixture *f, gconstpointer unused)
{
    start(f);
    pump_start(&f->pump, &f->peer, "alice",
               "ff112233445566778899aabbccddeeff", TLS13);
    check_refused(f);
}

static void test_unknown_name(struct fixture *f, gconstpointer unused)
{
    start(f);
    pump_start(&f->pump, &f->peer, "carol", KEY, TLS13);
    check_refused(f);
}

static void test_authz_allows(struct fixture *f, gconstpointer authz)
{
    start_tls(f, TLS13);
    peer_go(&f->peer, NULL, "disk", true);
}

static void test_authz_denies(struct fixture *f, gconstpointer authz)
{
    start(f);
    pump_start(&f->pump, &f->peer, "bob", KEY, TLS13);
    check_refused(f);
}

/* ---- not TLS ------------------------------------------------------------ */

static void test_garbage(struct fixture *f, gconstpointer unused)
{
    for (int i = 0; i < 200; i++) {
        uint8_t data[2000];
        size_t n = g_test_rand_int_range(1, sizeof(data));

        for (size_t at = 0; at < n; at++) {
            data[at] = g_test_rand_int();
        }
        if (i % 2) {        /* looks like a handshake for a while */
            memcpy(data, "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
                   MIN(n, 11));
        }
        start(f);
        send(f->peer.fd, data, n, MSG_NOSIGNAL);
        shutdown(f->peer.fd, SHUT_WR);
        peer_expect_closed(&f->peer);
    }
}

/* Every option but two is refused, unread. */
static void test_before(struct fixture *f, gconstpointer unused)
{
    peer_connect(&f->peer, f->server.path);
    peer_hello(&f->peer, 3);
    for (uint32_t option = 0; option < 20; option++) {
        if (option == NBD_OPT_EXPORT_NAME || option == NBD_OPT_ABORT ||
            option == NBD_OPT_STARTTLS) {
            continue;
        }
        peer_option(&f->peer, option, "garbage", g_test_rand_int_range(0, 8),
                    NBD_REP_ERR_TLS_REQD);
    }
    peer_option(&f->peer, NBD_OPT_STARTTLS, "x", 1, NBD_REP_ERR_INVALID);
    peer_option(&f->peer, NBD_OPT_ABORT, NULL, 0, NBD_REP_ACK);
    peer_expect_closed(&f->peer);
}

static void test_silence(struct fixture *f, gconstpointer unused)
{
    int64_t begin_ns = clock_ns();

    start(f);
    peer_send(&f->peer, "\x16", 1);
    peer_expect_closed(&f->peer);
    g_assert_cmpint(clock_ns() - begin_ns, >, INT64_C(1000000000));
}

/* The server stops while clients are anywhere in between. */
static void test_stop(struct fixture *f, gconstpointer unused)
{
    struct peer idle[3];

    for (int i = 0; i < 3; i++) {
        peer_connect(&idle[i], f->server.path);
        peer_hello(&idle[i], 3);
        peer_option(&idle[i], NBD_OPT_STARTTLS, NULL, 0, NBD_REP_ACK);
        peer_send(&idle[i], "\x16\x03\x01", i);
    }
    start_tls(f, TLS13);
    peer_go(&f->peer, NULL, "disk", true);
    for (int i = 0; i < 4; i++) {
        struct peer_request r = { .cmd = NBD_CMD_READ, .length = DISK_BYTES };

        peer_request(&f->peer, &r);     /* and nobody reads */
    }
    control_lock();
    nbd_server_stop(g_steal_pointer(&f->server.server));
    control_unlock();
    for (int i = 0; i < 3; i++) {
        peer_expect_closed(&idle[i]);
    }
    /* For teardown. */
    g_free(f->server.path);
    g_rmdir(f->server.dir);
    g_free(f->server.dir);
    fake_server_start(&f->server, 0, 10);
}

#define ADD(name, authz, fn) \
    g_test_add("/nbd-tls/" name, struct fixture, authz, setup, fn, teardown)

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    ADD("tls1.3", NULL, test_tls13);
    ADD("tls1.2", NULL, test_tls12);
    ADD("key-updates", NULL, test_key_updates);
    ADD("load-tls1.2", NULL, test_load_tls12);
    ADD("key-update-flood", NULL, test_key_update_flood);
    ADD("rehandshake", NULL, test_rehandshake);
    ADD("wrong-key", NULL, test_wrong_key);
    ADD("unknown-name", NULL, test_unknown_name);
    ADD("authz-allows", "alice", test_authz_allows);
    ADD("authz-denies", "alice", test_authz_denies);
    ADD("authz-missing", "nope", test_authz_denies);
    ADD("garbage", NULL, test_garbage);
    ADD("before", NULL, test_before);
    ADD("silence", NULL, test_silence);
    ADD("stop", NULL, test_stop);
    return g_test_run();
}
