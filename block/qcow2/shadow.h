/* SPDX-License-Identifier: MIT */
/*
 * Shadow: refcounts, COPIED flags, the L1 table and the snapshot table
 * changed together, all or nothing.  shadow.c says how.
 *
 * Use         qcow2_shadow_new(); qcow2_shadow_count_l1() and
 *             qcow2_shadow_add() say how counts change; then
 *             qcow2_shadow_commit().  The image is drained, no lock is held.
 */
#pragma once

#include "block/qcow2/qcow2.h"

struct qcow2_shadow;

/* What the commit does beside changing counts and flags. */
struct qcow2_shadow_end {
    bool keep_l1;               /* the L1 table as it is stays in use: a
                                   snapshot has it now */
    const GByteArray *snapshots;/* borrowed: the new snapshot table */
    uint32_t n_snapshots;
    int64_t snapshots_offset;   /* out: where it lies; 0: empty */
};

/* Everything is written back first.  0 or -errno. */
int qcow2_shadow_new(struct qcow2 *s, struct qcow2_shadow **out);
void qcow2_shadow_free(struct qcow2_shadow *sh);

/* DELTA more references to each cluster that [offset, +bytes) touches. */
int qcow2_shadow_add(struct qcow2_shadow *sh, int64_t offset, int64_t bytes,
                     int delta);
/* DELTA more references to all that the L1 table (host order) names: tables,
 * and what they name.  Not to the L1 table itself. */
int qcow2_shadow_count_l1(struct qcow2_shadow *sh, const uint64_t *l1,
                          uint32_t entries, int delta);

/*
 * Make it so.  0; or -errno and nothing has changed: -EINVAL where a count
 * would not fit its width, -EIO where one would be negative.
 */
int qcow2_shadow_commit(struct qcow2_shadow *sh, struct qcow2_shadow_end *end);
