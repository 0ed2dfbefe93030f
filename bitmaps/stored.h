/* SPDX-License-Identifier: MIT */
/*
 * Stored bitmaps: the bytes of qcow2's bitmap directory and bitmap tables.
 * No I/O: block/qcow2/bitmaps.c reads and writes what is coded here.
 *
 * Problem     The bytes come from a file that anybody may have made.  A
 *             damaged bitmap must not keep the disk from opening, and what we
 *             do not understand must be kept as it is.
 * Answer      A directory whose entries cannot be told apart is refused
 *             whole.  Otherwise each entry stands alone: one that cannot be
 *             used has a fault, a text that says why, and is encoded again
 *             as it was.
 * Invariants  I1  encode(decode(x)) == x for every directory that is
 *                 accepted, but for the bytes of padding, which become zero.
 *             I2  Nothing is allocated by a number from the file that was not
 *                 checked against the length of the buffer.
 * Threads     None; a directory belongs to one thread at a time.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <glib.h>
#include "base/error.h"

enum {
    STORED_ENTRY_BYTES          = 24,   /* of an entry, before extra data */
    STORED_MIN_GRANULARITY_BITS = 9,    /* the range QEMU supports */
    STORED_MAX_GRANULARITY_BITS = 31,
    STORED_MAX_NAME             = 1023,
    STORED_MAX_BITMAPS          = 65535,
    STORED_MAX_DIRECTORY_BYTES  = 1024 * STORED_MAX_BITMAPS,
    STORED_MAX_DATA_BYTES       = 512 << 20,    /* of one bitmap's bits */
};

/* Flags of an entry. */
enum {
    STORED_IN_USE           = 1 << 0,
    STORED_AUTO             = 1 << 1,
    STORED_EXTRA_COMPATIBLE = 1 << 2,
    STORED_FLAGS_KNOWN      = 7,
};
enum { STORED_TYPE_DIRTY = 1 };

/* What an entry is checked against. */
struct stored_geometry {
    unsigned cluster_bits;
    int64_t disk_bytes;         /* length of the virtual disk */
    int64_t file_bytes;         /* length of the file */
};

struct stored_bitmap {          /* one entry of the directory */
    uint64_t table_offset;
    uint32_t table_entries;
    uint32_t flags;             /* STORED_*; unknown ones are kept */
    uint8_t type, granularity_bits;
    uint16_t name_bytes;
    uint32_t extra_bytes;
    char *name;                 /* owned; NUL behind name_bytes; may be no
                                   text at all if there is a fault */
    uint8_t *extra;             /* owned; NULL if extra_bytes is 0 */
    char *fault;                /* owned: why it cannot be used; NULL: it can
                                   (unless STORED_IN_USE) */
    bool nameless;              /* the name cannot be shown or is taken */
};

struct stored_directory {
    GPtrArray *bitmaps;         /* struct stored_bitmap *, owned, file order */
    GHashTable *by_name;        /* the ones that are not nameless */
};

struct stored_directory *stored_directory_new(void);
struct stored_directory *stored_directory_copy(
    const struct stored_directory *d);
void stored_directory_free(struct stored_directory *d);     /* NULL is fine */
unsigned stored_directory_count(const struct stored_directory *d);
struct stored_bitmap *stored_directory_at(const struct stored_directory *d,
                                          unsigned i);
struct stored_bitmap *stored_directory_find(const struct stored_directory *d,
                                            const char *name);
/* A new last entry, without a table.  NAME is not there yet. */
struct stored_bitmap *stored_directory_add(struct stored_directory *d,
                                           const char *name,
                                           unsigned granularity_bits);
/* Frees it. */
void stored_directory_remove(struct stored_directory *d,
                             struct stored_bitmap *b);

/*
 * BYTES of directory with N entries, as the header extension has them.  NULL
 * and errp if they cannot be told apart or memory is short; owned.
 */
struct stored_directory *stored_directory_decode(
    const uint8_t *buf, size_t bytes, uint32_t n,
    const struct stored_geometry *geometry, struct error **errp);
int64_t stored_directory_bytes(const struct stored_directory *d);
/* Writes stored_directory_bytes() of them. */
void stored_directory_encode(const struct stored_directory *d, uint8_t *buf);
/* What an entry with a name of that length takes. */
int64_t stored_entry_bytes(size_t name_bytes, size_t extra_bytes);

/* ---- a bitmap's bits and its table -------------------------------------- */

/* Bytes of the bits of a disk; entries of its table. */
int64_t stored_data_bytes(int64_t disk_bytes, unsigned granularity_bits);
int64_t stored_table_entries(const struct stored_geometry *geometry,
                             unsigned granularity_bits);

enum stored_cluster {
    STORED_CLUSTER_ZEROES, STORED_CLUSTER_ONES,
    STORED_CLUSTER_AT,          /* in the file */
    STORED_CLUSTER_BAD,
};
/* What entry E (host order) of a table means; *OFFSET with _AT. */
enum stored_cluster stored_table_entry(uint64_t e,
                                       const struct stored_geometry *geometry,
                                       int64_t *offset);
#define STORED_TABLE_ONES UINT64_C(1)   /* the entry for all ones */
