/* SPDX-License-Identifier: MIT */
/* Backends: cache mode, statistics, and what to do when a request fails. */
#include "block/backend-priv.h"

#include <errno.h>
#include "base/control.h"
#include "qapi/qapi-events.h"

static void (*stop_hook)(void);
/* Counted up by backend_resume_all(). */
static uint64_t n_resumed;

struct block_stats *backend_stats(const struct backend *b)
{
    return b->stats;
}

bool backend_writethrough(const struct backend *b)
{
    return b->writethrough;
}

void backend_set_writethrough(struct backend *b, bool on)
{
    control_assert();
    b->writethrough = on;
}

bool backend_read_only_wanted(const struct backend *b)
{
    return b->read_only_wanted;
}

void backend_set_read_only_wanted(struct backend *b, bool on)
{
    control_assert();
    b->read_only_wanted = on;
}

/* ---- errors ------------------------------------------------------------- */

void backend_set_stop_hook(void (*stop)(void))
{
    stop_hook = stop;
}

void backend_set_on_error(struct backend *b, BlockdevOnError on_read,
                          BlockdevOnError on_write)
{
    control_assert();
    b->on_error[0] = on_read;
    b->on_error[1] = on_write;
    b->on_error_set = on_read != BLOCKDEV_ON_ERROR_AUTO ||
                      on_write != BLOCKDEV_ON_ERROR_AUTO;
}

bool backend_on_error_set(const struct backend *b)
{
    return b->on_error_set;
}

/* What AUTO means. */
static BlockdevOnError policy(const struct backend *b, bool is_read)
{
    BlockdevOnError p = b->on_error[!is_read];

    if (p != BLOCKDEV_ON_ERROR_AUTO) {
        return p;
    }
    return is_read ? BLOCKDEV_ON_ERROR_REPORT : BLOCKDEV_ON_ERROR_ENOSPC;
}

bool backend_has_policy(const struct backend *b)
{
    BlockdevOnError on_write = policy(b, false);
    bool is_floppy = b->dev && b->dev->removable && !b->dev->has_tray;

    /* A floppy drive tells its guest, whatever happens. */
    return b->dev && !is_floppy &&
           (policy(b, true) == BLOCKDEV_ON_ERROR_STOP ||
            on_write == BLOCKDEV_ON_ERROR_STOP ||
            on_write == BLOCKDEV_ON_ERROR_ENOSPC);
}

BlockDeviceIoStatus backend_io_status(const struct backend *b)
{
    return b->io_status;
}

static BlockErrorAction action_for(const struct backend *b, bool is_read,
                                   int error)
{
    switch (policy(b, is_read)) {
    case BLOCKDEV_ON_ERROR_STOP:
        return BLOCK_ERROR_ACTION_STOP;
    case BLOCKDEV_ON_ERROR_ENOSPC:
        return error == ENOSPC ? BLOCK_ERROR_ACTION_STOP
                               : BLOCK_ERROR_ACTION_REPORT;
    case BLOCKDEV_ON_ERROR_IGNORE:
        return BLOCK_ERROR_ACTION_IGNORE;
    default:
        return BLOCK_ERROR_ACTION_REPORT;
    }
}

BlockErrorAction backend_guest_error(struct backend *b, bool is_read,
                                     int error)
{
    BlockErrorAction action = action_for(b, is_read, error);
    struct node *n = backend_node(b);

    control_assert();
    qapi_event_send_block_io_error(
        b->dev ? b->dev->path : "", backend_name(b), n ? node_name(n) : NULL,
        is_read ? IO_OPERATION_TYPE_READ : IO_OPERATION_TYPE_WRITE, action,
        !b->dev || backend_has_policy(b), error == ENOSPC,
        error_errno_text(error));
    if (action == BLOCK_ERROR_ACTION_STOP) {
        b->io_status = error == ENOSPC ? BLOCK_DEVICE_IO_STATUS_NOSPACE
                                       : BLOCK_DEVICE_IO_STATUS_FAILED;
        if (stop_hook) {
            stop_hook();
        }
    }
    return action;
}

void backend_resume_all(void)
{
    control_assert();
    for (struct backend *b = backend_next(NULL); b; b = b->next) {
        b->io_status = BLOCK_DEVICE_IO_STATUS_OK;
    }
    n_resumed++;
    control_notify();
}

bool backend_wait_resumed(struct backend *b, bool (*gives_up)(void *opaque),
                          void *opaque)
{
    uint64_t seen = n_resumed;

    control_assert();
    while (n_resumed == seen) {
        if (!b->root || b->removing || (gives_up && gives_up(opaque))) {
            return false;
        }
        control_wait();
    }
    return true;
}
