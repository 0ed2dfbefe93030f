/* SPDX-License-Identifier: MIT */
/*
 * Copy-on-read: a filter that copies what is read and not yet there into the
 * node below it, up from its backing chain.
 *
 * Invariants  I1  A copy holds its clusters exclusively, every write holds its
 *                 range shared: no write is lost to a copy of what was before.
 *                 The holds of a user's filter are its own, and nobody writes
 *                 past it; those of a job's are the overlay's
 *                 (block/io-hold.h).
 *             I2  A copy is WRITE_UNCHANGED: no bitmap sees it.
 */
#pragma once

#include "block/types.h"

/* What is to become of a range. */
struct cor_run {
    bool copy;                  /* the node below has not got it yet */
    bool zero;                  /* it reads as zeroes */
};

/* Data path: [offset, offset + *bytes), *bytes > 0, shortened to what is one
 * run.  Below an entered root; 0 or -errno. */
int cor_look(struct node *filter, int64_t offset, int64_t *bytes,
             struct cor_run *run);
/*
 * Copy up what is to be copied of [offset, offset + bytes), widened to whole
 * clusters; writes to all of it wait meanwhile.  Below an entered root; 0 or
 * -errno.
 */
int cor_prefetch(struct node *filter, int64_t offset, int64_t bytes);

/*
 * For a job: a filter over NODE, called NAME (NULL: made up, and hidden), that
 * copies what layers down to BOTTOM, no filter, have.  The image that NODE
 * shows is drained.  That nobody changes the links between is up to the job.
 * An owned reference, or NULL.  Control lock.
 */
struct node *cor_insert(struct node *node, const char *name,
                        struct node *bottom, struct error **errp);
/* FILTER leaves the graph, its image is drained; its reference is the
 * caller's still. */
void cor_remove(struct node *filter);
