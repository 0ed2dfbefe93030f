/* SPDX-License-Identifier: MIT */
/*
 * The order in which keys are written.  Generated from schema/key-order.txt:
 * a hash table, FNV-1a modulo its size, next slot when taken.
 */
#pragma once

#define QAPI_KEYS_SLOTS 4096    /* a power of two */

struct qapi_key {
    const char *name;           /* NULL: the slot is free */
    unsigned rank;
};

extern const struct qapi_key qapi_keys[QAPI_KEYS_SLOTS];
