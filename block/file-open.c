/* SPDX-License-Identifier: MIT */
/*
 * File driver: from a name to a descriptor.
 *
 * A name is one of the file system, or /dev/fdset/N: one of the descriptors
 * that the server has been given.  Of those only a copy can be had, and the
 * copies of one share its position, its flags and its locks.
 */
#include "block/file-hook.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "block/file-priv.h"

static const struct file_fdset_hook *hook;

void file_set_fdset_hook(const struct file_fdset_hook *h)
{
    hook = h;
}

/* What is behind /dev/fdset/, or NULL: PATH is an ordinary name. */
static const char *fdset_number(const char *path)
{
    const char *rest = path;

    return g_str_has_prefix(path, "/dev/fdset/")
           ? rest + strlen("/dev/fdset/") : NULL;
}

bool file_is_passed(const char *path)
{
    return fdset_number(path) != NULL;
}

static int open_passed(const char *path, int flags, struct error **errp)
{
    const char *number = fdset_number(path);
    char *end;
    int64_t set;
    int fd;

    errno = 0;
    set = strtoll(number, &end, 10);
    if (!g_ascii_isdigit(*number) || *end || errno) {
        error_set(errp, "Could not parse fdset %s", path);
        errno = EINVAL;
        return -1;
    }
    errno = ENOENT;
    fd = hook ? hook->open(set, flags) : -1;
    if (fd < 0) {
        int err = errno;

        error_set_errno(errp, err, "Could not dup FD for %s flags %x", path,
                        flags & ~(O_CLOEXEC | O_NONBLOCK));
        error_add_file(errp, path);
        errno = err;
    }
    return fd;
}

static int open_name(const char *path, int flags, struct error **errp)
{
    int fd = open(path, flags, 0644);

    if (fd < 0) {
        int err = errno;

        if (err == EINVAL && (flags & O_DIRECT)) {
            error_set(errp, "Could not open '%s': filesystem does not "
                      "support O_DIRECT", path);
        } else {
            error_set_errno(errp, err, flags & O_CREAT
                            ? "Could not create '%s'" : "Could not open '%s'",
                            path);
        }
        error_add_file(errp, path);
        errno = err;
    }
    return fd;
}

int file_open_path(const char *path, int flags, struct error **errp)
{
    return file_is_passed(path) ? open_passed(path, flags, errp)
                                : open_name(path, flags, errp);
}

int file_open_same(int fd, const char *path, int flags, struct error **errp)
{
    char link[64];
    int new_fd;

    if (file_is_passed(path)) {
        return open_passed(path, flags, errp);
    }
    g_snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
    new_fd = open(link, flags);
    if (new_fd >= 0) {
        return new_fd;
    }
    if (errno == ENOENT) {
        return file_open_path(path, flags, errp);   /* no /proc here */
    }
    error_set_errno(errp, errno, "Could not open '%s'", path);
    error_add_file(errp, path);
    return -1;
}

int file_open_for_locks(int fd, const char *path, struct error **errp)
{
    int new_fd;

    if (!file_is_passed(path)) {
        return file_open_same(fd, path, O_RDONLY | O_CLOEXEC, errp);
    }
    /* Not another one of the set: it may be of another file. */
    new_fd = fcntl(fd, F_DUPFD_CLOEXEC, 0);
    if (new_fd < 0) {
        error_set_errno(errp, errno, "Could not open '%s'", path);
    }
    return new_fd;
}

int file_close_fd(int fd)
{
    return hook ? hook->close(fd) : close(fd);
}
