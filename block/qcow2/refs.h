/* SPDX-License-Identifier: MIT */
/* Counting an image's references: see refs.c. */
#pragma once

#include "block/qcow2/qcow2.h"

struct qcow2_refs {
    /* Set by the caller. */
    struct qcow2 *s;
    /* NULL: what is wrong ends the count with its error. */
    void (*problem)(void *opaque, const char *what, int64_t offset);
    /* NULL, or called for every L2 entry of the active tables in order;
     * FIRST: of its table. */
    void (*entry)(void *opaque, uint64_t entry, bool first);
    void *opaque;

    /* Set by qcow2_refs_count(). */
    uint32_t *counts;           /* owned; one per cluster */
    int64_t n;                  /* of counts */
    int64_t n_file;             /* clusters that the file has */
    int64_t used_end;           /* cluster behind the last one used */

    /* Private. */
    uint64_t *table;            /* owned; an L2 table as on disk */
    bool active;
};

/* 0, or -errno with errp.  qcow2_refs_clear() in both cases. */
int qcow2_refs_count(struct qcow2_refs *r, struct error **errp);
void qcow2_refs_clear(struct qcow2_refs *r);
