/* SPDX-License-Identifier: MIT */
/* What shadow.c and shadow-commit.c share.  Drained; no lock held. */
#pragma once

#include "block/qcow2/shadow.h"

struct shadow_chunk {
    int64_t number;             /* its clusters begin at number << bits */
    int32_t delta[];
};

struct shadow_place {           /* a table or block gets a new place */
    uint32_t index;             /* in the L1 table, or the refcount table */
    int64_t old, place;
};

struct qcow2_shadow {
    struct qcow2 *s;
    GHashTable *chunks;         /* of struct shadow_chunk */
    unsigned chunk_bits;        /* a chunk lies in one refcount block */
    uint64_t *l1;               /* owned: as it is to be */
    bool l1_changed;
    int64_t l1_place;
    GArray *tables, *blocks;    /* struct shadow_place */
    uint64_t *reftable;         /* owned: as it is to be */
    int64_t reftable_place, reftable_bytes;
    int64_t snapshots_place;
    GArray *taken;              /* struct qcow2_free: allocated for this */
    uint8_t *buf;               /* owned; a cluster */
};

/* A count as it is to be.  -EINVAL: too large; -EIO: negative. */
int qcow2_shadow_get(struct qcow2_shadow *sh, int64_t cluster, int64_t *count);
/* Read the table or block at OFFSET to sh->buf. */
int qcow2_shadow_read(struct qcow2_shadow *sh, int64_t offset);
/* Make COPIED of *ENTRY, of an L2 table, what the counts say. */
int qcow2_shadow_flag(struct qcow2_shadow *sh, uint64_t *entry);
/* Find out which active tables must change: sh->tables, sh->l1. */
int qcow2_shadow_align(struct qcow2_shadow *sh);
