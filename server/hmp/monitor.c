/* SPDX-License-Identifier: MIT */
/* -monitor: see monitor.h. */
#include "server/hmp/monitor.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <termios.h>
#include <unistd.h>
#include "base/control.h"
#include "base/pool.h"
#include "base/trace.h"
#include "server/chardev.h"
#include "server/dispatch.h"
#include "server/hmp/hmp.h"
#include "server/hmp/readline.h"
#include "server/loop.h"
#include "server/output.h"
#include "server/shutdown.h"
#include "server/version.h"

enum {
    READ_BYTES = 4096,
    UNREAD_MAX = 64 * 1024,     /* typed while a command runs */
    PATIENCE_NS = 1000000000,   /* with who does not read */
};

/* One who talks. */
struct talk {
    /* Constant. */
    struct chardev *chardev;    /* borrowed */
    int read_fd, write_fd;
    bool is_socket;
    bool is_file;               /* epoll does not take it */

    struct output output;       /* any thread */

    /* Loop's thread. */
    struct event *read_event, *write_event;     /* owned; NULL when closed */
    struct readline *editor;    /* owned */
    GByteArray *unread;         /* owned; came, but not looked at */
    bool eof;                   /* nothing more is typed */

    /* Control lock. */
    int n_refs;
    bool closed;
    bool busy;                  /* a line is on a worker */
    char *line;                 /* owned: that line */
    struct talk *next;
};

static struct talk *talks;      /* oldest first */

static void talk_continue(struct talk *t);
static void talk_close(struct talk *t);

/* ---- terminals ---------------------------------------------------------- */

static struct termios old_terminal;
static bool terminal_changed;

static void restore_terminal(void)
{
    if (terminal_changed) {
        tcsetattr(STDIN_FILENO, TCSANOW, &old_terminal);
        terminal_changed = false;
    }
}

/* Each byte comes as it is typed, and is echoed by us alone. */
static void prepare_terminal(int fd)
{
    static bool at_exit;
    struct termios tty;

    if (fd != STDIN_FILENO || tcgetattr(fd, &tty) < 0) {
        return;
    }
    old_terminal = tty;
    terminal_changed = true;
    if (!at_exit) {
        atexit(restore_terminal);
        at_exit = true;
    }
    tty.c_iflag &= ~(IGNBRK | BRKINT | PARMRK | ISTRIP | INLCR | IGNCR |
                     ICRNL | IXON);
    tty.c_oflag |= OPOST;
    tty.c_lflag &= ~(ECHO | ECHONL | ICANON | IEXTEN);
    tty.c_cflag = (tty.c_cflag & ~(CSIZE | PARENB)) | CS8;
    tty.c_cc[VMIN] = 1;
    tty.c_cc[VTIME] = 0;
    tcsetattr(fd, TCSANOW, &tty);
}

/* ---- writing ------------------------------------------------------------ */

/* Lines end with \r\n on the wire. */
static void write_text(struct talk *t, const char *text, size_t len)
{
    g_autoptr(GString) out = g_string_sized_new(len + 16);

    for (size_t i = 0; i < len; i++) {
        if (text[i] == '\n') {
            g_string_append_c(out, '\r');
        }
        g_string_append_c(out, text[i]);
    }
    if (!t->closed) {
        output_write(&t->output, out->str, out->len);
    }
}

static void put(void *opaque, const char *text, size_t len)
{
    write_text(opaque, text, len);
}

/* Any thread, output lock held (output.h). */
static void wake_output(void *opaque)
{
    struct talk *t = opaque;

    if (t->output.broken) {
        event_active(t->write_event, EV_WRITE, 0);
    } else {
        event_add(t->write_event, NULL);
    }
}

static void write_ready(evutil_socket_t fd, short what, void *arg)
{
    struct talk *t = arg;
    bool sent = output_flush(&t->output);

    CONTROL_GUARD();
    if (output_is_broken(&t->output)) {
        talk_close(t);
    } else if (!sent) {
        event_add(t->write_event, NULL);
    }
}

/* ---- lines -------------------------------------------------------------- */

static void talk_unref(struct talk *t)
{
    control_assert();
    if (--t->n_refs == 0) {
        g_assert(t->closed);
        output_deinit(&t->output);
        readline_free(t->editor);
        g_byte_array_free(t->unread, TRUE);
        g_free(t->line);
        g_free(t);
    }
}

/* Worker: what a command has said so far. */
static void flush_said(struct hmp *m)
{
    write_text(m->opaque, m->out->str, m->out->len);
    g_string_truncate(m->out, 0);
}

static void line_done(void *arg)
{
    struct talk *t = arg;

    talk_continue(t);
    talk_unref(t);
}

static void run_line(void *arg)
{
    struct talk *t = arg;
    struct hmp m = { .flush = flush_said, .opaque = t };

    m.out = g_string_new(NULL);
    /* What the command prints on stdout comes after what was typed. */
    output_drain(&t->output, clock_ns() + PATIENCE_NS);
    CONTROL_GUARD();
    hmp_run(&m, t->line);
    flush_said(&m);
    g_string_free(m.out, TRUE);
    t->busy = false;
    if (!m.quit && !t->closed) {
        readline_prompt(t->editor);
    }
    dispatch_end_other();
    loop_defer(line_done, t);
}

static void entered(void *opaque, const char *line)
{
    struct talk *t = opaque;

    g_free(t->line);
    t->line = g_strdup(line);
    t->busy = true;
    t->n_refs++;
    dispatch_begin_other();
    pool_submit(run_line, t);
}

static char **complete(void *opaque, const char *line)
{
    return hmp_complete(line);
}

/* ---- reading ------------------------------------------------------------ */

/* Look at what was typed, until a line is run. */
static void talk_continue(struct talk *t)
{
    guint n = 0;

    while (n < t->unread->len && !t->busy && !t->closed &&
           !shutdown_has_begun()) {
        readline_byte(t->editor, t->unread->data[n++]);
    }
    if (n > 0 && !t->closed) {
        g_byte_array_remove_range(t->unread, 0, n);
    }
    if (t->closed) {
        return;
    }
    if (t->eof) {
        /* Who talked over a socket is gone; a pipe may have had its say. */
        if (t->is_socket && !t->busy) {
            talk_close(t);
        }
    } else if (t->unread->len < UNREAD_MAX) {
        if (t->is_file) {
            event_active(t->read_event, EV_READ, 0);
        } else {
            event_add(t->read_event, NULL);
        }
    }
}

static void read_ready(evutil_socket_t fd, short what, void *arg)
{
    static char buf[READ_BYTES];        /* the loop's thread is one */
    struct talk *t = arg;
    ssize_t n = t->is_socket ? recv(t->read_fd, buf, sizeof(buf),
                                    MSG_DONTWAIT)
                             : read(t->read_fd, buf, sizeof(buf));

    CONTROL_GUARD();
    if (n > 0) {
        g_byte_array_append(t->unread, (const guint8 *)buf, n);
    } else if (n == 0 || (errno != EAGAIN && errno != EINTR)) {
        t->eof = true;
    }
    talk_continue(t);
}

/* ---- life --------------------------------------------------------------- */

static bool is_file(int fd)
{
    struct stat st;

    return fstat(fd, &st) == 0 &&
        (S_ISREG(st.st_mode) || (S_ISCHR(st.st_mode) && !isatty(fd)));
}

static void greet(struct talk *t)
{
    g_autofree char *banner = g_strdup_printf(
        "QEMU %d.%d.%d monitor - type 'help' for more information\n",
        VERSION_MAJOR, VERSION_MINOR, VERSION_MICRO);

    write_text(t, banner, strlen(banner));
    readline_prompt(t->editor);
}

static void opened(void *opaque, int read_fd, int write_fd)
{
    struct talk *t = g_new0(struct talk, 1), **tail = &talks;
    const struct readline_user user = {
        .put = put, .entered = entered, .complete = complete, .opaque = t,
    };

    t->chardev = opaque;
    t->read_fd = read_fd;
    t->write_fd = write_fd;
    t->is_socket = read_fd == write_fd;
    t->is_file = is_file(read_fd);
    t->n_refs = 1;
    t->editor = readline_new(&user);
    t->unread = g_byte_array_new();
    output_init(&t->output, write_fd, t->is_socket);
    t->output.wake = wake_output;
    t->output.opaque = t;
    t->read_event = event_new(loop_base(), t->is_file ? -1 : read_fd,
                              t->is_file ? 0 : EV_READ, read_ready, t);
    t->write_event = event_new(loop_base(), write_fd, EV_WRITE, write_ready,
                               t);
    while (*tail) {
        tail = &(*tail)->next;
    }
    *tail = t;
    trace(SERVER, "hmp-open fd=%d", read_fd);
    prepare_terminal(read_fd);
    greet(t);
    talk_continue(t);
}

static void talk_close(struct talk *t)
{
    struct talk **link = &talks;

    if (t->closed) {
        return;
    }
    trace(SERVER, "hmp-close fd=%d", t->read_fd);
    while (*link != t) {
        link = &(*link)->next;
    }
    *link = t->next;
    t->closed = true;
    output_close(&t->output);
    event_free(t->read_event);
    event_free(t->write_event);
    t->read_event = t->write_event = NULL;
    if (t->read_fd == STDIN_FILENO) {
        restore_terminal();
    }
    if (t->read_fd > STDERR_FILENO) {
        close(t->read_fd);
    }
    if (!shutdown_has_begun()) {
        chardev_hung_up(t->chardev);
    }
    talk_unref(t);
}

void hmp_monitor_close_all(void)
{
    int64_t deadline_ns = clock_ns() + PATIENCE_NS;

    while (talks) {
        output_drain(&talks->output, deadline_ns);
        talk_close(talks);
    }
}

bool hmp_monitor_add(const char *chardev_id, struct error **errp)
{
    struct chardev *c = chardev_find(chardev_id);
    const struct chardev_user user = { .opened = opened, .opaque = c };

    if (!c) {
        error_set(errp, "chardev \"%s\" not found", chardev_id);
        return false;
    }
    return chardev_use(c, &user, errp);
}
