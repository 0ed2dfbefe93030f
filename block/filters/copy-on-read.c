/* SPDX-License-Identifier: MIT */
/* Copy-on-read filter: see copy-on-read.h. */
#include "block/filters/copy-on-read.h"

#include <errno.h>
#include <stdlib.h>
#include "base/control.h"
#include "block/drivers.h"
#include "block/zeroes.h"

enum {
    CHUNK_BYTES = 1 << 20,      /* of one copy: guests' writes wait for it */
    DEFAULT_UNIT_BYTES = 4096,  /* where the node below has no clusters */
};

struct cor_state {
    struct range_lock copying;  /* I1 */

    /* Set by open, then constant. */
    struct node *bottom;        /* owned reference; its chain up to here is
                                   frozen; NULL: all of the chain */
};

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

/* *BYTES from OFFSET on that are to be copied, or not, as a whole. */
static int look(struct node *n, int64_t offset, int64_t *bytes, bool *copy)
{
    const struct cor_state *s = n->state;
    struct node *top = layer(below(n)), *base = base_of(s);
    struct block_status st;
    int ret;

    *copy = false;
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
    ret = node_block_status_above(top->backing->node, base, false, offset,
                                  *bytes, &st);
    if (ret == 0 && st.bytes > 0) {
        *bytes = st.bytes;
        *copy = st.flags & STATUS_ALLOCATED;
    }
    return ret;
}

/* ---- copying ------------------------------------------------------------ */

static int copy_run(struct node *n, int64_t offset, int64_t bytes, void *buf)
{
    int ret = node_pread(below(n), offset, bytes, buf, BLK_REGISTERED_BUF);

    if (ret < 0) {
        return ret;
    }
    return buffer_is_zero(buf, bytes)
           ? node_pwrite_zeroes(below(n), offset, bytes, BLK_WRITE_UNCHANGED)
           : node_pwrite(below(n), offset, bytes, buf,
                         BLK_WRITE_UNCHANGED | BLK_REGISTERED_BUF);
}

/* [offset, end) is held. */
static int copy_held(struct node *n, int64_t offset, int64_t end, void *buf)
{
    int ret = 0;

    while (offset < end && ret == 0) {
        int64_t bytes = MIN(end - offset, CHUNK_BYTES);
        bool copy;
        ret = look(n, offset, &bytes, &copy);
        if (ret == 0 && copy) {
            ret = copy_run(n, offset, bytes, buf);
        }
        offset += bytes;
    }
    return ret;
}

/* Copy around [offset, offset + *bytes) in whole clusters, but no more than
 * is good for others; *BYTES is what was done of it. */
static int copy_around(struct node *n, int64_t offset, int64_t *bytes)
{
    struct cor_state *s = n->state;
    int64_t unit = MAX(node_cluster_bytes(below(n)), DEFAULT_UNIT_BYTES);
    int64_t start = offset / unit * unit;
    int64_t end = MIN(offset + *bytes, MAX(start + unit, start + CHUNK_BYTES));
    struct range_hold hold;
    void *buf = aligned_alloc(4096, CHUNK_BYTES);
    int ret;

    if (!buf) {
        return -ENOMEM;
    }
    end = MIN((end + unit - 1) / unit * unit, node_length(below(n)));
    range_lock_acquire(&s->copying, &hold, start, end - start, true);
    ret = copy_held(n, start, end, buf);
    range_lock_release(&s->copying, &hold);
    free(buf);
    *bytes = MIN(*bytes, end - offset);
    return ret;
}

int cor_prefetch(struct node *n, int64_t offset, int64_t bytes)
{
    int ret = 0;

    while (bytes > 0 && ret == 0) {
        int64_t part = bytes;
        bool copy;
        ret = look(n, offset, &part, &copy);
        if (ret == 0 && copy) {
            ret = copy_around(n, offset, &part);
        }
        offset += part;
        bytes -= part;
    }
    return ret;
}

/* ---- requests ----------------------------------------------------------- */

static int cor_pread(struct node *n, int64_t offset, int64_t bytes, void *buf,
                     unsigned flags)
{
    int ret = flags & BLK_NOWAIT ? -EAGAIN : cor_prefetch(n, offset, bytes);

    return ret < 0 ? ret : node_pread(below(n), offset, bytes, buf, flags);
}

/* I1.  False: BLK_NOWAIT, and a copy is in the way. */
static bool hold_write(struct node *n, struct range_hold *hold,
                       int64_t offset, int64_t bytes, unsigned flags)
{
    struct cor_state *s = n->state;

    if (flags & BLK_NOWAIT) {
        return range_lock_try(&s->copying, hold, offset, bytes, false);
    }
    range_lock_acquire(&s->copying, hold, offset, bytes, false);
    return true;
}

static int release_write(struct node *n, struct range_hold *hold, int ret)
{
    struct cor_state *s = n->state;

    range_lock_release(&s->copying, hold);
    return ret;
}

static int cor_pwrite(struct node *n, int64_t offset, int64_t bytes,
                      const void *buf, unsigned flags)
{
    struct range_hold hold;

    if (!hold_write(n, &hold, offset, bytes, flags)) {
        return -EAGAIN;
    }
    return release_write(n, &hold, node_pwrite(below(n), offset, bytes, buf,
                                               flags));
}

static int cor_pwrite_zeroes(struct node *n, int64_t offset, int64_t bytes,
                             unsigned flags)
{
    struct range_hold hold;

    if (!hold_write(n, &hold, offset, bytes, flags)) {
        return -EAGAIN;
    }
    return release_write(n, &hold, node_pwrite_zeroes(below(n), offset, bytes,
                                                      flags));
}

static int cor_pdiscard(struct node *n, int64_t offset, int64_t bytes)
{
    struct range_hold hold;

    hold_write(n, &hold, offset, bytes, 0);
    return release_write(n, &hold, node_pdiscard(below(n), offset, bytes));
}

static void cor_child_perm(struct node *n, const struct child *c,
                           unsigned perm, unsigned shared,
                           unsigned *child_perm, unsigned *child_shared)
{
    *child_perm = perm | PERM_WRITE_UNCHANGED;
    *child_shared = shared | PERM_WRITE_UNCHANGED;
    if (n->parents) {
        *child_perm |= PERM_CONSISTENT_READ;
        *child_shared &= ~(unsigned)PERM_WRITE;         /* I1 */
    }
}

/* ---- life --------------------------------------------------------------- */

static bool cor_open_children(struct node *n, const BlockdevOptions *options,
                              struct error **errp)
{
    const char *name = options->u.copy_on_read.bottom;
    struct cor_state *s = n->state;
    struct node *bottom = name ? node_find(name) : NULL;

    if (name && !bottom) {
        error_set(errp, "Bottom node '%s' not found", name);
        return false;
    }
    if (bottom && bottom->driver->is_filter) {
        error_set(errp, "Bottom node '%s' is a filter", name);
        return false;
    }
    if (bottom && !node_is_in_chain(n->file->node, bottom)) {
        error_set(errp, "Bottom node '%s' is not in the chain of '%s'", name,
                  node_name(n->file->node));
        return false;
    }
    if (bottom && !node_freeze_chain(n, bottom, errp)) {
        return false;
    }
    s->bottom = bottom ? node_ref(bottom) : NULL;
    range_lock_init(&s->copying, "copy-on-read");
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

    range_lock_deinit(&s->copying);
    if (s->bottom) {
        control_lock();
        node_unfreeze_chain(n, s->bottom);
        node_unref(g_steal_pointer(&s->bottom));
        control_unlock();
    }
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
