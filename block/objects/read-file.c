/* SPDX-License-Identifier: MIT */
/* Reading a small file whole: see read-file.h. */
#include "block/objects/read-file.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdint.h>
#include <string.h>
#include <unistd.h>

enum { PIPE_TIMEOUT_MS = 10000 };

/* Wait until FD, a pipe, has more. */
static bool wait_readable(int fd)
{
    struct pollfd p = { .fd = fd, .events = POLLIN };

    return poll(&p, 1, PIPE_TIMEOUT_MS) > 0;
}

/* 0, or an errno (> 0). */
static int read_all(int fd, size_t max_bytes, GByteArray *data)
{
    uint8_t buf[4096];

    for (;;) {
        ssize_t n = read(fd, buf, sizeof(buf));
        int err = errno;

        if (n > 0) {
            g_byte_array_append(data, buf, n);
            explicit_bzero(buf, n);
        }
        if (n == 0) {
            return 0;
        }
        if (n < 0 && err == EAGAIN) {
            err = wait_readable(fd) ? EINTR : ETIMEDOUT;
        }
        if (n < 0 && err != EINTR) {
            return err;
        }
        if (data->len > max_bytes) {
            return EFBIG;
        }
    }
}

char *object_read_file(const char *path, size_t max_bytes, size_t *bytes,
                       struct error **errp)
{
    GByteArray *data;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
    int err;

    if (fd < 0) {
        error_set_errno(errp, errno, "Unable to read %s", path);
        return NULL;
    }
    data = g_byte_array_new();
    err = read_all(fd, max_bytes, data);
    close(fd);
    *bytes = data->len;
    g_byte_array_append(data, (const uint8_t *)"", 1);
    if (err) {
        error_set_errno(errp, err, "Unable to read %s", path);
        explicit_bzero(data->data, data->len);
        g_byte_array_unref(data);
        return NULL;
    }
    return (char *)g_byte_array_free(data, FALSE);
}
