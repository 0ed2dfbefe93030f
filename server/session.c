/* SPDX-License-Identifier: MIT */
/* Sessions: see session.h. */
#include "server/session.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>
#include "base/control.h"
#include "base/trace.h"
#include "qapi/qapi-types.h"
#include "server/dispatch.h"
#include "server/loop.h"
#include "server/shutdown.h"
#include "server/version.h"
#include "server/wire.h"

enum {
    READ_BYTES = 64 * 1024,
    /* Replies that wait to be read: stop and go on reading commands. */
    PENDING_HIGH = 1 << 20,
    PENDING_LOW = 1 << 18,
};

static struct session *sessions;        /* oldest first */
static int n_started;

static void session_close(struct session *s);

/* ---- references --------------------------------------------------------- */

void session_ref(struct session *s)
{
    control_assert();
    s->n_refs++;
}

void session_unref(struct session *s)
{
    control_assert();
    if (--s->n_refs > 0) {
        return;
    }
    g_assert(s->closed);
    output_deinit(&s->output);
    wire_free(s->wire);
    g_byte_array_free(s->unread, TRUE);
    g_free(s->last_reply);
    g_free(s);
}

struct session *session_next(const struct session *s)
{
    control_assert();
    return s ? s->next : sessions;
}

/* ---- writing ------------------------------------------------------------ */

char *session_line(const json_t *json, bool pretty, size_t *len)
{
    char *text = qapi_json_dump(json, pretty, len);

    text = g_realloc(text, *len + 3);
    memcpy(text + *len, "\r\n", 3);
    *len += 2;
    return text;
}

void session_reply(struct session *s, const json_t *json)
{
    size_t len;
    g_autofree char *line = NULL;

    if (s->closed) {
        return;
    }
    line = session_line(json, s->pretty, &len);
    if (s->keep_reply) {
        g_free(s->last_reply);
        s->last_reply = g_steal_pointer(&line);
    } else {
        output_write(&s->output, line, len);
    }
}

/* Any thread, output lock held (output.h). */
static void wake_output(void *opaque)
{
    struct session *s = opaque;

    /* Active at once if it is broken: the callback hangs up. */
    if (s->output.broken) {
        event_active(s->write_event, EV_WRITE, 0);
    } else {
        event_add(s->write_event, NULL);
    }
}

/* ---- reading ------------------------------------------------------------ */

static bool may_take(const struct session *s)
{
    size_t limit = s->reading ? PENDING_HIGH : PENDING_LOW;

    return !s->closed && s->n_queued < SESSION_MAX_QUEUED &&
        s->n_oob < SESSION_MAX_OOB &&
        output_pending(&s->output) < limit && !shutdown_has_begun();
}

/* Look at what came, as far as the client may go (I2). */
static const char *take(struct session *s, const char *p, const char *end)
{
    while (p < end && may_take(s)) {
        json_t *value = NULL;
        char *text = NULL;

        switch (wire_next(s->wire, &p, end, &value, &text)) {
        case WIRE_VALUE:
            dispatch_value(s, value);
            break;
        case WIRE_ERROR:
            dispatch_error(s, text);
            break;
        case WIRE_MORE:
            break;
        }
    }
    return p;
}

static void update_reading(struct session *s)
{
    bool want = !s->closed && !s->eof && s->unread->len == 0 && may_take(s);

    if (want && s->ready_always) {
        event_active(s->read_event, EV_READ, 0);
    } else if (want && !s->reading) {
        event_add(s->read_event, NULL);
    } else if (!want && s->reading) {
        event_del(s->read_event);
    }
    s->reading = want;
}

/* A client that said all it wants is served to its end, then hung up on. */
static void close_if_done(struct session *s)
{
    bool idle = !s->busy && s->n_oob == 0 && s->n_queued == 0 &&
        s->unread->len == 0 && output_pending(&s->output) == 0;

    if (s->eof && idle && !s->keep_reply) {
        session_close(s);
    }
}

/* After anything that may let the session go on. */
static void session_continue(struct session *s)
{
    if (s->closed) {
        return;
    }
    output_cork(&s->output);
    dispatch_continue(s);
    while (s->unread->len > 0 && may_take(s)) {
        const char *p = (const char *)s->unread->data;
        const char *end = p + s->unread->len;

        g_byte_array_remove_range(s->unread, 0, take(s, p, end) - p);
    }
    output_uncork(&s->output);
    update_reading(s);
    close_if_done(s);
}

static void set_fd(int *at, int fd)
{
    if (*at >= 0) {
        close(*at);
    }
    *at = fd;
}

/* One for a command: the first; nobody could ask for the others. */
static void keep_passed_fd(struct session *s, struct msghdr *msg)
{
    for (struct cmsghdr *c = CMSG_FIRSTHDR(msg); c; c = CMSG_NXTHDR(msg, c)) {
        size_t n = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);

        if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS) {
            continue;
        }
        for (size_t i = 0; i < n; i++) {
            int fd;

            memcpy(&fd, CMSG_DATA(c) + i * sizeof(fd), sizeof(fd));
            if (i == 0) {
                set_fd(&s->arrived_fd, fd);
            } else {
                close(fd);
            }
        }
    }
}

int session_take_arrived_fd(struct session *s)
{
    int fd = s->arrived_fd;

    s->arrived_fd = -1;
    return fd;
}

void session_pass_fd(struct session *s, int fd)
{
    if (fd >= 0) {
        set_fd(&s->passed_fd, fd);
    }
}

int session_take_passed_fd(struct session *s)
{
    int fd = s->passed_fd;

    s->passed_fd = -1;
    return fd;
}

static ssize_t receive(struct session *s, char *buf, size_t len)
{
    enum { MAX_PASSED = 253 };      /* the kernel's limit */
    union {
        struct cmsghdr header;
        char bytes[CMSG_SPACE(MAX_PASSED * sizeof(int))];
    } control;
    struct iovec iov = { .iov_base = buf, .iov_len = len };
    struct msghdr msg = {
        .msg_iov = &iov, .msg_iovlen = 1,
        .msg_control = control.bytes, .msg_controllen = sizeof(control.bytes),
    };
    ssize_t n;

    if (!s->output.is_socket) {
        return read(s->read_fd, buf, len);
    }
    n = recvmsg(s->read_fd, &msg, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
    if (n >= 0 && msg.msg_controllen > 0) {
        keep_passed_fd(s, &msg);
    }
    return n;
}

static void read_ready(evutil_socket_t fd, short what, void *arg)
{
    static char buf[READ_BYTES];    /* the loop's thread is one */
    struct session *s = arg;
    const char *rest;
    ssize_t n = receive(s, buf, sizeof(buf));

    CONTROL_GUARD();
    if (n < 0) {
        if (errno != EAGAIN && errno != EWOULDBLOCK && errno != EINTR) {
            session_close(s);
        }
        return;
    }
    if (n == 0) {
        s->eof = true;
        update_reading(s);
        close_if_done(s);
        return;
    }
    output_cork(&s->output);
    rest = take(s, buf, buf + n);
    g_byte_array_append(s->unread, (const uint8_t *)rest, buf + n - rest);
    output_uncork(&s->output);
    update_reading(s);
}

static void write_ready(evutil_socket_t fd, short what, void *arg)
{
    struct session *s = arg;
    bool sent = output_flush(&s->output);

    CONTROL_GUARD();
    if (output_is_broken(&s->output)) {
        session_close(s);
        return;
    }
    if (!sent) {
        event_add(s->write_event, NULL);
    }
    session_continue(s);
}

static void continue_deferred(void *arg)
{
    struct session *s = arg;

    session_continue(s);
    session_unref(s);
}

void session_continue_later(struct session *s)
{
    session_ref(s);
    loop_defer(continue_deferred, s);
}

/* ---- life --------------------------------------------------------------- */

static void greet(struct session *s)
{
    json_t *capabilities = json_array();
    json_t *greeting;

    for (int c = 0; c < QMP_CAPABILITY__MAX; c++) {
        json_array_append_new(capabilities,
                              json_string(QMPCapability_str(c)));
    }
    greeting = json_pack("{s:{s:o, s:o}}", "QMP", "version", version_json(),
                         "capabilities", capabilities);

    session_reply(s, greeting);
    json_decref(greeting);
}

static bool is_ready_always(int fd)
{
    struct stat st;

    /* epoll refuses them; reading never waits. */
    return fstat(fd, &st) == 0 &&
        (S_ISREG(st.st_mode) || S_ISBLK(st.st_mode) ||
         (S_ISCHR(st.st_mode) && !isatty(fd)));
}

void session_start(const struct session_options *options)
{
    struct session *s = g_new0(struct session, 1);
    bool is_socket = options->read_fd == options->write_fd;
    struct session **tail = &sessions;

    s->chardev = options->chardev;
    s->pretty = options->pretty;
    s->read_fd = options->read_fd;
    s->write_fd = options->write_fd;
    s->ready_always = !is_socket && is_ready_always(s->read_fd);
    s->number = ++n_started;
    s->n_refs = 1;
    s->arrived_fd = s->passed_fd = -1;
    s->wire = wire_new();
    s->unread = g_byte_array_new();
    output_init(&s->output, s->write_fd, is_socket);
    s->output.wake = wake_output;
    s->output.opaque = s;
    s->read_event = event_new(loop_base(), s->ready_always ? -1 : s->read_fd,
                              s->ready_always ? 0 : EV_READ | EV_PERSIST,
                              read_ready, s);
    s->write_event = event_new(loop_base(), s->write_fd, EV_WRITE,
                               write_ready, s);
    while (*tail) {
        tail = &(*tail)->next;
    }
    *tail = s;
    trace(QMP, "session-start number=%d", s->number);
    greet(s);
    update_reading(s);
}

static void session_close(struct session *s)
{
    struct session **link = &sessions;

    if (s->closed) {
        return;
    }
    trace(QMP, "session-close number=%d", s->number);
    while (*link != s) {
        link = &(*link)->next;
    }
    *link = s->next;
    s->closed = true;
    output_close(&s->output);
    /* Nobody wakes a broken output: the events are ours alone now. */
    event_free(s->read_event);
    event_free(s->write_event);
    s->read_event = s->write_event = NULL;
    dispatch_drop_queue(s);
    set_fd(&s->arrived_fd, -1);
    set_fd(&s->passed_fd, -1);
    g_clear_pointer(&s->named_fds, g_hash_table_unref);
    if (s->read_fd > STDERR_FILENO) {
        close(s->read_fd);
    }
    if (s->write_fd != s->read_fd && s->write_fd > STDERR_FILENO) {
        close(s->write_fd);
    }
    if (!shutdown_has_begun()) {
        chardev_hung_up(s->chardev);
    }
    session_unref(s);
}

void session_close_all(void)
{
    enum { PATIENCE_NS = 1000000000 };
    int64_t deadline_ns = clock_ns() + PATIENCE_NS;

    while (sessions) {
        struct session *s = sessions;

        if (s->last_reply) {
            output_write(&s->output, s->last_reply, strlen(s->last_reply));
        }
        output_drain(&s->output, deadline_ns);
        session_close(s);
    }
}
