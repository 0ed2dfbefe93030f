/* SPDX-License-Identifier: MIT */
/* Waiting for sockets: see wait.h. */
#include "block/nbd/wait.h"

#include <errno.h>
#include <glib.h>
#include <poll.h>
#include "base/lock.h"
#include "block/cancel.h"

/* How long it may take until somebody notices that it is over. */
enum { SLICE_MS = 100 };

int nbd_wait_check(const struct nbd_wait *w)
{
    if (cancel_waits_asked() || (w->given_up && w->given_up(w->opaque))) {
        return -ECANCELED;
    }
    return clock_ns() >= w->deadline_ns ? -ETIMEDOUT : 0;
}

int nbd_wait_fd(const struct nbd_wait *w, int fd, short events)
{
    struct pollfd p = { .fd = fd, .events = events };
    int n, ret;

    do {
        ret = nbd_wait_check(w);
        if (ret < 0) {
            return ret;
        }
        n = poll(&p, 1, SLICE_MS);
    } while (n == 0 || (n < 0 && errno == EINTR));
    return n < 0 ? -errno : p.revents;
}
