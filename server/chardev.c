/* SPDX-License-Identifier: MIT */
/* Channels: see chardev.h. */
#include "server/chardev.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>
#include "base/control.h"
#include "base/pool.h"
#include "base/trace.h"
#include "server/chardev-open.h"
#include "server/loop.h"
#include "server/socket.h"

struct chardev {
    /* Constant. */
    char *id;                   /* owned */
    enum chardev_kind kind;
    char *filename;             /* owned: what query-chardev calls it */
    struct chardev_options *options;    /* owned: to connect again; or NULL */
    char *remove_path;          /* owned, absolute, or NULL: our socket file */
    struct stat made;           /* what remove_path was when we made it */
    /* Control lock. */
    int listen_fd;              /* -1: does not listen */
    int fd;                     /* a connection nobody has yet, or -1 */
    int write_fd;               /* its other half; -1: it is FD itself */
    int pty_fd;                 /* the other end, so that it stays; or -1 */
    struct chardev_user user;   /* opened NULL: nobody */
    int n_clients;              /* connections that were given to the user */
    struct event *accept_event; /* owned, or NULL */
    struct event *timer;        /* owned, or NULL: connect or listen again */
    bool connecting;            /* a worker is at it */
    struct chardev *next;
};

static struct chardev *chardevs;        /* in order of creation */
static bool closed;                     /* chardev_close_all() was called */

static void chardev_free(struct chardev *c);
static void connected_again(void *arg);

/* ---- connections -------------------------------------------------------- */

static void prepare_connection(int fd)
{
    int on = 1;

    /* Fails on a unix socket, where it is not needed. */
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
}

static int connect_socket(const struct chardev_options *o,
                          struct error **errp)
{
    struct socket_inet inet = {
        .host = o->host, .port = o->port, .family = o->family,
    };

    return o->path ? socket_connect_unix(o->path, errp)
        : socket_connect_inet(&inet, errp);
}

static int listen_socket(const struct chardev_options *o, struct error **errp)
{
    struct socket_inet inet = {
        .host = o->host, .port = o->port, .family = o->family,
    };

    return o->path ? socket_listen_unix(o->path, errp)
        : socket_listen_inet(&inet, errp);
}

static void give_connection(struct chardev *c)
{
    int fd = c->fd, write_fd = c->write_fd >= 0 ? c->write_fd : c->fd;

    c->fd = c->write_fd = -1;
    c->n_clients++;
    c->user.opened(c->user.opaque, fd, write_fd);
}

static void set_timer(struct chardev *c, int64_t ms)
{
    struct timeval tv = { ms / 1000, ms % 1000 * 1000 };

    event_add(c->timer, &tv);
}

/* accept() found no descriptor: try again later, not at once for ever. */
static void pause_listening(struct chardev *c)
{
    enum { PAUSE_MS = 200 };

    event_del(c->accept_event);
    set_timer(c, PAUSE_MS);
}

static void accept_ready(evutil_socket_t listen_fd, short what, void *arg)
{
    struct chardev *c = arg;
    int fd = accept4(listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

    CONTROL_GUARD();
    if (fd >= 0) {
        trace(SERVER, "chardev-accept id=%s fd=%d", c->id, fd);
        prepare_connection(fd);
        c->n_clients++;
        c->user.opened(c->user.opaque, fd, fd);
    } else if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS ||
               errno == ENOMEM) {
        pause_listening(c);
    }
}

/* Worker: connect() must not hold up the loop. */
static void connect_in_worker(void *arg)
{
    struct chardev *c = arg;
    int fd = connect_socket(c->options, NULL);

    CONTROL_GUARD();
    c->fd = fd;
    loop_defer(connected_again, c);
}

/* Loop's thread, control lock held. */
static void connected_again(void *arg)
{
    struct chardev *c = arg;

    c->connecting = false;
    if (closed) {
        chardev_free(c);
    } else if (c->fd < 0) {
        set_timer(c, c->options->reconnect_ms);
    } else {
        give_connection(c);
    }
}

static void timer_expired(evutil_socket_t unused, short what, void *arg)
{
    struct chardev *c = arg;

    CONTROL_GUARD();
    if (c->accept_event) {
        event_add(c->accept_event, NULL);
    } else {
        c->connecting = true;
        pool_submit(connect_in_worker, c);
    }
}

void chardev_hung_up(struct chardev *c)
{
    c->n_clients--;
    if (c->options && c->timer && !closed) {
        set_timer(c, c->options->reconnect_ms);
    }
}

/* ---- life --------------------------------------------------------------- */

/* Remember the socket file, to remove it at the end if it still is ours. */
static void remember_path(struct chardev *c, const char *path)
{
    c->remove_path = g_canonicalize_filename(path, NULL);
    if (lstat(c->remove_path, &c->made) < 0) {
        g_clear_pointer(&c->remove_path, g_free);
    }
}

static void remove_socket_file(struct chardev *c)
{
    struct stat st;

    if (c->remove_path && lstat(c->remove_path, &st) == 0 &&
        st.st_dev == c->made.st_dev && st.st_ino == c->made.st_ino) {
        unlink(c->remove_path);
    }
    g_clear_pointer(&c->remove_path, g_free);
}

static void close_fd(int fd)
{
    if (fd >= 0) {
        close(fd);
    }
}

static void chardev_free(struct chardev *c)
{
    remove_socket_file(c);
    if (c->accept_event) {
        event_free(c->accept_event);
    }
    if (c->timer) {
        event_free(c->timer);
    }
    if (c->listen_fd >= 0) {
        close(c->listen_fd);
    }
    if (c->kind != CHARDEV_STDIO) {
        close_fd(c->fd);
        close_fd(c->write_fd);
    }
    close_fd(c->pty_fd);
    chardev_options_free(c->options);
    g_free(c->filename);
    g_free(c->id);
    g_free(c);
}

/* Start-up only: nobody else can be served yet. */
static bool wait_for_client(struct chardev *c, struct error **errp)
{
    struct pollfd pfd = { .fd = c->listen_fd, .events = POLLIN };

    fprintf(stderr, "%s: info: waiting for connection on chardev '%s'\n",
            g_get_prgname(), c->id);
    do {
        if (poll(&pfd, 1, -1) < 0 && errno != EINTR) {
            error_set_errno(errp, errno, "Cannot wait for a client");
            return false;
        }
        c->fd = accept4(c->listen_fd, NULL, NULL,
                        SOCK_CLOEXEC | SOCK_NONBLOCK);
    } while (c->fd < 0 && (errno == EAGAIN || errno == EINTR ||
                           errno == ECONNABORTED));
    if (c->fd < 0) {
        error_set_errno(errp, errno, "Cannot accept a client");
        return false;
    }
    prepare_connection(c->fd);
    return true;
}

static bool open_fd(struct chardev *c, const struct chardev_options *o,
                    struct error **errp)
{
    bool listening;
    int fd = socket_take_fd(o->fd, &listening, errp);

    if (fd < 0) {
        return false;
    }
    if (listening != o->server) {
        error_set(errp, "File descriptor '%s' is a %s socket", o->fd,
                  listening ? "listening" : "connected");
        return false;
    }
    *(listening ? &c->listen_fd : &c->fd) = fd;
    return true;
}

static bool open_socket(struct chardev *c, const struct chardev_options *o,
                        struct error **errp)
{
    if (o->fd) {
        if (!open_fd(c, o, errp)) {
            return false;
        }
    } else if (o->server) {
        c->listen_fd = listen_socket(o, errp);
        if (c->listen_fd < 0) {
            return false;
        }
        if (o->path) {
            remember_path(c, o->path);
        }
    } else if (!o->reconnect_ms) {
        c->fd = connect_socket(o, errp);
        return c->fd >= 0;
    }
    return !o->server || !o->wait || wait_for_client(c, errp);
}

static bool stdio_is_taken(void)
{
    for (struct chardev *c = chardevs; c; c = c->next) {
        if (c->kind == CHARDEV_STDIO) {
            return true;
        }
    }
    return false;
}

static struct chardev_options *copy_target(const struct chardev_options *o)
{
    struct chardev_options *copy = g_new0(struct chardev_options, 1);

    copy->path = o->path ? g_canonicalize_filename(o->path, NULL) : NULL;
    copy->host = g_strdup(o->host);
    copy->port = g_strdup(o->port);
    copy->family = o->family;
    copy->reconnect_ms = o->reconnect_ms;
    return copy;
}

static bool open_stdio(struct chardev *c, struct error **errp)
{
    if (stdio_is_taken()) {
        error_set(errp, "cannot use stdio by multiple character devices");
        return false;
    }
    c->fd = STDIN_FILENO;
    c->write_fd = STDOUT_FILENO;
    return true;
}

static bool open_pty(struct chardev *c, struct error **errp)
{
    char *name = chardev_open_pty(&c->fd, &c->write_fd, &c->pty_fd, errp);

    if (!name) {
        return false;
    }
    g_free(c->filename);
    c->filename = g_strdup_printf("pty:%s", name);
    printf("char device redirected to %s (label %s)\n", name, c->id);
    fflush(stdout);
    g_free(name);
    return true;
}

static bool open_kind(struct chardev *c, const struct chardev_options *o,
                      struct error **errp)
{
    switch (o->kind) {
    case CHARDEV_SOCKET:
        return open_socket(c, o, errp);
    case CHARDEV_STDIO:
        return open_stdio(c, errp);
    case CHARDEV_NULL:
        return true;
    case CHARDEV_FILE:
        c->write_fd = chardev_open_file(o->path, o->append, errp);
        return c->write_fd >= 0;
    case CHARDEV_PIPE:
        return chardev_open_pipe(o->path, &c->fd, &c->write_fd, errp);
    case CHARDEV_PTY:
        return open_pty(c, errp);
    }
    g_assert_not_reached();
}

/* As QEMU's query-chardev tells it; a pty learns its own. */
static char *describe(const struct chardev_options *o)
{
    static const char *const names[] = {
        "socket", "stdio", "null", "file", "pipe", "pty",
    };
    const char *server = o->server ? ",server=on" : "";

    if (o->kind != CHARDEV_SOCKET) {
        return g_strdup(names[o->kind]);
    }
    if (o->path) {
        return g_strdup_printf("unix:%s%s", o->path, server);
    }
    return o->fd ? g_strdup_printf("fd:%s%s", o->fd, server)
        : g_strdup_printf("tcp:%s:%s%s", o->host, o->port, server);
}

bool chardev_add(const struct chardev_options *o, struct error **errp)
{
    struct chardev *c, **tail = &chardevs;

    if (chardev_find(o->id)) {
        error_set(errp, "Duplicate ID '%s' for chardev", o->id);
        return false;
    }
    c = g_new0(struct chardev, 1);
    c->id = g_strdup(o->id);
    c->kind = o->kind;
    c->filename = describe(o);
    c->listen_fd = c->fd = c->write_fd = c->pty_fd = -1;
    if (!open_kind(c, o, errp)) {
        chardev_free(c);
        return false;
    }
    if (o->reconnect_ms) {
        c->options = copy_target(o);
    }
    while (*tail) {
        tail = &(*tail)->next;
    }
    *tail = c;
    trace(SERVER, "chardev-add id=%s", c->id);
    return true;
}

struct chardev *chardev_find(const char *id)
{
    struct chardev *c = chardevs;

    while (c && strcmp(c->id, id)) {
        c = c->next;
    }
    return c;
}

const struct chardev *chardev_next(const struct chardev *c)
{
    return c ? c->next : chardevs;
}

const char *chardev_id(const struct chardev *c)
{
    return c->id;
}

bool chardev_is_used(const struct chardev *c)
{
    return c->user.opened != NULL;
}

char *chardev_filename(const struct chardev *c)
{
    bool nobody = c->kind == CHARDEV_SOCKET && c->n_clients <= 0;

    return g_strconcat(nobody ? "disconnected:" : "", c->filename, NULL);
}

bool chardev_use(struct chardev *c, const struct chardev_user *user,
                 struct error **errp)
{
    if (c->user.opened) {
        error_set(errp, "Device '%s' is in use", c->id);
        return false;
    }
    if (c->kind == CHARDEV_FILE) {
        error_set(errp, "Device '%s' only takes output", c->id);
        return false;
    }
    c->user = *user;
    return true;
}

void chardev_start_all(void)
{
    for (struct chardev *c = chardevs; c; c = c->next) {
        if (!c->user.opened) {
            continue;
        }
        c->timer = evtimer_new(loop_base(), timer_expired, c);
        if (c->listen_fd >= 0) {
            c->accept_event = event_new(loop_base(), c->listen_fd,
                                        EV_READ | EV_PERSIST, accept_ready,
                                        c);
            event_add(c->accept_event, NULL);
        }
        if (c->fd >= 0) {
            give_connection(c);
        } else if (c->options) {
            set_timer(c, 0);
        }
    }
}

void chardev_close_all(void)
{
    struct chardev *c;

    closed = true;
    while ((c = chardevs)) {
        chardevs = c->next;
        if (c->connecting) {
            remove_socket_file(c);      /* connected_again() frees it */
        } else {
            chardev_free(c);
        }
    }
}
