/* SPDX-License-Identifier: MIT */
/* Mirror-top: see mirror-top.h. */
#include "block/filters/mirror-top.h"

#include <errno.h>
#include "base/control.h"
#include "block/copier-pace.h"
#include "block/copier.h"
#include "block/drivers.h"
#include "block/inactive.h"

struct mirror_top_state {
    /* Set when made, then constant. */
    struct mirror_top_options o;
    struct copier *copier;      /* owned; NULL before and after */
    struct child *target;       /* borrowed: a child of the node */

    /* Atomic. */
    int mode;                   /* enum mirror_top_mode */

    /* Protected by lock (rank LOCK_LEAF). */
    struct lock lock;
    struct cond changed;
    bool drained;               /* between drained_begin and _end */
};

static struct node *source_of(const struct node *n)
{
    return n->file->node;
}

/* ---- what is dirty ------------------------------------------------------ */

/* I1. */
static void mark_dirty(struct mirror_top_state *s, int64_t offset,
                       int64_t bytes)
{
    struct bits *todo = copier_todo(s->copier);
    int64_t unit = s->o.granularity;
    int64_t end = MIN(offset + bytes, copier_length(s->copier));
    int64_t first = offset / unit, behind, most;

    if (offset >= end) {
        return;
    }
    behind = (end + unit - 1) / unit;
    if (bits_next_clear(todo, first, behind) == behind) {
        s->o.ops->dirtied(s->o.opaque, bytes, 0);
        return;
    }
    /* Announced before a copier can find them: progress never passes its
     * end. */
    most = (behind - first) * unit;
    s->o.ops->dirtied(s->o.opaque, bytes, most);
    s->o.ops->dirtied(s->o.opaque, 0,
                      copier_set_dirty(s->copier, offset, end - offset) -
                      most);
}

/* [offset, offset + bytes) is the same on both sides (I3). */
static void mark_written(struct mirror_top_state *s, int64_t offset,
                         int64_t bytes)
{
    s->o.ops->written(s->o.opaque, bytes,
                      copier_set_clean(s->copier, offset, bytes));
}

/* ---- slowing guests down ------------------------------------------------ */

/* False: BLK_NOWAIT and it would wait. */
static bool wait_as_told(struct mirror_top_state *s, int64_t bytes,
                         unsigned flags)
{
    int64_t delay_ns = s->o.ops->delay_ns(s->o.opaque, bytes);
    int64_t deadline_ns;

    if (G_LIKELY(delay_ns == 0)) {
        return true;
    }
    if (flags & BLK_NOWAIT) {
        return false;
    }
    deadline_ns = clock_ns() + delay_ns;
    LOCK_GUARD(&s->lock);
    while (!s->drained &&
           cond_wait_until(&s->changed, &s->lock, deadline_ns)) {
    }
    return true;
}

static void set_drained(struct node *n, bool drained)
{
    struct mirror_top_state *s = n->state;

    if (!s->lock.name) {
        return;         /* told while it is being made */
    }
    LOCK_GUARD(&s->lock);
    s->drained = drained;
    cond_broadcast(&s->changed);
}

static void top_drained_begin(struct node *n)
{
    set_drained(n, true);
}

static void top_drained_end(struct node *n)
{
    set_drained(n, false);
}

/* ---- requests ----------------------------------------------------------- */

struct request {
    enum { REQUEST_WRITE, REQUEST_ZEROES, REQUEST_DISCARD } kind;
    int64_t offset, bytes;
    const void *buf;            /* REQUEST_WRITE */
    unsigned flags;
};

static int pass_on(struct node *n, const struct request *r, unsigned flags)
{
    switch (r->kind) {
    case REQUEST_WRITE:
        return node_pwrite(n, r->offset, r->bytes, r->buf, flags);
    case REQUEST_ZEROES:
        return node_pwrite_zeroes(n, r->offset, r->bytes, flags);
    default:
        return node_pdiscard(n, r->offset, r->bytes);
    }
}

static int write_target(struct mirror_top_state *s, const struct request *r)
{
    struct pace_guest guest;
    unsigned flags = r->flags & BLK_REGISTERED_BUF;
    int ret;

    if (r->kind == REQUEST_ZEROES && s->o.unmap) {
        flags |= r->flags & BLK_MAY_UNMAP;
    }
    pace_guest_begin(copier_pace(s->copier), &guest);
    ret = pass_on(s->target->node, r, flags);
    pace_guest_end(copier_pace(s->copier), &guest, r->bytes);
    return ret;
}

/* Can the target be given just what the guest has written?  What a discarded
 * range reads as is for each side to say. */
static bool can_repeat(const struct mirror_top_state *s,
                       const struct request *r)
{
    int64_t unit = s->o.granularity, end = r->offset + r->bytes;

    if (r->kind == REQUEST_DISCARD || end > copier_length(s->copier)) {
        return false;
    }
    return !s->o.whole_granules ||
           (r->offset % unit == 0 &&
            (end % unit == 0 || end == copier_length(s->copier)));
}

/* What is dirty around the request goes to the target now.  If that fails it
 * is dirty still. */
static int copy_around(struct mirror_top_state *s, const struct request *r)
{
    int64_t unit = s->o.granularity, length = copier_length(s->copier);
    int64_t start = r->offset / unit * unit;
    int64_t end = MIN((r->offset + r->bytes + unit - 1) / unit * unit,
                      length);
    struct copier_result result;
    int ret;

    if (start >= end) {
        return 0;
    }
    ret = copier_copy(s->copier, start, end - start, &result);
    return result.is_read ? 0 : ret;    /* the job will try, too */
}

/* I2. */
static int write_both(struct node *n, const struct request *r)
{
    struct mirror_top_state *s = n->state;
    bool repeat = can_repeat(s, r);
    struct range_hold hold;
    int ret, target_ret = 0;

    copier_hold(s->copier, &hold, r->offset, r->bytes);
    ret = pass_on(source_of(n), r, r->flags);
    if (ret == 0 && repeat) {
        target_ret = write_target(s, r);
    }
    if (ret == 0 && repeat && target_ret == 0) {
        mark_written(s, r->offset, r->bytes);
    } else {
        mark_dirty(s, r->offset, r->bytes);
    }
    copier_release_run(s->copier, &hold);
    if (ret == 0 && !repeat) {
        target_ret = copy_around(s, r);
    }
    if (target_ret < 0) {
        s->o.ops->failed(s->o.opaque, target_ret, r->offset, r->bytes);
    }
    return ret;
}

static int write_source(struct node *n, const struct request *r)
{
    int ret = pass_on(source_of(n), r, r->flags);

    if (ret != -EAGAIN || !(r->flags & BLK_NOWAIT)) {
        mark_dirty(n->state, r->offset, r->bytes);
    }
    return ret;
}

static int handle(struct node *n, const struct request *r)
{
    struct mirror_top_state *s = n->state;

    if (r->flags & BLK_WRITE_UNCHANGED) {
        return pass_on(source_of(n), r, r->flags);
    }
    if (!wait_as_told(s, r->bytes, r->flags)) {
        return -EAGAIN;
    }
    if (__atomic_load_n(&s->mode, __ATOMIC_ACQUIRE) == MIRROR_TOP_BACKGROUND) {
        return write_source(n, r);
    }
    return r->flags & BLK_NOWAIT ? -EAGAIN : write_both(n, r);
}

static int top_pwrite(struct node *n, int64_t offset, int64_t bytes,
                      const void *buf, unsigned flags)
{
    return handle(n, &(struct request){ REQUEST_WRITE, offset, bytes, buf,
                                        flags });
}

static int top_pwrite_zeroes(struct node *n, int64_t offset, int64_t bytes,
                             unsigned flags)
{
    return handle(n, &(struct request){ REQUEST_ZEROES, offset, bytes, NULL,
                                        flags });
}

static int top_pdiscard(struct node *n, int64_t offset, int64_t bytes)
{
    return handle(n, &(struct request){ REQUEST_DISCARD, offset, bytes, NULL,
                                        0 });
}

/* The target has the length that the source had. */
static int top_truncate(struct node *n, int64_t length, bool exact,
                        PreallocMode prealloc, struct error **errp)
{
    error_set(errp, "Node '%s' is being mirrored and cannot be resized",
              node_name(n));
    return -ENOTSUP;
}

static void top_child_perm(struct node *n, const struct child *c,
                           unsigned perm, unsigned shared,
                           unsigned *child_perm, unsigned *child_shared)
{
    const struct mirror_top_state *s = n->state;

    if (!(c->role & ROLE_FILTERED)) {
        /* The target: the link is here so that a drain finds the guests.  The
         * job says who may do what with it. */
        *child_perm = 0;
        *child_shared = PERM_ALL;
        return;
    }
    *child_perm = perm;
    *child_shared = shared & ~(unsigned)PERM_RESIZE;
    if (s->o.is_commit) {
        /* The layers between are not what they were; and sharing no writing
         * of the source would forbid that of the target, too. */
        *child_perm &= ~(unsigned)PERM_CONSISTENT_READ;
        *child_shared |= PERM_WRITE;
    } else {
        /* Who writes below would not be seen. */
        *child_shared &= ~(unsigned)PERM_WRITE;
    }
}

static void top_close(struct node *n)
{
    struct mirror_top_state *s = n->state;

    cond_deinit(&s->changed);
    lock_deinit(&s->lock);
}

/* Nobody opens it by name; it goes by that of what it shows. */
static char *top_name(const struct node *n)
{
    return n->file ? g_strdup(node_filename(n->file->node)) : NULL;
}

static const struct driver driver_mirror_top = {
    .name = "mirror_top",
    .type = -1,
    .state_size = sizeof(struct mirror_top_state),
    .is_filter = true,
    .never_frozen = true,
    .file_child_name = "backing",
    .legacy_name = top_name,
    .close = top_close,
    .drained_begin = top_drained_begin,
    .drained_end = top_drained_end,
    .child_perm = top_child_perm,
    .pwrite = top_pwrite,
    .pwrite_zeroes = top_pwrite_zeroes,
    .pdiscard = top_pdiscard,
    .truncate = top_truncate,
};

/* ---- life --------------------------------------------------------------- */

static bool make_copier(struct node *n, struct node *source,
                        struct error **errp)
{
    struct mirror_top_state *s = n->state;
    struct copier_options options = {
        .source = n->file, .target = s->target, .owner = n,
        .length = node_length(source),
        .cluster_bytes = s->o.granularity,
        .keep_zeroes = !s->o.unmap,
        .exact_progress = true, .past_errors = true,
    };

    s->copier = copier_new(&options);
    if (!s->copier) {
        error_set(errp, "No memory for the dirty bitmap of '%s'",
                  node_name(source));
    }
    return s->copier;
}

/* The job writes the target, by a root of its own. */
static bool check_active(const struct node *n, const struct node *source,
                         const struct node *target, struct error **errp)
{
    if (node_is_inactive(source)) {
        error_set(errp, "Inactive '%s' can't be a backing child of active "
                  "'%s'", node_name(source), node_name(n));
        return false;
    }
    return node_check_active(target, errp);
}

struct node *mirror_top_insert(struct node *source, struct node *target,
                               const struct mirror_top_options *options,
                               struct error **errp)
{
    struct node *n = node_new_filter(&driver_mirror_top, options->name,
                                     !options->name, errp);
    struct mirror_top_state *s;

    control_assert();
    if (!n) {
        return NULL;
    }
    s = n->state;
    s->o = *options;
    lock_init(&s->lock, "mirror-top", LOCK_LEAF);
    cond_init(&s->changed);
    s->drained = n->drain_told;
    node_filter_look_like(n, source);
    /* First the target: parents inside it stay with the source. */
    s->target = check_active(n, source, target, errp)
                ? node_attach_child(n, target, "target", ROLE_DATA, errp)
                : NULL;
    if (!s->target || !node_insert_filter(n, source, errp) ||
        !make_copier(n, source, errp)) {
        mirror_top_remove(n);
        node_unref(n);
        return NULL;
    }
    n->file->sole_writer = true;    /* others would not be seen */
    return n;
}

void mirror_top_remove(struct node *n)
{
    struct mirror_top_state *s = n->state;

    control_assert();
    if (n->file) {
        node_remove_filter(n);      /* the target goes with it */
    } else if (s->target) {
        node_detach_child(n, s->target);
    }
    s->target = NULL;
    copier_free(&s->copier);
}

void mirror_top_set_opaque(struct node *n, void *opaque)
{
    struct mirror_top_state *s = n->state;

    s->o.opaque = opaque;
}

struct copier *mirror_top_copier(struct node *n)
{
    struct mirror_top_state *s = n->state;

    return s->copier;
}

void mirror_top_set_mode(struct node *n, enum mirror_top_mode mode)
{
    struct mirror_top_state *s = n->state;

    __atomic_store_n(&s->mode, mode, __ATOMIC_RELEASE);
}
