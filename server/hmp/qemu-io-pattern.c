/* SPDX-License-Identifier: MIT */
/* qemu-io: what is written, and what should have been read. */
#include "server/hmp/qemu-io-priv.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

uint8_t *io_buffer_new(int64_t bytes)
{
    enum { ALIGNMENT = 4096 };
    void *buf;

    return posix_memalign(&buf, ALIGNMENT, MAX(bytes, 1)) == 0 ? buf : NULL;
}

/* Up to BYTES of the file; -errno.  A pipe that nobody writes has none. */
static int64_t read_file(const char *path, uint8_t *buf, int64_t bytes)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    int64_t done = 0, ret;
    ssize_t n;

    if (fd < 0) {
        return -errno;
    }
    do {
        n = read(fd, buf + done, bytes - done);
        done += MAX(n, 0);
    } while ((n > 0 && done < bytes) || (n < 0 && errno == EINTR));
    ret = n < 0 ? -errno : done;
    close(fd);
    return ret;
}

static void repeat(uint8_t *buf, int64_t have, int64_t bytes)
{
    while (have < bytes) {
        int64_t n = MIN(have, bytes - have);

        memcpy(buf + have, buf, n);
        have += n;
    }
}

uint8_t *io_buffer_from_file(struct qemu_io *io, const char *path,
                             int64_t bytes)
{
    uint8_t *buf = io_buffer_new(bytes);
    int64_t ret = -ENOMEM;

    CONTROL_YIELD {
        if (buf) {
            ret = read_file(path, buf, MAX(bytes, 1));
        }
        if (ret > 0) {
            repeat(buf, ret, bytes);
        }
    }
    if (ret > 0) {
        return buf;
    }
    if (ret < 0) {
        io_say(io, "%s: %s\n", path, error_errno_text(-ret));
    } else {
        io_say(io, "%s: file is empty\n", path);
    }
    free(buf);
    return NULL;
}

void io_verify(GString *out, const uint8_t *buf, int64_t bytes,
               uint8_t pattern, int64_t offset)
{
    /* All the same: the first as it should be, and each as the next. */
    if (bytes > 0 && (buf[0] != pattern ||
                      memcmp(buf, buf + 1, bytes - 1) != 0)) {
        g_string_append_printf(out, "Pattern verification failed at offset "
                               "%" PRId64 ", %" PRId64 " bytes\n", offset,
                               bytes);
    }
}
