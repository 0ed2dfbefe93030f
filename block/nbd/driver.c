/* SPDX-License-Identifier: MIT */
/*
 * nbd: an export of an NBD server, on this machine or another one.
 *
 * Requests    Each is one call of the client (client.h), made and waited for
 *             by the caller's thread; BLK_NOWAIT is always -EAGAIN.
 * Lost        What happens when the connection is lost: client.h I2.
 */
#include "block/drivers.h"

#include <errno.h>
#include <string.h>
#include "base/control.h"
#include "block/cancel.h"
#include "block/nbd/client.h"
#include "block/nbd/filename.h"
#include "block/reopen.h"
#include "qapi/qapi-visit.h"

enum {
    MAX_STRING = 4096,          /* of the protocol */
    MAX_PAYLOAD_BYTES = 32 << 20,
    MAX_EFFECT_BYTES = 1 << 30, /* of zeroes, trim and block status */
    STATE_HOLE = 1, STATE_ZERO = 2,     /* flags of base:allocation */
};
/* A closing node's flush: nobody waits longer for a server. */
#define CLOSE_FLUSH_NS (INT64_C(3) * 1000 * 1000 * 1000)

struct nbd_state {
    struct nbd_client *client;  /* owned */
    const struct nbd_info *info;/* the client's */
};

/* ---- opening ------------------------------------------------------------ */

static bool check_strings(const BlockdevOptionsNbd *o, struct error **errp)
{
    if (o->export && strlen(o->export) > MAX_STRING) {
        error_set(errp, "export name too long to send to server");
        return false;
    }
    if (o->x_dirty_bitmap && strlen(o->x_dirty_bitmap) > MAX_STRING) {
        error_set(errp, "x-dirty-bitmap query too long to send to server");
        return false;
    }
    return true;
}

/* Can a node be made of what the server says? */
static int check_info(struct node *n, const BlockdevOptionsNbd *o,
                      const struct nbd_info *info, struct error **errp)
{
    if (info->read_only && !n->read_only) {
        if (!n->auto_read_only) {
            error_set_errno(errp, EACCES, "Could not open image");
            return -EACCES;
        }
        n->read_only = true;
    }
    if (o->x_dirty_bitmap && !info->can_status) {
        error_set(errp, "requested x-dirty-bitmap %s not found",
                  o->x_dirty_bitmap);
        return -EINVAL;
    }
    if (info->length > BLK_MAX_LENGTH_BYTES) {
        error_set_errno(errp, EFBIG, "Could not open image");
        return -EFBIG;
    }
    if (info->length % info->min_bytes != 0) {
        error_set(errp, "export size is not a multiple of the server's "
                  "minimum block size");
        return -EINVAL;
    }
    return 0;
}

static void set_limits(struct node *n)
{
    const struct nbd_state *s = n->state;
    int64_t align = s->info->min_bytes;

    n->limits = (struct block_limits){
        .request_alignment = align,
        .max_transfer = MIN(s->info->max_bytes, MAX_PAYLOAD_BYTES) & -align,
        .max_pwrite_zeroes = MAX_EFFECT_BYTES,
        .max_pdiscard = MAX_EFFECT_BYTES,
        .pdiscard_alignment = align,
        .min_mem_alignment = 1,
        .opt_mem_alignment = 4096,
        .opt_transfer = s->info->preferred_bytes,
    };
    n->supported_write_flags = s->info->can_fua ? BLK_FUA : 0;
    n->supported_zero_flags = BLK_MAY_UNMAP |
        (s->info->can_fua ? BLK_FUA : 0) |
        (s->info->can_fast_zero ? BLK_NO_FALLBACK : 0);
}

static int connect_client(struct nbd_state *s, const BlockdevOptionsNbd *o,
                          struct error **errp)
{
    struct nbd_client_options options = {
        .server = o->server,
        .export = o->export ? o->export : "",
        .context = o->x_dirty_bitmap ? o->x_dirty_bitmap : "base:allocation",
        .tls_creds = o->tls_creds,
        .tls_hostname = o->tls_hostname,
        .reconnect_delay = o->has_reconnect_delay ? o->reconnect_delay : 0,
        .open_timeout = o->has_open_timeout ? o->open_timeout : 0,
    };
    int err = -EIO;

    s->client = nbd_client_new(&options, &err, errp);
    if (!s->client) {
        return err;
    }
    s->info = nbd_client_info(s->client);
    return 0;
}

static int nbd_driver_open(struct node *n, const BlockdevOptions *options,
                           struct error **errp)
{
    const BlockdevOptionsNbd *o = &options->u.nbd;
    struct nbd_state *s = n->state;
    int ret;

    if (!check_strings(o, errp)) {
        return -EINVAL;
    }
    ret = connect_client(s, o, errp);
    if (ret < 0) {
        return ret;
    }
    ret = check_info(n, o, s->info, errp);
    if (ret < 0) {
        nbd_client_close(&s->client);
        return ret;
    }
    set_limits(n);
    atomic_store(&n->length_bytes, s->info->length);
    g_free(n->filename);
    n->filename = nbd_filename_make(o);
    return 0;
}

static void nbd_driver_close(struct node *n)
{
    struct nbd_state *s = n->state;

    nbd_client_close(&s->client);
}

/* ---- requests ----------------------------------------------------------- */

static int run(struct node *n, struct nbd_call *call)
{
    struct nbd_state *s = n->state;

    return nbd_client_call(s->client, call, n->closing ? CLOSE_FLUSH_NS : 0);
}

static int nbd_driver_pread(struct node *n, int64_t offset, int64_t bytes,
                            void *buf, unsigned flags)
{
    struct nbd_call call = {
        .type = NBD_CALL_READ, .offset = offset, .bytes = bytes, .buf = buf,
    };

    return flags & BLK_NOWAIT ? -EAGAIN : run(n, &call);
}

/* It does not grow, though it is a protocol. */
static bool is_inside(struct node *n, int64_t offset, int64_t bytes)
{
    return offset + bytes <= node_length(n);
}

static int nbd_driver_pwrite(struct node *n, int64_t offset, int64_t bytes,
                             const void *buf, unsigned flags)
{
    struct nbd_call call = {
        .type = NBD_CALL_WRITE, .offset = offset, .bytes = bytes,
        .buf = (void *)buf, .fua = flags & BLK_FUA,
    };

    if (!is_inside(n, offset, bytes)) {
        return -ENOSPC;
    }
    return flags & BLK_NOWAIT ? -EAGAIN : run(n, &call);
}

static int nbd_driver_pwrite_zeroes(struct node *n, int64_t offset,
                                    int64_t bytes, unsigned flags)
{
    struct nbd_state *s = n->state;
    struct nbd_call call = {
        .type = NBD_CALL_ZERO, .offset = offset, .bytes = bytes,
        .fua = flags & BLK_FUA, .no_hole = !(flags & BLK_MAY_UNMAP),
        .fast_zero = flags & BLK_NO_FALLBACK,
    };

    if (!is_inside(n, offset, bytes)) {
        return -ENOSPC;
    }
    if (!s->info->can_zero) {
        return -ENOTSUP;
    }
    return flags & BLK_NOWAIT ? -EAGAIN : run(n, &call);
}

static int nbd_driver_pdiscard(struct node *n, int64_t offset, int64_t bytes)
{
    struct nbd_state *s = n->state;
    struct nbd_call call = {
        .type = NBD_CALL_TRIM, .offset = offset, .bytes = bytes,
    };

    return s->info->can_trim ? run(n, &call) : 0;
}

static int nbd_driver_flush(struct node *n)
{
    struct nbd_state *s = n->state;
    struct nbd_call call = { .type = NBD_CALL_FLUSH };

    return s->info->can_flush ? run(n, &call) : 0;
}

static int nbd_driver_block_status(struct node *n, bool want_zero,
                                   int64_t offset, int64_t bytes,
                                   struct block_status *st)
{
    struct nbd_state *s = n->state;
    struct nbd_call call = {
        .type = NBD_CALL_STATUS, .offset = offset,
        .bytes = MIN(bytes, MAX_EFFECT_BYTES),
    };
    int ret;

    st->flags = STATUS_ALLOCATED | STATUS_OFFSET_VALID;
    st->bytes = bytes;
    st->map = offset;
    st->file = n;
    if (!s->info->can_status) {
        st->flags |= STATUS_DATA;
        return 0;
    }
    ret = run(n, &call);
    if (ret < 0) {
        return ret;
    }
    st->bytes = call.extent_bytes;
    if (!(call.extent_flags & STATE_HOLE)) {
        st->flags |= STATUS_DATA;
    }
    if (call.extent_flags & STATE_ZERO) {
        st->flags |= STATUS_ZERO;
    }
    return 0;
}

static void nbd_driver_cancel_in_flight(struct node *n)
{
    struct nbd_state *s = n->state;

    if (s->client) {
        nbd_client_cancel(s->client);
    }
}

static int nbd_driver_truncate(struct node *n, int64_t length, bool exact,
                               PreallocMode prealloc, struct error **errp)
{
    if (length > node_length(n)) {
        error_set(errp, "Cannot grow NBD nodes");
        return -EINVAL;
    }
    if (length < node_length(n)) {
        error_set(errp, "Cannot resize NBD nodes");
        return -ENOTSUP;
    }
    return 0;
}

/* ---- reopen ------------------------------------------------------------- */

/* The connection stays: nothing that it depends on may change. */
static bool nbd_driver_reopen_prepare(struct node_reopen *r,
                                      struct error **errp)
{
    const struct nbd_state *s = r->node->state;
    json_t *old = BlockdevOptions_to_json(r->node->options);
    json_t *new = BlockdevOptions_to_json(r->options);
    static const char *const fixed[] = {
        "server", "export", "tls-creds", "tls-hostname", "x-dirty-bitmap",
        "reconnect-delay", "open-timeout",
    };
    const char *changed = NULL;

    for (size_t i = 0; i < G_N_ELEMENTS(fixed) && !changed; i++) {
        json_t *a = json_object_get(old, fixed[i]);
        json_t *b = json_object_get(new, fixed[i]);

        if ((a || b) && !json_equal(a, b)) {
            changed = fixed[i];
        }
    }
    json_decref(old);
    json_decref(new);
    if (changed) {
        error_set(errp, "Cannot change the option '%s'", changed);
        return false;
    }
    if (!r->read_only && s->info->read_only && !r->node->auto_read_only) {
        error_set(errp, "Can't reopen read-only NBD mount as read/write");
        return false;
    }
    return true;
}

static void nbd_driver_reopen_nothing(struct node_reopen *r)
{
}

static const char *const nbd_strong_options[] = {
    "server", "export", "tls-creds", "tls-hostname", "x-dirty-bitmap", NULL
};

const struct driver driver_nbd = {
    .name = "nbd",
    .type = BLOCKDEV_DRIVER_NBD,
    .state_size = sizeof(struct nbd_state),
    .is_protocol = true,
    .strong_options = nbd_strong_options,
    .open = nbd_driver_open,
    .close = nbd_driver_close,
    .refresh_limits = set_limits,
    .pread = nbd_driver_pread,
    .pwrite = nbd_driver_pwrite,
    .pwrite_zeroes = nbd_driver_pwrite_zeroes,
    .pdiscard = nbd_driver_pdiscard,
    .flush_to_disk = nbd_driver_flush,
    .block_status = nbd_driver_block_status,
    .cancel_in_flight = nbd_driver_cancel_in_flight,
    .truncate = nbd_driver_truncate,
    .reopen_prepare = nbd_driver_reopen_prepare,
    .reopen_commit = nbd_driver_reopen_nothing,
    .reopen_abort = nbd_driver_reopen_nothing,
};
