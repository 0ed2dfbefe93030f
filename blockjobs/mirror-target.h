/* SPDX-License-Identifier: MIT */
/*
 * The target of drive-mirror: made, or opened.
 *
 * Threads     Control lock; yields.
 */
#pragma once

#include "blockjobs/mirror.h"

/*
 * The node that ARGS name as target, an owned reference, without a backing
 * node; *BACKING says what it gets in the end.  SYNC is what the job does,
 * which may be more than ARGS ask for.  SOURCE is held by the caller.  NULL:
 * nothing is open; a file that was made stays.
 */
struct node *mirror_target_open(const DriveMirror *args, MirrorSyncMode sync,
                                struct node *source,
                                enum mirror_backing *backing,
                                struct error **errp);
