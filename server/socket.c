/* SPDX-License-Identifier: MIT */
/* Sockets for monitors: see socket.h. */
#include "server/socket.h"

#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

enum { BACKLOG = 64 };

static int new_socket(int family, struct error **errp)
{
    int fd = socket(family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

    if (fd < 0) {
        error_set_errno(errp, errno, "Failed to create socket");
    }
    return fd;
}

static int fail(int fd)
{
    if (fd >= 0) {
        close(fd);
    }
    return -1;
}

/* ---- unix --------------------------------------------------------------- */

static bool make_unix_address(const char *path, struct sockaddr_un *address,
                              struct error **errp)
{
    size_t len = strlen(path);

    if (len >= sizeof(address->sun_path)) {
        error_set(errp, "UNIX socket path '%s' is too long", path);
        error_append_hint(errp, "Path must be less than %zu bytes\n",
                          sizeof(address->sun_path));
        return false;
    }
    memset(address, 0, sizeof(*address));
    address->sun_family = AF_UNIX;
    memcpy(address->sun_path, path, len);
    return true;
}

/* Nobody is there any more who could answer on the socket at ADDRESS. */
static bool is_stale(const struct sockaddr_un *address)
{
    struct stat st;
    bool stale;
    int fd;

    if (lstat(address->sun_path, &st) < 0 || !S_ISSOCK(st.st_mode)) {
        return false;
    }
    fd = new_socket(AF_UNIX, NULL);
    if (fd < 0) {
        return false;
    }
    stale = connect(fd, (const struct sockaddr *)address,
                    sizeof(*address)) < 0 && errno == ECONNREFUSED;
    close(fd);
    return stale;
}

/* The mode is right from the start: umask, as fchmod() before bind() does not
 * count everywhere.  Called before there are threads that make files, or
 * with files whose mode nobody asked to be wider. */
static int bind_private(int fd, const struct sockaddr_un *address)
{
    mode_t mask = umask(0177);
    int ret = bind(fd, (const struct sockaddr *)address, sizeof(*address));
    int err = errno;

    umask(mask);
    errno = err;
    return ret;
}

int socket_listen_unix(const char *path, struct error **errp)
{
    struct sockaddr_un address;
    int fd, ret;

    if (!make_unix_address(path, &address, errp) ||
        (fd = new_socket(AF_UNIX, errp)) < 0) {
        return -1;
    }
    ret = bind_private(fd, &address);
    if (ret < 0 && errno == EADDRINUSE && is_stale(&address)) {
        unlink(path);
        ret = bind_private(fd, &address);
    }
    if (ret < 0) {
        error_set_errno(errp, errno, "Failed to bind socket to %s", path);
        return fail(fd);
    }
    if (listen(fd, BACKLOG) < 0) {
        error_set_errno(errp, errno, "Failed to listen on socket %s", path);
        unlink(path);
        return fail(fd);
    }
    return fd;
}

/* Connect blocking, so that a full backlog is waited for; not for ever. */
static int connect_blocking(int fd, const struct sockaddr *address,
                            socklen_t len)
{
    static const struct timeval limit = { .tv_sec = 10 };
    int flags = fcntl(fd, F_GETFL);
    int ret;

    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof(limit));
    fcntl(fd, F_SETFL, flags & ~O_NONBLOCK);
    do {
        ret = connect(fd, address, len);
    } while (ret < 0 && errno == EINTR);
    if (ret == 0) {
        fcntl(fd, F_SETFL, flags);
    } else if (errno == EINPROGRESS || errno == EAGAIN) {
        errno = ETIMEDOUT;
    }
    return ret;
}

int socket_connect_unix(const char *path, struct error **errp)
{
    struct sockaddr_un address;
    int fd;

    if (!make_unix_address(path, &address, errp) ||
        (fd = new_socket(AF_UNIX, errp)) < 0) {
        return -1;
    }
    if (connect_blocking(fd, (struct sockaddr *)&address,
                         sizeof(address)) < 0) {
        error_set_errno(errp, errno, "Failed to connect to '%s'", path);
        return fail(fd);
    }
    return fd;
}

/* ---- TCP ---------------------------------------------------------------- */

static struct addrinfo *look_up(const struct socket_inet *address, int flags,
                                struct error **errp)
{
    struct addrinfo hints = {
        .ai_flags = flags,
        .ai_family = address->family,
        .ai_socktype = SOCK_STREAM,
    };
    const char *host = address->host[0] ? address->host : NULL;
    struct addrinfo *list = NULL;
    int ret = getaddrinfo(host, address->port, &hints, &list);

    if (ret != 0) {
        error_set(errp, "address resolution failed for %s:%s: %s",
                  address->host, address->port, gai_strerror(ret));
        return NULL;
    }
    return list;
}

static int listen_one(const struct addrinfo *ai)
{
    int fd = new_socket(ai->ai_family, NULL);
    int on = 1;

    if (fd < 0) {
        return -1;
    }
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
    if (bind(fd, ai->ai_addr, ai->ai_addrlen) < 0 ||
        listen(fd, BACKLOG) < 0) {
        int err = errno;

        close(fd);
        errno = err;
        return -1;
    }
    return fd;
}

int socket_listen_inet(const struct socket_inet *address, struct error **errp)
{
    struct addrinfo *list = look_up(address, AI_PASSIVE, errp);
    int fd = -1;

    if (!list) {
        return -1;
    }
    for (struct addrinfo *ai = list; ai && fd < 0; ai = ai->ai_next) {
        fd = listen_one(ai);
    }
    if (fd < 0) {
        error_set_errno(errp, errno, "Failed to bind socket to %s:%s",
                        address->host, address->port);
    }
    freeaddrinfo(list);
    return fd;
}

int socket_connect_inet(const struct socket_inet *address,
                        struct error **errp)
{
    struct addrinfo *list = look_up(address, 0, errp);
    int fd = -1, on = 1;

    if (!list) {
        return -1;
    }
    for (struct addrinfo *ai = list; ai && fd < 0; ai = ai->ai_next) {
        fd = new_socket(ai->ai_family, NULL);
        if (fd >= 0 &&
            connect_blocking(fd, ai->ai_addr, ai->ai_addrlen) < 0) {
            int err = errno;

            close(fd);
            errno = err;
            fd = -1;
        }
    }
    if (fd < 0) {
        error_set_errno(errp, errno, "Failed to connect to '%s:%s'",
                        address->host, address->port);
    } else {
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
    }
    freeaddrinfo(list);
    return fd;
}

/* ---- inherited ---------------------------------------------------------- */

int socket_take_fd(const char *text, bool *listening, struct error **errp)
{
    struct stat st;
    socklen_t len = sizeof(int);
    int accepts = 0;
    char *end;
    long fd;

    errno = 0;
    fd = strtol(text, &end, 10);
    if (!*text || *end || errno || fd < 0 || fd > INT_MAX) {
        error_set(errp, "Unable to parse FD number %s", text);
        return -1;
    }
    if (fstat(fd, &st) < 0 || !S_ISSOCK(st.st_mode)) {
        error_set(errp, "File descriptor '%s' is not a socket", text);
        return -1;
    }
    getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &accepts, &len);
    *listening = accepts;
    fcntl(fd, F_SETFD, FD_CLOEXEC);
    fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK);
    return fd;
}
