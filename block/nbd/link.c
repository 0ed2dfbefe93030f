/* SPDX-License-Identifier: MIT */
/* One connection: see link.h and link-priv.h.  Here: how it begins and ends. */
#include "block/nbd/link-priv.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>
#include "block/nbd/tls.h"

enum { BYE_MS = 100 };          /* to send good-bye */

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

void nbd_link_free_call(struct own_call *o)
{
    if (o->p.strays) {
        g_array_unref(o->p.strays);
    }
    cond_deinit(&o->p.cond);
    free(o->bounce);
    g_free(o);
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
    while (l->left) {
        struct pending *p = l->left;
        l->left = p->next;
        nbd_link_free_call((struct own_call *)p);
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
