/* SPDX-License-Identifier: MIT */
/*
 * File driver: an image in a file of the host.
 *
 * Opening     fd is what requests use.  With auto-read-only it is O_RDONLY
 *             until a parent wants to write and again when none does; the
 *             new description takes the place of the old one under the same
 *             number (dup3), so that requests in flight need no lock and are
 *             never cut off.  lock_fd stays open all the time and carries the
 *             image locks, which belong to its description: they survive
 *             every reopening of fd.
 * Threads     Requests: any.  Permissions: control lock.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>
#include "base/trace.h"
#include "block/file-locks.h"
#include "block/file-priv.h"

static int64_t file_length(int fd)
{
    struct stat st;

    return fstat(fd, &st) < 0 ? -errno : st.st_size;
}

static bool is_regular(mode_t mode)
{
    return S_ISREG(mode);
}

static const struct file_kind regular_file = {
    .what = "a regular file", .is_it = is_regular, .length = file_length,
};

const BlockdevOptionsFile *file_options(const BlockdevOptions *options)
{
    return options->driver == BLOCKDEV_DRIVER_HOST_DEVICE
           ? &options->u.host_device : &options->u.file;
}

/* ---- opening ------------------------------------------------------------ */

static int open_flags(const struct file_state *s, bool writable)
{
    return (writable ? O_RDWR : O_RDONLY) | O_CLOEXEC |
           (s->direct ? O_DIRECT : 0);
}

static bool check_type(const struct node *n, const char *path,
                       const struct file_kind *kind, struct error **errp)
{
    const struct file_state *s = n->state;
    struct stat st;

    if (fstat(s->fd, &st) < 0) {
        error_set_errno(errp, errno, "Could not stat '%s'", path);
        error_add_file(errp, path);
        return false;
    }
    if (S_ISDIR(st.st_mode)) {
        error_set_errno(errp, EISDIR, "Could not open '%s'", path);
        error_add_file(errp, path);
        return false;
    }
    if (!kind->is_it(st.st_mode)) {
        error_set(errp, "'%s' driver requires '%s' to be %s",
                  n->driver->name, path, kind->what);
        return false;
    }
    return true;
}

/* Smallest power of two that O_DIRECT reads at, in a buffer aligned to it. */
static uint32_t probe_alignment(int fd)
{
    enum { LARGEST = 4096 };
    g_autofree uint8_t *buf = NULL;
    uint8_t *aligned;
    struct statx sx;

#ifdef STATX_DIOALIGN
    if (statx(fd, "", AT_EMPTY_PATH, STATX_DIOALIGN, &sx) == 0 &&
        (sx.stx_mask & STATX_DIOALIGN) && sx.stx_dio_offset_align) {
        return MAX(sx.stx_dio_offset_align, 512);
    }
#else
    (void)sx;
#endif
    buf = g_malloc(3 * LARGEST);
    aligned = (uint8_t *)(((uintptr_t)buf + LARGEST - 1) & -LARGEST);
    for (uint32_t align = 512; align < LARGEST; align *= 2) {
        /* A file without this much tells nothing: be careful then. */
        if (pread(fd, aligned + align, align, align) == (ssize_t)align) {
            return align;
        }
    }
    return LARGEST;
}

void file_refresh_limits(struct node *n)
{
    struct file_state *s = n->state;
    uint32_t align = s->direct ? probe_alignment(s->fd) : 1;

    n->limits = (struct block_limits){
        .request_alignment = align,
        .pdiscard_alignment = align,
        .min_mem_alignment = s->direct ? MAX(align, 512) : 1,
        .opt_mem_alignment = 4096,
    };
}

static bool check_options(const struct node *n, const BlockdevOptionsFile *o,
                          struct error **errp)
{
    if (o->filename[0] == '\0') {
        error_set(errp, "The '%s' block driver requires a file name",
                  n->driver->name);
        return false;
    }
    if (o->pr_manager) {
        /* There are no objects here, so none has this id either. */
        error_set(errp, "No persistent reservation manager with id '%s'",
                  o->pr_manager);
        return false;
    }
    if (o->has_aio && o->aio == BLOCKDEV_AIO_OPTIONS_NATIVE &&
        !n->cache_direct) {
        error_set(errp, "aio=native was specified, but it requires "
                  "cache.direct=on, which was not specified.");
        return false;
    }
    return true;
}

/* With auto-read-only whether writing is possible shows when it is wanted. */
static bool open_data_fd(struct node *n, const BlockdevOptions *options,
                         const char *path, struct error **errp)
{
    struct file_state *s = n->state;

    s->dynamic = !n->read_only && options->has_auto_read_only &&
                 options->auto_read_only;
    s->writable = !n->read_only && !s->dynamic;
    s->fd = file_open_path(path, open_flags(s, s->writable) | O_NONBLOCK, errp);
    return s->fd >= 0;
}

static void close_fds(struct file_state *s)
{
    if (s->fd >= 0) {
        file_close_fd(s->fd);
    }
    if (s->lock_fd >= 0) {
        file_close_fd(s->lock_fd);
    }
    s->fd = s->lock_fd = -1;
}

/* Rounded up to 512, as QEMU's sectors have it. */
static bool set_length(struct node *n, int64_t length, struct error **errp)
{
    if (length > BLK_MAX_LENGTH_BYTES) {
        length = -EFBIG;
    }
    if (length < 0) {
        error_set_errno(errp, -length, "Could not refresh total sector count");
        return false;
    }
    atomic_store(&n->length_bytes, (length + 511) & ~INT64_C(511));
    return true;
}

static bool open_all(struct node *n, const BlockdevOptions *options,
                     const struct file_kind *kind, struct error **errp)
{
    const BlockdevOptionsFile *o = file_options(options);
    struct file_state *s = n->state;

    if (!check_options(n, o, errp) ||
        !open_data_fd(n, options, o->filename, errp) ||
        !check_type(n, o->filename, kind, errp)) {
        return false;
    }
    if (!(o->has_locking && o->locking == ON_OFF_AUTO_OFF)) {
        s->lock_fd = file_open_for_locks(s->fd, o->filename, errp);
        if (s->lock_fd < 0) {
            return false;
        }
    }
    return set_length(n, kind->length(s->fd), errp);
}

int file_open_kind(struct node *n, const BlockdevOptions *options,
                   const struct file_kind *kind, struct error **errp)
{
    const BlockdevOptionsFile *o = file_options(options);
    struct file_state *s = n->state;

    s->fd = s->lock_fd = s->new_fd = -1;
    s->shared = PERM_ALL;
    s->direct = n->cache_direct;
    if (!open_all(n, options, kind, errp)) {
        close_fds(s);
        return -EINVAL;
    }
    file_holes_init(&s->holes);
    n->supported_write_flags = BLK_FUA;
    n->supported_zero_flags = BLK_MAY_UNMAP | BLK_NO_FALLBACK;
    if (!n->filename || strcmp(n->filename, o->filename) != 0) {
        g_free(n->filename);
        n->filename = g_strdup(o->filename);
    }
    trace(FILE, "open node-name=%s fd=%d read-only=%d", n->name, s->fd,
          n->read_only);
    return 0;
}

static int file_open(struct node *n, const BlockdevOptions *options,
                     struct error **errp)
{
    int ret = file_open_kind(n, options, &regular_file, errp);

    if (ret == 0) {
        file_refresh_limits(n);
    }
    return ret;
}

void file_close(struct node *n)
{
    struct file_state *s = n->state;

    if (s->lock_fd >= 0 && file_is_passed(n->filename)) {
        file_locks_set(s->lock_fd, 0, PERM_ALL, true, NULL);
    }
    close_fds(s);
    file_holes_deinit(&s->holes);
}

/* ---- handed over -------------------------------------------------------- */

bool file_read_again(struct node *n, int64_t length, struct error **errp)
{
    const BlockdevOptionsFile *o = file_options(n->options);
    struct file_state *s = n->state;

    if (!o->has_drop_cache || o->drop_cache) {
        posix_fadvise(s->fd, 0, 0, POSIX_FADV_DONTNEED);    /* a wish */
    }
    file_holes_punched(&s->holes);
    atomic_fetch_add(&n->write_generation, 1);
    return set_length(n, length, errp);
}

static bool file_activate(struct node *n, struct error **errp)
{
    struct file_state *s = n->state;

    return file_read_again(n, file_length(s->fd), errp);
}

/* ---- permissions -------------------------------------------------------- */

static bool lock_new(struct node *n, unsigned perm, unsigned shared,
                     struct error **errp)
{
    struct file_state *s = n->state;

    if (s->lock_fd < 0) {
        return true;
    }
    /* Ours first, then look: of two at once at least one sees the other. */
    if (file_locks_set(s->lock_fd, s->perm | perm, s->shared & shared, false,
                       errp) &&
        file_locks_check(s->lock_fd, perm, shared, n->filename, errp)) {
        return true;
    }
    file_locks_set(s->lock_fd, s->perm, s->shared, true, NULL);
    return false;
}

bool file_check_perm(struct node *n, unsigned perm, unsigned shared,
                     struct error **errp)
{
    struct file_state *s = n->state;
    bool writable = perm & FILE_PERM_ANY_WRITE;

    if (s->dynamic && writable != s->writable) {
        s->new_fd = file_open_same(s->fd, n->filename,
                                   open_flags(s, writable), errp);
        if (s->new_fd < 0) {
            return false;
        }
    }
    if (!lock_new(n, perm, shared, errp)) {
        if (s->new_fd >= 0) {
            file_close_fd(s->new_fd);
            s->new_fd = -1;
        }
        return false;
    }
    return true;
}

void file_set_perm(struct node *n, unsigned perm, unsigned shared)
{
    struct file_state *s = n->state;

    if (s->new_fd >= 0) {
        if (dup3(s->new_fd, s->fd, O_CLOEXEC) >= 0) {
            s->writable = !s->writable;
        }
        file_close_fd(s->new_fd);
        s->new_fd = -1;
    }
    s->perm = perm;
    s->shared = shared;
    if (s->lock_fd >= 0) {
        /* To unlock cannot fail in a way that matters: the file may be gone
         * or stale, and then so are its locks. */
        file_locks_set(s->lock_fd, perm, shared, true, NULL);
    }
}

void file_abort_perm(struct node *n)
{
    struct file_state *s = n->state;

    if (s->new_fd >= 0) {
        file_close_fd(s->new_fd);
        s->new_fd = -1;
    }
    if (s->lock_fd >= 0) {
        file_locks_set(s->lock_fd, s->perm, s->shared, true, NULL);
    }
}

/* ---- information -------------------------------------------------------- */

int64_t file_allocated_bytes(struct node *n)
{
    struct file_state *s = n->state;
    struct stat st;

    if (fstat(s->fd, &st) < 0) {
        return -errno;
    }
    return (int64_t)st.st_blocks * 512;
}

static bool file_reads_zero_when_new(struct node *n)
{
    return true;
}

const char *const file_strong_options[] = { "filename", NULL };

const struct driver driver_file = {
    .name = "file",
    .type = BLOCKDEV_DRIVER_FILE,
    .state_size = sizeof(struct file_state),
    .is_protocol = true,
    .strong_options = file_strong_options,
    .open = file_open,
    .close = file_close,
    .refresh_limits = file_refresh_limits,
    .check_perm = file_check_perm,
    .set_perm = file_set_perm,
    .abort_perm = file_abort_perm,
    .pread = file_pread,
    .pwrite = file_pwrite,
    .pwrite_zeroes = file_pwrite_zeroes,
    .pdiscard = file_pdiscard,
    .flush_to_disk = file_flush_to_disk,
    .begin_flush = file_begin_flush,
    .block_status = file_block_status,
    .copy_range = file_copy_range,
    .truncate = file_truncate,
    .allocated_bytes = file_allocated_bytes,
    .specific_stats = file_specific_stats,
    .reads_zero_when_new = file_reads_zero_when_new,
    .activate = file_activate,
    .reopen_options = file_reopen_options,
    .reopen_prepare = file_reopen_prepare,
    .reopen_activate = file_reopen_activate,
    .reopen_commit = file_reopen_commit,
    .reopen_abort = file_reopen_abort,
    .create = file_create,
};
