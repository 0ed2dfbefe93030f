/* SPDX-License-Identifier: MIT */
/*
 * Copy-on-read: a filter that copies what is read and not yet there into the
 * node below it, up from its backing chain.
 *
 * Invariants  I1  A copy holds its clusters exclusively, every write through
 *                 the filter holds its range shared, and nobody writes past
 *                 the filter: no write is lost to a copy of what was before.
 *             I2  A copy is WRITE_UNCHANGED: no bitmap sees it.
 */
#pragma once

#include "block/types.h"

/*
 * Copy up what is to be copied of [offset, offset + bytes), whole clusters, as
 * a read would, without the read.  Below an entered root; 0 or -errno.
 */
int cor_prefetch(struct node *filter, int64_t offset, int64_t bytes);
