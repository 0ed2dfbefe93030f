/* SPDX-License-Identifier: MIT */
/*
 * File driver: requests.  What a file system does not support is asked once
 * and remembered.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>
#include <linux/falloc.h>
#include "block/file-priv.h"

enum { BOUNCE_BYTES = 1 << 20 };

static bool flag_get(const bool *flag)
{
    return __atomic_load_n(flag, __ATOMIC_RELAXED);
}

static void flag_set(bool *flag)
{
    __atomic_store_n(flag, true, __ATOMIC_RELAXED);
}

static bool is_unsupported(int err)
{
    return err == EOPNOTSUPP || err == ENOSYS || err == EINVAL ||
           err == ENOTTY;
}

/* ---- read --------------------------------------------------------------- */

/* All of it; what is behind the end of the file reads as zeroes. */
static int pread_full(int fd, int64_t offset, int64_t bytes, uint8_t *buf)
{
    while (bytes > 0) {
        ssize_t got = pread(fd, buf, bytes, offset);
        if (G_UNLIKELY(got < 0)) {
            if (errno == EINTR) {
                continue;
            }
            return -errno;
        }
        if (got == 0) {
            memset(buf, 0, bytes);
            return 0;
        }
        offset += got;
        buf += got;
        bytes -= got;
    }
    return 0;
}

static bool is_aligned(const struct node *n, const void *buf)
{
    return ((uintptr_t)buf & (n->limits.min_mem_alignment - 1)) == 0;
}

static int pread_bounced(struct node *n, int64_t offset, int64_t bytes,
                         uint8_t *buf)
{
    struct file_state *s = n->state;
    int64_t size = MIN(bytes, BOUNCE_BYTES);
    void *bounce = aligned_alloc(4096, (size + 4095) & -4096);
    int ret = bounce ? 0 : -ENOMEM;

    while (bytes > 0 && ret == 0) {
        int64_t part = MIN(bytes, size);
        ret = pread_full(s->fd, offset, part, bounce);
        if (ret == 0) {
            memcpy(buf, bounce, part);
        }
        offset += part;
        buf += part;
        bytes -= part;
    }
    free(bounce);
    return ret;
}

/* From the page cache, or -EAGAIN. */
static int pread_nowait(struct node *n, int64_t offset, int64_t bytes,
                        void *buf)
{
    struct file_state *s = n->state;
    struct iovec iov = { .iov_base = buf, .iov_len = bytes };
    ssize_t got;

    if (s->direct) {
        return -EAGAIN;
    }
    if (!flag_get(&s->no_nowait)) {
        got = preadv2(s->fd, &iov, 1, offset, RWF_NOWAIT);
        if (G_LIKELY(got == bytes)) {
            return 0;
        }
        if (got >= 0 || errno == EAGAIN || errno == EINTR) {
            return -EAGAIN;
        }
        if (errno != EOPNOTSUPP && errno != ENOSYS) {
            return -errno;
        }
        flag_set(&s->no_nowait);
    }
    return pread_full(s->fd, offset, bytes, buf);
}

int file_pread(struct node *n, int64_t offset, int64_t bytes, void *buf,
               unsigned flags)
{
    struct file_state *s = n->state;

    if (flags & BLK_NOWAIT) {
        return pread_nowait(n, offset, bytes, buf);
    }
    if (s->direct && !is_aligned(n, buf)) {
        return pread_bounced(n, offset, bytes, buf);
    }
    return pread_full(s->fd, offset, bytes, buf);
}

/* ---- write -------------------------------------------------------------- */

static ssize_t pwrite_some(struct file_state *s, int64_t offset, int64_t bytes,
                           const void *buf, bool *sync_behind)
{
    struct iovec iov = { .iov_base = (void *)buf, .iov_len = bytes };
    ssize_t done;

    if (!*sync_behind) {
        return pwrite(s->fd, buf, bytes, offset);
    }
    if (flag_get(&s->no_dsync)) {
        return pwrite(s->fd, buf, bytes, offset);
    }
    done = pwritev2(s->fd, &iov, 1, offset, RWF_DSYNC);
    if (done >= 0) {
        *sync_behind = done < bytes;
    } else if (errno == EOPNOTSUPP || errno == ENOSYS) {
        flag_set(&s->no_dsync);
        return pwrite(s->fd, buf, bytes, offset);
    }
    return done;
}

static int pwrite_full(struct file_state *s, int64_t offset, int64_t bytes,
                       const uint8_t *buf, bool fua)
{
    bool sync_behind = fua;

    while (bytes > 0) {
        ssize_t done = pwrite_some(s, offset, bytes, buf, &sync_behind);
        if (G_UNLIKELY(done <= 0)) {
            if (done < 0 && errno == EINTR) {
                continue;
            }
            return done < 0 ? -errno : -ENOSPC;
        }
        offset += done;
        buf += done;
        bytes -= done;
    }
    return sync_behind && fdatasync(s->fd) < 0 ? -errno : 0;
}

static int pwrite_bounced(struct node *n, int64_t offset, int64_t bytes,
                          const uint8_t *buf, bool fua)
{
    struct file_state *s = n->state;
    int64_t size = MIN(bytes, BOUNCE_BYTES);
    void *bounce = aligned_alloc(4096, (size + 4095) & -4096);
    int ret = bounce ? 0 : -ENOMEM;

    while (bytes > 0 && ret == 0) {
        int64_t part = MIN(bytes, size);
        memcpy(bounce, buf, part);
        ret = pwrite_full(s, offset, part, bounce, fua);
        offset += part;
        buf += part;
        bytes -= part;
    }
    free(bounce);
    return ret;
}

int file_pwrite(struct node *n, int64_t offset, int64_t bytes, const void *buf,
                unsigned flags)
{
    struct file_state *s = n->state;
    bool fua = flags & BLK_FUA;

    /* Into the page cache is quick; to the disk is not. */
    if ((flags & BLK_NOWAIT) && (s->direct || fua)) {
        return -EAGAIN;
    }
    if (s->direct && !is_aligned(n, buf)) {
        return pwrite_bounced(n, offset, bytes, buf, fua);
    }
    return pwrite_full(s, offset, bytes, buf, fua);
}

/* ---- zeroes and discard ------------------------------------------------- */

/* fallocate() of one MODE, -ENOTSUP once *UNSUPPORTED. */
static int do_fallocate(int fd, int mode, int64_t offset, int64_t bytes,
                        bool *unsupported)
{
    int ret;

    if (flag_get(unsupported)) {
        return -ENOTSUP;
    }
    do {
        ret = fallocate(fd, mode, offset, bytes);
    } while (ret < 0 && errno == EINTR);
    if (ret == 0) {
        return 0;
    }
    if (is_unsupported(errno) || errno == EPERM) {
        flag_set(unsupported);
        return -ENOTSUP;
    }
    return -errno;
}

/* A hole does not make the file longer: its last byte does.  (ftruncate()
 * could cut off what another request appends at this moment.) */
static int extend_to(struct file_state *s, int64_t end)
{
    struct stat st;
    int ret;

    if (fstat(s->fd, &st) < 0) {
        return -errno;
    }
    if (st.st_size >= end) {
        return 0;
    }
    ret = do_fallocate(s->fd, 0, end - 1, 1, &s->no_fallocate);
    if (ret == -ENOTSUP && pwrite(s->fd, "", 1, end - 1) == 1) {
        ret = 0;
    }
    return ret;
}

static int punch(struct file_state *s, int64_t offset, int64_t bytes)
{
    return do_fallocate(s->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                        offset, bytes, &s->no_punch_hole);
}

static int zero_unmapped(struct file_state *s, int64_t offset, int64_t bytes)
{
    int ret = punch(s, offset, bytes);

    return ret < 0 ? ret : extend_to(s, offset + bytes);
}

static int zero_allocated(struct file_state *s, int64_t offset, int64_t bytes)
{
    int ret = do_fallocate(s->fd, FALLOC_FL_ZERO_RANGE, offset, bytes,
                           &s->no_zero_range);

    if (ret == -ENOTSUP) {
        /* Free, then allocate: what it was reads as zeroes already then. */
        ret = punch(s, offset, bytes);
        if (ret == 0) {
            ret = do_fallocate(s->fd, 0, offset, bytes,
                               &s->no_fallocate);
            ret = ret == -ENOTSUP ? extend_to(s, offset + bytes) : ret;
        }
    }
    return ret;
}

/* Not longer than the file really is: the node's length is rounded up. */
static int64_t clip_to_file(const struct file_state *s, int64_t end)
{
    struct stat st;

    if (fstat(s->fd, &st) == 0 && end > st.st_size &&
        end - st.st_size < 512) {
        return st.st_size;
    }
    return end;
}

int file_pwrite_zeroes(struct node *n, int64_t offset, int64_t bytes,
                       unsigned flags)
{
    struct file_state *s = n->state;
    int ret = -ENOTSUP;

    if (flags & BLK_NOWAIT) {
        return -EAGAIN;
    }
    if (offset + bytes == node_length(n)) {
        bytes = clip_to_file(s, offset + bytes) - offset;
        if (bytes <= 0) {
            return 0;
        }
    }
    if (flags & BLK_MAY_UNMAP) {
        ret = zero_unmapped(s, offset, bytes);
    }
    if (ret == -ENOTSUP) {
        ret = zero_allocated(s, offset, bytes);
    }
    file_holes_punched(&s->holes);
    return ret;
}

int file_pdiscard(struct node *n, int64_t offset, int64_t bytes)
{
    struct file_state *s = n->state;
    int ret;

    ret = punch(s, offset, bytes);
    file_holes_punched(&s->holes);
    return file_count_discard(s, bytes, ret);
}

int file_count_discard(struct file_state *s, int64_t bytes, int ret)
{
    if (ret == 0) {
        atomic_fetch_add_explicit(&s->n_discards_ok, 1, memory_order_relaxed);
        atomic_fetch_add_explicit(&s->discarded_bytes, bytes,
                                  memory_order_relaxed);
    } else {
        atomic_fetch_add_explicit(&s->n_discards_failed, 1,
                                  memory_order_relaxed);
    }
    return ret;
}

BlockStatsSpecific *file_specific_stats(struct node *n)
{
    struct file_state *s = n->state;
    BlockStatsSpecific *stats = BlockStatsSpecific_new0();
    /* A host device's numbers are the same type in the same place. */
    BlockStatsSpecificFile *f = &stats->u.file;

    stats->driver = n->driver->type;
    f->discard_nb_ok = atomic_load(&s->n_discards_ok);
    f->discard_nb_failed = atomic_load(&s->n_discards_failed);
    f->discard_bytes_ok = atomic_load(&s->discarded_bytes);
    return stats;
}

/* ---- flush, copy -------------------------------------------------------- */

/* Errors are fdatasync's to tell. */
void file_begin_flush(struct node *n)
{
    struct file_state *s = n->state;

    sync_file_range(s->fd, 0, 0, SYNC_FILE_RANGE_WRITE);
}

int file_flush_to_disk(struct node *n)
{
    struct file_state *s = n->state;
    int err = __atomic_load_n(&s->flush_error, __ATOMIC_RELAXED);

    if (err) {
        return -err;
    }
    if (fdatasync(s->fd) < 0) {
        err = errno;
        /* The kernel drops pages it failed to write and says so once. */
        if (err != ENOSPC && err != EDQUOT && err != EINTR) {
            __atomic_store_n(&s->flush_error, err, __ATOMIC_RELAXED);
        }
        return -err;
    }
    return 0;
}

int file_copy_range(struct node *src, int64_t src_offset, struct node *dst,
                    int64_t dst_offset, int64_t bytes, unsigned flags)
{
    struct file_state *from = src->state, *to = dst->state;

    while (bytes > 0) {
        off_t in = src_offset, out = dst_offset;
        ssize_t done = copy_file_range(from->fd, &in, to->fd, &out, bytes, 0);
        if (done < 0 && errno == EINTR) {
            continue;
        }
        if (done < 0) {
            return is_unsupported(errno) || errno == EXDEV || errno == EBADF ||
                   errno == ETXTBSY ? -ENOTSUP : -errno;
        }
        if (done == 0) {
            return -ENOTSUP;    /* the source file ends; buffers can do it */
        }
        src_offset += done;
        dst_offset += done;
        bytes -= done;
    }
    return flags & BLK_FUA && fdatasync(to->fd) < 0 ? -errno : 0;
}
