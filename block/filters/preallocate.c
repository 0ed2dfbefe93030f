/* SPDX-License-Identifier: MIT */
/*
 * Filter preallocate: a file that grows is made longer than needed, in large
 * steps, so that growing costs the file system little.
 *
 * Problem     Who is above must see the length that is needed, and the file
 *             must have that length again when nobody grows it any more.
 * Invariants  I1  Preallocation is on while parents may write and resize;
 *                 nobody else may then.
 *             I2  Data lies below data_end, also that of writes in flight;
 *                 data_end <= file_end; what is between them reads as
 *                 zeroes.
 *             I3  One thread extends at a time, from file_end on; a write
 *                 that reaches behind file_end meanwhile waits, so that it
 *                 is not zeroed over.
 * Threads     Requests: any.  Permissions: control lock.
 */
#include "block/drivers.h"

#include <errno.h>
#include <inttypes.h>
#include "block/reopen.h"

#define DEFAULT_SIZE_BYTES (INT64_C(128) << 20)
#define DEFAULT_ALIGN_BYTES (INT64_C(1) << 20)

struct preallocate_sizes {
    int64_t size_bytes;         /* more than needed */
    int64_t align_bytes;        /* the end is a multiple of it */
};

struct preallocate_state {
    /* Protected by lock, which is never held across I/O. */
    struct lock lock;
    struct cond extended;       /* extending has become false */
    struct preallocate_sizes sizes;
    bool on;                    /* I1 */
    bool extending;             /* I3 */
    int64_t data_end, file_end; /* I2; < 0: nobody has written yet */
};

static struct node *below(const struct node *n)
{
    return n->file->node;
}

/* ---- options ------------------------------------------------------------ */

static BlockdevRef **preallocate_file_option(BlockdevOptions *options)
{
    return &options->u.preallocate.file;
}

static bool get_sizes(const struct node *file,
                      const BlockdevOptionsPreallocate *o,
                      struct preallocate_sizes *sizes, struct error **errp)
{
    uint32_t below_align = file->limits.request_alignment;

    sizes->align_bytes = o->has_prealloc_align ? o->prealloc_align
                                               : DEFAULT_ALIGN_BYTES;
    sizes->size_bytes = o->has_prealloc_size ? o->prealloc_size
                                             : DEFAULT_SIZE_BYTES;
    if (sizes->align_bytes <= 0 || sizes->align_bytes % 512) {
        error_set(errp, "prealloc-align parameter of preallocate filter is "
                  "not aligned to 512");
        return false;
    }
    if (below_align > 1 && sizes->align_bytes % below_align) {
        error_set(errp, "prealloc-align parameter of preallocate filter is "
                  "not aligned to underlying node request alignment "
                  "(%" PRIu32 ")", below_align);
        return false;
    }
    if (sizes->size_bytes < 0) {
        error_set(errp, "Parameter 'prealloc-size' expects a non-negative "
                  "value");
        return false;
    }
    return true;
}

/* ---- giving back -------------------------------------------------------- */

/* The file gets the length that is needed.  Nobody writes. */
static int give_back(struct node *n, struct error **errp)
{
    struct preallocate_state *s = n->state;
    int64_t data_end, file_end;
    int ret = 0;

    lock_acquire(&s->lock);
    data_end = s->data_end;
    file_end = s->file_end;
    lock_release(&s->lock);
    if (file_end > data_end) {
        ret = node_truncate_child(below(n), data_end, true,
                                  PREALLOC_MODE_OFF, errp);
    }
    if (ret >= 0) {
        LOCK_GUARD(&s->lock);
        s->file_end = data_end;
    }
    return ret;
}

/* ---- life --------------------------------------------------------------- */

static int preallocate_open(struct node *n, const BlockdevOptions *options,
                            struct error **errp)
{
    struct preallocate_state *s = n->state;

    if (!get_sizes(below(n), &options->u.preallocate, &s->sizes, errp)) {
        return -EINVAL;
    }
    lock_init(&s->lock, "preallocate", LOCK_LEAF);
    cond_init(&s->extended);
    s->data_end = s->file_end = -1;
    atomic_store(&n->length_bytes, node_length(below(n)));
    return 0;
}

static void preallocate_close(struct node *n)
{
    struct preallocate_state *s = n->state;

    cond_deinit(&s->extended);
    lock_deinit(&s->lock);
}

/* Links changed; what is below may be another node, but as long. */
static void preallocate_refresh_limits(struct node *n)
{
    struct preallocate_state *s = n->state;

    LOCK_GUARD(&s->lock);
    if (s->data_end >= 0) {
        atomic_store(&n->length_bytes, (s->data_end + 511) & ~INT64_C(511));
    }
}

/* ---- permissions -------------------------------------------------------- */

static bool may_grow(unsigned perm)
{
    return (perm & PERM_WRITE) && (perm & PERM_RESIZE);
}

static void preallocate_child_perm(struct node *n, const struct child *c,
                                   unsigned perm, unsigned shared,
                                   unsigned *child_perm,
                                   unsigned *child_shared)
{
    *child_perm = perm;
    *child_shared = shared;
    if (may_grow(perm)) {
        *child_shared &= ~(unsigned)(PERM_WRITE | PERM_RESIZE);     /* I1 */
    }
}

/*
 * Now, not in set_perm(): there the file below may be read-only already, and
 * a failure could not be told.  If the change does not come about after all,
 * what was given back is lost, which nobody sees: the next write behind the
 * end extends the file again.  Nobody writes meanwhile: who may grow the file
 * is drained, or is the one that goes.
 */
static bool preallocate_check_perm(struct node *n, unsigned perm,
                                   unsigned shared, struct error **errp)
{
    if (may_grow(perm) || give_back(n, errp) >= 0) {
        return true;
    }
    error_prepend(errp, "Failed to drop preallocation: ");
    return false;
}

static void preallocate_set_perm(struct node *n, unsigned perm,
                                 unsigned shared)
{
    struct preallocate_state *s = n->state;

    LOCK_GUARD(&s->lock);
    s->on = may_grow(perm);
    if (!s->on) {
        s->data_end = s->file_end = -1;
    }
}

/* ---- requests ----------------------------------------------------------- */

static int64_t round_up(int64_t value, int64_t align)
{
    int64_t rest = value % align;

    return rest ? value + (align - rest) : value;
}

/* Where a file that must reach to END is to end. */
static int64_t goal(const struct preallocate_state *s, int64_t end)
{
    int64_t limit = BLK_MAX_LENGTH_BYTES - s->sizes.align_bytes;

    return s->sizes.size_bytes > limit - end || end > limit
           ? end : round_up(end + s->sizes.size_bytes, s->sizes.align_bytes);
}

/* Lock held, given up meanwhile.  A failure is no error: the write that comes
 * makes the file longer itself, or says why not. */
static void extend(struct node *n, int64_t end)
{
    struct preallocate_state *s = n->state;
    int64_t to = goal(s, end);
    int64_t from = round_up(s->file_end,
                            MAX(below(n)->limits.request_alignment, 1));
    int ret = 0;

    s->extending = true;
    lock_release(&s->lock);
    if (to > from) {
        ret = node_pwrite_zeroes(below(n), from, to - from, BLK_NO_FALLBACK);
    }
    lock_acquire(&s->lock);
    s->file_end = MAX(ret == 0 ? to : end, s->file_end);
    s->extending = false;
    cond_broadcast(&s->extended);
}

/*
 * [offset, end) is about to be written.  *IS_ZERO: nothing has been written
 * there, and it is preallocated.  0, or -EAGAIN.
 */
static int prepare_write(struct node *n, int64_t offset, int64_t end,
                         unsigned flags, bool *is_zero)
{
    struct preallocate_state *s = n->state;

    LOCK_GUARD(&s->lock);
    *is_zero = false;
    if (!s->on) {
        return 0;
    }
    if (s->data_end < 0) {
        s->data_end = s->file_end = node_length(below(n));
    }
    if (end > s->file_end && (flags & BLK_NOWAIT)) {
        return -EAGAIN;
    }
    while (end > s->file_end && s->extending) {
        cond_wait(&s->extended, &s->lock);
    }
    if (end > s->file_end) {
        extend(n, end);
    }
    *is_zero = offset >= s->data_end && end <= node_length(below(n));
    s->data_end = MAX(s->data_end, end);
    return 0;
}

static int preallocate_pwrite(struct node *n, int64_t offset, int64_t bytes,
                              const void *buf, unsigned flags)
{
    bool is_zero;
    int ret = prepare_write(n, offset, offset + bytes, flags, &is_zero);

    return ret < 0 ? ret : node_pwrite(below(n), offset, bytes, buf, flags);
}

static int preallocate_pwrite_zeroes(struct node *n, int64_t offset,
                                     int64_t bytes, unsigned flags)
{
    bool is_zero;
    int ret = prepare_write(n, offset, offset + bytes, flags, &is_zero);

    if (ret < 0 || (is_zero && !(flags & BLK_FUA))) {
        return ret;
    }
    return node_pwrite_zeroes(below(n), offset, bytes, flags);
}

/* ---- size --------------------------------------------------------------- */

static int preallocate_truncate(struct node *n, int64_t length, bool exact,
                                PreallocMode prealloc, struct error **errp)
{
    struct preallocate_state *s = n->state;
    int ret = 0;

    if (prealloc != PREALLOC_MODE_OFF) {
        /* What is to be allocated is what is behind the end. */
        ret = give_back(n, errp);
    }
    if (ret >= 0) {
        ret = node_truncate_child(below(n), length, exact, prealloc, errp);
    }
    if (ret >= 0) {
        LOCK_GUARD(&s->lock);
        if (s->data_end >= 0) {
            s->data_end = s->file_end = length;
        }
        atomic_store(&n->length_bytes, (length + 511) & ~INT64_C(511));
    }
    return ret;
}

/* ---- reopen ------------------------------------------------------------- */

static const char *const preallocate_reopen_options[] = {
    "prealloc-align", "prealloc-size", NULL
};

/* They may change, but not be left out. */
static bool still_given(const struct node_reopen *r, struct error **errp)
{
    const BlockdevOptionsPreallocate *old = &r->node->options->u.preallocate;
    const BlockdevOptionsPreallocate *new = &r->options->u.preallocate;
    const char *lost = NULL;

    if (old->has_prealloc_align && !new->has_prealloc_align) {
        lost = "prealloc-align";
    } else if (old->has_prealloc_size && !new->has_prealloc_size) {
        lost = "prealloc-size";
    }
    if (lost) {
        error_set(errp, "Option '%s' cannot be reset to its default value",
                  lost);
    }
    return !lost;
}

static bool preallocate_reopen_prepare(struct node_reopen *r,
                                       struct error **errp)
{
    struct preallocate_sizes *sizes;

    if (!still_given(r, errp)) {
        return false;
    }
    sizes = g_new(struct preallocate_sizes, 1);
    if (!get_sizes(r->file, &r->options->u.preallocate, sizes, errp)) {
        g_free(sizes);
        return false;
    }
    r->driver_state = sizes;
    return true;
}

static void preallocate_reopen_commit(struct node_reopen *r)
{
    struct preallocate_state *s = r->node->state;
    struct preallocate_sizes *sizes = r->driver_state;

    LOCK_GUARD(&s->lock);
    s->sizes = *sizes;
    g_free(sizes);
}

static void preallocate_reopen_abort(struct node_reopen *r)
{
    g_free(r->driver_state);
}

const struct driver driver_preallocate = {
    .name = "preallocate",
    .type = BLOCKDEV_DRIVER_PREALLOCATE,
    .state_size = sizeof(struct preallocate_state),
    .is_filter = true,
    .may_grow = true,
    .file_option = preallocate_file_option,
    .open = preallocate_open,
    .close = preallocate_close,
    .refresh_limits = preallocate_refresh_limits,
    .child_perm = preallocate_child_perm,
    .check_perm = preallocate_check_perm,
    .set_perm = preallocate_set_perm,
    .pwrite = preallocate_pwrite,
    .pwrite_zeroes = preallocate_pwrite_zeroes,
    .truncate = preallocate_truncate,
    .reopen_options = preallocate_reopen_options,
    .reopen_prepare = preallocate_reopen_prepare,
    .reopen_commit = preallocate_reopen_commit,
    .reopen_abort = preallocate_reopen_abort,
};
