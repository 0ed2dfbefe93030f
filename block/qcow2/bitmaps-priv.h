/* SPDX-License-Identifier: MIT */
/* Private to bitmaps*.c: the bitmaps extension of one image. */
#pragma once

#include "bitmaps/stored.h"
#include "block/qcow2/qcow2.h"

struct qcow2_bitmaps {          /* qcow2.bitmaps_state */
    /*
     * Held exclusively (all of it) by who changes the directory, for as long
     * as that takes.
     */
    struct range_lock update;

    /* Protected by lock (rank LOCK_LEAF). */
    struct lock lock;
    struct stored_directory *dir;   /* owned; as in the file; never changed,
                                       but replaced by who holds UPDATE */
};

static inline struct qcow2_bitmaps *qcow2_bitmaps_of(const struct qcow2 *s)
{
    return s->bitmaps_state;
}

/* What the directory's entries are checked against. */
struct stored_geometry qcow2_bitmaps_geometry(const struct qcow2 *s);
/* A copy of the directory as it is in the file, owned. */
struct stored_directory *qcow2_bitmaps_copy_directory(struct qcow2 *s);
/* It is DIR (taken) now.  `update` is held. */
void qcow2_bitmaps_set_directory(struct qcow2 *s, struct stored_directory *dir);
/* What lies there is metadata of another kind, or the header. */
bool qcow2_bitmaps_hits_metadata(struct qcow2 *s, int64_t offset,
                                 int64_t bytes);

/* Read the directory that s->bitmaps points to.  Owned; NULL and errp. */
struct stored_directory *qcow2_bitmaps_read_directory(struct qcow2 *s,
                                                      struct error **errp);
/* Entries [first, first+n) of B's table, in the host's order.  0, -errno. */
int qcow2_bitmaps_read_table(struct qcow2 *s, const struct stored_bitmap *b,
                             uint32_t first, uint32_t n, uint64_t *table);
/*
 * Call FN for every run of clusters that B occupies: its table, then its
 * data.  Damaged entries are left out.  0, what FN returned, or -errno.
 */
typedef int qcow2_bitmaps_extent_fn(void *opaque, int64_t offset,
                                    int64_t bytes);
int qcow2_bitmaps_each_of(struct qcow2 *s, const struct stored_bitmap *b,
                          qcow2_bitmaps_extent_fn *fn, void *opaque);
