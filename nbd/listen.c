/* SPDX-License-Identifier: MIT */
/* Listening sockets: see listen.h. */
#include "nbd/listen.h"

#include <errno.h>
#include <fcntl.h>
#include <glib.h>
#include <netdb.h>
#include <netinet/in.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

enum { BACKLOG = 128 };

static struct nbd_listener *listener_new(void)
{
    return g_new0(struct nbd_listener, 1);
}

static void listener_add(struct nbd_listener *l, int fd)
{
    l->fds = g_renew(int, l->fds, l->n_fds + 1);
    l->fds[l->n_fds++] = fd;
}

void nbd_listener_close(struct nbd_listener **l)
{
    if (!*l) {
        return;
    }
    for (size_t i = 0; i < (*l)->n_fds; i++) {
        close((*l)->fds[i]);
    }
    if ((*l)->unix_path) {
        unlink((*l)->unix_path);
    }
    g_free((*l)->unix_path);
    g_free((*l)->fds);
    g_free(*l);
    *l = NULL;
}

/* ---- unix --------------------------------------------------------------- */

/* A socket that an earlier process left; anything else stays. */
static bool remove_stale_socket(const char *path, struct error **errp)
{
    struct stat st;

    if (lstat(path, &st) < 0 || !S_ISSOCK(st.st_mode)) {
        return true;            /* bind() says what is wrong, if anything */
    }
    if (unlink(path) < 0 && errno != ENOENT) {
        error_set_errno(errp, errno, "Failed to unlink socket %s", path);
        return false;
    }
    return true;
}

/* A's socket address; returns its length, 0 and errp if it is too long. */
static socklen_t unix_address(const struct nbd_unix_address *a,
                              struct sockaddr_un *address,
                              struct error **errp)
{
    size_t length = strlen(a->path), first = a->abstract ? 1 : 0;

    *address = (struct sockaddr_un){ .sun_family = AF_UNIX };
    if (length >= sizeof(address->sun_path)) {
        error_set(errp, "UNIX socket path '%s' is too long", a->path);
        error_append_hint(errp, "Path must be less than %zu bytes\n",
                          sizeof(address->sun_path));
        return 0;
    }
    memcpy(address->sun_path + first, a->path,
           MIN(length, sizeof(address->sun_path) - first));
    return a->abstract && a->tight
           ? G_STRUCT_OFFSET(struct sockaddr_un, sun_path) + first + length
           : sizeof(*address);
}

struct nbd_listener *nbd_listen_unix(const struct nbd_unix_address *a,
                                     struct error **errp)
{
    struct sockaddr_un address;
    socklen_t length = unix_address(a, &address, errp);
    struct nbd_listener *l;
    int fd;

    if (length == 0 || (!a->abstract && !remove_stale_socket(a->path, errp))) {
        return NULL;
    }
    fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0) {
        error_set_errno(errp, errno, "Failed to create Unix socket");
        return NULL;
    }
    l = listener_new();
    listener_add(l, fd);
    if (bind(fd, (struct sockaddr *)&address, length) < 0) {
        error_set_errno(errp, errno, "Failed to bind socket to %s", a->path);
        nbd_listener_close(&l);
        return NULL;
    }
    l->unix_path = a->abstract ? NULL : g_strdup(a->path);
    if (listen(fd, BACKLOG) < 0) {
        error_set_errno(errp, errno, "Failed to listen on socket");
        nbd_listener_close(&l);
    }
    return l;
}

/* ---- inet --------------------------------------------------------------- */

/* 0: any family; AF_INET, AF_INET6; -1: both were refused. */
static int wanted_family(const struct nbd_inet_address *a)
{
    bool no_v4 = a->has_ipv4 && !a->ipv4;
    bool no_v6 = a->has_ipv6 && !a->ipv6;

    if (no_v4 && no_v6) {
        return -1;
    }
    if (no_v6 || (a->has_ipv4 && a->ipv4 && !(a->has_ipv6 && a->ipv6))) {
        return AF_INET;
    }
    if (no_v4 || (a->has_ipv6 && a->ipv6 && !(a->has_ipv4 && a->ipv4))) {
        return AF_INET6;
    }
    return AF_UNSPEC;
}

static void set_resolve_error(struct error **errp,
                              const struct nbd_inet_address *a, int gai_error)
{
    error_set(errp, "address resolution failed for %s:%s: %s",
              a->host ? a->host : "", a->port, gai_strerror(gai_error));
}

/* A number, or the name of a service. */
static bool parse_port(const struct nbd_inet_address *a, uint16_t *port,
                       struct error **errp)
{
    const struct servent *service;
    guint64 value;

    if (g_ascii_string_to_unsigned(a->port, 10, 0, UINT16_MAX, &value, NULL)) {
        *port = value;
        return true;
    }
    service = getservbyname(a->port, "tcp");
    if (!service) {
        set_resolve_error(errp, a, EAI_SERVICE);
        return false;
    }
    *port = ntohs(service->s_port);
    return true;
}

static void set_port(struct sockaddr *address, uint16_t port)
{
    if (address->sa_family == AF_INET6) {
        ((struct sockaddr_in6 *)address)->sin6_port = htons(port);
    } else {
        ((struct sockaddr_in *)address)->sin_port = htons(port);
    }
}

/* A socket that listens at AI's address and PORT, or -errno. */
static int listen_at(const struct addrinfo *ai, uint16_t port)
{
    int on = 1, err;
    int fd = socket(ai->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK,
                    0);

    if (fd < 0) {
        return -errno;
    }
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
    if (ai->ai_family == AF_INET6) {
        setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &on, sizeof(on));
    }
    set_port(ai->ai_addr, port);
    if (bind(fd, ai->ai_addr, ai->ai_addrlen) < 0 || listen(fd, BACKLOG) < 0) {
        err = errno;
        close(fd);
        return -err;
    }
    return fd;
}

/* The port a socket got; all others of the same server get it too. */
static uint16_t bound_port(int fd)
{
    struct sockaddr_storage address = { 0 };
    socklen_t length = sizeof(address);

    getsockname(fd, (struct sockaddr *)&address, &length);
    return ntohs(address.ss_family == AF_INET6
                 ? ((struct sockaddr_in6 *)&address)->sin6_port
                 : ((struct sockaddr_in *)&address)->sin_port);
}

/* Listen at as many of LIST as can be, on PORT.  0, or -errno of the last. */
static int listen_at_all(struct nbd_listener *l, const struct addrinfo *list,
                         uint16_t port)
{
    int err = -EADDRNOTAVAIL;

    for (const struct addrinfo *ai = list; ai; ai = ai->ai_next) {
        int fd = listen_at(ai, port);

        if (fd < 0) {
            err = fd;
            if (fd == -EADDRINUSE) {
                break;
            }
            continue;
        }
        listener_add(l, fd);
        port = bound_port(fd);
    }
    if (err == -EADDRINUSE || l->n_fds == 0) {
        while (l->n_fds > 0) {
            close(l->fds[--l->n_fds]);
        }
        return err;
    }
    return 0;
}

static struct addrinfo *resolve(const struct nbd_inet_address *a,
                                struct error **errp)
{
    struct addrinfo hints = {
        .ai_flags = AI_PASSIVE, .ai_socktype = SOCK_STREAM,
        .ai_family = wanted_family(a),
    };
    const char *host = a->host && *a->host ? a->host : NULL;
    struct addrinfo *list = NULL;
    int ret;

    if (hints.ai_family < 0) {
        error_set(errp, "Cannot disable IPv4 and IPv6 at same time");
        return NULL;
    }
    ret = getaddrinfo(host, "0", &hints, &list);
    if (ret != 0) {
        set_resolve_error(errp, a, ret);
        return NULL;
    }
    return list;
}

struct nbd_listener *nbd_listen_inet(const struct nbd_inet_address *a,
                                     struct error **errp)
{
    struct nbd_listener *l;
    struct addrinfo *list;
    uint16_t first;
    int ret = 0;

    if (!parse_port(a, &first, errp)) {
        return NULL;
    }
    list = resolve(a, errp);
    if (!list) {
        return NULL;
    }
    l = listener_new();
    for (int port = first; port <= MIN(MAX(first, a->to), UINT16_MAX); port++) {
        ret = listen_at_all(l, list, port);
        if (ret != -EADDRINUSE) {
            break;
        }
    }
    freeaddrinfo(list);
    if (ret < 0) {
        error_set_errno(errp, -ret, ret == -EADDRINUSE
                        ? "Failed to find an available port"
                        : "Failed to bind socket");
        nbd_listener_close(&l);
    }
    return l;
}

/* ---- a file descriptor -------------------------------------------------- */

struct nbd_listener *nbd_listen_fd(int fd, struct error **errp)
{
    int value = 0;
    socklen_t length = sizeof(value);
    struct nbd_listener *l;

    if (getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &value, &length) < 0 ||
        !value) {
        error_set(errp, "File descriptor '%d' is not a listening socket", fd);
        close(fd);
        return NULL;
    }
    fcntl(fd, F_SETFD, FD_CLOEXEC);
    fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK);
    l = listener_new();
    listener_add(l, fd);
    return l;
}
