/* SPDX-License-Identifier: MIT */
/*
 * null-co and null-aio: no storage.  Reads give zeroes, writes are dropped;
 * each request takes latency-ns, however many there are, but no longer than
 * QUIT_S once the process is ending.  The two differ in name only: both wait
 * in the thread that has the request.
 */
#include "block/drivers.h"

#include <errno.h>
#include <string.h>
#include <time.h>
#include "base/error.h"
#include "base/lock.h"
#include "block/cancel.h"
#include "block/reopen.h"

#define DEFAULT_LENGTH (INT64_C(1) << 30)

enum {
    LOOK_NS = 100 * 1000 * 1000,    /* is the process ending? */
    QUIT_S = 3,                     /* as for a server that is silent */
};

struct null_state {
    int64_t latency_ns;
    bool read_zeroes;
};

static const BlockdevOptionsNull *null_options(const BlockdevOptions *o)
{
    return o->driver == BLOCKDEV_DRIVER_NULL_AIO ? &o->u.null_aio
                                                 : &o->u.null_co;
}

static int null_open(struct node *n, const BlockdevOptions *options,
                     struct error **errp)
{
    const BlockdevOptionsNull *o = null_options(options);
    struct null_state *s = n->state;
    int64_t length = o->has_size ? o->size : DEFAULT_LENGTH;

    if (length < 0) {
        error_set(errp, "Parameter 'size' expects a non-negative number below "
                  "2^64");
        return -EINVAL;
    }
    if (o->has_latency_ns && o->latency_ns > INT64_MAX) {
        error_set(errp, "latency-ns is invalid");
        return -EINVAL;
    }
    if (length > BLK_MAX_LENGTH_BYTES) {
        error_set_errno(errp, EFBIG, "Could not refresh total sector count");
        return -EFBIG;
    }
    s->latency_ns = o->has_latency_ns ? o->latency_ns : 0;
    s->read_zeroes = o->has_read_zeroes && o->read_zeroes;
    atomic_store(&n->length_bytes, (length + 511) & ~INT64_C(511));
    n->supported_write_flags = BLK_FUA;
    n->supported_zero_flags = BLK_FUA | BLK_MAY_UNMAP | BLK_NO_FALLBACK;
    if (!o->has_size && !o->has_read_zeroes) {
        g_free(n->filename);
        n->filename = g_strconcat(n->driver->name, "://", NULL);
    }
    return 0;
}

static bool is_too_late(void)
{
    int64_t since_ns = cancel_waits_since();

    return since_ns != INT64_MAX &&
           clock_ns() > since_ns + QUIT_S * INT64_C(1000000000);
}

static void sleep_ns(int64_t ns)
{
    struct timespec left = { .tv_nsec = ns };

    while (nanosleep(&left, &left) < 0 && errno == EINTR) {
    }
}

static int null_request(struct node *n, unsigned flags)
{
    const struct null_state *s = n->state;
    int64_t start_ns, left_ns = s->latency_ns;

    if (left_ns == 0) {
        return 0;
    }
    if (flags & BLK_NOWAIT) {
        return -EAGAIN;
    }
    start_ns = clock_ns();
    while (left_ns > 0 && !is_too_late()) {
        sleep_ns(MIN(left_ns, LOOK_NS));
        left_ns = s->latency_ns - (clock_ns() - start_ns);
    }
    return left_ns > 0 ? -EIO : 0;
}

static int null_pread(struct node *n, int64_t offset, int64_t bytes, void *buf,
                      unsigned flags)
{
    int ret = null_request(n, flags);

    if (ret == 0) {
        /* Even without read-zeroes: old memory of ours is nobody's data. */
        memset(buf, 0, bytes);
    }
    return ret;
}

static int null_pwrite(struct node *n, int64_t offset, int64_t bytes,
                       const void *buf, unsigned flags)
{
    return null_request(n, flags);
}

static int null_pwrite_zeroes(struct node *n, int64_t offset, int64_t bytes,
                              unsigned flags)
{
    return null_request(n, flags);
}

static int null_pdiscard(struct node *n, int64_t offset, int64_t bytes)
{
    return null_request(n, 0);
}

static int null_flush(struct node *n)
{
    return null_request(n, 0);
}

static int null_block_status(struct node *n, bool want_zero, int64_t offset,
                             int64_t bytes, struct block_status *st)
{
    const struct null_state *s = n->state;

    st->flags = STATUS_OFFSET_VALID | STATUS_ALLOCATED | STATUS_DATA;
    if (s->read_zeroes) {
        st->flags |= STATUS_ZERO;
    }
    st->bytes = bytes;
    st->map = offset;
    st->file = n;
    return 0;
}

static int64_t null_allocated_bytes(struct node *n)
{
    return 0;
}

static bool null_reads_zero_when_new(struct node *n)
{
    const struct null_state *s = n->state;

    return s->read_zeroes;
}

static const char *const null_strong_options[] = {
    "size", "read-zeroes", NULL
};

/* All but the name. */
#define NULL_FUNCTIONS \
    .state_size = sizeof(struct null_state), \
    .is_protocol = true, \
    .strong_options = null_strong_options, \
    .open = null_open, \
    .pread = null_pread, \
    .pwrite = null_pwrite, \
    .pwrite_zeroes = null_pwrite_zeroes, \
    .pdiscard = null_pdiscard, \
    .flush_to_disk = null_flush, \
    .block_status = null_block_status, \
    .allocated_bytes = null_allocated_bytes, \
    .reads_zero_when_new = null_reads_zero_when_new, \
    .reopen_prepare = node_reopen_nothing,

const struct driver driver_null_aio = {
    .name = "null-aio",
    .type = BLOCKDEV_DRIVER_NULL_AIO,
    NULL_FUNCTIONS
};

const struct driver driver_null_co = {
    .name = "null-co",
    .type = BLOCKDEV_DRIVER_NULL_CO,
    NULL_FUNCTIONS
};
