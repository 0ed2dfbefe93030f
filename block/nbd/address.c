/* SPDX-License-Identifier: MIT */
/* Connecting to a SocketAddress: see address.h. */
#include "block/nbd/address.h"

#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>
#include "base/control.h"

static int (*fd_lookup)(const char *name, struct error **errp);

void nbd_address_set_fd_lookup(int (*lookup)(const char *name,
                                             struct error **errp))
{
    fd_lookup = lookup;
}

char *nbd_address_describe(const SocketAddress *a)
{
    switch (a->type) {
    case SOCKET_ADDRESS_TYPE_INET:
        return g_strdup_printf("%s:%s", a->u.inet.host, a->u.inet.port);
    case SOCKET_ADDRESS_TYPE_UNIX:
        return g_strdup(a->u.q_unix.path);
    default:
        return g_strdup(a->u.fd.str);
    }
}

/* FD is taken.  FD itself once it is connected, or -errno. */
static int finish_connect(int fd, const struct sockaddr *address,
                          socklen_t length, const struct nbd_wait *w)
{
    int err = 0, ret = 0;
    socklen_t err_length = sizeof(err);

    if (connect(fd, address, length) < 0) {
        /* A unix socket whose queue is full says EAGAIN, and no event comes
         * when there is room. */
        while (errno == EAGAIN) {
            ret = nbd_wait_check(w);
            if (ret < 0) {
                break;
            }
            poll(NULL, 0, 20);
            if (connect(fd, address, length) == 0) {
                return fd;
            }
        }
        if (ret == 0 && errno != EINPROGRESS) {
            ret = -errno;
        } else if (ret == 0) {
            ret = MIN(nbd_wait_fd(w, fd, POLLOUT), 0);
        }
        if (ret == 0 && getsockopt(fd, SOL_SOCKET, SO_ERROR, &err,
                                   &err_length) < 0) {
            err = errno;
        }
        ret = ret < 0 ? ret : -err;
    }
    if (ret < 0) {
        close(fd);
        return ret;
    }
    return fd;
}

/* ---- unix --------------------------------------------------------------- */

static int connect_unix(const UnixSocketAddress *a, const struct nbd_wait *w,
                        struct error **errp)
{
    struct sockaddr_un address = { .sun_family = AF_UNIX };
    size_t length = strlen(a->path);
    size_t first = a->has_abstract && a->abstract ? 1 : 0;
    socklen_t address_length = sizeof(address);
    int fd;

    if (length + first > sizeof(address.sun_path) - (first ? 0 : 1)) {
        error_set(errp, "UNIX socket path '%s' is too long", a->path);
        error_append_hint(errp, "Path must be less than %zu bytes\n",
                          sizeof(address.sun_path));
        return -ENAMETOOLONG;
    }
    memcpy(address.sun_path + first, a->path, length);
    if (first && (!a->has_tight || a->tight)) {
        address_length = G_STRUCT_OFFSET(struct sockaddr_un, sun_path) +
                         first + length;
    }
    fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0) {
        int err = errno;

        error_set_errno(errp, err, "Failed to create Unix socket");
        return -err;
    }
    fd = finish_connect(fd, (struct sockaddr *)&address, address_length, w);
    if (fd < 0) {
        error_set_errno(errp, -fd, "Failed to connect to '%s'", a->path);
    }
    return fd;
}

/* ---- inet --------------------------------------------------------------- */

/* AF_UNSPEC: any; -1: both families were refused. */
static int wanted_family(const InetSocketAddress *a)
{
    bool no_v4 = a->has_ipv4 && !a->ipv4;
    bool no_v6 = a->has_ipv6 && !a->ipv6;
    bool v4 = a->has_ipv4 && a->ipv4, v6 = a->has_ipv6 && a->ipv6;

    if (no_v4 && no_v6) {
        return -1;
    }
    if (no_v6 || (v4 && !v6)) {
        return AF_INET;
    }
    return no_v4 || (v6 && !v4) ? AF_INET6 : AF_UNSPEC;
}

static struct addrinfo *resolve(const InetSocketAddress *a,
                                struct error **errp)
{
    struct addrinfo hints = {
        .ai_socktype = SOCK_STREAM, .ai_family = wanted_family(a),
    };
    struct addrinfo *list = NULL;
    int ret;

    if (hints.ai_family < 0) {
        error_set(errp, "Cannot disable IPv4 and IPv6 at same time");
        return NULL;
    }
    if (a->has_numeric && a->numeric) {
        hints.ai_flags = AI_NUMERICHOST | AI_NUMERICSERV;
    }
    ret = getaddrinfo(a->host, a->port, &hints, &list);
    if (ret != 0) {
        error_set(errp, "address resolution failed for %s:%s: %s", a->host,
                  a->port, gai_strerror(ret));
        return NULL;
    }
    return list;
}

static void set_tcp_options(int fd, const InetSocketAddress *a)
{
    int on = 1;

    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
    if (a->has_keep_alive && a->keep_alive) {
        setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof(on));
    }
}

static int connect_inet(const InetSocketAddress *a, const struct nbd_wait *w,
                        struct error **errp)
{
    struct addrinfo *list;
    int fd = -EHOSTUNREACH;

    if (a->has_mptcp && a->mptcp) {
        error_set(errp, "Multipath TCP is not supported");
        return -ENOTSUP;
    }
    list = resolve(a, errp);
    if (!list) {
        return -EHOSTUNREACH;
    }
    for (struct addrinfo *ai = list; ai && fd < 0; ai = ai->ai_next) {
        fd = socket(ai->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK,
                    0);
        if (fd < 0) {
            fd = -errno;
            continue;
        }
        set_tcp_options(fd, a);
        fd = finish_connect(fd, ai->ai_addr, ai->ai_addrlen, w);
        if (fd == -ECANCELED) {
            break;
        }
    }
    freeaddrinfo(list);
    if (fd < 0) {
        error_set_errno(errp, -fd, "Failed to connect to '%s:%s'", a->host,
                        a->port);
    }
    return fd;
}

/* ---- fd ----------------------------------------------------------------- */

/* A descriptor by number is ours for good; one by name the monitor gives
 * away: both can be used only once. */
static int take_fd(const FdSocketAddress *a, struct error **errp)
{
    char *end;
    long number = strtol(a->str, &end, 10);
    int fd = -1, type = 0;
    socklen_t length = sizeof(type);

    if (g_ascii_isdigit(a->str[0]) && !*end && number <= INT32_MAX) {
        fd = fcntl(number, F_DUPFD_CLOEXEC, 3);
        if (fd < 0) {
            error_set_errno(errp, errno, "Cannot use file descriptor '%s'",
                            a->str);
        }
    } else if (fd_lookup) {
        CONTROL_GUARD();
        fd = fd_lookup(a->str, errp);
    } else {
        error_set(errp, "File descriptor named '%s' not found", a->str);
    }
    if (fd < 0) {
        return -EBADF;
    }
    if (getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &length) < 0 ||
        type != SOCK_STREAM) {
        error_set(errp, "File descriptor '%s' is not a socket", a->str);
        close(fd);
        return -ENOTSOCK;
    }
    fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK);
    return fd;
}

int nbd_address_connect(const SocketAddress *a, const struct nbd_wait *w,
                        struct error **errp)
{
    switch (a->type) {
    case SOCKET_ADDRESS_TYPE_INET:
        return connect_inet(&a->u.inet, w, errp);
    case SOCKET_ADDRESS_TYPE_UNIX:
        return connect_unix(&a->u.q_unix, w, errp);
    case SOCKET_ADDRESS_TYPE_FD:
        return take_fd(&a->u.fd, errp);
    default:
        error_set(errp, "Socket address type is not supported");
        return -ENOTSUP;
    }
}
