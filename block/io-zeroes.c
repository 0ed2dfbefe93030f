/* SPDX-License-Identifier: MIT */
/*
 * I/O, generic layer: zero writes, discard and size; invariants in io.c.
 */
#include <errno.h>
#include <inttypes.h>
#include "base/control.h"
#include "bitmaps/dirty-bitmap.h"
#include "block/io-priv.h"
#include "block/write-threshold.h"
#include "block/zeroes.h"

struct node *io_filtered(const struct node *n)
{
    for (const struct child *c = n->children; c; c = c->next_sibling) {
        if (c->role & ROLE_FILTERED) {
            return c->node;
        }
    }
    return NULL;
}

/* ---- zero writes -------------------------------------------------------- */

static int driver_pwrite_zeroes(struct node *n, int64_t offset, int64_t bytes,
                                unsigned flags)
{
    struct node *filtered;

    if (n->driver->pwrite_zeroes) {
        return n->driver->pwrite_zeroes(n, offset, bytes,
                                        io_driver_flags(n, flags,
                                                n->supported_zero_flags));
    }
    filtered = n->driver->is_filter && !n->driver->pwrite ? io_filtered(n)
                                                          : NULL;
    return filtered ? node_pwrite_zeroes(filtered, offset, bytes, flags)
                    : -ENOTSUP;
}

/* From zeroes in memory; any alignment, range serialised. */
static int write_zero_buffers(struct node *n, int64_t offset, int64_t bytes,
                              unsigned flags)
{
    int ret = 0;

    flags &= ~(unsigned)(BLK_MAY_UNMAP | BLK_NO_FALLBACK);
    while (bytes > 0 && ret == 0) {
        int64_t part = MIN(bytes, ZEROES_BYTES - (offset % ZEROES_BYTES));
        ret = io_write_split(n, offset, part, zeroes_buffer, flags);
        offset += part;
        bytes -= part;
    }
    return ret;
}

/* Up to the next boundary of ALIGN, or as many whole ones as MAX allows. */
static int64_t next_piece(int64_t offset, int64_t bytes, int64_t align,
                          int64_t max)
{
    int64_t head = offset % align;

    if (head) {
        return MIN(bytes, align - head);
    }
    if (bytes < align) {
        return bytes;
    }
    return MIN(bytes, max) / align * align;
}

static int zeroes_split(struct node *n, int64_t offset, int64_t bytes,
                        unsigned flags)
{
    int64_t align = MAX(n->limits.pwrite_zeroes_alignment, io_alignment(n));
    int64_t max = n->limits.max_pwrite_zeroes;
    int ret = 0;

    if (max <= 0 || max > BLK_MAX_REQUEST_BYTES) {
        max = BLK_MAX_REQUEST_BYTES;
    }
    max = MAX(max, align);
    while (bytes > 0 && ret == 0) {
        int64_t part = next_piece(offset, bytes, align, max);
        bool whole = !((offset | part) & (io_alignment(n) - 1));
        ret = whole ? driver_pwrite_zeroes(n, offset, part, flags) : -ENOTSUP;
        if (ret == -ENOTSUP && !(flags & BLK_NO_FALLBACK)) {
            ret = flags & BLK_NOWAIT ? -EAGAIN
                  : write_zero_buffers(n, offset, part, flags);
        }
        offset += part;
        bytes -= part;
    }
    return ret;
}

int node_pwrite_zeroes(struct node *n, int64_t offset, int64_t bytes,
                       unsigned flags)
{
    struct io_serial serial;
    bool passed_on = n->driver->is_filter && !n->driver->pwrite &&
                     !n->driver->pwrite_zeroes;
    unsigned supported = n->supported_zero_flags & n->supported_write_flags;
    int ret = io_check_write(n, offset, bytes);

    if (ret < 0 || bytes == 0) {
        return ret;
    }
    /* Others hand it down: it is the file's option that counts. */
    if (n->driver->is_protocol && !n->discard_unmap) {
        flags &= ~(unsigned)BLK_MAY_UNMAP;
    }
    /* Pieces of one request cannot be taken back. */
    if ((flags & BLK_NOWAIT) &&
        (io_debug_defers(flags) || io_fua_by_flush(n, flags, supported) ||
         next_piece(offset, bytes,
                    MAX(n->limits.pwrite_zeroes_alignment, io_alignment(n)),
                    n->limits.max_pwrite_zeroes ? n->limits.max_pwrite_zeroes
                                                : BLK_MAX_REQUEST_BYTES)
         < bytes)) {
        return -EAGAIN;
    }
    if (!io_serialise(n, &serial, offset, bytes, flags)) {
        return -EAGAIN;
    }
    write_threshold_check(n, offset + bytes);
    io_debug_event(n, BLKDEBUG_EVENT_PWRITEV_ZERO);
    ret = zeroes_split(n, offset, bytes, flags);
    io_debug_event(n, BLKDEBUG_EVENT_PWRITEV_DONE);
    ret = io_finish_write(n, offset, bytes, flags, ret);
    io_serialise_end(n, &serial);
    if (ret == 0 && !passed_on &&
        io_fua_by_flush(n, flags, supported)) {
        ret = node_flush(n);
    }
    return ret;
}

/* ---- discard ------------------------------------------------------------ */

static int driver_pdiscard(struct node *n, int64_t offset, int64_t bytes)
{
    struct node *filtered;

    if (n->driver->pdiscard) {
        return n->driver->pdiscard(n, offset, bytes);
    }
    filtered = n->driver->is_filter ? io_filtered(n) : NULL;
    return filtered ? node_pdiscard(filtered, offset, bytes) : 0;
}

static int discard_split(struct node *n, int64_t offset, int64_t end)
{
    int64_t align = MAX(n->limits.pdiscard_alignment, io_alignment(n));
    int64_t max = n->limits.max_pdiscard;
    int ret = 0;

    if (max <= 0 || max > BLK_MAX_REQUEST_BYTES) {
        max = BLK_MAX_REQUEST_BYTES;
    }
    max = MAX(max, align);
    while (offset < end && ret == 0) {
        int64_t part = next_piece(offset, end - offset, align, max);
        ret = driver_pdiscard(n, offset, part);
        /* Advice that a driver cannot take. */
        ret = ret == -ENOTSUP ? 0 : ret;
        offset += part;
    }
    return ret;
}

int node_pdiscard(struct node *n, int64_t offset, int64_t bytes)
{
    struct io_serial serial;
    int64_t align = io_alignment(n), start, end;
    int ret = io_check_write(n, offset, bytes);

    if (ret < 0 || bytes == 0) {
        return ret;
    }
    if (!n->discard_unmap) {
        return 0;
    }
    /* Advice for whole blocks; the parts at the ends stay. */
    start = (offset + align - 1) & -align;
    end = MIN(offset + bytes, node_length(n));
    end = end == node_length(n) ? end : end & -align;
    if (start >= end) {
        return 0;
    }
    io_serialise(n, &serial, start, end - start, 0);
    write_threshold_check(n, end);
    ret = discard_split(n, start, end);
    /* As io_finish_write(), but a discard makes nothing longer or higher. */
    dirty_bitmaps_mark(n->bitmaps, start, end - start);
    atomic_fetch_add(&n->write_generation, 1);
    io_serialise_end(n, &serial);
    return ret;
}

/* ---- size --------------------------------------------------------------- */

void node_grow_length(struct node *n, int64_t length)
{
    int64_t old = atomic_load_explicit(&n->length_bytes, memory_order_relaxed);

    while (old < length &&
           !atomic_compare_exchange_weak(&n->length_bytes, &old, length)) {
    }
    if (old < length) {
        dirty_bitmaps_grow(n->bitmaps, length);
    }
}

/* What shows behind OLD_LENGTH must be zeroes, not a longer backing file. */
static int hide_backing(struct node *n, int64_t old_length, int64_t length)
{
    if (!n->backing || length <= old_length ||
        node_length(n->backing->node) <= old_length) {
        return 0;
    }
    return zeroes_split(n, old_length,
                        MIN(length, node_length(n->backing->node)) - old_length,
                        BLK_WRITE_UNCHANGED);
}

static bool check_new_length(struct node *n, int64_t length,
                             struct error **errp)
{
    if (length < 0) {
        error_set(errp, "Image size cannot be negative");
        return false;
    }
    if (length > BLK_MAX_LENGTH_BYTES) {
        error_set(errp, "offset(%" PRId64 ") exceeds maximum(%" PRId64 ")",
                  length, BLK_MAX_LENGTH_BYTES);
        return false;
    }
    if (n->read_only) {
        error_set(errp, "Image is read-only");
        return false;
    }
    return true;
}

bool node_length_changed(struct node *n, int64_t length, struct error **errp)
{
    bool ok;

    atomic_store(&n->length_bytes, length);
    ok = dirty_bitmaps_resize(n->bitmaps, length, errp);
    for (const struct child *c = n->parents; c; c = c->next_parent) {
        struct node *p = c->parent;

        if (p && p->driver->is_filter && (c->role & ROLE_FILTERED)) {
            ok = node_length_changed(p, length, ok ? errp : NULL) && ok;
        } else if (p && p->driver->child_resized && p->file == c) {
            p->driver->child_resized(p);
            ok = node_length_changed(p, node_length(p), ok ? errp : NULL) &&
                 ok;
        }
    }
    return ok;
}

bool node_refresh_length(struct node *n, struct error **errp)
{
    bool is_raw = n->driver->child_resized && n->file;
    struct node *below = NULL;
    int64_t length = node_length(n);

    control_assert();
    if (is_raw) {
        below = n->file->node;
    } else if (n->driver->is_filter && !n->driver->truncate) {
        below = io_filtered(n);
    }
    if (!below) {
        return true;
    }
    if (!node_refresh_length(below, errp)) {
        return false;
    }
    if (is_raw) {
        n->driver->child_resized(n);
    } else {
        atomic_store(&n->length_bytes, node_length(below));
    }
    return node_length(n) == length ||
           node_length_changed(n, node_length(n), errp);
}

int node_truncate_child(struct node *n, int64_t length, bool exact,
                        PreallocMode prealloc, struct error **errp)
{
    struct node *filtered = n->driver->is_filter ? io_filtered(n) : NULL;
    int ret;

    if (n->driver->truncate) {
        ret = n->driver->truncate(n, length, exact, prealloc, errp);
    } else if (filtered) {
        ret = node_truncate_child(filtered, length, exact, prealloc, errp);
        if (ret >= 0) {
            atomic_store(&n->length_bytes, node_length(filtered));
        }
    } else {
        error_set(errp, "Image format driver does not support resize");
        return -ENOTSUP;
    }
    if (ret < 0) {
        return ret;
    }
    atomic_fetch_add(&n->write_generation, 1);
    return dirty_bitmaps_resize(n->bitmaps, node_length(n), errp) ? 0
                                                                  : -ENOMEM;
}

bool node_truncate(struct node *n, int64_t length, PreallocMode prealloc,
                   struct error **errp)
{
    int64_t old_length = node_length(n);
    struct node *filtered = io_filtered(n);
    bool ok = false;
    int ret = 0;

    control_assert();
    if (!check_new_length(n, length, errp)) {
        return false;
    }
    if (!n->driver->truncate) {
        if (n->driver->is_filter && filtered) {
            return node_truncate(filtered, length, prealloc, errp);
        }
        error_set(errp, "Image format driver does not support resize");
        return false;
    }
    CONTROL_YIELD {
        ok = n->driver->truncate(n, length, false, prealloc, errp) >= 0;
        if (ok) {
            ret = hide_backing(n, old_length, length);
        }
    }
    if (!ok) {
        return false;
    }
    atomic_fetch_add(&n->write_generation, 1);
    /* The driver may have said what it made of it (rounding). */
    if (n->driver->keeps_length || node_length(n) != old_length) {
        length = node_length(n);
    }
    ok = node_length_changed(n, length, errp);
    node_notify_resized(n);
    if (!ok) {
        return false;
    }
    if (ret < 0) {
        error_set_errno(errp, -ret, "Failed to zero the new area");
        return false;
    }
    return true;
}
