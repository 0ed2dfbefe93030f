/* SPDX-License-Identifier: MIT */
/*
 * Invalidated layers: a commit makes what is below its highest layer read
 * otherwise than before, on its own; that is written into these layers, so
 * that it is known after whatever happens (driver.h: struct invalidated).
 *
 * Threads     Control lock; yields.
 */
#pragma once

#include "block/node.h"

/*
 * Before a commit of the layers from TOP down to BASE (not included) writes to
 * BASE what TOP shows: mark the layers strictly between whose content that
 * changes, durably; one that it does not change is left alone, TOP too.
 * Layers that are read-only are opened for writing meanwhile.  The chain is
 * frozen.
 *
 * JOB_ID NULL: "".  False: at least one is not marked, ERRP says which and
 * why; the others are.  (The commit may go on: it is reported then.)
 */
bool commit_mark_layers(struct node *top, struct node *base,
                        const char *job_id, struct error **errp);
/*
 * The layers from TOP down to BASE (not included) that have no mark.  Goes to
 * commit_mark_done() when it is known whether BASE was WRITTEN: if not, all
 * still reads as before, and the marks that these got are taken back.  NULL is
 * fine.
 */
GPtrArray *commit_unmarked(struct node *top, struct node *base);
/* No yield: until commit_mark_done() other commits leave them alone, which
 * would count on the marks.  Where one is at work already they stay.  For who
 * has no job's roots on the layers (any more). */
void commit_mark_hold(GPtrArray *unmarked);
void commit_mark_done(GPtrArray *unmarked, bool written);
/* What TOP showed, which had no mark, is in BASE, writable and drained: so a
 * mark of BASE is history.  Failure is reported. */
void commit_unmark_base(struct node *base);

/*
 * The same for a commit of the active layer, which is written meanwhile: all
 * layers below ACTIVE.  Errors are reported.  What it returns goes to
 * commit_mark_done().
 */
GPtrArray *commit_mark_active(struct node *active, struct node *base,
                              const char *job_id);

/*
 * Does a layer above N, up to TOP, decide something in [offset, end) that N
 * does not?  Then writing to what is below N what TOP shows changes N.  As a
 * request: the chain stays as it is meanwhile.  0, 1 or -errno.
 */
int commit_would_change(struct node *top, struct node *n, int64_t offset,
                        int64_t end);
/* Mark N, which is writable and drained. */
bool commit_mark_one(struct node *n, const char *job_id, struct error **errp);
