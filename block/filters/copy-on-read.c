/* SPDX-License-Identifier: MIT */
/* Copy-on-read filter: see copy-on-read.h. */
#include "block/filters/copy-on-read.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include "base/control.h"
#include "block/drivers.h"
#include "block/io-hold.h"
#include "block/zeroes.h"

enum {
    CHUNK_BYTES = 1 << 20,      /* of one copy: guests' writes wait for it */
    DEFAULT_UNIT_BYTES = 4096,  /* where the node below has no clusters */
};

struct buffer {
    struct buffer *next;
};

struct cor_state {
    struct range_lock copying;  /* I1; not a job's */

    /* Set by open or cor_insert(), then constant. */
    bool is_jobs;
    struct node *held;          /* a job's: where it copies, borrowed; NULL:
                                   there is nothing to copy */
    struct node *bottom;        /* owned reference; NULL: all of the chain */
    bool froze;                 /* the chain down to there */

    /* Protected by lock (rank LOCK_COPIER). */
    struct lock lock;
    struct buffer *free_buffers;        /* CHUNK_BYTES each */
};

static void state_init(struct cor_state *s)
{
    range_lock_init(&s->copying, "copy-on-read");
    lock_init(&s->lock, "copy-on-read-buffers", LOCK_COPIER);
}

static struct node *below(const struct node *n)
{
    return n->file->node;
}

/* ---- what is to be copied ----------------------------------------------- */

/* The node whose backing chain it is about: N, or what it shows unchanged. */
static struct node *layer(struct node *n)
{
    while (n && !n->driver->supports_backing) {
        struct node *next = NULL;

        for (const struct child *c = n->children; c; c = c->next_sibling) {
            next = c->role & ROLE_FILTERED ? c->node : next;
        }
        n = next;
    }
    return n;
}

/* The first node whose data is not copied: below BOTTOM, or NULL. */
static struct node *base_of(const struct cor_state *s)
{
    return s->bottom && s->bottom->backing ? s->bottom->backing->node : NULL;
}

int cor_look(struct node *n, int64_t offset, int64_t *bytes,
             struct cor_run *run)
{
    const struct cor_state *s = n->state;
    struct node *top = layer(below(n)), *base = base_of(s);
    struct block_status st;
    int ret;

    *run = (struct cor_run){ 0 };
    if (!top || !top->backing || top->backing->node == base) {
        return 0;               /* nothing it could come from */
    }
    ret = node_block_status(top, false, offset, *bytes, &st);
    if (ret < 0 || st.bytes == 0) {
        return ret;
    }
    *bytes = st.bytes;
    if (st.flags & STATUS_ALLOCATED) {
        return 0;
    }
    ret = node_block_status_above(top->backing->node, base, true, offset,
                                  *bytes, &st);
    if (ret < 0) {
        return ret;
    }
    if (st.bytes == 0) {        /* behind the end of what is below */
        int64_t end = base ? node_length(base) : 0;
        run->zero = true;
        run->copy = offset < end;
        *bytes = run->copy ? MIN(*bytes, end - offset) : *bytes;
        return 0;
    }
    *bytes = st.bytes;
    run->copy = st.flags & STATUS_ALLOCATED;
    run->zero = st.flags & STATUS_ZERO;
    return 0;
}

/* ---- copying ------------------------------------------------------------ */

/* Kept, not freed: mapping and zeroing them anew costs as much as a copy. */
static void *buffer_get(struct cor_state *s)
{
    struct buffer *b;

    lock_acquire(&s->lock);
    b = s->free_buffers;
    if (b) {
        s->free_buffers = b->next;
    }
    lock_release(&s->lock);
    return b ? (void *)b : aligned_alloc(4096, CHUNK_BYTES);
}

static void buffer_put(struct cor_state *s, void *buf)
{
    struct buffer *b = buf;

    LOCK_GUARD(&s->lock);
    b->next = s->free_buffers;
    s->free_buffers = b;
}

static void buffers_free(struct cor_state *s)
{
    while (s->free_buffers) {
        struct buffer *b = s->free_buffers;

        s->free_buffers = b->next;
        free(b);
    }
}

static int copy_data(struct node *n, int64_t offset, int64_t bytes)
{
    struct cor_state *s = n->state;
    void *buf = buffer_get(s);
    int ret;

    if (!buf) {
        return -ENOMEM;
    }
    ret = node_pread(below(n), offset, bytes, buf, BLK_REGISTERED_BUF);
    if (ret == 0) {
        ret = buffer_is_zero(buf, bytes)
              ? node_pwrite_zeroes(below(n), offset, bytes,
                                   BLK_WRITE_UNCHANGED)
              : node_pwrite(below(n), offset, bytes, buf,
                            BLK_WRITE_UNCHANGED | BLK_REGISTERED_BUF);
    }
    buffer_put(s, buf);
    return ret;
}

/* Of a run at OFFSET: how much at once.  Parts of clusters are copied as data
 * together with what is beside them. */
static int64_t piece(int64_t offset, int64_t bytes, int64_t end, int64_t unit,
                     struct cor_run *run)
{
    int64_t zero_end = (offset + bytes) / unit * unit;

    if (offset + bytes >= end) {
        zero_end = end;
    }
    if (run->zero && zero_end > offset && offset % unit == 0) {
        return zero_end - offset;
    }
    run->zero = false;
    bytes = MIN((offset + bytes + unit - 1) / unit * unit, end) - offset;
    return MIN(bytes, CHUNK_BYTES);
}

/* [offset, end), whole clusters, is held. */
static int copy_held(struct node *n, int64_t offset, int64_t end,
                     int64_t unit)
{
    struct cor_run run;
    int ret = 0;

    while (offset < end && ret == 0) {
        int64_t bytes = end - offset;
        ret = cor_look(n, offset, &bytes, &run);
        if (ret == 0 && run.copy) {
            bytes = piece(offset, bytes, end, unit, &run);
            ret = run.zero ? node_pwrite_zeroes(below(n), offset, bytes,
                                                BLK_WRITE_UNCHANGED)
                           : copy_data(n, offset, bytes);
        }
        offset += bytes;
    }
    return ret;
}

/* I1, of a copy. */
struct cor_hold {
    struct range_hold own;
    struct io_hold below;
};

static void hold_copy(struct cor_state *s, struct cor_hold *h, int64_t offset,
                      int64_t bytes)
{
    if (s->held) {
        io_hold(s->held, &h->below, offset, bytes);
    } else {
        range_lock_acquire(&s->copying, &h->own, offset, bytes, true);
    }
}

static void release_copy(struct cor_state *s, struct cor_hold *h)
{
    if (s->held) {
        io_release(&h->below);
    } else {
        range_lock_release(&s->copying, &h->own);
    }
}

int cor_prefetch(struct node *n, int64_t offset, int64_t bytes)
{
    struct cor_state *s = n->state;
    int64_t unit = MAX(node_cluster_bytes(below(n)), DEFAULT_UNIT_BYTES);
    int64_t start = offset / unit * unit;
    int64_t end = (offset + bytes + unit - 1) / unit * unit;
    struct cor_hold hold;
    int ret;

    hold_copy(s, &hold, start, end - start);
    ret = copy_held(n, start, MIN(end, node_length(below(n))), unit);
    release_copy(s, &hold);
    return ret;
}

/* As a read of [offset, offset + bytes) needs it. */
static int copy_for_read(struct node *n, int64_t offset, int64_t bytes)
{
    struct cor_run run;
    int ret = 0;

    while (bytes > 0 && ret == 0) {
        int64_t part = bytes;
        ret = cor_look(n, offset, &part, &run);
        if (ret == 0 && run.copy) {
            /* No more at once than is good for others. */
            part = MIN(part, CHUNK_BYTES);
            ret = cor_prefetch(n, offset, part);
        }
        offset += part;
        bytes -= part;
    }
    return ret;
}

/*
 * Does a job whose filter is above this one copy here, in this thread?  Then
 * it does what we would: what it writes is what is read already.  To wait
 * here for others, who wait for the job, would be for ever.
 */
static bool job_copies(struct node *n, int64_t offset, int64_t bytes)
{
    const struct node *top = layer(n);

    return top && top->n_holders > 0 && io_is_held(top, offset,
                                                   offset + bytes);
}

/* ---- requests ----------------------------------------------------------- */

static int cor_pread(struct node *n, int64_t offset, int64_t bytes, void *buf,
                     unsigned flags)
{
    int ret = 0;

    if (!job_copies(n, offset, bytes)) {
        ret = flags & BLK_NOWAIT ? -EAGAIN : copy_for_read(n, offset, bytes);
    }
    return ret < 0 ? ret : node_pread(below(n), offset, bytes, buf, flags);
}

/* I1, of a write. */
struct write_hold {
    struct range_hold range;
    bool held;
};

/* False: BLK_NOWAIT, and a copy is in the way. */
static bool hold_write(struct node *n, struct write_hold *h, int64_t offset,
                       int64_t bytes, unsigned flags)
{
    struct cor_state *s = n->state;

    h->held = !s->is_jobs && !job_copies(n, offset, bytes);
    if (!h->held) {
        return true;
    }
    if (flags & BLK_NOWAIT) {
        return range_lock_try(&s->copying, &h->range, offset, bytes, false);
    }
    range_lock_acquire(&s->copying, &h->range, offset, bytes, false);
    return true;
}

static int release_write(struct node *n, struct write_hold *h, int ret)
{
    struct cor_state *s = n->state;

    if (h->held) {
        range_lock_release(&s->copying, &h->range);
    }
    return ret;
}

static int cor_pwrite(struct node *n, int64_t offset, int64_t bytes,
                      const void *buf, unsigned flags)
{
    struct write_hold hold;

    if (!hold_write(n, &hold, offset, bytes, flags)) {
        return -EAGAIN;
    }
    return release_write(n, &hold, node_pwrite(below(n), offset, bytes, buf,
                                               flags));
}

static int cor_pwrite_zeroes(struct node *n, int64_t offset, int64_t bytes,
                             unsigned flags)
{
    struct write_hold hold;

    if (!hold_write(n, &hold, offset, bytes, flags)) {
        return -EAGAIN;
    }
    return release_write(n, &hold, node_pwrite_zeroes(below(n), offset, bytes,
                                                      flags));
}

static int cor_pdiscard(struct node *n, int64_t offset, int64_t bytes)
{
    struct write_hold hold;

    hold_write(n, &hold, offset, bytes, 0);
    return release_write(n, &hold, node_pdiscard(below(n), offset, bytes));
}

static void cor_child_perm(struct node *n, const struct child *c,
                           unsigned perm, unsigned shared,
                           unsigned *child_perm, unsigned *child_shared)
{
    const struct cor_state *s = n->state;

    *child_perm = perm | PERM_WRITE_UNCHANGED;
    *child_shared = shared | PERM_WRITE_UNCHANGED;
    if (n->parents) {
        *child_perm |= PERM_CONSISTENT_READ;
        *child_shared &= s->is_jobs ? PERM_ALL
                                    : ~(unsigned)PERM_WRITE;    /* I1 */
    }
}

/* ---- life --------------------------------------------------------------- */

/* Not by its name alone: it may be being opened together with the filter, and
 * be nobody else's yet.  NULL and errp: it is not in the chain from TOP. */
static struct node *find_bottom(struct node *top, const char *name,
                                struct error **errp)
{
    struct node *other = node_find(name);

    for (struct node *n = top; n; n = node_chain_next(n)) {
        if (strcmp(node_name(n), name) == 0) {
            return n;
        }
    }
    if (other && other->driver->is_filter) {
        error_set(errp, "Bottom node '%s' is a filter", name);
    } else if (other) {
        error_set(errp, "Bottom node '%s' is not in the chain of '%s'", name,
                  node_name(top));
    } else {
        error_set(errp, "Bottom node '%s' not found", name);
    }
    return NULL;
}

static bool cor_open_children(struct node *n, const BlockdevOptions *options,
                              struct error **errp)
{
    const char *name = options->u.copy_on_read.bottom;
    struct cor_state *s = n->state;
    struct node *bottom = NULL;

    if (name) {
        bottom = find_bottom(n->file->node, name, errp);
        if (!bottom) {
            return false;
        }
    }
    if (bottom && bottom->driver->is_filter) {
        error_set(errp, "Bottom node '%s' is a filter", name);
        return false;
    }
    if (bottom && !node_freeze_chain(n, bottom, errp)) {
        return false;
    }
    s->bottom = bottom ? node_ref(bottom) : NULL;
    s->froze = bottom;
    state_init(s);
    return true;
}

static int cor_open(struct node *n, const BlockdevOptions *options,
                    struct error **errp)
{
    atomic_store(&n->length_bytes, node_length(below(n)));
    return 0;
}

static void cor_close(struct node *n)
{
    struct cor_state *s = n->state;

    buffers_free(s);
    lock_deinit(&s->lock);
    range_lock_deinit(&s->copying);
    if (s->bottom) {
        control_lock();
        if (s->froze) {
            node_unfreeze_chain(n, s->bottom);
        }
        node_unref(g_steal_pointer(&s->bottom));
        control_unlock();
    }
}

/* ---- for a job ---------------------------------------------------------- */

struct node *cor_insert(struct node *node, const char *name,
                        struct node *bottom, struct error **errp)
{
    struct node *n = node_new_filter(&driver_copy_on_read, name, !name, errp);
    struct cor_state *s;

    if (!n) {
        return NULL;
    }
    s = n->state;
    state_init(s);
    s->is_jobs = true;
    s->bottom = node_ref(bottom);
    atomic_store(&n->length_bytes, node_length(node));
    n->read_only = node->read_only;
    n->discard_unmap = true;
    n->cache_direct = node->cache_direct;
    n->cache_no_flush = node->cache_no_flush;
    g_free(n->filename);
    n->filename = g_strdup(node->filename);
    if (!node_insert_filter(n, node, errp)) {
        node_unref(n);
        return NULL;
    }
    s->held = layer(node);
    if (s->held == bottom) {
        s->held = NULL;
    }
    if (s->held) {
        io_holds_begin(s->held);
    }
    return n;
}

void cor_remove(struct node *n)
{
    struct cor_state *s = n->state;

    control_assert();
    if (s->held) {
        io_holds_end(g_steal_pointer(&s->held));
    }
    node_remove_filter(n);
    node_unref_later(g_steal_pointer(&s->bottom));
}

static BlockdevRef **cor_file_option(BlockdevOptions *options)
{
    return &options->u.copy_on_read.file;
}

const struct driver driver_copy_on_read = {
    .name = "copy-on-read",
    .type = BLOCKDEV_DRIVER_COPY_ON_READ,
    .state_size = sizeof(struct cor_state),
    .is_filter = true,
    .file_option = cor_file_option,
    .open_children = cor_open_children,
    .open = cor_open,
    .close = cor_close,
    .child_perm = cor_child_perm,
    .pread = cor_pread,
    .pwrite = cor_pwrite,
    .pwrite_zeroes = cor_pwrite_zeroes,
    .pdiscard = cor_pdiscard,
};
