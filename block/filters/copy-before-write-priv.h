/* SPDX-License-Identifier: MIT */
/* Copy-before-write: what its files share. */
#pragma once

#include "block/copier.h"
#include "block/drivers.h"
#include "block/filters/copy-before-write.h"

struct cbw_state {
    /* Set when made, then constant. */
    struct copier *copier;      /* owned; NULL before and after */
    struct child *target;       /* borrowed: a child of the node */
    struct bits *access;        /* owned: clusters that can be read; content
                                   atomic.  NULL: a job's, no snapshot */
    struct bits *done;          /* owned: clusters that guests have written;
                                   content atomic.  For queries alone */
    bool discard_source;
    bool break_snapshot;
    int64_t timeout_ns;         /* 0: none */

    /* Atomic. */
    int snapshot_error;         /* -errno of the first copy that failed */
    bool drained;               /* between drained_begin and _end */
};
