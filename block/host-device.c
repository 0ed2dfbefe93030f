/* SPDX-License-Identifier: MIT */
/*
 * host_device: a block or character device of the host.
 *
 * A file but for its length, which is the device's, and for zeroes and
 * discards, which the kernel does in whole logical blocks only.
 */
#include <errno.h>
#include <fcntl.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include "block/file-priv.h"

/* ---- opening ------------------------------------------------------------ */

static bool is_device(mode_t mode)
{
    return S_ISBLK(mode) || S_ISCHR(mode);
}

static int64_t device_length(int fd)
{
    uint64_t bytes;
    off_t end;

    if (ioctl(fd, BLKGETSIZE64, &bytes) == 0) {
        return bytes > INT64_MAX ? -EFBIG : (int64_t)bytes;
    }
    end = lseek(fd, 0, SEEK_END);
    return end < 0 ? -errno : end;
}

static const struct file_kind device = {
    .what = "either a character or block device",
    .is_it = is_device, .length = device_length,
};

static int device_open(struct node *n, const BlockdevOptions *options,
                       struct error **errp)
{
    return file_open_kind(n, options, &device, errp);
}

static uint32_t logical_block(int fd)
{
    int bytes = 0;

    return ioctl(fd, BLKSSZGET, &bytes) == 0 && bytes >= 512 &&
           (bytes & (bytes - 1)) == 0 ? bytes : 0;
}

static void device_refresh_limits(struct node *n)
{
    struct file_state *s = n->state;
    uint32_t block = logical_block(s->fd);

    if (s->direct && block) {
        n->limits = (struct block_limits){
            .request_alignment = block,
            .min_mem_alignment = block, .opt_mem_alignment = 4096,
        };
    } else {
        file_refresh_limits(n);
    }
    n->limits.pdiscard_alignment = n->limits.pwrite_zeroes_alignment =
        MAX(block, n->limits.request_alignment);
}

/* ---- requests ----------------------------------------------------------- */

/* A device does not grow. */
static int device_pwrite(struct node *n, int64_t offset, int64_t bytes,
                         const void *buf, unsigned flags)
{
    return offset + bytes > node_length(n)
           ? -ENOSPC : file_pwrite(n, offset, bytes, buf, flags);
}

static bool is_whole(const struct node *n, int64_t offset, int64_t bytes)
{
    return !((offset | bytes) & (n->limits.pdiscard_alignment - 1));
}

static int do_fallocate(int fd, int mode, int64_t offset, int64_t bytes)
{
    int ret;

    do {
        ret = fallocate(fd, mode | FALLOC_FL_KEEP_SIZE, offset, bytes);
    } while (ret < 0 && errno == EINTR);
    if (ret == 0) {
        return 0;
    }
    return errno == EOPNOTSUPP || errno == ENODEV || errno == EINVAL ||
           errno == ESPIPE ? -ENOTSUP : -errno;
}

static int device_pwrite_zeroes(struct node *n, int64_t offset, int64_t bytes,
                                unsigned flags)
{
    struct file_state *s = n->state;
    int ret = -ENOTSUP;

    if (flags & BLK_NOWAIT) {
        return -EAGAIN;
    }
    if (offset + bytes > node_length(n)) {
        return -ENOSPC;
    }
    if (!is_whole(n, offset, bytes)) {
        return -ENOTSUP;
    }
    /* A hole reads as zeroes, and is made at once or not at all. */
    if (flags & (BLK_MAY_UNMAP | BLK_NO_FALLBACK)) {
        ret = do_fallocate(s->fd, FALLOC_FL_PUNCH_HOLE, offset, bytes);
    }
    if (ret == -ENOTSUP && !(flags & BLK_NO_FALLBACK)) {
        ret = do_fallocate(s->fd, FALLOC_FL_ZERO_RANGE, offset, bytes);
    }
    return ret;
}

static int device_pdiscard(struct node *n, int64_t offset, int64_t bytes)
{
    struct file_state *s = n->state;
    uint64_t range[2] = { offset, bytes };

    int ret = 0;

    if (!is_whole(n, offset, bytes)) {
        return -ENOTSUP;
    }
    if (ioctl(s->fd, BLKDISCARD, range) < 0) {
        ret = errno == EOPNOTSUPP || errno == ENOTTY || errno == EINVAL
              ? -ENOTSUP : -errno;
    }
    return file_count_discard(s, bytes, ret);
}

/* ---- size --------------------------------------------------------------- */

/* Whoever needs less is content with what there is. */
static int device_truncate(struct node *n, int64_t length, bool exact,
                           PreallocMode prealloc, struct error **errp)
{
    struct file_state *s = n->state;
    int64_t now = device_length(s->fd);

    if (prealloc != PREALLOC_MODE_OFF) {
        error_set(errp, "Preallocation mode '%s' unsupported for this device",
                  PreallocMode_str(prealloc));
        return -ENOTSUP;
    }
    if (now < 0) {
        error_set_errno(errp, -now, "Failed to inquire current device size");
        return now;
    }
    if (exact && length != now) {
        error_set(errp, "Cannot resize device files");
        return -ENOTSUP;
    }
    if (length > now) {
        error_set(errp, "Cannot grow device files");
        return -EINVAL;
    }
    atomic_store(&n->length_bytes, (now + 511) & ~INT64_C(511));
    return 0;
}

static bool device_activate(struct node *n, struct error **errp)
{
    struct file_state *s = n->state;

    return file_read_again(n, device_length(s->fd), errp);
}

const struct driver driver_host_device = {
    .name = "host_device",
    .type = BLOCKDEV_DRIVER_HOST_DEVICE,
    .state_size = sizeof(struct file_state),
    .is_protocol = true,
    .keeps_length = true,
    .strong_options = file_strong_options,
    .open = device_open,
    .close = file_close,
    .refresh_limits = device_refresh_limits,
    .check_perm = file_check_perm,
    .set_perm = file_set_perm,
    .abort_perm = file_abort_perm,
    .pread = file_pread,
    .pwrite = device_pwrite,
    .pwrite_zeroes = device_pwrite_zeroes,
    .pdiscard = device_pdiscard,
    .flush_to_disk = file_flush_to_disk,
    .truncate = device_truncate,
    .allocated_bytes = file_allocated_bytes,
    .specific_stats = file_specific_stats,
    .activate = device_activate,
    .reopen_options = file_reopen_options,
    .reopen_prepare = file_reopen_prepare,
    .reopen_activate = file_reopen_activate,
    .reopen_commit = file_reopen_commit,
    .reopen_abort = file_reopen_abort,
};
