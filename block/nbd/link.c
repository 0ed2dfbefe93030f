/* SPDX-License-Identifier: MIT */
/*
 * One connection: see link.h.
 *
 * Invariants  I1  While a call is in flight one of the waiting threads is
 *                 the leader, or is about to be: who leaves hands on.
 *             I2  The list of calls is in order of their start.
 *             I3  libnbd is never called with .lock held; its completion
 *                 callback takes .lock, with libnbd's own lock held.
 *             I4  A connection that is given up is shut down: libnbd then
 *                 fails every call in flight with ENOTCONN.
 */
#include "block/nbd/link.h"

#include <errno.h>
#include <fcntl.h>
#include <libnbd.h>
#include <poll.h>
#include <stdatomic.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>
#include "base/lock.h"
#include "base/trace.h"
#include "block/cancel.h"
#include "block/nbd/tls.h"

enum {
    POLL_SLICE_MS = 200,        /* until the end of the process is noticed */
    BYE_MS = 100,               /* to send good-bye */
};
#define EXIT_GRACE_NS (INT64_C(3000) * 1000 * 1000)

/* A call in flight, in its caller's stack. */
struct pending {
    struct nbd_link *link;
    struct nbd_call *call;
    struct pending *next, *prev;
    struct cond cond;           /* done, or the lead is free */
    int64_t begun_ns;
    bool done;
    int error;

    /* A read's chunks: what came so far; libnbd's lock. */
    int64_t read_end;           /* [0, here) of the buffer is there */
    GArray *strays;             /* of struct stray; NULL: all was in order */
};

/* A chunk that did not come in order. */
struct stray {
    int64_t start, end;
};

struct nbd_link {
    /* Constant. */
    struct nbd_handle *handle;
    int fd;                     /* ours: a duplicate of libnbd's */
    int wake_fd;                /* eventfd: the leader is to look again */
    struct nbd_client_tls *tls; /* owned, or NULL */

    /* Protected by lock (LOCK_LEAF). */
    struct lock lock;
    struct pending *first, *last;   /* I2 */
    bool led;                   /* somebody is the leader */
    int64_t give_up_ns;         /* I4: when, if a call waits then that
                                   began before the next */
    int64_t give_up_begun_ns;
    bool shut_down;

    /* Atomic. */
    atomic_bool dead;
};

/* ---- handshake ---------------------------------------------------------- */

static void set_handshake_error(struct error **errp, int err)
{
    if (err == -ENOENT) {
        error_set(errp, "Requested export not available");
    } else if (err == -ETIMEDOUT || err == -ECANCELED) {
        error_set(errp, "The NBD server does not answer");
    } else {
        error_set(errp, "Failed to negotiate with the NBD server: %s",
                  nbd_get_error() ? nbd_get_error() : "disconnected");
    }
}

/* Until the handle is ready.  0 or -errno. */
static int shake_hands(struct nbd_link *l, const struct nbd_wait *w)
{
    struct nbd_handle *h = l->handle;

    while (nbd_aio_is_connecting(h)) {
        unsigned dir = nbd_aio_get_direction(h);
        int ret = nbd_wait_fd(w, l->fd,
                              (dir & LIBNBD_AIO_DIRECTION_READ ? POLLIN : 0) |
                              (dir & LIBNBD_AIO_DIRECTION_WRITE ? POLLOUT
                                                                : 0));
        if (ret < 0) {
            return ret;
        }
        if (dir & LIBNBD_AIO_DIRECTION_READ &&
            ret & (POLLIN | POLLHUP | POLLERR)) {
            ret = nbd_aio_notify_read(h);
        } else {
            ret = nbd_aio_notify_write(h);
        }
        if (ret < 0) {
            return nbd_get_errno() > 0 ? -nbd_get_errno() : -EPROTO;
        }
    }
    return nbd_aio_is_ready(h) ? 0 : -ECONNRESET;
}

static uint32_t block_size(struct nbd_handle *h, int which, uint32_t missing)
{
    int64_t size = nbd_get_block_size(h, which);

    return size > 0 && size <= UINT32_MAX ? size : missing;
}

/* False: what the server says cannot be. */
static bool get_info(struct nbd_handle *h, const char *context,
                     struct nbd_info *info)
{
    *info = (struct nbd_info){
        .length = nbd_get_size(h),
        .min_bytes = block_size(h, LIBNBD_SIZE_MINIMUM, 1),
        .preferred_bytes = block_size(h, LIBNBD_SIZE_PREFERRED, 4096),
        .max_bytes = block_size(h, LIBNBD_SIZE_MAXIMUM, 32 << 20),
        .read_only = nbd_is_read_only(h) > 0,
        .can_flush = nbd_can_flush(h) > 0,
        .can_fua = nbd_can_fua(h) > 0,
        .can_trim = nbd_can_trim(h) > 0,
        .can_zero = nbd_can_zero(h) > 0,
        .can_fast_zero = nbd_can_fast_zero(h) > 0,
        .can_multi_conn = nbd_can_multi_conn(h) > 0,
        .can_status = nbd_can_meta_context(h, context) > 0,
    };
    return info->length >= 0 && info->min_bytes <= 65536 &&
           (info->min_bytes & (info->min_bytes - 1)) == 0 &&
           info->max_bytes >= info->min_bytes;
}

static bool prepare(struct nbd_link *l, int fd,
                    const struct nbd_link_options *o)
{
    l->handle = nbd_create();
    return l->handle && l->wake_fd >= 0 && l->fd >= 0 &&
           nbd_set_export_name(l->handle, o->export) == 0 &&
           nbd_add_meta_context(l->handle, o->context) == 0 &&
           nbd_set_pread_initialize(l->handle, false) == 0 &&
           nbd_set_tls(l->handle, LIBNBD_TLS_DISABLE) == 0 &&
           nbd_aio_connect_socket(l->handle, fd) == 0;
}

struct nbd_link *nbd_link_new(int fd, const struct nbd_link_options *options,
                              const struct nbd_wait *w, struct nbd_info *info,
                              int *err, struct error **errp)
{
    struct nbd_link *l = g_new0(struct nbd_link, 1);

    lock_init(&l->lock, "nbd-link", LOCK_LEAF);
    l->give_up_ns = INT64_MAX;
    l->tls = options->tls;
    l->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    l->fd = fcntl(fd, F_DUPFD_CLOEXEC, 3);
    if (!prepare(l, fd, options)) {
        *err = nbd_get_errno() > 0 ? -nbd_get_errno() : -EMFILE;
        if (!l->handle || nbd_aio_is_created(l->handle)) {
            close(fd);
        }
    } else {
        *err = shake_hands(l, w);
    }
    if (*err == 0 && !get_info(l->handle, options->context, info)) {
        *err = -EPROTO;
        error_set(errp, "The NBD server describes an export that cannot be");
    } else if (*err < 0) {
        set_handshake_error(errp, *err);
    }
    if (*err < 0) {
        shutdown(l->fd, SHUT_RDWR);
        nbd_link_free(&l);
    }
    return l;
}

/* DISC, if the socket takes it. */
static void say_bye(struct nbd_link *l)
{
    struct pollfd p = { .fd = l->fd, .events = POLLOUT };

    if (!nbd_aio_is_ready(l->handle) ||
        nbd_aio_disconnect(l->handle, 0) < 0) {
        return;
    }
    while ((nbd_aio_get_direction(l->handle) & LIBNBD_AIO_DIRECTION_WRITE) &&
           !nbd_aio_is_dead(l->handle) && !nbd_aio_is_closed(l->handle) &&
           poll(&p, 1, BYE_MS) > 0) {
        if (nbd_aio_notify_write(l->handle) < 0) {
            break;
        }
    }
}

void nbd_link_free(struct nbd_link **lp)
{
    struct nbd_link *l = *lp;

    *lp = NULL;
    if (!l) {
        return;
    }
    g_assert(!l->first);
    if (l->handle) {
        say_bye(l);
        nbd_close(l->handle);
    }
    if (l->fd >= 0) {
        shutdown(l->fd, SHUT_WR);   /* what is on its way still goes */
        close(l->fd);
    }
    nbd_client_tls_end(&l->tls);
    if (l->wake_fd >= 0) {
        close(l->wake_fd);
    }
    lock_deinit(&l->lock);
    g_free(l);
}

/* ---- giving up ---------------------------------------------------------- */

static void wake_leader(struct nbd_link *l)
{
    uint64_t one = 1;

    if (write(l->wake_fd, &one, sizeof(one)) < 0) {
        /* The counter is full: it is awake already. */
    }
}

/* lock held: the calls up to now, or a little later, get so long. */
static void give_up_in(struct nbd_link *l, int64_t grace_ns, int64_t later_ns)
{
    int64_t now = clock_ns();

    l->give_up_begun_ns = MAX(l->give_up_begun_ns, now + later_ns);
    l->give_up_ns = MIN(l->give_up_ns, now + grace_ns);
}

void nbd_link_hurry(struct nbd_link *l, int64_t grace_ns)
{
    lock_acquire(&l->lock);
    /* Who is to stop may not have noticed it, and call once more. */
    give_up_in(l, grace_ns, grace_ns / 4);
    lock_release(&l->lock);
    wake_leader(l);
}

/* How long the leader may poll; shuts the socket down when it is time. */
static int check_give_up(struct nbd_link *l)
{
    int64_t since = cancel_waits_since(), now = clock_ns(), left;

    LOCK_GUARD(&l->lock);
    if (since != INT64_MAX && l->give_up_ns == INT64_MAX) {
        give_up_in(l, EXIT_GRACE_NS, EXIT_GRACE_NS);
    }
    if (l->give_up_ns == INT64_MAX || l->shut_down) {
        return POLL_SLICE_MS;
    }
    left = l->give_up_ns - now;
    if (left <= 0 && (!l->first || l->first->begun_ns > l->give_up_begun_ns)) {
        l->give_up_ns = INT64_MAX;      /* they were answered */
        return POLL_SLICE_MS;
    }
    if (left <= 0) {
        trace(NBD, "client-give-up fd=%d", l->fd);
        l->shut_down = true;
        shutdown(l->fd, SHUT_RDWR);     /* I4 */
    }
    return CLAMP(left / 1000000 + 1, 1, POLL_SLICE_MS);
}

/* ---- calls -------------------------------------------------------------- */

/* I3.  Returns 1: libnbd forgets the command. */
static int completed(void *opaque, int *error)
{
    struct pending *p = opaque;
    struct nbd_link *l = p->link;

    LOCK_GUARD(&l->lock);
    p->error = *error;
    p->done = true;
    cond_signal(&p->cond);
    return 1;
}

/* libnbd does not mind a reply that leaves part of the buffer as it was. */
static int got_chunk(void *opaque, const void *at, size_t bytes,
                     uint64_t offset, unsigned status, int *error)
{
    struct pending *p = opaque;
    struct stray stray = { .start = offset - p->call->offset };

    if (status == LIBNBD_READ_ERROR) {
        return 0;
    }
    if (stray.start == p->read_end) {
        p->read_end += bytes;
        return 0;
    }
    stray.end = stray.start + bytes;
    if (!p->strays) {
        p->strays = g_array_new(false, false, sizeof(stray));
    }
    g_array_append_val(p->strays, stray);
    return 0;
}

static int compare_strays(const void *a, const void *b)
{
    const struct stray *x = a, *y = b;

    return (x->start > y->start) - (x->start < y->start);
}

/* Is the whole buffer there? */
static bool read_complete(struct pending *p)
{
    if (p->strays) {
        g_array_sort(p->strays, compare_strays);
        for (guint i = 0; i < p->strays->len; i++) {
            const struct stray *s = &g_array_index(p->strays, struct stray, i);

            if (s->start <= p->read_end) {
                p->read_end = MAX(p->read_end, s->end);
            }
        }
        g_array_unref(p->strays);
    }
    return p->read_end >= p->call->bytes;
}

/* Only the first extent counts: it is all that REQ_ONE asks for. */
static int got_extents(void *opaque, const char *context, uint64_t offset,
                       uint32_t *entries, size_t n, int *error)
{
    struct nbd_call *c = ((struct pending *)opaque)->call;

    if (n < 2 || (int64_t)offset != c->offset || entries[0] == 0) {
        *error = EPROTO;
        return -1;
    }
    c->extent_bytes = MIN(entries[0], c->bytes);
    c->extent_flags = entries[1];
    return 0;
}

/* -1: it was not taken. */
static int64_t start(struct nbd_link *l, struct pending *p)
{
    struct nbd_call *c = p->call;
    nbd_completion_callback done = { .callback = completed, .user_data = p };
    nbd_extent_callback extents = { .callback = got_extents, .user_data = p };
    nbd_chunk_callback chunk = { .callback = got_chunk, .user_data = p };
    uint32_t fua = c->fua ? LIBNBD_CMD_FLAG_FUA : 0;

    switch (c->type) {
    case NBD_CALL_READ:
        return nbd_aio_pread_structured(l->handle, c->buf, c->bytes,
                                        c->offset, chunk, done, 0);
    case NBD_CALL_WRITE:
        return nbd_aio_pwrite(l->handle, c->buf, c->bytes, c->offset, done,
                              fua);
    case NBD_CALL_ZERO:
        return nbd_aio_zero(l->handle, c->bytes, c->offset, done, fua |
                            (c->no_hole ? LIBNBD_CMD_FLAG_NO_HOLE : 0) |
                            (c->fast_zero ? LIBNBD_CMD_FLAG_FAST_ZERO : 0));
    case NBD_CALL_TRIM:
        return nbd_aio_trim(l->handle, c->bytes, c->offset, done, fua);
    case NBD_CALL_FLUSH:
        return nbd_aio_flush(l->handle, done, 0);
    case NBD_CALL_STATUS:
        return nbd_aio_block_status(l->handle, c->bytes, c->offset, extents,
                                    done, LIBNBD_CMD_FLAG_REQ_ONE);
    }
    g_assert_not_reached();
}

static void note_death(struct nbd_link *l)
{
    if ((nbd_aio_is_dead(l->handle) || nbd_aio_is_closed(l->handle)) &&
        !atomic_exchange(&l->dead, true)) {
        trace(NBD, "client-lost fd=%d error=%s", l->fd,
              nbd_get_error() ? nbd_get_error() : "none");
        shutdown(l->fd, SHUT_RDWR);     /* wakes the leader, too */
    }
}

/* The leader's turn: wait for the socket and move the handle once. */
static void lead_once(struct nbd_link *l)
{
    struct nbd_handle *h = l->handle;
    int timeout_ms = check_give_up(l);
    unsigned dir = nbd_aio_get_direction(h);
    struct pollfd p[] = {
        { .fd = l->fd,
          .events = (dir & LIBNBD_AIO_DIRECTION_READ ? POLLIN : 0) |
                    (dir & LIBNBD_AIO_DIRECTION_WRITE ? POLLOUT : 0) },
        { .fd = l->wake_fd, .events = POLLIN },
    };
    uint64_t count;

    if (poll(p, G_N_ELEMENTS(p), timeout_ms) <= 0) {
        return;
    }
    if (p[1].revents && read(l->wake_fd, &count, sizeof(count)) < 0) {
        /* Somebody else has read it. */
    }
    if (p[0].revents & (POLLIN | POLLHUP | POLLERR) &&
        dir & LIBNBD_AIO_DIRECTION_READ) {
        nbd_aio_notify_read(h);
    } else if (p[0].revents) {
        nbd_aio_notify_write(h);
    }
    note_death(l);
}

/* lock held. */
static void list_add(struct nbd_link *l, struct pending *p)
{
    p->begun_ns = clock_ns();
    p->prev = l->last;
    if (l->last) {
        l->last->next = p;
    } else {
        l->first = p;
    }
    l->last = p;
}

static void list_remove(struct nbd_link *l, struct pending *p)
{
    *(p->prev ? &p->prev->next : &l->first) = p->next;
    *(p->next ? &p->next->prev : &l->last) = p->prev;
}

/* lock held: somebody who waits, not done, is to lead (I1). */
static void hand_on(struct nbd_link *l)
{
    struct pending *p = l->first;

    while (p && p->done) {
        p = p->next;
    }
    if (p && !l->led) {
        cond_signal(&p->cond);
    }
}

static void wait_done(struct nbd_link *l, struct pending *p)
{
    LOCK_GUARD(&l->lock);
    while (!p->done) {
        if (l->led) {
            cond_wait(&p->cond, &l->lock);
            continue;
        }
        l->led = true;
        while (!p->done) {
            lock_release(&l->lock);
            lead_once(l);
            lock_acquire(&l->lock);
        }
        l->led = false;
    }
    list_remove(l, p);
    hand_on(l);
}

int nbd_link_call(struct nbd_link *l, struct nbd_call *c, int64_t max_ns)
{
    struct pending p = { .link = l, .call = c };
    int ret = 0;

    cond_init(&p.cond);
    lock_acquire(&l->lock);
    list_add(l, &p);
    if (max_ns > 0) {
        give_up_in(l, max_ns, 0);
    }
    lock_release(&l->lock);
    if (start(l, &p) < 0) {
        note_death(l);
        ret = nbd_link_is_dead(l) ? -ENOTCONN
              : nbd_get_errno() > 0 ? -nbd_get_errno() : -EINVAL;
        lock_acquire(&l->lock);
        list_remove(l, &p);
        hand_on(l);
        lock_release(&l->lock);
    } else {
        note_death(l);
        if (nbd_aio_get_direction(l->handle) & LIBNBD_AIO_DIRECTION_WRITE) {
            wake_leader(l);
        }
        wait_done(l, &p);
        ret = -p.error;
    }
    cond_deinit(&p.cond);
    if (c->type == NBD_CALL_READ && !read_complete(&p) && ret == 0) {
        return -EIO;
    }
    if (ret == 0 && c->type == NBD_CALL_STATUS && c->extent_bytes <= 0) {
        return -EIO;            /* it told nothing */
    }
    return ret;
}

bool nbd_link_is_dead(const struct nbd_link *l)
{
    return atomic_load(&l->dead);
}
