/* SPDX-License-Identifier: MIT */
/* What l2.c and l2-change.c share: entries of L2 tables.  Lock held. */
#pragma once

#include "block/qcow2/qcow2.h"

/* One entry; `bits` are those of the extended form, else 0. */
struct entry {
    uint64_t desc, bits;
};

static inline struct entry load_entry(const struct qcow2 *s,
                               const struct qcow2_table *t, uint32_t index)
{
    const uint8_t *p = t->data + ((size_t)index << s->entry_shift);

    return (struct entry) {
        .desc = load_be64(p),
        .bits = s->n_subs > 1 ? load_be64(p + 8) : 0,
    };
}

static inline void store_entry(const struct qcow2 *s, struct qcow2_table *t,
                        uint32_t index, struct entry e)
{
    uint8_t *p = t->data + ((size_t)index << s->entry_shift);

    store_be64(p, e.desc);
    if (s->n_subs > 1) {
        store_be64(p + 8, e.bits);
    }
}

/* Offset 0 is a place in an external data file only. */
static inline bool has_place(const struct qcow2 *s, uint64_t desc)
{
    return !(desc & QCOW2_COMPRESSED) &&
           ((desc & QCOW2_OFFSET_MASK) || (s->data && (desc & QCOW2_COPIED)));
}

/* May its cluster be written? */
static inline bool is_owned(const struct qcow2 *s, uint64_t desc)
{
    return (desc & QCOW2_COPIED) && has_place(s, desc);
}

static inline uint32_t slice_entries(const struct qcow2 *s)
{
    return s->l2_cache.slice_bytes >> s->entry_shift;
}

/* The L2 table for OFFSET, 0 if there is none, or -EIO. */
int64_t qcow2_l2_table_of(struct qcow2 *s, int64_t offset);
/* The slice with OFFSET's entry, and the entry's index in it.  The lock may be
 * given up unless NOWAIT. */
int qcow2_l2_slice_of(struct qcow2 *s, int64_t table, int64_t offset,
                      bool nowait, struct qcow2_table **t, uint32_t *index);
/* 0, or -EIO if E, the entry of OFFSET, cannot be. */
int qcow2_l2_check_entry(struct qcow2 *s, struct entry e, int64_t offset);
