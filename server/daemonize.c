/* SPDX-License-Identifier: MIT */
/* --daemonize and --pidfile: see daemonize.h. */
#include "server/daemonize.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

static int ready_fd = -1;       /* daemon: tell the parent here */
static char *pidfile_path;      /* owned, absolute; NULL: none */
static int pidfile_fd = -1;     /* holds the lock */

/* Parent: exits as the child says, or as it dies. */
static void G_GNUC_NORETURN wait_for_child(int fd)
{
    char byte;
    ssize_t n;

    do {
        n = read(fd, &byte, 1);
    } while (n < 0 && errno == EINTR);
    /* No atexit handlers, no flushing twice: the child has those. */
    _exit(n == 1 ? EXIT_SUCCESS : EXIT_FAILURE);
}

bool daemon_fork(struct error **errp)
{
    int fds[2];
    pid_t pid;

    if (pipe2(fds, O_CLOEXEC) < 0) {
        error_set_errno(errp, errno, "Cannot create a pipe");
        return false;
    }
    fflush(NULL);
    pid = fork();
    if (pid < 0) {
        error_set_errno(errp, errno, "Cannot fork");
        close(fds[0]);
        close(fds[1]);
        return false;
    }
    if (pid > 0) {
        close(fds[1]);
        wait_for_child(fds[0]);
    }
    close(fds[0]);
    ready_fd = fds[1];
    setsid();
    umask(027);
    return true;
}

bool daemon_forked(void)
{
    return ready_fd >= 0;
}

void daemon_ready(void)
{
    int null_fd;

    if (ready_fd < 0) {
        return;
    }
    if (chdir("/") < 0) {
        error_report_text("cannot change to /: %s", error_errno_text(errno));
        exit(EXIT_FAILURE);
    }
    null_fd = open("/dev/null", O_RDWR | O_CLOEXEC);
    if (null_fd < 0) {
        error_report_text("cannot open /dev/null: %s", error_errno_text(errno));
        exit(EXIT_FAILURE);
    }
    for (int fd = 0; fd <= 2; fd++) {
        dup2(null_fd, fd);
    }
    close(null_fd);
    while (write(ready_fd, "", 1) < 0 && errno == EINTR) {
        continue;
    }
    close(ready_fd);
    ready_fd = -1;
}

/* ---- pid file ----------------------------------------------------------- */

/* Is PATH still the file that FD is? */
static bool is_file_at(int fd, const char *path)
{
    struct stat a, b;

    return fstat(fd, &a) == 0 && stat(path, &b) == 0 &&
        a.st_dev == b.st_dev && a.st_ino == b.st_ino;
}

static int open_locked(const char *path, struct error **errp)
{
    struct flock lock = { .l_type = F_WRLCK, .l_whence = SEEK_SET };

    for (;;) {
        int fd = open(path, O_CREAT | O_WRONLY | O_CLOEXEC, 0644);

        if (fd < 0) {
            error_set_errno(errp, errno, "Could not create '%s'", path);
            return -1;
        }
        if (fcntl(fd, F_SETLK, &lock) < 0) {
            error_set_errno(errp, errno, "Cannot lock pid file");
            close(fd);
            return -1;
        }
        if (is_file_at(fd, path)) {
            return fd;
        }
        close(fd);      /* whoever had it removed it just now */
    }
}

bool pidfile_write(const char *path, struct error **errp)
{
    g_autofree char *text = g_strdup_printf("%ld\n", (long)getpid());
    int fd = open_locked(path, errp);

    if (fd < 0) {
        error_prepend(errp, "cannot create PID file: ");
        return false;
    }
    if (ftruncate(fd, 0) < 0 ||
        write(fd, text, strlen(text)) != (ssize_t)strlen(text)) {
        error_set_errno(errp, errno, "cannot write PID file '%s'", path);
        unlink(path);
        close(fd);
        return false;
    }
    pidfile_fd = fd;
    pidfile_path = g_canonicalize_filename(path, NULL);
    return true;
}

void pidfile_remove(void)
{
    if (!pidfile_path) {
        return;
    }
    if (is_file_at(pidfile_fd, pidfile_path)) {
        unlink(pidfile_path);
    }
    close(pidfile_fd);
    g_clear_pointer(&pidfile_path, g_free);
}
