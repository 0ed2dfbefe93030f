/* SPDX-License-Identifier: MIT */
/* The server: accepting, the list of connections, the end.  See server.h. */
#include "nbd/server.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>
#include "base/control.h"
#include "base/trace.h"
#include "block/objects/tls-creds.h"
#include "nbd/conn.h"

enum {
    CONN_STACK_BYTES = 256 << 10,
    /* Out of file descriptors or threads: try again after this. */
    ACCEPT_PAUSE_MS = 200,
    /* How long the end waits for requests in flight. */
    STOP_WAIT_MS = 2000,
};

struct lock nbd_lock = LOCK_INIT("nbd-server", LOCK_NBD_SERVER);

/* ---- connections -------------------------------------------------------- */

static void server_wake(struct nbd_server *s)
{
    uint64_t one = 1;

    if (write(s->wake_fd, &one, sizeof(one)) < 0) {
        /* The counter is full: it is awake already. */
    }
}

static bool conn_start(struct nbd_conn *c)
{
    pthread_attr_t attr;
    pthread_t thread;
    int ret;

    pthread_attr_init(&attr);
    pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
    pthread_attr_setstacksize(&attr, CONN_STACK_BYTES);
    ret = pthread_create(&thread, &attr, nbd_conn_thread, c);
    pthread_attr_destroy(&attr);
    return ret == 0;
}

/* nbd_lock held. */
static void list_add(struct nbd_server *s, struct nbd_conn *c)
{
    c->next = s->conns;
    if (s->conns) {
        s->conns->prev = c;
    }
    s->conns = c;
    s->n_conns++;
}

static void list_remove(struct nbd_server *s, struct nbd_conn *c)
{
    if (c->prev) {
        c->prev->next = c->next;
    } else {
        s->conns = c->next;
    }
    if (c->next) {
        c->next->prev = c->prev;
    }
    s->n_conns--;
}

static void server_free(struct nbd_server *s)
{
    if (s->wake_fd >= 0) {
        close(s->wake_fd);
    }
    nbd_listener_close(&s->listener);
    g_free(s->tls_authz);
    g_free(s);
}

/* Of one that ran.  Control lock held. */
static void server_end(struct nbd_server *s)
{
    if (s->tls_creds) {
        object_put(&s->tls_creds->base);
    }
    server_free(s);
}

void nbd_server_remove_conn(struct nbd_server *s, struct nbd_conn *c)
{
    bool last;

    lock_acquire(&nbd_lock);
    list_remove(s, c);
    nbd_conn_free(c);
    last = s->abandoned && s->n_conns == 0;
    if (!s->abandoned) {
        /* Once it has seen no connections, nbd_server_stop() frees S. */
        server_wake(s);
    }
    lock_release(&nbd_lock);
    if (last) {
        CONTROL_GUARD();
        server_end(s);
    }
    control_notify();
}

void nbd_server_shutdown_export(struct nbd_server *s,
                                const struct nbd_export *e)
{
    lock_assert_held(&nbd_lock);
    for (struct nbd_conn *c = s->conns; c; c = c->next) {
        if (c->export == e) {
            shutdown(c->fd, SHUT_RDWR);
        }
    }
}

bool nbd_server_multi_conn(const struct nbd_server *s)
{
    return s->max_connections != 1;
}

/* ---- accepting ---------------------------------------------------------- */

static void set_socket_options(int fd)
{
    int on = 1;

    /* Neither applies to unix sockets. */
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
    setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof(on));
}

/* One client.  False: there was none, or it cannot be served now. */
static bool accept_one(struct nbd_server *s, int listen_fd)
{
    int fd = accept4(listen_fd, NULL, NULL, SOCK_CLOEXEC);
    int64_t deadline_ns = INT64_MAX;
    struct nbd_conn *c;
    bool started;

    if (fd < 0) {
        return errno == ECONNABORTED || errno == EINTR || errno == EAGAIN;
    }
    set_socket_options(fd);
    if (s->handshake_max_ns != INT64_MAX) {
        deadline_ns = clock_ns() + s->handshake_max_ns;
    }
    c = nbd_conn_new(s, fd, deadline_ns);
    trace(NBD, "client-new fd=%d", fd);
    lock_acquire(&nbd_lock);
    list_add(s, c);
    started = !s->stopping && conn_start(c);
    if (!started) {
        list_remove(s, c);
        nbd_conn_free(c);
    }
    lock_release(&nbd_lock);
    return started;
}

/* Wait for clients, for as many of them as may come. */
static int server_poll(struct nbd_server *s, struct pollfd *fds)
{
    nfds_t n = 0;
    bool full;

    lock_acquire(&nbd_lock);
    full = s->max_connections > 0 && s->n_conns >= s->max_connections;
    lock_release(&nbd_lock);
    fds[n++] = (struct pollfd){ .fd = s->wake_fd, .events = POLLIN };
    for (size_t i = 0; i < s->listener->n_fds && !full; i++) {
        fds[n++] = (struct pollfd){ .fd = s->listener->fds[i],
                                    .events = POLLIN };
    }
    return poll(fds, n, -1) > 0 ? (int)n : 0;
}

static bool server_stopping(struct nbd_server *s)
{
    LOCK_GUARD(&nbd_lock);
    return s->stopping;
}

static void *accept_thread(void *server)
{
    struct nbd_server *s = server;
    g_autofree struct pollfd *fds =
        g_new0(struct pollfd, s->listener->n_fds + 1);

    while (!server_stopping(s)) {
        int n = server_poll(s, fds);
        uint64_t count;

        if (n > 0 && fds[0].revents &&
            read(s->wake_fd, &count, sizeof(count)) < 0) {
            continue;
        }
        /* One each, so that max_connections is looked at again. */
        for (int i = 1; i < n; i++) {
            if (fds[i].revents && !accept_one(s, fds[i].fd)) {
                poll(NULL, 0, ACCEPT_PAUSE_MS);
            }
            if (s->max_connections > 0) {
                break;
            }
        }
    }
    return NULL;
}

/* ---- life --------------------------------------------------------------- */

struct nbd_server *nbd_server_new(struct nbd_listener *listener,
                                  const struct nbd_server_options *options,
                                  struct error **errp)
{
    struct nbd_server *s = g_new0(struct nbd_server, 1);
    int ret;

    s->listener = listener;
    s->max_connections = options->max_connections;
    s->handshake_max_ns = options->handshake_max_seconds > 0
        ? options->handshake_max_seconds * INT64_C(1000000000) : INT64_MAX;
    s->tls_creds = options->tls_creds;
    s->tls_authz = g_strdup(options->tls_authz);
    s->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (s->wake_fd < 0) {
        error_set_errno(errp, errno, "Failed to create an event descriptor");
        server_free(s);
        return NULL;
    }
    ret = pthread_create(&s->thread, NULL, accept_thread, s);
    if (ret != 0) {
        error_set_errno(errp, ret, "Failed to start the NBD server's thread");
        server_free(s);
        return NULL;
    }
    return s;
}

static bool server_idle(struct nbd_server *s)
{
    LOCK_GUARD(&nbd_lock);
    return s->n_conns == 0;
}

/* Leave S to its last connection.  False: there is none. */
static bool server_abandon(struct nbd_server *s)
{
    LOCK_GUARD(&nbd_lock);
    s->abandoned = s->n_conns > 0;
    return s->abandoned;
}

static void close_exports(struct nbd_server *s)
{
    struct nbd_export *e, *oldest;

    /* Oldest first, as QEMU.  Closing may yield: start again after each. */
    do {
        oldest = NULL;
        for (e = nbd_export_next(NULL); e; e = nbd_export_next(e)) {
            if (e->server == s && !nbd_export_is_closing(e)) {
                oldest = e;
            }
        }
        if (oldest) {
            nbd_export_close(oldest, false);
        }
    } while (oldest);
}

static bool server_has_exports(struct nbd_server *s)
{
    for (struct nbd_export *e = nbd_export_next(NULL); e;
         e = nbd_export_next(e)) {
        if (e->server == s) {
            return true;
        }
    }
    return false;
}

void nbd_server_stop(struct nbd_server *s)
{
    int64_t until_ns = clock_ns() + STOP_WAIT_MS * INT64_C(1000000);

    control_assert();
    lock_acquire(&nbd_lock);
    s->stopping = true;
    lock_release(&nbd_lock);
    server_wake(s);
    CONTROL_YIELD {
        pthread_join(s->thread, NULL);
        nbd_listener_close(&s->listener);
    }
    close_exports(s);
    lock_acquire(&nbd_lock);
    for (struct nbd_conn *c = s->conns; c; c = c->next) {
        shutdown(c->fd, SHUT_RDWR);
    }
    lock_release(&nbd_lock);
    while ((server_has_exports(s) || !server_idle(s)) &&
           control_wait_until(until_ns)) {
        /* look again */
    }
    if (!server_abandon(s)) {
        while (server_has_exports(s)) {     /* who finishes it needs no I/O */
            control_wait();
        }
        server_end(s);
    }
}
