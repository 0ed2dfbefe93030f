/* SPDX-License-Identifier: MIT */
/*
 * raw: a file as it is, or a window of it (offset, size).
 *
 * Guarded     If the format raw was only guessed, a write that would make the
 *             first sector look like another format's header is refused: the
 *             next guess would give the guest any file of the host to read.
 * Threads     The state changes only while drained (resize, reopen).
 */
#include "block/drivers.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>
#include "base/error.h"
#include "block/debug.h"
#include "block/foreign-format.h"
#include "block/reopen.h"
#include "block/root.h"

enum { GUARDED_BYTES = 512 };

struct raw_state {
    int64_t offset;
    _Atomic int64_t end;        /* of the window in the file; INT64_MAX: none */
    bool has_size;
};

static struct node *raw_file(const struct node *n)
{
    return n->file->node;
}

/* ---- opening ------------------------------------------------------------ */

static int raw_probe(const uint8_t *buf, size_t len, const char *filename)
{
    return 1;       /* anything may be raw, and everything else is likelier */
}

static BlockdevRef **raw_file_option(BlockdevOptions *options)
{
    return &options->u.raw.file;
}

static unsigned raw_file_role(const BlockdevOptions *options)
{
    const BlockdevOptionsRaw *o = &options->u.raw;
    bool is_window = (o->has_offset && o->offset != 0) || o->has_size;

    return ROLE_PRIMARY | (is_window ? ROLE_DATA : ROLE_FILTERED);
}

/* Does the window of O lie in a file of LENGTH? */
static bool check_window(const BlockdevOptionsRaw *o, int64_t length,
                         struct error **errp)
{
    int64_t offset = o->has_offset ? o->offset : 0;

    if (offset < 0 || (o->has_size && o->size < 0)) {
        error_set(errp, "Parameter '%s' expects a non-negative number below "
                  "2^64", offset < 0 ? "offset" : "size");
        return false;
    }
    if (offset > length) {
        error_set(errp, "Offset (%" PRId64 ") cannot be greater than size of "
                  "the containing file (%" PRId64 ")", offset, length);
        return false;
    }
    if (o->has_size && o->size > length - offset) {
        error_set(errp, "The sum of offset (%" PRId64 ") and size (%" PRId64
                  ") has to be smaller or equal to the  actual size of the "
                  "containing file (%" PRId64 ")", offset, o->size, length);
        return false;
    }
    if (o->has_size && o->size % 512) {
        error_set(errp, "Specified size is not multiple of 512");
        return false;
    }
    return true;
}

static void set_window(struct node *n, const BlockdevOptionsRaw *o)
{
    struct raw_state *s = n->state;
    int64_t length = node_length(raw_file(n));

    s->has_size = o->has_size;
    s->offset = o->has_offset ? o->offset : 0;
    s->end = o->has_size ? s->offset + o->size : INT64_MAX;
    atomic_store(&n->length_bytes,
                 o->has_size ? o->size : MAX(length - s->offset, 0));
}

static int raw_open(struct node *n, const BlockdevOptions *options,
                    struct error **errp)
{
    const BlockdevOptionsRaw *o = &options->u.raw;

    if (!check_window(o, node_length(raw_file(n)), errp)) {
        return -EINVAL;
    }
    set_window(n, o);
    return 0;
}

static void raw_refresh_limits(struct node *n)
{
    const struct raw_state *s = n->state;
    const struct node *file = raw_file(n);

    n->limits = file->limits;
    if (s->offset & (n->limits.request_alignment - 1)) {
        /* The file pads: our alignment is not its own. */
        n->limits.request_alignment = 1;
        n->limits.pdiscard_alignment = 0;
        n->limits.pwrite_zeroes_alignment = 0;
    }
    /* It has no clusters that could be written compressed. */
    n->supported_write_flags = file->supported_write_flags & ~BLK_COMPRESSED;
    n->supported_zero_flags = file->supported_zero_flags;
}

static bool raw_reopen_prepare(struct node_reopen *r, struct error **errp)
{
    return check_window(&r->options->u.raw, node_length(r->file), errp);
}

static void raw_reopen_commit(struct node_reopen *r)
{
    set_window(r->node, &r->options->u.raw);
}

/* ---- requests ----------------------------------------------------------- */

static int check_end(const struct raw_state *s, int64_t offset, int64_t bytes)
{
    int64_t end = atomic_load_explicit(&s->end, memory_order_relaxed);

    return bytes > end - s->offset - offset ? -ENOSPC : 0;
}

/* Would the first sector be another format's after this write? */
static int check_guarded(struct node *n, int64_t offset, int64_t bytes,
                         const void *buf)
{
    uint8_t sector[GUARDED_BYTES];
    int64_t length = MIN(bytes, GUARDED_BYTES - offset);
    int ret = node_pread(n, 0, GUARDED_BYTES, sector, 0);

    if (ret < 0) {
        return ret;
    }
    memcpy(sector + offset, buf, length);
    for (size_t i = 0; block_drivers[i]; i++) {
        const struct driver *drv = block_drivers[i];

        if (drv != &driver_raw && drv->probe &&
            drv->probe(sector, sizeof(sector), n->filename) > 0) {
            return -EPERM;
        }
    }
    return foreign_format(sector, sizeof(sector)) ? -EPERM : 0;
}

static int raw_pread(struct node *n, int64_t offset, int64_t bytes, void *buf,
                     unsigned flags)
{
    const struct raw_state *s = n->state;

    NODE_DEBUG(n, READ_AIO);
    return node_pread(raw_file(n), s->offset + offset, bytes, buf, flags);
}

static int raw_pwrite(struct node *n, int64_t offset, int64_t bytes,
                      const void *buf, unsigned flags)
{
    const struct raw_state *s = n->state;
    int ret = check_end(s, offset, bytes);

    if (ret == 0 && n->probed && offset < GUARDED_BYTES) {
        if (flags & BLK_NOWAIT) {
            return -EAGAIN;
        }
        ret = check_guarded(n, offset, bytes, buf);
    }
    if (ret < 0) {
        return ret;
    }
    NODE_DEBUG(n, WRITE_AIO);
    return node_pwrite(raw_file(n), s->offset + offset, bytes, buf, flags);
}

static int raw_pwrite_zeroes(struct node *n, int64_t offset, int64_t bytes,
                             unsigned flags)
{
    const struct raw_state *s = n->state;
    int ret = check_end(s, offset, bytes);

    return ret < 0 ? ret : node_pwrite_zeroes(raw_file(n), s->offset + offset,
                                              bytes, flags);
}

static int raw_pdiscard(struct node *n, int64_t offset, int64_t bytes)
{
    const struct raw_state *s = n->state;

    return node_pdiscard(raw_file(n), s->offset + offset, bytes);
}

static int raw_block_status(struct node *n, bool want_zero, int64_t offset,
                            int64_t bytes, struct block_status *st)
{
    const struct raw_state *s = n->state;
    int ret = node_block_status(raw_file(n), want_zero, s->offset + offset,
                                bytes, st);

    if (ret < 0) {
        return ret;
    }
    if (st->bytes == 0) {           /* behind the end of the file */
        st->flags = STATUS_ZERO | STATUS_ALLOCATED;
        st->bytes = bytes;
        return 0;
    }
    st->flags &= STATUS_DATA | STATUS_ZERO | STATUS_COMPRESSED;
    st->flags |= STATUS_OFFSET_VALID | STATUS_ALLOCATED;
    st->map = s->offset + offset;
    st->file = raw_file(n);
    return 0;
}

static int raw_copy_range(struct node *src, int64_t src_offset,
                          struct node *dst, int64_t dst_offset, int64_t bytes,
                          unsigned flags)
{
    const struct raw_state *from = src->state, *to = dst->state;
    struct node *src_file = raw_file(src), *dst_file = raw_file(dst);
    int ret = check_end(to, dst_offset, bytes);

    if (ret < 0) {
        return ret;
    }
    return dst->probed ? -ENOTSUP
           : node_copy_range(src_file, from->offset + src_offset, dst_file,
                             to->offset + dst_offset, bytes, flags);
}

/* ---- size and information ----------------------------------------------- */

/* Without a size of its own it ends where the file ends. */
static void raw_child_resized(struct node *n)
{
    const struct raw_state *s = n->state;

    if (!s->has_size) {
        atomic_store(&n->length_bytes,
                     MAX(node_length(raw_file(n)) - s->offset, 0));
    }
}

static int raw_truncate(struct node *n, int64_t length, bool exact,
                        PreallocMode prealloc, struct error **errp)
{
    struct raw_state *s = n->state;
    struct node *file = raw_file(n);
    int ret;

    if (s->has_size) {
        error_set(errp, "Cannot resize fixed-size raw disks");
        return -ENOTSUP;
    }
    if (length > BLK_MAX_LENGTH_BYTES - s->offset) {
        error_set(errp, "Disk size too large for the chosen offset");
        return -EINVAL;
    }
    if (file->read_only) {
        error_set(errp, "Image is read-only");
        return -EACCES;
    }
    ret = node_truncate_child(file, s->offset + length, exact, prealloc, errp);
    if (ret < 0) {
        return ret;
    }
    atomic_store(&n->length_bytes, node_length(file) - s->offset);
    return 0;
}

/* A raw image is its file, with the right length. */
static bool raw_create(const BlockdevCreateOptions *options,
                       struct error **errp)
{
    static const struct root_options root_options = {
        .name = "root", .perm = PERM_WRITE | PERM_RESIZE, .shared = PERM_ALL,
    };
    const BlockdevCreateOptionsRaw *o = &options->u.raw;
    struct node *file;
    struct root *root;
    bool ok = false;

    if (o->size > BLK_MAX_LENGTH_BYTES) {
        error_set(errp, "Image is too large");
        return false;
    }
    file = node_open_ref(o->file, errp);
    if (!file) {
        return false;
    }
    root = root_new(file, &root_options, errp);
    if (root) {
        struct drain *d = drain_begin(&file, 1);

        ok = node_truncate(file, o->size,
                           o->has_preallocation ? o->preallocation
                                                : PREALLOC_MODE_OFF, errp);
        drain_end(&d);
        root_free(&root);
    }
    node_unref(file);
    return ok;
}

static bool raw_reads_zero_when_new(struct node *n)
{
    return node_reads_zero_when_new(raw_file(n));
}

static const char *const raw_strong_options[] = { "offset", "size", NULL };

const struct driver driver_raw = {
    .name = "raw",
    .type = BLOCKDEV_DRIVER_RAW,
    .state_size = sizeof(struct raw_state),
    .is_format = true,
    .may_grow = true,
    .strong_options = raw_strong_options,
    .probe = raw_probe,
    .file_option = raw_file_option,
    .file_role = raw_file_role,
    .open = raw_open,
    .refresh_limits = raw_refresh_limits,
    .pread = raw_pread,
    .pwrite = raw_pwrite,
    .pwrite_zeroes = raw_pwrite_zeroes,
    .pdiscard = raw_pdiscard,
    .block_status = raw_block_status,
    .copy_range = raw_copy_range,
    .child_resized = raw_child_resized,
    .truncate = raw_truncate,
    .create = raw_create,
    .reads_zero_when_new = raw_reads_zero_when_new,
    .reopen_options = raw_strong_options,
    .reopen_prepare = raw_reopen_prepare,
    .reopen_commit = raw_reopen_commit,
};
