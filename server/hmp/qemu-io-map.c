/* SPDX-License-Identifier: MIT */
/* qemu-io: what of a disk its own layer holds. */
#include "server/hmp/qemu-io-priv.h"

#include <errno.h>
#include "server/shutdown.h"

/* One state, from OFFSET on, as long as it goes; at most BYTES.  Its length
 * in *PART, 0 at the end; < 0: -errno. */
static int extent(struct io_target *t, int64_t offset, int64_t bytes,
                  int64_t *part)
{
    int64_t more;
    int state = target_is_allocated(t, offset, bytes, part), next = state;

    while (next >= 0 && next == state && *part > 0 && *part < bytes &&
           !shutdown_has_begun()) {
        next = target_is_allocated(t, offset + *part, bytes - *part, &more);
        if (next == state && more > 0) {
            *part += more;
        } else {
            break;
        }
    }
    return next < 0 ? next : state;
}

/* No lock. */
static int map(struct qemu_io *io, int64_t length)
{
    int64_t offset = 0, part = 1;
    int state = 0;

    while (offset < length && !shutdown_has_begun()) {
        state = extent(io->target, offset, length - offset, &part);
        if (state < 0) {
            return state;
        }
        if (part == 0) {
            break;              /* it has become shorter */
        }
        g_autofree char *size = io_size_text(part);
        g_autofree char *at = io_size_text(offset);

        io_say(io, "%s (0x%" PRIx64 ") bytes %s at offset %s "
               "(0x%" PRIx64 ")\n", size, part,
               state ? "    allocated" : "not allocated", at, offset);
        io_flush_out(io->out);
        offset += part;
    }
    return 0;
}

void io_map(struct qemu_io *io)
{
    int64_t length = 0;
    int ret = 0;

    CONTROL_YIELD {
        length = target_length(io->target);
        ret = length < 0 ? 0 : map(io, length);
    }
    if (length < 0) {
        g_string_append_printf(io->said, "Failed to query image length: %s\n",
                               error_errno_text(-length));
    } else if (ret < 0) {
        g_string_append_printf(io->said, "Failed to get allocation status: "
                               "%s\n", error_errno_text(-ret));
    }
}

/* No lock.  How much of [offset, end) is allocated; -errno. */
static int64_t count_allocated(struct io_target *t, int64_t offset,
                               int64_t end)
{
    int64_t sum = 0, part = 1;

    while (offset < end && part > 0 && !shutdown_has_begun()) {
        int ret = target_is_allocated(t, offset, end - offset, &part);

        if (ret < 0) {
            return ret;
        }
        sum += ret ? part : 0;
        offset += part;
    }
    return sum;
}

void io_alloc(struct qemu_io *io)
{
    enum { DEFAULT_BYTES = 512 };
    int64_t offset, bytes = DEFAULT_BYTES, length = 0, sum = 0;

    if (!io_parse_size(io, io->argv[1], &offset) ||
        (io->argc > 2 && !io_parse_size(io, io->argv[2], &bytes))) {
        return;
    }
    CONTROL_YIELD {
        length = target_length(io->target);
        bytes = MAX(MIN(bytes, length - offset), 0);
        sum = length < 0 ? length
                         : count_allocated(io->target, offset, offset + bytes);
    }
    if (sum < 0) {
        io_say(io, "is_allocated failed: %s\n", error_errno_text(-sum));
    } else {
        g_autofree char *at = io_size_text(offset);

        io_say(io, "%" PRId64 "/%" PRId64 " bytes allocated at offset %s\n",
               sum, bytes, at);
    }
}
