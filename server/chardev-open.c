/* SPDX-License-Identifier: MIT */
/* Channels that are no sockets: see chardev-open.h. */
#include "server/chardev-open.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <termios.h>
#include <unistd.h>

int chardev_open_file(const char *path, bool append, struct error **errp)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC |
                  (append ? O_APPEND : O_TRUNC), 0666);

    if (fd < 0) {
        error_set_errno(errp, errno, "Could not open '%s'", path);
    }
    return fd;
}

/* Both ways: so that it opens without anybody at the other end. */
static int open_fifo(const char *path, const char *end)
{
    g_autofree char *name = g_strconcat(path, end, NULL);

    return open(name, O_RDWR | O_CLOEXEC | O_NONBLOCK);
}

static void close_both(int *a, int *b)
{
    if (*a >= 0) {
        close(*a);
    }
    if (*b >= 0) {
        close(*b);
    }
    *a = *b = -1;
}

bool chardev_open_pipe(const char *path, int *read_fd, int *write_fd,
                       struct error **errp)
{
    *read_fd = open_fifo(path, ".in");
    *write_fd = open_fifo(path, ".out");
    if (*read_fd >= 0 && *write_fd >= 0) {
        return true;
    }
    close_both(read_fd, write_fd);
    *read_fd = open_fifo(path, "");
    *write_fd = *read_fd >= 0 ? fcntl(*read_fd, F_DUPFD_CLOEXEC, 3) : -1;
    if (*write_fd < 0) {
        error_set_errno(errp, errno, "Could not open '%s'", path);
    }
    return *write_fd >= 0;
}

char *chardev_open_pty(int *read_fd, int *write_fd, int *other_fd,
                       struct error **errp)
{
    struct termios tty;
    char name[PATH_MAX];

    *read_fd = posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC | O_NONBLOCK);
    if (*read_fd < 0 || grantpt(*read_fd) < 0 || unlockpt(*read_fd) < 0 ||
        ptsname_r(*read_fd, name, sizeof(name)) != 0) {
        error_set_errno(errp, errno, "Failed to create PTY");
        return NULL;
    }
    *write_fd = fcntl(*read_fd, F_DUPFD_CLOEXEC, 3);
    *other_fd = open(name, O_RDWR | O_NOCTTY | O_CLOEXEC);
    if (*write_fd < 0 || *other_fd < 0) {
        error_set_errno(errp, errno, "Failed to open '%s'", name);
        return NULL;
    }
    if (tcgetattr(*other_fd, &tty) == 0) {
        cfmakeraw(&tty);
        tcsetattr(*other_fd, TCSAFLUSH, &tty);
    }
    return g_strdup(name);
}
