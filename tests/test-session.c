/* SPDX-License-Identifier: MIT */
/*
 * Sessions over socket pairs, with commands of the test's own: turns, out of
 * band, what happens to clients that do not read or hang up.
 *
 * The loop runs in a thread; the test is the client.
 */
#include <errno.h>
#include <pthread.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>
#include <glib.h>
#include "base/control.h"
#include "base/pool.h"
#include "qapi/qapi-commands.h"
#include "qapi/qapi-events.h"
#include "server/dispatch.h"
#include "server/events.h"
#include "server/loop.h"
#include "server/session.h"
#include "server/shutdown.h"
#include "server/version.h"

/* ---- what surrounds sessions in the server ------------------------------ */

static bool gate_open;          /* control lock: lets "slow" go on */
static bool shutting_down;      /* atomic */
static int n_slow_begun;        /* control lock */

bool shutdown_has_begun(void)
{
    return __atomic_load_n(&shutting_down, __ATOMIC_ACQUIRE);
}

void chardev_hung_up(struct chardev *c)
{
}

json_t *version_json(void)
{
    return json_object();
}

static bool run_capabilities(json_t *arguments, json_t **ret,
                             struct error **errp)
{
    dispatch_session()->negotiated = true;
    dispatch_session()->oob = arguments != NULL;
    *ret = json_object();
    return true;
}

static bool run_quick(json_t *arguments, json_t **ret, struct error **errp)
{
    *ret = json_object();
    return true;
}

/* An event, then a value. */
static bool run_event(json_t *arguments, json_t **ret, struct error **errp)
{
    qapi_event_send_job_status_change("j", JOB_STATUS_CREATED);
    *ret = json_integer(1);
    return true;
}

/* Waits for the gate. */
static bool run_slow(json_t *arguments, json_t **ret, struct error **errp)
{
    n_slow_begun++;
    control_notify();
    while (!gate_open) {
        control_wait();
    }
    error_set(errp, "slow: file '\xff'");
    return false;
}

/* As quit. */
static bool run_last(json_t *arguments, json_t **ret, struct error **errp)
{
    dispatch_session()->keep_reply = true;
    __atomic_store_n(&shutting_down, true, __ATOMIC_RELEASE);
    *ret = json_object();
    return true;
}

static const struct qapi_command commands[] = {
    { "event", 0, run_event },
    { "last", 0, run_last },
    { "oob", QAPI_CMD_ALLOW_OOB, run_quick },
    { "qmp_capabilities", 0, run_capabilities },
    { "quick", 0, run_quick },
    { "silent", QAPI_CMD_NO_SUCCESS_RESPONSE, run_quick },
    { "slow", QAPI_CMD_BLOCKING, run_slow },
    { "slow-oob", QAPI_CMD_BLOCKING | QAPI_CMD_ALLOW_OOB, run_slow },
};

const struct qapi_command *qapi_command_find(const char *name)
{
    return qapi_command_search(commands, G_N_ELEMENTS(commands), name);
}

/* ---- a client ----------------------------------------------------------- */

struct client {
    int fd;
    GString *in;
};

static void client_send(struct client *c, const char *text)
{
    size_t len = strlen(text);

    g_assert_cmpint(send(c->fd, text, len, MSG_NOSIGNAL), ==, len);
}

/* The next line, without CR LF; NULL: end of file. */
static char *client_line(struct client *c)
{
    char buf[4096];

    for (;;) {
        char *end = strstr(c->in->str, "\r\n");
        ssize_t n;

        if (end) {
            char *line = g_strndup(c->in->str, end - c->in->str);

            g_string_erase(c->in, 0, end + 2 - c->in->str);
            return line;
        }
        n = recv(c->fd, buf, sizeof(buf), 0);
        if (n == 0 || (n < 0 && errno == ECONNRESET)) {
            return NULL;
        }
        g_assert_cmpint(n, >, 0);
        g_string_append_len(c->in, buf, n);
    }
}

static void client_expect(struct client *c, const char *expected)
{
    g_autofree char *line = client_line(c);
    char *stamp = line ? strstr(line, "\"event\"") : NULL;

    /* Of an event the time is left out. */
    g_assert_cmpstr(stamp ? stamp : line, ==, expected);
}

/* Nothing comes for a while. */
static void client_expect_silence(struct client *c)
{
    struct timeval tv = { 0, 100000 };
    struct timeval none = { 30, 0 };
    char byte;

    g_assert_cmpuint(c->in->len, ==, 0);
    setsockopt(c->fd, SOL_SOCKET, SO_RCVTIMEO, &tv, sizeof(tv));
    g_assert_cmpint(recv(c->fd, &byte, 1, MSG_PEEK), <, 0);
    g_assert_cmpint(errno, ==, EAGAIN);
    setsockopt(c->fd, SOL_SOCKET, SO_RCVTIMEO, &none, sizeof(none));
}

static void start_session(void *arg)
{
    int fd = GPOINTER_TO_INT(arg);
    const struct session_options options = { .read_fd = fd, .write_fd = fd };

    session_start(&options);
}

static struct client *client_connect(bool negotiate, bool oob)
{
    struct client *c = g_new0(struct client, 1);
    int fds[2];

    g_assert_cmpint(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds),
                    ==, 0);
    c->fd = fds[0];
    c->in = g_string_new(NULL);
    loop_defer(start_session, GINT_TO_POINTER(fds[1]));
    client_expect(c, "{\"QMP\": {\"version\": {}, "
                  "\"capabilities\": [\"oob\", "
                  "\"event-sequence\", \"error-data\"]}}");
    if (negotiate) {
        client_send(c, oob ? "{'execute':'qmp_capabilities','arguments':{}}"
                    : "{'execute':'qmp_capabilities'}");
        client_expect(c, "{\"return\": {}}");
    }
    return c;
}

static void client_free(struct client *c)
{
    close(c->fd);
    g_string_free(c->in, TRUE);
    g_free(c);
}

/* ---- the loop ----------------------------------------------------------- */

static pthread_t loop_pthread;

static void *loop_main(void *unused)
{
    loop_run();
    return NULL;
}

static void set_up(void)
{
    gate_open = false;
    n_slow_begun = 0;
    shutting_down = false;
    loop_init();
    events_init();
    g_assert_cmpint(pthread_create(&loop_pthread, NULL, loop_main, NULL), ==,
                    0);
}

static void end_loop(void *unused)
{
    session_close_all();
    loop_stop();
}

static void tear_down(void)
{
    loop_defer(end_loop, NULL);
    pthread_join(loop_pthread, NULL);
    pool_shutdown();
    events_deinit();
    loop_deinit();
}

static void open_gate(void)
{
    CONTROL_GUARD();
    gate_open = true;
    control_notify();
}

static void wait_slow_begun(int n)
{
    CONTROL_GUARD();
    while (n_slow_begun < n) {
        control_wait();
    }
}

static int count_sessions(void)
{
    struct session *s = NULL;
    int n = 0;

    CONTROL_GUARD();
    while ((s = session_next(s))) {
        n++;
    }
    return n;
}

static void wait_sessions(int n)
{
    int64_t limit_ns = clock_ns() + 20000000000LL;

    while (count_sessions() != n) {
        g_assert_cmpint(clock_ns(), <, limit_ns);
        g_usleep(1000);
    }
}

static const char slow_error[] = "{\"id\": 1, \"error\": {\"class\": "
    "\"GenericError\", \"desc\": \"slow: file '\\uFFFD'\"}}";

/* ---- tests -------------------------------------------------------------- */

static void test_turns(void)
{
    struct client *c, *other;

    set_up();
    c = client_connect(true, true);
    other = client_connect(true, false);
    client_send(c, "{'execute':'slow','id':1}{'execute':'quick','id':2}"
                "[]{'execute':'event','id':3}#\n"
                "{'exec-oob':'oob','id':4}{'exec-oob':'quick','id':5}");
    /* Out of band: at once; all else waits for its turn. */
    client_expect(c, "{\"return\": {}, \"id\": 4}");
    client_expect(c, "{\"id\": 5, \"error\": {\"class\": \"GenericError\", "
                  "\"desc\": \"The command quick does not support OOB\"}}");
    client_expect_silence(c);
    client_send(other, "{'execute':'quick'}");
    client_expect(other, "{\"return\": {}}");
    open_gate();
    client_expect(c, slow_error);
    client_expect(c, "{\"return\": {}, \"id\": 2}");
    client_expect(c, "{\"error\": {\"class\": \"GenericError\", \"desc\": "
                  "\"QMP input must be a JSON object\"}}");
    client_expect(c, "\"event\": \"JOB_STATUS_CHANGE\", \"data\": "
                  "{\"status\": \"created\", \"id\": \"j\"}}");
    client_expect(c, "{\"return\": 1, \"id\": 3}");
    client_expect(c, "{\"error\": {\"class\": \"GenericError\", \"desc\": "
                  "\"JSON parse error, stray '#'\"}}");
    client_expect(other, "\"event\": \"JOB_STATUS_CHANGE\", \"data\": "
                  "{\"status\": \"created\", \"id\": \"j\"}}");
    client_free(c);
    client_free(other);
    tear_down();
}

/* Two commands of one session run at the same time, out of band only. */
static void test_slow_oob(void)
{
    struct client *c;
    int n_slow = 0, n_quick = 0;

    set_up();
    c = client_connect(true, true);
    client_send(c, "{'execute':'slow','id':1}{'exec-oob':'slow-oob','id':1}"
                "{'execute':'silent'}{'execute':'quick'}");
    wait_slow_begun(2);
    client_expect_silence(c);
    open_gate();
    /* In band the slow one is before the quick one; the one out of band may
     * end at any time. */
    client_expect(c, slow_error);
    for (int i = 0; i < 2; i++) {
        g_autofree char *line = client_line(c);

        n_slow += !strcmp(line, slow_error);
        n_quick += !strcmp(line, "{\"return\": {}}");
    }
    g_assert_cmpint(n_slow, ==, 1);
    g_assert_cmpint(n_quick, ==, 1);
    client_free(c);
    tear_down();
}

/* Reading stops when enough is queued: what comes behind is not seen. */
static void test_queue_is_bounded(void)
{
    struct client *c;

    set_up();
    c = client_connect(true, true);
    client_send(c, "{'execute':'slow','id':1}");
    for (int i = 0; i < SESSION_MAX_QUEUED; i++) {
        client_send(c, "{'execute':'quick'}");
    }
    client_send(c, "{'exec-oob':'oob','id':2}");
    client_expect_silence(c);
    open_gate();
    client_expect(c, slow_error);
    for (int i = 0; i < SESSION_MAX_QUEUED; i++) {
        g_autofree char *line = client_line(c);

        /* The room that is made is used at once. */
        g_assert_true(!strcmp(line, "{\"return\": {}}") ||
                      !strcmp(line, "{\"return\": {}, \"id\": 2}"));
    }
    g_free(client_line(c));
    client_free(c);
    tear_down();
}

/* So it does while enough commands run out of band. */
static void test_oob_is_bounded(void)
{
    struct client *c;

    set_up();
    c = client_connect(true, true);
    for (int i = 0; i < SESSION_MAX_OOB + 5; i++) {
        client_send(c, "{'exec-oob':'slow-oob','id':1}");
    }
    wait_slow_begun(SESSION_MAX_OOB);
    client_expect_silence(c);
    control_lock();
    g_assert_cmpint(n_slow_begun, ==, SESSION_MAX_OOB);
    control_unlock();
    open_gate();
    for (int i = 0; i < SESSION_MAX_OOB + 5; i++) {
        client_expect(c, slow_error);
    }
    client_free(c);
    tear_down();
}

static void test_before_negotiation(void)
{
    struct client *c, *other;

    set_up();
    c = client_connect(false, false);
    other = client_connect(true, false);
    client_send(other, "{'execute':'event'}");
    g_free(client_line(other));
    client_expect(other, "{\"return\": 1}");
    client_send(c, "{'execute':'quick'}{'execute':'nope'}"
                "{'exec-oob':'quick'}");
    for (int i = 0; i < 2; i++) {
        client_expect(c, "{\"error\": {\"class\": \"CommandNotFound\", "
                      "\"desc\": \"Expecting capabilities negotiation with "
                      "'qmp_capabilities'\"}}");
    }
    client_expect(c, "{\"error\": {\"class\": \"GenericError\", \"desc\": "
                  "\"QMP input member 'exec-oob' is unexpected\"}}");
    client_free(c);
    client_free(other);
    tear_down();
}

static void test_hang_up(void)
{
    struct client *c;

    set_up();
    c = client_connect(true, false);
    client_send(c, "{'execute':'slow'}{'execute':'event'}");
    wait_slow_begun(1);
    client_free(c);
    open_gate();
    wait_sessions(0);
    /* Half a hang-up: all is answered first. */
    gate_open = false;
    c = client_connect(true, false);
    client_send(c, "{'execute':'slow','id':1}{'execute':'quick'}{'half");
    shutdown(c->fd, SHUT_WR);
    client_expect_silence(c);
    open_gate();
    client_expect(c, slow_error);
    client_expect(c, "{\"return\": {}}");
    client_expect(c, NULL);
    client_free(c);
    tear_down();
}

/* A client that asks and does not read gets no more than the server likes to
 * keep for it, and all of it once it reads. */
static void test_reader_pauses(void)
{
    enum { N = 200000 };
    struct client *c, *other;
    int flags = MSG_DONTWAIT | MSG_NOSIGNAL;
    const char *command = "{'execute':'quick'}";
    size_t len = strlen(command), part = 0;
    int n_sent = 0, n_idle = 0;

    set_up();
    c = client_connect(true, false);
    other = client_connect(true, false);
    while (n_sent < N && n_idle < 50) {
        ssize_t n = send(c->fd, command + part, len - part, flags);

        if (n < 0) {
            g_assert_cmpint(errno, ==, EAGAIN);
            n_idle++;
            g_usleep(10000);
            continue;
        }
        n_idle = 0;
        part = (part + n) % len;
        n_sent += part == 0;
    }
    g_assert_cmpint(n_sent, <, N);
    client_send(other, "{'execute':'quick'}");
    client_expect(other, "{\"return\": {}}");
    for (int i = 0; i < n_sent; i++) {
        client_expect(c, "{\"return\": {}}");
    }
    client_free(c);
    client_free(other);
    tear_down();
}

/* Events cannot be held back: a client that never reads is dropped, at the
 * limit; others see every one. */
static void test_dead_reader(void)
{
    enum { ID_BYTES = 1 << 20, N = 70 };
    g_autofree char *id = g_strnfill(ID_BYTES, 'x');
    struct client *dead, *c;

    set_up();
    dead = client_connect(true, false);
    c = client_connect(true, false);
    for (int i = 0; i < N; i++) {
        g_autofree char *line = NULL;

        control_lock();
        qapi_event_send_job_status_change(id, JOB_STATUS_RUNNING);
        control_unlock();
        line = client_line(c);
        g_assert_cmpuint(strlen(line), >, ID_BYTES);
        g_assert_cmpint(count_sessions(), ==, i < 60 ? 2 :
                        count_sessions());
    }
    wait_sessions(1);
    client_free(dead);
    client_free(c);
    tear_down();
}

/* The reply to quit is the very last line. */
static void test_last_reply(void)
{
    struct client *c;

    set_up();
    c = client_connect(true, false);
    client_send(c, "{'execute':'last','id':1}{'execute':'quick'}");
    client_expect_silence(c);
    control_lock();
    qapi_event_send_block_export_deleted("e");
    control_unlock();
    client_expect(c, "\"event\": \"BLOCK_EXPORT_DELETED\", \"data\": "
                  "{\"id\": \"e\"}}");
    tear_down();
    client_expect(c, "{\"return\": {}, \"id\": 1}");
    client_expect(c, NULL);
    client_free(c);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/session/turns", test_turns);
    g_test_add_func("/session/slow-oob", test_slow_oob);
    g_test_add_func("/session/queue-is-bounded", test_queue_is_bounded);
    g_test_add_func("/session/oob-is-bounded", test_oob_is_bounded);
    g_test_add_func("/session/before-negotiation", test_before_negotiation);
    g_test_add_func("/session/hang-up", test_hang_up);
    g_test_add_func("/session/reader-pauses", test_reader_pauses);
    g_test_add_func("/session/dead-reader", test_dead_reader);
    g_test_add_func("/session/last-reply", test_last_reply);
    return g_test_run();
}
