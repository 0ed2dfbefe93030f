/* SPDX-License-Identifier: MIT */
/*
 * The socket of test harnesses: lines in, a line out for each.
 *
 * Problem     A test steps the virtual clock and then looks at what the
 *             requests that waited for it have done.  They are threads of
 *             ours, and what one does may make another one wait.
 * Answer      The clock goes from deadline to deadline.  At each, and before
 *             the reply, who was let go is given time to come to its end or
 *             to wait again; not for ever, as requests may hang.
 * Threads     The loop's thread reads; a worker runs the lines and writes the
 *             replies, one after another.  Who of the two has the connection
 *             has its buffer and its descriptors.
 */
#include "server/qtest.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "base/clock.h"
#include "base/control.h"
#include "base/pool.h"
#include "base/trace.h"
#include "block/backend.h"
#include "server/chardev.h"
#include "server/hmp/qemu-io.h"
#include "server/loop.h"
#include "server/shutdown.h"

enum {
    READ_BYTES = 4096,
    MAX_LINE = 64 * 1024,
    PATIENCE_MS = 5000,         /* with who does not read */
    SETTLE_NS = 200000000,      /* without any progress */
    SETTLE_POLL_NS = 50000,
    MIN_STEP_NS = 1000,
};

struct harness {
    struct chardev *chardev;    /* borrowed; constant */
    /* The reader's or the worker's. */
    int read_fd, write_fd;
    GString *unread;            /* owned */
    /* Control lock. */
    struct event *read_event;   /* owned; NULL: closed */
    bool working;
    struct harness *next;
};

static struct harness *harnesses;   /* control lock */

/* ---- the clock ---------------------------------------------------------- */

/* Requests that have begun and do not wait for the clock.  Those of qemu-io are
 * entered a little later than they have begun. */
static int64_t count_at_work(void)
{
    int64_t n = MAX(backend_count_entered(), qemu_io_count_requests());
    int64_t n_waiting;

    clock_virtual_next_deadline(&n_waiting);
    return MAX(n - n_waiting, 0);
}

/* Until nobody is at work, or nothing has changed for a while. */
static void settle(void)
{
    int64_t before = INT64_MAX, give_up_ns = 0, n;

    while (!shutdown_has_begun() && (n = count_at_work()) > 0) {
        if (n != before) {
            before = n;
            give_up_ns = clock_ns() + SETTLE_NS;
        } else if (clock_ns() >= give_up_ns) {
            return;
        }
        control_wait_until(clock_ns() + SETTLE_POLL_NS);
    }
}

static void go_to(int64_t end_ns)
{
    int64_t now_ns = clock_virtual_ns();

    settle();
    while (now_ns < end_ns && clock_virtual_is_stopped() &&
           !shutdown_has_begun()) {
        int64_t step_ns = clock_virtual_next_deadline(NULL) - now_ns;

        step_ns = MAX(step_ns, MIN_STEP_NS);
        now_ns = clock_virtual_step(MIN(step_ns, end_ns - now_ns));
        settle();
    }
}

/* To the next deadline, if there is one.  Buckets are of floating point: it may
 * be a bit too early for who waits for it. */
static void go_to_deadline(void)
{
    int64_t now_ns, next_ns;

    settle();
    next_ns = clock_virtual_next_deadline(NULL);
    if (next_ns == INT64_MAX) {
        return;
    }
    go_to(next_ns);
    now_ns = clock_virtual_ns();
    next_ns = clock_virtual_next_deadline(NULL);
    if (next_ns - now_ns < MIN_STEP_NS) {
        go_to(next_ns);
    }
}

/* NS as the words of a line have it; false: it is no time. */
static bool parse_ns(const char *text, int64_t *ns)
{
    char *end;

    errno = 0;
    *ns = strtoll(text, &end, 0);
    return *text && !*end && !errno && *ns >= 0;
}

/* ---- lines -------------------------------------------------------------- */

static char *ok_now(void)
{
    return g_strdup_printf("OK %" G_GINT64_FORMAT "\n", clock_virtual_ns());
}

static char *clock_step(char **words)
{
    int64_t now_ns = clock_virtual_ns(), ns;

    if (!clock_virtual_is_stopped()) {
        return g_strdup("FAIL The clock runs\n");
    }
    if (!words[1]) {
        go_to_deadline();
    } else if (parse_ns(words[1], &ns)) {
        go_to(ns > INT64_MAX - now_ns ? INT64_MAX : now_ns + ns);
    } else {
        return g_strdup("FAIL Bad time\n");
    }
    return ok_now();
}

/* A clock does not go back: it stays where it is then. */
static char *clock_set(char **words)
{
    int64_t ns;

    if (!clock_virtual_is_stopped()) {
        return g_strdup("FAIL The clock runs\n");
    }
    if (!words[1] || !parse_ns(words[1], &ns)) {
        return g_strdup("FAIL Bad time\n");
    }
    go_to(ns);
    return ok_now();
}

static char *endianness(char **words)
{
    return g_strdup("OK little\n");
}

static const struct {
    const char *name;
    char *(*run)(char **words);
} commands[] = {
    { "clock_set", clock_set },
    { "clock_step", clock_step },
    { "endianness", endianness },
};

/* The reply to LINE, owned. */
static char *run_line(const char *line)
{
    g_auto(GStrv) words = g_strsplit(line, " ", -1);

    for (size_t i = 0; words[0] && i < G_N_ELEMENTS(commands); i++) {
        if (!strcmp(words[0], commands[i].name)) {
            return commands[i].run(words);
        }
    }
    /* Memory, ports and interrupts: there is no machine that has them. */
    return g_strdup_printf("FAIL Unknown command '%s'\n",
                           words[0] ? words[0] : "");
}

/* ---- the connection ----------------------------------------------------- */

static bool send_all(int fd, const char *p, size_t len)
{
    while (len > 0) {
        ssize_t n = write(fd, p, len);
        struct pollfd pfd = { .fd = fd, .events = POLLOUT };

        if (n > 0) {
            p += n;
            len -= n;
        } else if (errno != EINTR &&
                   (errno != EAGAIN || poll(&pfd, 1, PATIENCE_MS) <= 0)) {
            return false;
        }
    }
    return true;
}

/* The first line of BUF without its end, owned, and taken out; NULL: there is
 * none that is whole. */
static char *take_line(GString *buf)
{
    const char *end = memchr(buf->str, '\n', buf->len);
    size_t len = end - buf->str;
    char *line;

    if (!end) {
        return NULL;
    }
    line = g_strndup(buf->str, len);
    g_string_erase(buf, 0, len + 1);
    g_strchomp(line);
    return line;
}

static void harness_free(struct harness *h)
{
    if (h->read_fd > STDERR_FILENO) {
        close(h->read_fd);
        if (h->write_fd != h->read_fd) {
            close(h->write_fd);
        }
    }
    g_string_free(h->unread, TRUE);
    g_free(h);
}

/* Nobody works for it. */
static void hang_up(struct harness *h)
{
    struct harness **p = &harnesses;

    while (*p != h) {
        p = &(*p)->next;
    }
    *p = h->next;
    event_free(h->read_event);
    if (!shutdown_has_begun()) {
        chardev_hung_up(h->chardev);
    }
    harness_free(h);
}

/* False: nobody is there any more. */
static bool run_lines(struct harness *h)
{
    bool ok = true;
    char *line;

    while (ok && (line = take_line(h->unread))) {
        g_autofree char *answer = NULL;

        {
            CONTROL_GUARD();
            trace(SERVER, "qtest line=%s", line);
            answer = run_line(line);
        }
        ok = send_all(h->write_fd, answer, strlen(answer));
        g_free(line);
    }
    return ok;
}

static void work(void *arg)
{
    struct harness *h = arg;
    bool ok = run_lines(h);

    CONTROL_GUARD();
    h->working = false;
    if (!h->read_event) {
        harness_free(h);
    } else if (ok) {
        event_add(h->read_event, NULL);
    } else {
        /* The loop's thread sees the end of it, and hangs up. */
        event_active(h->read_event, EV_READ, 0);
    }
}

static void read_ready(evutil_socket_t fd, short what, void *arg)
{
    struct harness *h = arg;
    char buf[READ_BYTES];
    ssize_t n = read(fd, buf, sizeof(buf));

    CONTROL_GUARD();
    if (n < 0 && (errno == EAGAIN || errno == EINTR)) {
        event_add(h->read_event, NULL);
        return;
    }
    if (n <= 0 || h->unread->len + n > MAX_LINE) {
        hang_up(h);
        return;
    }
    g_string_append_len(h->unread, buf, n);
    if (memchr(buf, '\n', n)) {
        h->working = true;
        pool_submit(work, h);
    } else {
        event_add(h->read_event, NULL);
    }
}

static void harness_opened(void *opaque, int read_fd, int write_fd)
{
    struct harness *h = g_new0(struct harness, 1);

    h->chardev = opaque;
    h->read_fd = read_fd;
    h->write_fd = write_fd;
    h->unread = g_string_new(NULL);
    h->read_event = event_new(loop_base(), read_fd, EV_READ, read_ready, h);
    h->next = harnesses;
    harnesses = h;
    event_add(h->read_event, NULL);
}

/* ---- life --------------------------------------------------------------- */

static char *make_chardev(const char *text, struct error **errp)
{
    struct chardev_options *options =
        chardev_options_parse_where(text, "qtest", errp);
    char *id = NULL;

    if (options && chardev_add(options, errp)) {
        id = g_strdup("qtest");
    }
    chardev_options_free(options);
    return id;
}

bool qtest_add(const char *text, struct error **errp)
{
    g_autofree char *id = g_str_has_prefix(text, "chardev:")
        ? g_strdup(text + strlen("chardev:")) : make_chardev(text, errp);
    struct chardev_user user = { .opened = harness_opened };

    if (!id) {
        return false;
    }
    user.opaque = chardev_find(id);
    if (!user.opaque) {
        error_set(errp, "Failed to initialize device for qtest: \"%s\"",
                  text);
        return false;
    }
    return chardev_use(user.opaque, &user, errp);
}

void qtest_close_all(void)
{
    struct harness *h;

    control_assert();
    while ((h = harnesses)) {
        harnesses = h->next;
        event_free(h->read_event);
        h->read_event = NULL;
        if (!h->working) {
            harness_free(h);
        }
    }
}
