/* SPDX-License-Identifier: MIT */
/* Copy-before-write: see copy-before-write.h.  Here: guests, and the filter's
 * life. */
#include "block/filters/copy-before-write-priv.h"

#include <errno.h>
#include "base/control.h"
#include "base/pool.h"
#include "bitmaps/dirty-bitmap.h"

enum { DEFAULT_CLUSTER_BYTES = 64 * 1024 };

/* ---- a target that hangs ------------------------------------------------ */

/* Copies that nobody waits for any more: those who wait for the node need not
 * wait for them either. */
static void cancel_left(struct node *n)
{
    struct cbw_state *s = n->state;

    control_assert();
    if (s->copier && copier_was_left(s->copier)) {
        node_cancel_in_flight(s->target->node);
    }
}

static void cancel_task(void *opaque)
{
    struct node *n = opaque;

    control_lock();
    cancel_left(n);
    control_unlock();
    node_dec_in_flight(n);
}

static void cbw_drained_begin(struct node *n)
{
    struct cbw_state *s = n->state;

    __atomic_store_n(&s->drained, true, __ATOMIC_SEQ_CST);
    cancel_left(n);
}

static void cbw_drained_end(struct node *n)
{
    struct cbw_state *s = n->state;

    __atomic_store_n(&s->drained, false, __ATOMIC_SEQ_CST);
}

/* ---- guests ------------------------------------------------------------- */

static int64_t copy_deadline(const struct cbw_state *s, unsigned flags)
{
    if (flags & BLK_NOWAIT) {
        return COPIER_NOWAIT;
    }
    return s->timeout_ns ? clock_ns() + s->timeout_ns : COPIER_FOREVER;
}

/* What query shows: [offset, offset + bytes) is kept. */
static void note_done(struct cbw_state *s, int64_t offset, int64_t bytes)
{
    int64_t unit = copier_cluster_bytes(s->copier);
    int64_t first = MIN(offset / unit, bits_size(s->done));
    int64_t last = MIN((offset + bytes + unit - 1) / unit,
                       bits_size(s->done));

    /* Mostly it is known already, and reading is cheap. */
    if (bits_next_clear(s->done, first, last) < last) {
        bits_set(s->done, first, last - first);
    }
}

/* 0: the write may go on. */
static int before_write(struct node *n, int64_t offset, int64_t bytes,
                        unsigned flags)
{
    struct cbw_state *s = n->state;
    int expected = 0, ret;

    if ((flags & BLK_WRITE_UNCHANGED) || cbw_snapshot_error(n)) {
        return 0;
    }
    ret = copier_before_write(s->copier, offset, bytes,
                              copy_deadline(s, flags));
    if (G_UNLIKELY(ret == -ETIMEDOUT) &&
        __atomic_load_n(&s->drained, __ATOMIC_SEQ_CST)) {
        node_inc_in_flight(n);
        pool_submit(cancel_task, n);
    }
    if (ret < 0 && s->break_snapshot && ret != -EAGAIN) {
        __atomic_compare_exchange_n(&s->snapshot_error, &expected, ret, false,
                                    __ATOMIC_RELEASE, __ATOMIC_RELAXED);
        return 0;                                       /* I2 */
    }
    if (ret == 0) {
        note_done(s, offset, bytes);
    }
    return ret;
}

static int cbw_pwrite(struct node *n, int64_t offset, int64_t bytes,
                      const void *buf, unsigned flags)
{
    int ret = before_write(n, offset, bytes, flags);

    return ret < 0 ? ret : node_pwrite(n->file->node, offset, bytes, buf,
                                       flags);
}

static int cbw_pwrite_zeroes(struct node *n, int64_t offset, int64_t bytes,
                             unsigned flags)
{
    int ret = before_write(n, offset, bytes, flags);

    return ret < 0 ? ret : node_pwrite_zeroes(n->file->node, offset, bytes,
                                              flags);
}

static int cbw_pdiscard(struct node *n, int64_t offset, int64_t bytes)
{
    int ret = before_write(n, offset, bytes, 0);

    return ret < 0 ? ret : node_pdiscard(n->file->node, offset, bytes);
}

/* The copy has the length that the source had. */
static int cbw_truncate(struct node *n, int64_t length, bool exact,
                        PreallocMode prealloc, struct error **errp)
{
    error_set(errp, "Node '%s' keeps a snapshot and cannot be resized",
              node_name(n));
    return -ENOTSUP;
}

static void cbw_child_perm(struct node *n, const struct child *c,
                           unsigned perm, unsigned shared,
                           unsigned *child_perm, unsigned *child_shared)
{
    if (!(c->role & ROLE_FILTERED)) {
        /* The target.  Others may write it (it can be where the guest
         * writes, with the source as its backing), but not resize: sizes
         * were compared at the start. */
        *child_perm = PERM_WRITE;
        *child_shared = PERM_ALL & ~PERM_RESIZE;
        return;
    }
    *child_perm = perm;
    *child_shared = shared;
    if (perm & PERM_WRITE) {
        *child_perm |= PERM_CONSISTENT_READ;    /* to copy before */
    }
    if (((struct cbw_state *)n->state)->discard_source) {
        *child_perm |= PERM_WRITE;
    }
    if (n->parents) {
        /* A write that does not pass here would not be noticed.  Before the
         * filter is put in its place it still does not pass. */
        *child_shared &= ~(unsigned)(PERM_WRITE | PERM_RESIZE);
    }
}

/* ---- by options --------------------------------------------------------- */

uint32_t cbw_cluster_bytes(const struct node *target, uint64_t min_bytes,
                           struct error **errp)
{
    int64_t unit = MAX(node_cluster_bytes(target), DEFAULT_CLUSTER_BYTES);

    if (min_bytes & (min_bytes - 1)) {
        error_set(errp, "min-cluster-size needs to be a power of 2");
        return 0;
    }
    if (min_bytes > INT_MAX) {
        error_set(errp, "min-cluster-size too large: %" G_GUINT64_FORMAT
                  " > %d", min_bytes, INT_MAX);
        return 0;
    }
    return MAX(unit, (int64_t)min_bytes);
}

/* What BM has dirty now, in units of the copier, into BITS. */
static void take_bitmap(struct bits *bits, struct dirty_bitmap *bm,
                        int64_t length, int64_t unit)
{
    for (int64_t at = 0, start; at < length; ) {
        int64_t bytes = dirty_bitmap_next_dirty(bm, at, length, length,
                                                &start);
        if (bytes == 0) {
            break;
        }
        at = MIN(start + bytes, length);
        bits_set(bits, start / unit, (at + unit - 1) / unit - start / unit);
    }
}

static bool find_bitmap(const struct node *n, const BlockDirtyBitmap *ref,
                        struct dirty_bitmap **bm, struct error **errp)
{
    struct node *owner;

    *bm = NULL;
    if (!ref) {
        return true;
    }
    owner = node_find(ref->node);
    if (!owner) {
        error_set(errp, "Node '%s' not found", ref->node);
        return false;
    }
    *bm = dirty_bitmap_find(owner->bitmaps, ref->name);
    if (!*bm) {
        error_set(errp, "Dirty bitmap '%s' not found", ref->name);
        return false;
    }
    if (dirty_bitmap_length(*bm) != node_length(n->file->node)) {
        error_set(errp, "Bitmap '%s' and node '%s' have different sizes",
                  ref->name, node_name(n->file->node));
        return false;
    }
    if (!dirty_bitmap_check(*bm, DIRTY_BITMAP_ALLOW_RO, errp)) {
        error_prepend(errp, "Cannot create block-copy-state: Failed to merge "
                      "bitmap '%s' to internal copy-bitmap: ", ref->name);
        return false;
    }
    return true;
}

static void drop_bits(struct cbw_state *s)
{
    bits_free(g_steal_pointer(&s->access));
    bits_free(g_steal_pointer(&s->done));
}

/* The copier and what it is to copy; nothing here waits. */
static bool set_up(struct node *n, const BlockdevOptionsCbw *o,
                   struct error **errp)
{
    struct cbw_state *s = n->state;
    struct copier_options options = {
        .source = n->file, .target = s->target, .owner = n,
        .length = node_length(n->file->node),
    };
    struct dirty_bitmap *bm;
    struct bits *todo;

    options.cluster_bytes =
        cbw_cluster_bytes(s->target->node,
                          o->has_min_cluster_size ? o->min_cluster_size : 0,
                          errp);
    if (!options.cluster_bytes || !find_bitmap(n, o->bitmap, &bm, errp)) {
        return false;
    }
    if (node_length(s->target->node) < options.length) {
        error_set(errp, "Source and target image have different sizes");
        return false;
    }
    s->copier = copier_new(&options);
    todo = s->copier ? copier_todo(s->copier) : NULL;
    if (bm && todo) {
        take_bitmap(todo, bm, options.length, options.cluster_bytes);
    } else if (todo) {
        bits_set(todo, 0, bits_size(todo));
    }
    s->access = todo ? bits_clone(todo) : NULL;         /* I3 */
    s->done = todo ? bits_new(bits_size(todo)) : NULL;
    if (!s->access || !s->done) {
        error_set(errp, "No memory for the copy bitmap of '%s'",
                  node_name(n->file->node));
        drop_bits(s);
        copier_free(&s->copier);
        return false;
    }
    return true;
}

static bool cbw_open_children(struct node *n, const BlockdevOptions *options,
                              struct error **errp)
{
    const BlockdevOptionsCbw *o = &options->u.copy_before_write;
    struct cbw_state *s = n->state;

    s->break_snapshot = o->has_on_cbw_error &&
                        o->on_cbw_error == ON_CBW_ERROR_BREAK_SNAPSHOT;
    s->timeout_ns = o->has_cbw_timeout ? o->cbw_timeout * INT64_C(1000000000)
                                       : 0;
    s->target = node_open_child(n, o->target, "target", ROLE_DATA, errp);
    return s->target && set_up(n, o, errp);
}

static int cbw_open(struct node *n, const BlockdevOptions *options,
                    struct error **errp)
{
    atomic_store(&n->length_bytes, node_length(n->file->node));
    return 0;
}

/* No request is under way, but a copy that was left behind may be. */
static void cbw_close(struct node *n)
{
    struct cbw_state *s = n->state;

    control_lock();
    cancel_left(n);
    while (atomic_load(&n->n_in_flight) > 0) {
        control_wait();
    }
    control_unlock();
    copier_free(&s->copier);
    drop_bits(s);
}

/* ---- queries ------------------------------------------------------------ */

static void add_bits_info(const struct cbw_state *s, int64_t n_clusters,
                          BlockDirtyInfoList *list)
{
    BlockDirtyInfo *info = BlockDirtyInfo_new0();

    info->granularity = copier_cluster_bytes(s->copier);
    info->count = n_clusters * copier_cluster_bytes(s->copier);
    qapi_list_append(list, info);
}

/* The order is that of QEMU: what can be read, what guests have written, what
 * is still to be copied. */
static void cbw_add_bitmaps_info(struct node *n, BlockDirtyInfoList *list)
{
    const struct cbw_state *s = n->state;
    struct bits *todo;

    if (!s->copier) {
        return;
    }
    todo = copier_todo(s->copier);
    add_bits_info(s, s->access ? bits_count(s->access, 0, bits_size(todo))
                               : bits_size(todo), list);
    add_bits_info(s, bits_count(s->done, 0, bits_size(todo)), list);
    add_bits_info(s, bits_count(todo, 0, bits_size(todo)), list);
}

static BlockdevRef **cbw_file_option(BlockdevOptions *options)
{
    return &options->u.copy_before_write.file;
}

const struct driver driver_copy_before_write = {
    .name = "copy-before-write",
    .type = BLOCKDEV_DRIVER_COPY_BEFORE_WRITE,
    .state_size = sizeof(struct cbw_state),
    .is_filter = true,
    .file_option = cbw_file_option,
    .open_children = cbw_open_children,
    .open = cbw_open,
    .close = cbw_close,
    .drained_begin = cbw_drained_begin,
    .drained_end = cbw_drained_end,
    .child_perm = cbw_child_perm,
    .pwrite = cbw_pwrite,
    .pwrite_zeroes = cbw_pwrite_zeroes,
    .pdiscard = cbw_pdiscard,
    .truncate = cbw_truncate,
    .add_bitmaps_info = cbw_add_bitmaps_info,
};

/* ---- by code ------------------------------------------------------------ */

static struct node *make_filter(struct node *source, struct node *target,
                                const struct cbw_options *options,
                                struct error **errp)
{
    struct node *n = node_new_filter(&driver_copy_before_write, options->name,
                                     !options->name, errp);
    struct cbw_state *s;

    if (!n) {
        return NULL;
    }
    node_filter_look_like(n, source);
    s = n->state;
    s->break_snapshot = options->break_snapshot;
    s->timeout_ns = options->timeout_ns;
    s->discard_source = options->discard_source;
    /* First the target: parents inside it stay with the source. */
    s->target = node_attach_child(n, target, "target", ROLE_DATA, errp);
    if (!s->target || !node_insert_filter(n, source, errp)) {
        cbw_remove(n);
        node_unref(n);
        return NULL;
    }
    return n;
}

struct node *cbw_insert(struct node *source, struct node *target,
                        const struct cbw_options *options,
                        struct error **errp)
{
    struct copier_options copier_options = {
        .length = node_length(source),
        .cluster_bytes = options->cluster_bytes,
        .skip_unallocated = options->skip_unallocated,
        .skip_base = options->skip_base,
        .write_flags = options->compress ? BLK_COMPRESSED : 0,
        .discard_source = options->discard_source,
        .use_copy_range = options->use_copy_range,
    };
    struct node *n;
    struct cbw_state *s;

    control_assert();
    n = make_filter(source, target, options, errp);
    if (!n) {
        return NULL;
    }
    s = n->state;
    copier_options.owner = n;
    copier_options.source = n->file;
    copier_options.target = s->target;
    s->copier = copier_new(&copier_options);
    s->done = s->copier ? bits_new(bits_size(copier_todo(s->copier))) : NULL;
    if (!s->done) {
        error_set(errp, "No memory for the copy bitmap of '%s'",
                  node_name(source));
        cbw_remove(n);
        node_unref(n);
        return NULL;
    }
    return n;
}

void cbw_remove(struct node *n)
{
    struct cbw_state *s = n->state;

    control_assert();
    if (n->file) {
        node_remove_filter(n);      /* the target goes with it */
    } else if (s->target) {
        node_detach_child(n, s->target);
    }
    s->target = NULL;
    copier_free(&s->copier);
    drop_bits(s);
}

struct copier *cbw_copier(struct node *n)
{
    struct cbw_state *s = n->state;

    return s->copier;
}

int cbw_snapshot_error(struct node *n)
{
    struct cbw_state *s = n->state;

    return __atomic_load_n(&s->snapshot_error, __ATOMIC_ACQUIRE);
}
