/* SPDX-License-Identifier: MIT */
/* Copier: see copier.h.  Here: how the data of a range moves. */
#include "block/copier-priv.h"

#include <errno.h>
#include <stdlib.h>
#include "block/cancel.h"
#include "block/zeroes.h"

struct buffer {
    struct buffer *next;
};

/* ---- buffers ------------------------------------------------------------ */

/* Kept, not freed: mapping and zeroing them anew costs as much as a copy. */
static void *buffer_get(struct copier *c)
{
    struct buffer *b;

    lock_acquire(&c->lock);
    b = c->free_buffers;
    if (b) {
        c->free_buffers = b->next;
    }
    lock_release(&c->lock);
    return b ? (void *)b : aligned_alloc(4096, c->buffer_bytes);
}

static void buffer_put(struct copier *c, void *buf)
{
    struct buffer *b = buf;

    LOCK_GUARD(&c->lock);
    b->next = c->free_buffers;
    c->free_buffers = b;
}

void copier_free_buffers(struct copier *c)
{
    while (c->free_buffers) {
        struct buffer *b = c->free_buffers;
        c->free_buffers = b->next;
        free(b);
    }
}

/* ---- data, and zeroes ---------------------------------------------------- */

static int write_zeroes(struct copier *c, int64_t offset, int64_t bytes)
{
    unsigned flags = c->o.write_flags & ~BLK_COMPRESSED;

    return node_pwrite_zeroes(c->o.target->node, offset, bytes,
                              c->o.keep_zeroes ? flags
                                               : flags | BLK_MAY_UNMAP);
}

/* Write BUF, but what is zero in whole pieces as zeroes. */
static int write_run(struct copier *c, int64_t offset, int64_t bytes,
                     const uint8_t *buf)
{
    struct node *target = c->o.target->node;
    int64_t unit = c->piece_bytes, done = 0;
    int ret = 0;

    while (done < bytes && ret == 0) {
        bool zero = buffer_is_zero(buf + done, MIN(unit, bytes - done));
        int64_t n = MIN(unit, bytes - done);
        while (done + n < bytes &&
               buffer_is_zero(buf + done + n,
                              MIN(unit, bytes - done - n)) == zero) {
            n += MIN(unit, bytes - done - n);
        }
        ret = zero ? write_zeroes(c, offset + done, n)
                   : node_pwrite(target, offset + done, n, buf + done,
                                 c->o.write_flags | BLK_REGISTERED_BUF);
        done += n;
    }
    return ret;
}

/* Without a buffer.  What failed is done again with one: then it is known on
 * which side. */
static bool copy_in_kernel(struct copier *c, int64_t offset, int64_t bytes)
{
    int ret;

    if (__atomic_load_n(&c->no_copy_range, __ATOMIC_RELAXED)) {
        return false;
    }
    ret = node_copy_range(c->o.source->node, offset, c->o.target->node, offset,
                          bytes, c->o.write_flags);
    if (ret == -ENOTSUP) {
        __atomic_store_n(&c->no_copy_range, true, __ATOMIC_RELAXED);
    }
    return ret == 0;
}

static int copy_data(struct copier *c, int64_t offset, int64_t bytes,
                     struct copier_result *result)
{
    struct cancel_loan loan;
    void *buf;
    int ret;

    if (copy_in_kernel(c, offset, bytes)) {
        return 0;
    }
    buf = buffer_get(c);
    if (!buf) {
        return -ENOMEM;
    }
    cancel_lend(&loan, buf, c->buffer_bytes);
    ret = node_pread(c->o.source->node, offset, bytes, buf,
                     BLK_REGISTERED_BUF);
    if (ret < 0) {
        result->is_read = true;
    }
    if (!cancel_take_back(&loan)) {
        return ret < 0 ? ret : -ECANCELED;
    }
    if (ret == 0) {
        ret = write_run(c, offset, bytes, buf);
    }
    buffer_put(c, buf);
    return ret;
}

/* ---- which is which ----------------------------------------------------- */

/* What was asked last: one answer serves several questions. */
struct probe {
    int64_t start, end;
    bool zero;
};

static bool zero_at(struct copier *c, struct probe *p, int64_t at, int64_t end)
{
    struct block_status st;

    if (at >= p->start && at < p->end) {
        return p->zero;
    }
    p->start = at;
    if (node_block_status_above(c->o.source->node, NULL, true, at, end - at,
                                &st) < 0 || st.bytes == 0) {
        p->end = end;           /* if it is an error, reading will tell */
        p->zero = false;
    } else {
        p->end = at + st.bytes;
        p->zero = st.flags & STATUS_ZERO;
    }
    return p->zero;
}

/* Bytes of whole pieces at OFFSET (aligned) that are zero. */
static int64_t zero_run(struct copier *c, struct probe *p, int64_t offset,
                        int64_t end)
{
    int64_t at = offset;

    while (at < end && zero_at(c, p, at, end)) {
        at = MIN(p->end, end);
    }
    return at >= end ? end - offset : (at - offset) & -c->piece_bytes;
}

/* Bytes of whole pieces at OFFSET that are to be read: zeroes shorter than a
 * piece are. */
static int64_t data_run(struct copier *c, struct probe *p, int64_t offset,
                        int64_t end)
{
    int64_t unit = c->piece_bytes, at = offset + unit;

    while (at < end && zero_run(c, p, at, MIN(end, at + unit)) == 0) {
        /* All that the last answer covers is data. */
        at = p->zero ? at + unit : MAX(at + unit, p->end & -unit);
    }
    return MIN(at, end) - offset;
}

/* Of the N bytes of data at 0: those of the first extent.  A header is what is
 * likeliest to be refused (raw.c), and takes no more down with it. */
static int64_t first_run(struct copier *c, int64_t n)
{
    int64_t unit = c->o.cluster_bytes;
    struct probe p = { 0 };

    zero_at(c, &p, 0, n);
    return MIN(n, MAX(unit, p.end & -unit));
}

int64_t copier_zero_run(struct copier *c, int64_t offset, int64_t end)
{
    struct probe p = { 0 };

    return c->o.move ? 0 : zero_run(c, &p, offset, MIN(end, c->o.length));
}

/* ---- one range ---------------------------------------------------------- */

int copier_move_run(struct copier *c, int64_t *at, int64_t end,
                    struct copier_result *result)
{
    struct probe p = { 0 };
    int ret = 0;

    if (c->o.move) {
        ret = c->o.move(c->o.move_opaque, *at, end - *at, result);
        result->failed_end = end;
        *at = ret < 0 ? *at : end;
        return ret;
    }
    while (*at < end) {
        int64_t offset = *at, n = zero_run(c, &p, offset, end);
        if (n > 0) {
            ret = write_zeroes(c, offset, n);
        } else {
            int64_t most = MIN(end, offset + c->buffer_bytes);
            n = data_run(c, &p, offset, most);
            if (c->o.past_errors && offset == 0) {
                n = first_run(c, n);
            }
            ret = copy_data(c, offset, n, result);
        }
        if (ret < 0) {
            result->failed_end = offset + n;
            break;
        }
        *at += n;
    }
    return ret;
}
