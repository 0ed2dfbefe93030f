/* SPDX-License-Identifier: MIT */
/*
 * Cluster set: which clusters are L2 tables or refcount blocks.
 *
 * Asked before every write in place, so that a damaged entry never makes a
 * guest write over tables.  Open addressing; a key is the cluster's offset
 * with its kinds in the low bits, which are free in an offset.
 */
#include "block/qcow2/qcow2.h"

#define KIND_MASK UINT64_C(7)
/* A key without kinds was removed; it stays as a stepping stone. */

struct qcow2_cluster_set {
    uint64_t *keys;             /* 0: empty */
    size_t n_used, n_slots;     /* n_slots: power of two */
};

struct qcow2_cluster_set *qcow2_cluster_set_new(void)
{
    struct qcow2_cluster_set *set = g_new0(struct qcow2_cluster_set, 1);

    set->n_slots = 64;
    set->keys = g_new0(uint64_t, set->n_slots);
    return set;
}

void qcow2_cluster_set_free(struct qcow2_cluster_set *set)
{
    if (set) {
        g_free(set->keys);
        g_free(set);
    }
}

static uint64_t *slot_of(const struct qcow2_cluster_set *set, int64_t offset)
{
    size_t i = ((uint64_t)offset >> QCOW2_MIN_CLUSTER_BITS) *
               UINT64_C(0x9e3779b97f4a7c15) >> 24;

    for (;; i++) {
        uint64_t *slot = &set->keys[i & (set->n_slots - 1)];
        if (*slot == 0 || (*slot & ~KIND_MASK) == (uint64_t)offset) {
            return slot;
        }
    }
}

static void grow(struct qcow2_cluster_set *set)
{
    struct qcow2_cluster_set old = *set;

    set->n_slots *= 2;
    set->n_used = 0;
    set->keys = g_new0(uint64_t, set->n_slots);
    for (size_t i = 0; i < old.n_slots; i++) {
        if (old.keys[i] & KIND_MASK) {
            *slot_of(set, old.keys[i] & ~KIND_MASK) = old.keys[i];
            set->n_used++;
        }
    }
    g_free(old.keys);
}

void qcow2_cluster_set_add(struct qcow2_cluster_set *set, int64_t offset,
                           unsigned kind)
{
    uint64_t *slot;

    if (offset <= 0) {
        return;
    }
    if (set->n_used * 2 >= set->n_slots) {
        grow(set);
    }
    slot = slot_of(set, offset);
    if (*slot == 0) {
        set->n_used++;
    }
    *slot |= (uint64_t)offset | kind;
}

void qcow2_cluster_set_remove(struct qcow2_cluster_set *set, int64_t offset,
                              unsigned kind)
{
    *slot_of(set, offset) &= ~(uint64_t)kind;
}

unsigned qcow2_cluster_set_test(const struct qcow2_cluster_set *set,
                                int64_t offset)
{
    return *slot_of(set, offset) & KIND_MASK;
}
