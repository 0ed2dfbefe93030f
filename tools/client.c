/* SPDX-License-Identifier: MIT */
/* A QMP client: see client.h. */
#include "tools/client.h"

#include <errno.h>
#include <netdb.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>
#include "base/lock.h"

enum { CONNECT_TIMEOUT_MS = 5000, READ_BYTES = 65536 };

struct client {
    int fd;
    GString *input;     /* bytes received, not yet a whole line */
    GQueue events;      /* json_t *, owned, oldest first */
    uint64_t last_id;
    bool dead;
};

/* ---- sockets ------------------------------------------------------------- */

static int connect_unix(const char *path, struct error **errp)
{
    struct sockaddr_un addr = { .sun_family = AF_UNIX };
    int fd;

    if (strlen(path) >= sizeof(addr.sun_path)) {
        error_set(errp, "Socket path '%s' is too long", path);
        return -1;
    }
    strcpy(addr.sun_path, path);
    fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0 || connect(fd, (struct sockaddr *)&addr, sizeof(addr)) < 0) {
        error_set_errno(errp, errno, "Could not connect to '%s'", path);
        if (fd >= 0) {
            close(fd);
        }
        return -1;
    }
    return fd;
}

static int connect_tcp(const char *host, const char *port,
                       struct error **errp)
{
    struct addrinfo hints = { .ai_socktype = SOCK_STREAM };
    struct addrinfo *list;
    int fd = -1, ret;

    ret = getaddrinfo(*host ? host : "localhost", port, &hints, &list);
    if (ret) {
        error_set(errp, "Could not find '%s': %s", host, gai_strerror(ret));
        return -1;
    }
    for (struct addrinfo *a = list; a && fd < 0; a = a->ai_next) {
        fd = socket(a->ai_family, a->ai_socktype | SOCK_CLOEXEC, 0);
        if (fd >= 0 && connect(fd, a->ai_addr, a->ai_addrlen) < 0) {
            ret = errno;
            close(fd);
            errno = ret;
            fd = -1;
        }
    }
    if (fd < 0) {
        error_set_errno(errp, errno, "Could not connect to '%s:%s'", host,
                        port);
    }
    freeaddrinfo(list);
    return fd;
}

static int connect_address(const char *address, struct error **errp)
{
    bool tcp = g_str_has_prefix(address, "tcp:");
    const char *colon;

    if (g_str_has_prefix(address, "unix:")) {
        return connect_unix(address + 5, errp);
    }
    address += tcp ? 4 : 0;
    colon = strrchr(address, ':');
    if (tcp || (colon && !strchr(address, '/'))) {
        g_autofree char *host = NULL;

        if (!colon) {
            error_set(errp, "Address '%s' lacks a port", address);
            return -1;
        }
        host = g_strndup(address, colon - address);
        return connect_tcp(host, colon + 1, errp);
    }
    return connect_unix(address, errp);
}

/* ---- messages --------------------------------------------------------------- */

static json_t *parse_line(const char *line, size_t len)
{
    json_t *v = json_loadb(line, len, JSON_ALLOW_NUL, NULL);

    /* Numbers beyond int64_t: as reals rather than not at all. */
    return v ? v : json_loadb(line, len,
                              JSON_ALLOW_NUL | JSON_DECODE_INT_AS_REAL, NULL);
}

/* One message (new reference); NULL: time is up, or the client is dead. */
static json_t *receive(struct client *c, int64_t deadline_ns)
{
    for (;;) {
        char *end = memchr(c->input->str, '\n', c->input->len);
        int64_t left_ms = (deadline_ns - clock_ns() + 999999) / 1000000;
        struct pollfd pfd = { .fd = c->fd, .events = POLLIN };
        char buf[READ_BYTES];
        ssize_t n;

        if (end) {
            size_t len = end - c->input->str;
            json_t *v = parse_line(c->input->str, len);

            g_string_erase(c->input, 0, len + 1);
            if (v) {
                return v;
            }
            continue;       /* an empty line, or the \r of one */
        }
        if (c->dead || left_ms < 0) {
            return NULL;
        }
        n = poll(&pfd, 1, deadline_ns == INT64_MAX ? -1 : (int)left_ms);
        if (n == 0) {
            return NULL;
        }
        n = n < 0 ? -1 : read(c->fd, buf, sizeof(buf));
        if (n > 0) {
            g_string_append_len(c->input, buf, n);
        } else if (n == 0 || errno != EINTR) {
            c->dead = true;
        }
    }
}

static bool send_all(struct client *c, const char *text, size_t len)
{
    while (len > 0) {
        ssize_t n = send(c->fd, text, len, MSG_NOSIGNAL);

        if (n < 0 && errno == EINTR) {
            continue;
        }
        if (n < 0) {
            return false;
        }
        text += n;
        len -= n;
    }
    return true;
}

static enum error_class class_from_name(const char *name)
{
    for (int c = ERROR_GENERIC; c <= ERROR_KVM_MISSING_CAP; c++) {
        if (g_strcmp0(name, error_class_name(c)) == 0) {
            return c;
        }
    }
    return ERROR_GENERIC;
}

static json_t *reply_value(json_t *reply, struct error **errp)
{
    json_t *e = json_object_get(reply, "error");
    const char *desc;

    if (!e) {
        return json_incref(json_object_get(reply, "return"));
    }
    desc = json_string_value(json_object_get(e, "desc"));
    error_set_class(errp,
                    class_from_name(json_string_value(
                                        json_object_get(e, "class"))),
                    "%s", desc ? desc : "unknown error");
    return NULL;
}

json_t *client_execute(struct client *c, const char *command,
                       json_t *arguments, struct error **errp)
{
    json_int_t id = ++c->last_id;
    json_t *msg = json_pack("{s:s, s:O*, s:I}", "execute", command,
                            "arguments", arguments, "id", id);
    char *text = json_dumps(msg, JSON_COMPACT);
    g_autofree char *line = g_strconcat(text, "\n", NULL);
    json_t *v;

    json_decref(msg);
    free(text);
    /* At once: a server that quits does not wait for the rest of a line. */
    if (!send_all(c, line, strlen(line))) {
        c->dead = true;
    }
    while ((v = receive(c, INT64_MAX))) {
        if (json_object_get(v, "event")) {
            g_queue_push_tail(&c->events, v);
        } else if (json_integer_value(json_object_get(v, "id")) == id ||
                   (json_object_get(v, "error") &&
                    !json_object_get(v, "id"))) {
            json_t *ret = reply_value(v, errp);

            json_decref(v);
            return ret;
        } else {
            json_decref(v);
        }
    }
    error_set(errp, "The server closed the connection");
    return NULL;
}

json_t *client_next_event(struct client *c, int timeout_ms)
{
    int64_t deadline = timeout_ms < 0 ? INT64_MAX
                                      : clock_ns() + timeout_ms * 1000000LL;
    json_t *v = g_queue_pop_head(&c->events);

    while (!v && (v = receive(c, deadline))) {
        if (!json_object_get(v, "event")) {
            json_decref(v);
            v = NULL;
        }
    }
    return v;
}

/* ---- life ------------------------------------------------------------------------ */

struct client *client_connect(const char *address, struct error **errp)
{
    int fd = connect_address(address, errp);
    struct client *c;
    json_t *v;

    if (fd < 0) {
        return NULL;
    }
    c = g_new0(struct client, 1);
    c->fd = fd;
    c->input = g_string_new(NULL);
    g_queue_init(&c->events);
    v = receive(c, clock_ns() + CONNECT_TIMEOUT_MS * 1000000LL);
    if (!json_object_get(v, "QMP")) {
        error_set(errp, "No QMP greeting from '%s'%s", address,
                  c->dead ? "" : " (is another client connected to it?)");
        goto fail;
    }
    json_decref(v);
    v = client_execute(c, "qmp_capabilities", NULL, errp);
    if (!v) {
        goto fail;
    }
    json_decref(v);
    return c;

fail:
    json_decref(v);
    client_free(c);
    return NULL;
}

void client_free(struct client *c)
{
    json_t *v;

    if (c) {
        while ((v = g_queue_pop_head(&c->events))) {
            json_decref(v);
        }
        g_string_free(c->input, TRUE);
        close(c->fd);
        g_free(c);
    }
}

bool client_is_dead(const struct client *c)
{
    return c->dead && !memchr(c->input->str, '\n', c->input->len);
}

int client_fd(const struct client *c)
{
    return c->fd;
}
