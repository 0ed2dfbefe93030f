/* SPDX-License-Identifier: MIT */
/* One connection: see link.h and link-priv.h.  Here: calls. */
#include "block/nbd/link-priv.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>
#include "base/trace.h"
#include "block/cancel.h"

enum { POLL_SLICE_MS = 200 };   /* until the end of the process is noticed */
#define EXIT_GRACE_NS (INT64_C(3000) * 1000 * 1000)

/* A chunk that did not come in order. */
struct stray {
    int64_t start, end;
};

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

    lock_acquire(&l->lock);
    p->error = *error;
    p->done = true;
    cond_signal(&p->cond);
    if (!p->left) {
        lock_release(&l->lock);     /* its caller may be gone now */
        return 1;
    }
    for (struct pending **at = &l->left; *at; at = &(*at)->next) {
        if (*at == p) {
            *at = p->next;
            break;
        }
    }
    lock_release(&l->lock);
    nbd_link_free_call((struct own_call *)p);
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
        g_clear_pointer(&p->strays, g_array_unref);
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

/* lock held. */
static void wait_for_lead(struct nbd_link *l, struct pending *p, bool may_leave)
{
    if (may_leave) {
        cond_wait_until(&p->cond, &l->lock,
                        clock_ns() + POLL_SLICE_MS * INT64_C(1000000));
    } else {
        cond_wait(&p->cond, &l->lock);
    }
}

/* lock held: I5. */
static void leave(struct nbd_link *l, struct own_call *o)
{
    o->p.left = true;
    if (!o->bounce && o->call.type == NBD_CALL_READ) {
        o->bounce = cancel_keep();
    }
    o->p.next = l->left;
    l->left = &o->p;
}

/* False: it was left, *P is not the caller's any more. */
static bool wait_done(struct nbd_link *l, struct pending *p, bool may_leave)
{
    LOCK_GUARD(&l->lock);
    while (!p->done && !(may_leave && cancel_asked())) {
        if (l->led) {
            wait_for_lead(l, p, may_leave);
            continue;
        }
        l->led = true;
        while (!p->done && !(may_leave && cancel_asked())) {
            lock_release(&l->lock);
            lead_once(l);
            lock_acquire(&l->lock);
        }
        l->led = false;
    }
    list_remove(l, p);
    if (!p->done) {
        leave(l, (struct own_call *)p);
    }
    hand_on(l);
    return p->done;
}

/* What the answer says of itself; 0 or -errno. */
static int check_answer(struct pending *p)
{
    const struct nbd_call *c = p->call;
    bool complete = c->type != NBD_CALL_READ || read_complete(p);

    if (p->error) {
        return -p->error;
    }
    if (c->type == NBD_CALL_STATUS && c->extent_bytes <= 0) {
        return -EIO;            /* it told nothing */
    }
    return complete ? 0 : -EIO;
}

/* *LEFT (NULL: that must not be): *P is not the caller's any more. */
static int call(struct nbd_link *l, struct pending *p, int64_t max_ns,
                bool *left)
{
    int ret;

    cond_init(&p->cond);
    lock_acquire(&l->lock);
    list_add(l, p);
    if (max_ns > 0) {
        give_up_in(l, max_ns, 0);
    }
    lock_release(&l->lock);
    if (start(l, p) < 0) {
        note_death(l);
        ret = nbd_link_is_dead(l) ? -ENOTCONN
              : nbd_get_errno() > 0 ? -nbd_get_errno() : -EINVAL;
        lock_acquire(&l->lock);
        list_remove(l, p);
        hand_on(l);
        lock_release(&l->lock);
        return ret;
    }
    note_death(l);
    if (nbd_aio_get_direction(l->handle) & LIBNBD_AIO_DIRECTION_WRITE) {
        wake_leader(l);
    }
    if (!wait_done(l, p, left != NULL)) {
        *left = true;
        return -ECANCELED;
    }
    return check_answer(p);
}

/* A read or a status of a thread that may be asked to stop. */
static int call_or_leave(struct nbd_link *l, struct nbd_call *c,
                         int64_t max_ns)
{
    struct own_call *o = g_new0(struct own_call, 1);
    bool left = false;
    int ret;

    o->p.link = l;
    o->p.call = &o->call;
    o->call = *c;
    if (c->type == NBD_CALL_READ && !cancel_is_lent(c->buf, c->bytes)) {
        o->bounce = o->call.buf = malloc(c->bytes);
        if (!o->bounce) {
            g_free(o);
            return -ENOMEM;
        }
    }
    ret = call(l, &o->p, max_ns, &left);
    if (left) {
        return ret;
    }
    c->extent_bytes = o->call.extent_bytes;
    c->extent_flags = o->call.extent_flags;
    if (ret == 0 && o->bounce) {
        memcpy(c->buf, o->bounce, c->bytes);
    }
    nbd_link_free_call(o);
    return ret;
}

int nbd_link_call(struct nbd_link *l, struct nbd_call *c, int64_t max_ns)
{
    struct pending p = { .link = l, .call = c };
    int ret;

    if (cancel_possible() &&
        (c->type == NBD_CALL_READ || c->type == NBD_CALL_STATUS)) {
        return call_or_leave(l, c, max_ns);
    }
    ret = call(l, &p, max_ns, NULL);
    cond_deinit(&p.cond);
    if (p.strays) {
        g_array_unref(p.strays);
    }
    return ret;
}

bool nbd_link_is_dead(const struct nbd_link *l)
{
    return atomic_load(&l->dead);
}
