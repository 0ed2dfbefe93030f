/* SPDX-License-Identifier: MIT */
/*
 * I/O, generic layer: what stands between whoever does I/O and a driver.
 *
 * Problem     Drivers are to be simple: they get checked, aligned, bounded
 *             requests.  Callers are to be simple too: any range, any length.
 * Invariants  I1  A driver sees only ranges that are multiples of
 *                 request_alignment and not longer than max_transfer.
 *             I2  A write that needs read-modify-write holds its aligned range
 *                 exclusively, every other write of a node with an alignment
 *                 holds its range shared: no write is lost to a padding.
 *             I3  Whatever may have changed the node's content marks the
 *                 bitmaps and raises write_generation after the driver is
 *                 done, also when it failed; only BLK_WRITE_UNCHANGED and a
 *                 request refused with -EAGAIN do not mark.
 *             I4  flushed_generation only grows, to a value write_generation
 *                 had before the flush that made it stable began.
 * Threads     Any; no lock held.  The graph below does not change meanwhile
 *             (block/root.h).
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include "bitmaps/dirty-bitmap.h"
#include "block/debug.h"
#include "block/io-hold.h"
#include "block/node-cor.h"
#include "block/io-priv.h"
#include "block/write-threshold.h"
#include "block/zeroes.h"

/* Flags that tell a driver something but ask nothing of it. */
enum {
    FLAGS_INFORMATION = BLK_WRITE_UNCHANGED | BLK_NOWAIT | BLK_REGISTERED_BUF,
};

static int64_t max_transfer(const struct node *n)
{
    int64_t max = n->limits.max_transfer;

    if (max <= 0 || max > BLK_MAX_REQUEST_BYTES) {
        max = BLK_MAX_REQUEST_BYTES;
    }
    return MAX(max & -(int64_t)io_alignment(n), io_alignment(n));
}

static void *bounce_alloc(const struct node *n, int64_t bytes)
{
    size_t align = MAX(n->limits.min_mem_alignment, 4096);

    return aligned_alloc(align, (bytes + align - 1) & -align);
}

/* ---- read --------------------------------------------------------------- */

static int driver_pread(struct node *n, int64_t offset, int64_t bytes,
                        void *buf, unsigned flags)
{
    struct node *filtered;

    if (G_LIKELY(n->driver->pread)) {
        return n->driver->pread(n, offset, bytes, buf, flags);
    }
    filtered = n->driver->is_filter ? io_filtered(n) : NULL;
    return filtered ? node_pread(filtered, offset, bytes, buf, flags)
                    : -ENOTSUP;
}

/* Block/debug.h: nothing is tried inline while there is a blkdebug. */
bool io_debug_defers(unsigned flags)
{
    return (flags & BLK_NOWAIT) && NODE_DEBUG_ACTIVE();
}

/* Read one partial block: [offset, offset + bytes) lies inside it. */
static int read_block_part(struct node *n, int64_t offset, int64_t bytes,
                           void *buf, unsigned flags)
{
    int64_t align = io_alignment(n);
    int64_t start = offset & -align;
    void *block = bounce_alloc(n, align);
    int ret;

    if (!block) {
        return -ENOMEM;
    }
    ret = driver_pread(n, start, align, block, flags);
    if (ret == 0) {
        memcpy(buf, (uint8_t *)block + (offset - start), bytes);
    }
    free(block);
    return ret;
}

/* Any alignment and length, inside the node but for its last block. */
static int read_split(struct node *n, int64_t offset, int64_t bytes,
                      uint8_t *buf, unsigned flags)
{
    int64_t align = io_alignment(n), max = max_transfer(n);
    int ret = 0;

    while (bytes > 0 && ret == 0) {
        int64_t head = offset & (align - 1);
        int64_t part;
        if (head || bytes < align) {
            part = MIN(bytes, align - head);
            ret = read_block_part(n, offset, part, buf, flags);
        } else {
            part = MIN(bytes & -align, max);
            ret = driver_pread(n, offset, part, buf, flags);
        }
        offset += part;
        buf += part;
        bytes -= part;
    }
    return ret;
}

int node_pread(struct node *n, int64_t offset, int64_t bytes, void *buf,
               unsigned flags)
{
    int64_t length, inside;
    int ret;

    if (G_UNLIKELY(offset < 0 || bytes < 0 || bytes > INT64_MAX - offset)) {
        return -EINVAL;
    }
    if (bytes == 0) {
        return 0;
    }
    if (io_debug_defers(flags)) {
        return -EAGAIN;
    }
    length = atomic_load_explicit(&n->length_bytes, memory_order_relaxed);
    inside = CLAMP(length - offset, 0, bytes);
    if (G_UNLIKELY(n->copy_on_read)) {
        ret = flags & BLK_NOWAIT ? -EAGAIN
              : node_copy_before_read(n, offset, inside);
        if (ret < 0) {
            return ret;
        }
    }
    if (G_LIKELY(inside == bytes &&
                 !((offset | bytes) & (io_alignment(n) - 1)) &&
                 bytes <= max_transfer(n))) {
        return driver_pread(n, offset, bytes, buf, flags);
    }
    ret = read_split(n, offset, inside, buf, flags);
    if (ret == 0 && inside < bytes) {
        memset((uint8_t *)buf + inside, 0, bytes - inside);
    }
    return ret;
}

/* ---- what all changes have in common ------------------------------------ */

int io_check_write(const struct node *n, int64_t offset, int64_t bytes)
{
    if (offset < 0 || bytes < 0 || bytes > BLK_MAX_LENGTH_BYTES ||
        offset > BLK_MAX_LENGTH_BYTES - bytes) {
        return -EINVAL;
    }
    if (n->read_only || n->inactive) {
        return -EPERM;
    }
    if (offset + bytes > node_length(n) && !n->driver->is_protocol &&
        !n->driver->is_filter && !n->driver->may_grow) {
        return -EIO;
    }
    return 0;
}

/* I2.  False: BLK_NOWAIT and it would wait. */
bool io_serialise(struct node *n, struct io_serial *s, int64_t offset,
                  int64_t bytes, unsigned flags)
{
    int64_t align = io_alignment(n);
    int64_t start = offset & -align;
    int64_t end = (offset + bytes + align - 1) & -align;
    bool unaligned = start != offset || end != offset + bytes;

    s->held = align > 1 || n->n_holders > 0;
    if (!s->held) {
        return true;
    }
    if (n->n_holders > 0 && io_is_held(n, start, end)) {
        s->held = false;
        return true;
    }
    if (flags & BLK_NOWAIT) {
        return !unaligned && range_lock_try(&n->serialising, &s->hold, start,
                                            end - start, false);
    }
    range_lock_acquire(&n->serialising, &s->hold, start, end - start,
                       unaligned);
    return true;
}

void io_serialise_end(struct node *n, struct io_serial *s)
{
    if (s->held) {
        range_lock_release(&n->serialising, &s->hold);
    }
}

static void raise_to(_Atomic int64_t *value, int64_t to)
{
    int64_t old = atomic_load_explicit(value, memory_order_relaxed);

    while (old < to && !atomic_compare_exchange_weak(value, &old, to)) {
    }
}

int io_finish_write(struct node *n, int64_t offset, int64_t bytes,
                    unsigned flags, int ret)
{
    if (ret == -EAGAIN && (flags & BLK_NOWAIT)) {
        return ret;
    }
    if (ret == 0) {
        if (G_UNLIKELY(offset + bytes > node_length(n))) {
            int64_t unit = MAX(io_alignment(n), 512);
            node_grow_length(n, (offset + bytes + unit - 1) & -unit);
        }
        raise_to(&n->wr_highest_offset, offset + bytes);
    }
    if (!(flags & BLK_WRITE_UNCHANGED)) {
        dirty_bitmaps_mark(n->bitmaps, offset, bytes);
    }
    atomic_fetch_add(&n->write_generation, 1);
    return ret;
}

/* Must BLK_FUA be made by a flush behind the request? */
bool io_fua_by_flush(const struct node *n, unsigned flags, unsigned supported)
{
    return (flags & BLK_FUA) && !(supported & BLK_FUA) && !n->cache_no_flush;
}

unsigned io_driver_flags(const struct node *n, unsigned flags,
                         unsigned supported)
{
    if (n->cache_no_flush) {
        flags &= ~BLK_FUA;
    }
    return flags & (supported | FLAGS_INFORMATION);
}

/* ---- write -------------------------------------------------------------- */

static int driver_pwrite(struct node *n, int64_t offset, int64_t bytes,
                         const void *buf, unsigned flags)
{
    struct node *filtered;

    if (G_LIKELY(n->driver->pwrite)) {
        return n->driver->pwrite(n, offset, bytes, buf,
                                 io_driver_flags(n, flags,
                                                 n->supported_write_flags));
    }
    filtered = n->driver->is_filter ? io_filtered(n) : NULL;
    return filtered ? node_pwrite(filtered, offset, bytes, buf, flags)
                    : -ENOTSUP;
}

/* The part of a block that is written begins or ends inside it. */
static void debug_rmw(struct node *n, bool head, bool tail, bool after)
{
    if (!NODE_DEBUG_ACTIVE()) {
        return;
    }
    if (head) {
        node_debug_event_at(n, after ? BLKDEBUG_EVENT_PWRITEV_RMW_AFTER_HEAD
                            : BLKDEBUG_EVENT_PWRITEV_RMW_HEAD, true);
    }
    if (tail) {
        node_debug_event_at(n, after ? BLKDEBUG_EVENT_PWRITEV_RMW_AFTER_TAIL
                            : BLKDEBUG_EVENT_PWRITEV_RMW_TAIL, true);
    }
}

/* Read-modify-write of one block; held exclusively (I2). */
static int write_block_part(struct node *n, int64_t offset, int64_t bytes,
                            const void *buf, unsigned flags)
{
    int64_t align = io_alignment(n);
    int64_t start = offset & -align;
    uint8_t *block = bounce_alloc(n, align);
    bool head = offset > start, tail = offset + bytes < start + align;
    int ret = 0;

    if (!block) {
        return -ENOMEM;
    }
    if (start < node_length(n)) {
        debug_rmw(n, head, tail, false);
        ret = driver_pread(n, start, align, block, 0);
        debug_rmw(n, head, tail, true);
    } else {
        memset(block, 0, align);
    }
    if (ret == 0) {
        memcpy(block + (offset - start), buf, bytes);
        ret = driver_pwrite(n, start, align, block, flags);
    }
    free(block);
    return ret;
}

int io_write_split(struct node *n, int64_t offset, int64_t bytes,
                   const uint8_t *buf, unsigned flags)
{
    int64_t align = io_alignment(n), max = max_transfer(n);
    int ret = 0;

    while (bytes > 0 && ret == 0) {
        int64_t head = offset & (align - 1);
        int64_t part;
        if (head || bytes < align) {
            part = MIN(bytes, align - head);
            ret = write_block_part(n, offset, part, buf, flags);
        } else {
            part = MIN(bytes & -align, max);
            ret = driver_pwrite(n, offset, part, buf, flags);
        }
        offset += part;
        buf += part;
        bytes -= part;
    }
    return ret;
}

/* Zeroes that the user wants found; not where the format would then not
 * compress, and not for a flag that is about how the data is stored. */
static bool is_zero_write(const struct node *n, const void *buf, int64_t bytes,
                          unsigned flags)
{
    return n->detect_zeroes && !(flags & BLK_COMPRESSED) &&
           buffer_is_zero(buf, bytes);
}

/* May the request be done in one driver call that can say -EAGAIN? */
static bool may_nowait(const struct node *n, int64_t bytes, unsigned flags)
{
    return bytes <= max_transfer(n) &&
           !io_fua_by_flush(n, flags, n->supported_write_flags);
}

int node_pwrite(struct node *n, int64_t offset, int64_t bytes, const void *buf,
                unsigned flags)
{
    struct io_serial serial;
    int ret = io_check_write(n, offset, bytes);

    if (ret < 0 || bytes == 0) {
        return ret;
    }
    if ((flags & BLK_COMPRESSED) && !n->driver->is_filter &&
        !(n->supported_write_flags & BLK_COMPRESSED)) {
        return -ENOTSUP;
    }
    if (is_zero_write(n, buf, bytes, flags)) {
        return node_pwrite_zeroes(n, offset, bytes, flags |
                                  (n->detect_zeroes_unmap ? BLK_MAY_UNMAP
                                                          : 0));
    }
    if ((flags & BLK_NOWAIT) && (io_debug_defers(flags) ||
                                 !may_nowait(n, bytes, flags))) {
        return -EAGAIN;
    }
    if (!io_serialise(n, &serial, offset, bytes, flags)) {
        return -EAGAIN;
    }
    write_threshold_check(n, offset + bytes);
    io_debug_event(n, BLKDEBUG_EVENT_PWRITEV);
    if (G_LIKELY(!((offset | bytes) & (io_alignment(n) - 1)) &&
                 bytes <= max_transfer(n))) {
        ret = driver_pwrite(n, offset, bytes, buf, flags);
    } else {
        ret = io_write_split(n, offset, bytes, buf, flags);
    }
    io_debug_event(n, BLKDEBUG_EVENT_PWRITEV_DONE);
    ret = io_finish_write(n, offset, bytes, flags, ret);
    io_serialise_end(n, &serial);
    if (ret == 0 && n->driver->pwrite &&
        io_fua_by_flush(n, flags, n->supported_write_flags)) {
        ret = node_flush(n);
    }
    return ret;
}

/* ---- flush -------------------------------------------------------------- */

static int flush_own_disk(struct node *n)
{
    uint64_t now = atomic_load(&n->write_generation);
    uint64_t done = atomic_load(&n->flushed_generation);
    int ret;

    if (done >= now || n->cache_no_flush || !n->driver->flush_to_disk) {
        return 0;
    }
    ret = n->driver->flush_to_disk(n);
    if (ret < 0) {
        return ret;
    }
    while (done < now && !atomic_compare_exchange_weak(&n->flushed_generation,
                                                       &done, now)) {
    }
    return 0;
}

/* One that has no disk of its own was written since the last flush, too:
 * FLUSH_TO_DISK is for those only. */
static void debug_flush_to_disk(struct node *n)
{
    uint64_t now = atomic_load(&n->write_generation);

    if (now > atomic_load(&n->flushed_generation) && !n->cache_no_flush) {
        node_debug_event(n, BLKDEBUG_EVENT_FLUSH_TO_DISK);
        if (!n->driver->flush_to_disk) {
            atomic_store(&n->flushed_generation, now);
        }
    }
}

/* Somebody above may come or go meanwhile. */
static bool child_is_written(const struct child *c)
{
    return __atomic_load_n(&c->perm, __ATOMIC_RELAXED) &
           (PERM_WRITE | PERM_WRITE_UNCHANGED);
}

void node_begin_flush(struct node *n)
{
    if (n->driver->begin_flush && !n->cache_no_flush && !n->cache_direct) {
        n->driver->begin_flush(n);
    }
    for (const struct child *c = n->children; c; c = c->next_sibling) {
        if (child_is_written(c) &&
            (!n->driver->is_filter || (c->role & ROLE_FILTERED))) {
            node_begin_flush(c->node);
        }
    }
}

int node_flush(struct node *n)
{
    int ret = 0, child_ret;

    if (n->inactive) {
        return 0;               /* what was written was flushed before */
    }
    NODE_DEBUG(n, FLUSH_TO_OS);
    if (n->driver->flush_to_os) {
        ret = n->driver->flush_to_os(n);
    }
    if (ret == 0) {
        if (NODE_DEBUG_ACTIVE()) {
            debug_flush_to_disk(n);
        }
        ret = flush_own_disk(n);
    }
    if (ret < 0 || n->driver->flushes_children) {
        return ret;
    }
    for (const struct child *c = n->children; c; c = c->next_sibling) {
        if (n->driver->is_filter && !(c->role & ROLE_FILTERED)) {
            continue;       /* a job's target is not the guest's disk */
        }
        if (child_is_written(c)) {
            child_ret = node_flush(c->node);
            ret = ret ? ret : child_ret;
        }
    }
    return ret;
}
