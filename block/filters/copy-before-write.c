/* SPDX-License-Identifier: MIT */
/* Copy-before-write filter: see copy-before-write.h. */
#include "block/filters/copy-before-write.h"

#include <errno.h>
#include "base/control.h"
#include "block/copier.h"
#include "block/driver.h"

struct cbw_state {
    /* Set by cbw_insert(), then constant. */
    struct copier *copier;      /* owned; NULL before and after */
    struct child *target;       /* borrowed: a child of the node */
    bool break_snapshot;
    /* Atomic. */
    int snapshot_error;         /* -errno of the first copy that failed */
};

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
                              !(flags & BLK_NOWAIT));
    if (ret < 0 && s->break_snapshot && ret != -EAGAIN) {
        __atomic_compare_exchange_n(&s->snapshot_error, &expected, ret, false,
                                    __ATOMIC_RELEASE, __ATOMIC_RELAXED);
        ret = 0;
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
    /* A write that does not pass here would not be noticed. */
    *child_shared &= ~(unsigned)(PERM_WRITE | PERM_RESIZE);
}

const struct driver driver_copy_before_write = {
    .name = "copy-before-write",
    .type = -1,
    .state_size = sizeof(struct cbw_state),
    .is_filter = true,
    .child_perm = cbw_child_perm,
    .pwrite = cbw_pwrite,
    .pwrite_zeroes = cbw_pwrite_zeroes,
    .pdiscard = cbw_pdiscard,
};

/* ---- life --------------------------------------------------------------- */

/* What passes through looks as below. */
static void look_like(struct node *n, const struct node *source)
{
    atomic_store(&n->length_bytes, node_length(source));
    n->limits = source->limits;
    n->read_only = source->read_only;
    n->discard_unmap = true;
    n->cache_direct = source->cache_direct;
    n->cache_no_flush = source->cache_no_flush;
    n->supported_write_flags = source->supported_write_flags & BLK_FUA;
    n->supported_zero_flags = source->supported_zero_flags;
}

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
    look_like(n, source);
    s = n->state;
    s->break_snapshot = options->break_snapshot;
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
    };
    struct node *n;
    struct cbw_state *s;

    control_assert();
    n = make_filter(source, target, options, errp);
    if (!n) {
        return NULL;
    }
    s = n->state;
    copier_options.source = n->file;
    copier_options.target = s->target;
    s->copier = copier_new(&copier_options);
    if (!s->copier) {
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
