/* SPDX-License-Identifier: MIT */
/* What is still to be sent to one client: see output.h. */
#include "server/output.h"

#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

void output_init(struct output *o, int fd, bool is_socket)
{
    *o = (struct output) {
        .is_socket = is_socket,
        .fd = fd,
        .queue = g_byte_array_new(),
    };
    lock_init(&o->lock, "output", LOCK_MONITOR);
}

void output_deinit(struct output *o)
{
    g_byte_array_free(o->queue, TRUE);
    lock_deinit(&o->lock);
}

/* Lock held. */
static void queue_changed(struct output *o)
{
    enum { KEEP_BYTES = 1 << 20 };
    size_t n_pending = o->queue->len - o->n_sent;

    if (n_pending == 0 && o->queue->len > 0) {
        if (o->queue->len > KEEP_BYTES) {
            g_byte_array_free(o->queue, TRUE);
            o->queue = g_byte_array_new();
        } else {
            g_byte_array_set_size(o->queue, 0);
        }
        o->n_sent = 0;
    }
    __atomic_store_n(&o->n_pending, n_pending, __ATOMIC_RELAXED);
}

/* Lock held. */
static void give_up(struct output *o)
{
    o->fd = -1;
    o->n_sent = o->queue->len;
    queue_changed(o);
    __atomic_store_n(&o->broken, true, __ATOMIC_RELEASE);
}

/*
 * Send without waiting.  A pipe or terminal is shared with others, so we may
 * not switch it to non-blocking: a write of up to PIPE_BUF bytes does not
 * block when poll() says that the descriptor is writable.
 */
static ssize_t send_some(struct output *o, const char *data, size_t len)
{
    struct pollfd pfd = { .fd = o->fd, .events = POLLOUT };

    if (o->is_socket) {
        return send(o->fd, data, len, MSG_DONTWAIT | MSG_NOSIGNAL);
    }
    if (poll(&pfd, 1, 0) == 0) {
        errno = EAGAIN;
        return -1;
    }
    return write(o->fd, data, MIN(len, PIPE_BUF));
}

/* Lock held.  How much was sent; broken after a failure. */
static size_t send_all(struct output *o, const char *data, size_t len)
{
    size_t done = 0;

    while (done < len) {
        ssize_t n = send_some(o, data + done, len - done);

        if (n >= 0) {
            done += n;
        } else if (errno == EAGAIN || errno == EWOULDBLOCK) {
            break;
        } else if (errno != EINTR) {
            give_up(o);
            o->wake(o->opaque);
            break;
        }
    }
    return done;
}

/* Lock held. */
static void flush_queue(struct output *o)
{
    if (!o->broken) {
        o->n_sent += send_all(o, (char *)o->queue->data + o->n_sent,
                              o->queue->len - o->n_sent);
        o->n_sent = MIN(o->n_sent, o->queue->len);  /* broken: 0 */
        queue_changed(o);
    }
}

void output_write(struct output *o, const char *data, size_t len)
{
    enum { CORKED_BYTES = 64 * 1024 };
    size_t n_pending, done = 0;

    LOCK_GUARD(&o->lock);
    n_pending = o->queue->len - o->n_sent;
    if (!o->broken && n_pending == 0 && !o->corked) {
        done = send_all(o, data, len);
    }
    if (o->broken || done == len) {
        return;
    }
    if (n_pending > OUTPUT_MAX_BYTES) {
        give_up(o);
        o->wake(o->opaque);
        return;
    }
    g_byte_array_append(o->queue, (const uint8_t *)data + done, len - done);
    queue_changed(o);
    if (!o->corked) {
        o->wake(o->opaque);
    } else if (o->queue->len > CORKED_BYTES) {
        flush_queue(o);
    }
}

void output_cork(struct output *o)
{
    LOCK_GUARD(&o->lock);
    o->corked = true;
}

void output_uncork(struct output *o)
{
    LOCK_GUARD(&o->lock);
    o->corked = false;
    if (o->queue->len > 0) {
        flush_queue(o);
    }
    if (o->queue->len > 0) {
        o->wake(o->opaque);
    }
}

bool output_flush(struct output *o)
{
    LOCK_GUARD(&o->lock);
    flush_queue(o);
    return o->queue->len == 0;
}

void output_drain(struct output *o, int64_t deadline_ns)
{
    while (!output_flush(o)) {
        struct pollfd pfd = { .fd = o->fd, .events = POLLOUT };
        int64_t left_ms = (deadline_ns - clock_ns()) / 1000000;

        if (left_ms <= 0 || (poll(&pfd, 1, left_ms) < 0 && errno != EINTR)) {
            return;
        }
    }
}

void output_close(struct output *o)
{
    LOCK_GUARD(&o->lock);
    give_up(o);
}
