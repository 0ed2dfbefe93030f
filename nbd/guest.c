/* SPDX-License-Identifier: MIT */
/* Exports of devices: see guest.h. */
#include "nbd/guest.h"

#include <errno.h>
#include "base/control.h"
#include "nbd/replies.h"

static void medium_goes(struct backend_watcher *w)
{
    struct nbd_export *e = (struct nbd_export *)
        ((char *)w - offsetof(struct nbd_export, guest.watcher));
    uint64_t serial = e->serial;

    nbd_export_close(e, false);
    nbd_export_wait_gone(serial);
}

void nbd_guest_init(struct nbd_export *e, struct backend *b)
{
    e->guest.backend = backend_ref(b);
    e->guest.watcher.medium_goes = medium_goes;
    backend_watch(b, &e->guest.watcher);
}

void nbd_guest_hurry(struct nbd_export *e)
{
    if (e->guest.backend && !e->guest.let_go) {
        e->guest.let_go = true;
        backend_let_go_begin(e->guest.backend);
        control_notify();       /* who waits for cont gives up */
    }
}

void nbd_guest_deinit(struct nbd_export *e)
{
    struct backend *b = g_steal_pointer(&e->guest.backend);

    if (!b) {
        return;
    }
    backend_unwatch(b, &e->guest.watcher);
    if (e->guest.let_go) {
        backend_let_go_end(b);
    }
    backend_unref(b);
}

/* ---- requests ----------------------------------------------------------- */

static bool is_write(const struct nbd_request *r)
{
    return r->cmd != NBD_CMD_READ && r->cmd != NBD_CMD_CACHE;
}

bool nbd_guest_has_policy(const struct nbd_guest *g)
{
    return G_UNLIKELY(g->backend) && backend_on_error_set(g->backend);
}

void nbd_guest_wait_for_turn(struct nbd_work *w)
{
    struct nbd_guest *g = &w->conn->export->guest;

    if (nbd_guest_is_limited(g) && w->req.cmd != NBD_CMD_FLUSH &&
        w->req.cmd != NBD_CMD_BLOCK_STATUS) {
        backend_wait_for_turn(g->backend, is_write(&w->req), w->req.length);
    }
}

static bool gives_up(void *opaque)
{
    return nbd_export_is_closing(opaque);
}

bool nbd_guest_failed(struct nbd_work *w, int *ret)
{
    struct nbd_export *e = w->conn->export;

    /* The client asked for no more than to be told. */
    if (!nbd_guest_has_policy(&e->guest) ||
        w->req.cmd == NBD_CMD_BLOCK_STATUS ||
        (w->req.flags & NBD_CMD_FLAG_FAST_ZERO)) {
        return false;
    }
    CONTROL_GUARD();
    if (nbd_export_is_closing(e)) {
        return false;
    }
    switch (backend_guest_error(e->guest.backend, !is_write(&w->req), -*ret)) {
    case BLOCK_ERROR_ACTION_STOP:
        return backend_wait_resumed(e->guest.backend, gives_up, e);
    case BLOCK_ERROR_ACTION_IGNORE:
        *ret = w->req.cmd == NBD_CMD_READ ? *ret : 0;
        return false;
    default:
        return false;
    }
}
