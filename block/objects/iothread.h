/* SPDX-License-Identifier: MIT */
/* iothread objects: the numbers they keep.  See iothread.c. */
#pragma once

#include "block/objects/object.h"

struct iothread {
    struct object base;
    int64_t aio_max_batch, thread_pool_min, thread_pool_max;
    int64_t poll_max_ns, poll_grow, poll_shrink;
};

/* Borrowed; NULL: there is none of that id.  Control lock held. */
struct iothread *iothread_find(const char *id);
