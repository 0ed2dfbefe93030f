/* SPDX-License-Identifier: MIT */
/* File driver: making files and changing their size. */
#include <errno.h>
#include <fcntl.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>
#include <linux/fs.h>
#include "base/control.h"
#include "block/cancel.h"
#include "block/file-locks.h"
#include "block/file-priv.h"
#include "block/zeroes.h"

static int write_zeroes(int fd, int64_t offset, int64_t end)
{
    while (offset < end) {
        ssize_t done;

        if (cancel_asked()) {
            return -ECANCELED;
        }
        done = pwrite(fd, zeroes_buffer, MIN(end - offset, ZEROES_BYTES),
                      offset);
        if (done < 0 && errno == EINTR) {
            continue;
        }
        if (done <= 0) {
            return done < 0 ? -errno : -ENOSPC;
        }
        offset += done;
    }
    return 0;
}

static bool resize_sparse(int fd, int64_t old_length, int64_t length,
                          struct error **errp)
{
    if (ftruncate(fd, length) < 0) {
        error_set_errno(errp, errno, "Could not resize file");
        return false;
    }
    /* An empty first block could not be read with O_DIRECT to probe its
     * alignment; QEMU allocates it too.  Harmless if it fails. */
    if (old_length == 0 && length > 0 &&
        write_zeroes(fd, 0, MIN(length, 4096)) < 0) {
        return true;
    }
    return true;
}

static bool resize_allocated(int fd, int64_t old_length, int64_t length,
                             struct error **errp)
{
    int err = length == old_length ? 0 :
              posix_fallocate(fd, old_length, length - old_length);

    if (err) {
        error_set_errno(errp, err, "Could not preallocate new data");
        return false;
    }
    return true;
}

static bool resize_written(int fd, int64_t old_length, int64_t length,
                           struct error **errp)
{
    int ret;

    if (ftruncate(fd, length) < 0) {
        error_set_errno(errp, errno, "Could not resize file");
        return false;
    }
    ret = write_zeroes(fd, old_length, length);
    if (ret == 0 && fsync(fd) < 0) {
        ret = -errno;
    }
    if (ret < 0) {
        error_set_errno(errp, -ret, "Could not write zeros for preallocation");
        return false;
    }
    return true;
}

/* FD is a regular file; what was added is taken back when that fails. */
static bool resize(int fd, int64_t length, PreallocMode prealloc,
                   struct error **errp)
{
    struct stat st;
    bool ok;

    if (fstat(fd, &st) < 0) {
        error_set_errno(errp, errno, "Failed to inquire current file length");
        return false;
    }
    if (st.st_size > length && prealloc != PREALLOC_MODE_OFF) {
        error_set(errp, "Preallocation can't be used for shrinking files");
        return false;
    }
    switch (prealloc) {
    case PREALLOC_MODE_OFF:
        ok = resize_sparse(fd, st.st_size, length, errp);
        break;
    case PREALLOC_MODE_FALLOC:
        ok = resize_allocated(fd, st.st_size, length, errp);
        break;
    case PREALLOC_MODE_FULL:
        ok = resize_written(fd, st.st_size, length, errp);
        break;
    default:
        error_set(errp, "Unsupported preallocation mode: %s",
                  PreallocMode_str(prealloc));
        return false;
    }
    if (!ok && ftruncate(fd, st.st_size) < 0) {
        error_report_text("Failed to restore old file length: %s",
                          error_errno_text(errno));
    }
    return ok;
}

int file_truncate(struct node *n, int64_t length, bool exact,
                  PreallocMode prealloc, struct error **errp)
{
    struct file_state *s = n->state;

    if (!resize(s->fd, length, prealloc, errp)) {
        return -EIO;
    }
    atomic_store(&n->length_bytes, (length + 511) & ~INT64_C(511));
    file_holes_punched(&s->holes);
    return 0;
}

/* ---- creation ----------------------------------------------------------- */

enum { DEFAULT_EXTENT_SIZE_HINT = 1 << 20 };

static void set_nocow(int fd)
{
    int flags;

    /* Only some file systems know it, and it is only for speed. */
    if (ioctl(fd, FS_IOC_GETFLAGS, &flags) == 0) {
        flags |= FS_NOCOW_FL;
        ioctl(fd, FS_IOC_SETFLAGS, &flags);
    }
}

/* As set_nocow(): only some file systems have it, and it is only for speed. */
static void set_extent_size(int fd, uint32_t bytes)
{
    struct fsxattr attr;

    if (bytes > 0 && ioctl(fd, FS_IOC_FSGETXATTR, &attr) == 0) {
        attr.fsx_xflags |= FS_XFLAG_EXTSIZE;
        attr.fsx_extsize = bytes;
        ioctl(fd, FS_IOC_FSSETXATTR, &attr);
    }
}

/* Nobody may use the file, or change its size, while it is emptied. */
static bool lock_for_creation(int fd, struct error **errp)
{
    unsigned perm = PERM_WRITE | PERM_RESIZE;
    unsigned shared = PERM_ALL & ~PERM_RESIZE;

    return file_locks_set(fd, perm, shared, false, errp) &&
           file_locks_check(fd, perm, shared, NULL, errp);
}

static bool create_file(const BlockdevCreateOptionsFile *o,
                        struct error **errp)
{
    bool ok;
    int fd;

    if (o->has_extent_size_hint && o->extent_size_hint > UINT32_MAX) {
        error_set(errp, "Extent size hint is too large");
        return false;
    }
    fd = file_open_path(o->filename, O_RDWR | O_CREAT | O_CLOEXEC, errp);
    if (fd < 0) {
        return false;
    }
    ok = lock_for_creation(fd, errp);
    if (ok && ftruncate(fd, 0) < 0) {
        error_set_errno(errp, errno, "Could not clear '%s'", o->filename);
        error_add_file(errp, o->filename);
        ok = false;
    }
    if (ok) {
        if (o->has_nocow && o->nocow) {
            set_nocow(fd);
        }
        set_extent_size(fd, o->has_extent_size_hint
                            ? o->extent_size_hint
                            : DEFAULT_EXTENT_SIZE_HINT);
        ok = resize(fd, o->size, o->has_preallocation ? o->preallocation
                                                      : PREALLOC_MODE_OFF,
                    errp);
    }
    if (file_is_passed(o->filename)) {
        file_locks_set(fd, 0, PERM_ALL, true, NULL);
    }
    if (file_close_fd(fd) < 0 && ok) {      /* with it go the locks */
        error_set_errno(errp, errno, "Could not close the new file '%s'",
                        o->filename);
        ok = false;
    }
    return ok;
}

bool file_create(const BlockdevCreateOptions *options, struct error **errp)
{
    bool ok = false;

    CONTROL_YIELD {
        ok = create_file(&options->u.file, errp);
    }
    return ok;
}
