/* SPDX-License-Identifier: MIT */
/*
 * qemu-io: a disk, and requests to it as a guest makes them.
 *
 * A request of a backend waits for its limits, in flight on the root, as
 * backend_p*() do; the statistics are those of aio requests only, as QEMU
 * has it.
 */
#include "server/hmp/qemu-io-priv.h"

#include <errno.h>
#include <string.h>
#include "block/stats.h"

/* ---- life --------------------------------------------------------------- */

static struct io_target *open_node(const char *name, struct error **errp)
{
    static const struct root_options options = {
        .name = "root", .shared = PERM_ALL,
    };
    struct node *n = node_find(name);
    struct io_target *t;
    struct root *r;

    if (!n) {
        error_set(errp, "Cannot find device='' nor node-name='%s'", name);
        return NULL;
    }
    r = root_new(n, &options, errp);
    if (!r) {
        return NULL;
    }
    t = g_new0(struct io_target, 1);
    t->root = r;
    t->key = n;
    return t;
}

/* By id or path of the device, or of the inner object of a virtio disk,
 * whichever way that is said. */
static struct backend *find_by_dev(const char *device, struct error **errp)
{
    static const char inner[] = "/virtio-backend";
    struct backend *b = backend_find_by_dev(device);
    g_autofree char *outer = NULL;

    if (!b && g_str_has_suffix(device, inner)) {
        outer = g_strndup(device, strlen(device) - strlen(inner));
        b = backend_find_by_dev(outer);
    }
    return b ? b : backend_lookup(NULL, device, errp);
}

struct io_target *target_open(const char *device, bool qdev,
                              struct error **errp)
{
    struct backend *b = qdev ? find_by_dev(device, errp)
                             : backend_find(device);
    struct io_target *t;

    control_assert();
    if (b) {
        t = g_new0(struct io_target, 1);
        t->backend = backend_ref(b);
        t->key = b;
    } else {
        t = qdev ? NULL : open_node(device, errp);
    }
    if (t) {
        t->n_refs = 1;
    }
    return t;
}

struct io_target *target_ref(struct io_target *t)
{
    control_assert();
    t->n_refs++;
    return t;
}

void target_unref(struct io_target *t)
{
    control_assert();
    if (--t->n_refs > 0) {
        return;
    }
    if (t->root) {
        root_free(&t->root);
    }
    if (t->backend) {
        backend_unref(t->backend);
    }
    g_free(t);
}

/* ---- permissions -------------------------------------------------------- */

bool target_need_perm(struct io_target *t, unsigned perm, struct error **errp)
{
    unsigned have, shared;

    if (perm == 0) {
        return true;
    }
    if (t->root) {
        return root_set_perm(t->root, root_link(t->root)->perm | perm,
                             PERM_ALL, errp);
    }
    if (!backend_node(t->backend)) {
        return true;            /* the request says it */
    }
    backend_get_perm(t->backend, &have, &shared);
    return (have & perm) == perm ||
           backend_set_perm(t->backend, have | perm, shared, errp);
}

void target_stop_writing(struct io_target *t)
{
    const unsigned writing = PERM_WRITE | PERM_WRITE_UNCHANGED | PERM_RESIZE;
    unsigned have, shared;

    /* A device keeps what is its own. */
    if (t->backend && !backend_dev(t->backend)) {
        backend_get_perm(t->backend, &have, &shared);
        if (have & writing) {
            backend_set_perm(t->backend, have & ~writing, shared, NULL);
        }
    }
}

struct node *target_node(const struct io_target *t)
{
    return t->backend ? backend_node(t->backend) : root_node(t->root);
}

/* ---- requests ----------------------------------------------------------- */

/* NULL: no medium.  What is entered is there until leave(). */
static struct root *enter(struct io_target *t)
{
    struct root *r = t->root;

    if (t->backend) {
        if (!backend_enter(t->backend)) {
            return NULL;
        }
        r = backend_root(t->backend);
    }
    root_enter(r);
    return r;
}

static void leave(struct io_target *t, struct root *r)
{
    root_leave(r);
    if (t->backend) {
        backend_leave(t->backend);
    }
}

static int check_range(const struct root *r, int64_t offset, int64_t bytes)
{
    int64_t length = root_length(r);

    return offset < 0 || bytes < 0 || offset > length ||
           bytes > length - offset ? -EIO : 0;
}

/* In flight, in range: it may go, now. */
static void wait_for_turn(struct io_target *t, bool is_write, int64_t bytes)
{
    if (t->backend) {
        backend_wait_for_turn(t->backend, is_write, bytes);
    }
}

static struct block_stats *stats_of(struct io_target *t, bool counted)
{
    return counted && t->backend ? backend_stats(t->backend) : NULL;
}

static unsigned write_flags(const struct io_target *t, unsigned flags)
{
    return t->backend && backend_writethrough(t->backend) ? flags | BLK_FUA
                                                          : flags;
}

/* The ways to do something with a range. */
enum deed { READ, WRITE, ZERO, DISCARD };

struct request {
    enum deed deed;
    int64_t offset, bytes;
    void *in;
    const void *out;
    unsigned flags;
};

static int perform(struct node *n, const struct request *q)
{
    switch (q->deed) {
    case READ:
        return node_pread(n, q->offset, q->bytes, q->in, q->flags);
    case WRITE:
        return node_pwrite(n, q->offset, q->bytes, q->out, q->flags);
    case ZERO:
        return node_pwrite_zeroes(n, q->offset, q->bytes, q->flags);
    case DISCARD:
        return node_pdiscard(n, q->offset, q->bytes);
    }
    return -EINVAL;
}

static int submit(struct io_target *t, bool counted, const struct request *q)
{
    struct block_stats *stats = stats_of(t, counted);
    int64_t start_ns = block_stats_start(stats);
    struct root *r = enter(t);
    int ret = r ? check_range(r, q->offset, q->bytes) : -ENOMEDIUM;

    if (ret == 0 && q->bytes > 0) {
        wait_for_turn(t, q->deed != READ, q->bytes);
        ret = perform(root_node(r), q);
    }
    if (r) {
        leave(t, r);
    }
    block_stats_done(stats, q->deed == READ ? STATS_READ : STATS_WRITE,
                     q->bytes, start_ns, ret);
    return ret;
}

int target_pread(struct io_target *t, bool counted, int64_t offset,
                 int64_t bytes, void *buf)
{
    return submit(t, counted, &(struct request) {
        .deed = READ, .offset = offset, .bytes = bytes, .in = buf,
    });
}

int target_pwrite(struct io_target *t, bool counted, int64_t offset,
                  int64_t bytes, const void *buf, unsigned flags)
{
    return submit(t, counted, &(struct request) {
        .deed = WRITE, .offset = offset, .bytes = bytes, .out = buf,
        .flags = write_flags(t, flags),
    });
}

int target_pwrite_zeroes(struct io_target *t, bool counted, int64_t offset,
                         int64_t bytes, unsigned flags)
{
    return submit(t, counted, &(struct request) {
        .deed = ZERO, .offset = offset, .bytes = bytes,
        .flags = write_flags(t, flags),
    });
}

int target_pdiscard(struct io_target *t, int64_t offset, int64_t bytes)
{
    return submit(t, false, &(struct request) {
        .deed = DISCARD, .offset = offset, .bytes = bytes,
    });
}

int target_flush(struct io_target *t)
{
    struct root *r = enter(t);
    int ret = r ? node_flush(root_node(r)) : -ENOMEDIUM;

    if (r) {
        leave(t, r);
    }
    return ret;
}

/* ---- looking ------------------------------------------------------------ */

int64_t target_length(struct io_target *t)
{
    struct root *r = enter(t);
    int64_t length = r ? root_length(r) : -ENOMEDIUM;

    if (r) {
        leave(t, r);
    }
    return length;
}

int target_is_allocated(struct io_target *t, int64_t offset, int64_t bytes,
                        int64_t *part)
{
    struct block_status st = { 0 };
    struct root *r = enter(t);
    int ret = r ? 0 : -ENOMEDIUM;

    if (r && offset < root_length(r)) {
        ret = node_block_status(root_node(r), false, offset,
                                MIN(bytes, root_length(r) - offset), &st);
    }
    if (r) {
        leave(t, r);
    }
    *part = st.bytes;
    return ret < 0 ? ret : !!(st.flags & STATUS_ALLOCATED);
}
