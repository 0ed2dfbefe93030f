/* SPDX-License-Identifier: MIT */
/* What the files of the generic I/O layer share. */
#pragma once

#include "block/debug.h"

/* A write's place in the serialising range lock (io.c, I2). */
struct io_serial {
    struct range_hold hold;
    bool held;
};

static inline uint32_t io_alignment(const struct node *n)
{
    return n->limits.request_alignment ? n->limits.request_alignment : 1;
}

/* The filtered child's node; any thread below a root, unlike
 * node_filtered(). */
struct node *io_filtered(const struct node *n);

/* N itself, a blkdebug, sees EVENT. */
static inline void io_debug_event(struct node *n, BlkdebugEvent event)
{
    if (NODE_DEBUG_ACTIVE()) {
        node_debug_event_at(n, event, false);
    }
}

/* Is a request with FLAGS to be made again by a worker? */
bool io_debug_defers(unsigned flags);

/* 0; -EINVAL for a bad range, -EPERM, -EIO past the end of what cannot
 * grow. */
int io_check_write(const struct node *n, int64_t offset, int64_t bytes);
/* False: BLK_NOWAIT and it would wait. */
bool io_serialise(struct node *n, struct io_serial *s, int64_t offset,
                  int64_t bytes, unsigned flags);
void io_serialise_end(struct node *n, struct io_serial *s);
/* Bookkeeping behind every change (I3); returns RET. */
int io_finish_write(struct node *n, int64_t offset, int64_t bytes,
                    unsigned flags, int ret);
bool io_fua_by_flush(const struct node *n, unsigned flags, unsigned supported);
unsigned io_driver_flags(const struct node *n, unsigned flags,
                         unsigned supported);
/* Write in pieces that the driver takes; the range is serialised. */
int io_write_split(struct node *n, int64_t offset, int64_t bytes,
                   const uint8_t *buf, unsigned flags);
