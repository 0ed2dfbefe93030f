/* SPDX-License-Identifier: MIT */
/* Commit: what its files share. */
#pragma once

#include "blockjobs/commit.h"

/*
 * Are the nodes still where the options say, and may they be used?  Op
 * blockers' texts.
 */
bool commit_check(const struct commit_options *o, struct error **errp);

/* What a commit does to its base before it can copy, and takes back. */
struct commit_base {
    struct node *node;          /* ref */
    bool was_read_only;
    int64_t old_length;         /* bytes */
};

/* Make NODE writable; its reference is kept.  Yields.  False: nothing has
 * changed. */
bool commit_base_open(struct commit_base *b, struct node *node,
                      struct error **errp);
/* Read-only again if it was, and the reference dropped.  Yields. */
void commit_base_close(struct commit_base *b);
/* At least LENGTH bytes long; drained, and a root with PERM_RESIZE held.
 * Yields. */
bool commit_base_grow(struct commit_base *b, int64_t length,
                      struct error **errp);

/* The longest image that has N, or a filter over N, as backing file; 0. */
int64_t commit_longest_overlay(const struct node *n);

/* The layer that is to go away is the active one: until a user completes. */
bool commit_active_start(const struct commit_options *o, struct error **errp);

/* ---- commit-end.c: the layers leave the chain --------------------------- */

struct commit_end;

/* FILTER and BASE are borrowed; BACKING_FILE NULL: how BASE is found. */
struct commit_end *commit_end_new(struct node *filter, struct node *base,
                                  const char *backing_file,
                                  bool mask_protocol);
/*
 * FILTER and BASE are drained; all that FILTER shows is in BASE, stably.  The
 * headers of all overlays name BASE.  Yields, but not after the last overlay
 * was found: commit_end_replace() follows at once.  False: see _free().
 */
bool commit_end_rename(struct commit_end *e, struct error **errp);
/* What is above FILTER is above BASE now.  No yield. */
bool commit_end_replace(struct commit_end *e, struct error **errp);
/* If it was not replaced, headers say again what they did; overlays that were
 * read-only are so again.  Yields.  NULL is fine. */
void commit_end_free(struct commit_end *e);
