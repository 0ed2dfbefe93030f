/* SPDX-License-Identifier: MIT */
/* Words that all of block/ and its users share: flags, permissions, status. */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <glib.h>

struct error;
struct node;
struct child;
struct root;
struct driver;

/* Request flags.  They carry meaning, not origin. */
enum {
    BLK_FUA             = 1 << 0, /* on stable storage before it returns */
    BLK_MAY_UNMAP       = 1 << 1, /* write_zeroes may deallocate */
    BLK_NO_FALLBACK     = 1 << 2, /* write_zeroes: -ENOTSUP if not fast */
    BLK_WRITE_UNCHANGED = 1 << 3, /* the node reads the same as before:
                                     dirties no bitmap */
    BLK_NOWAIT          = 1 << 4, /* -EAGAIN rather than block for long;
                                     nothing was changed then */
    BLK_COMPRESSED      = 1 << 5, /* write compressed where supported */
    BLK_REGISTERED_BUF  = 1 << 6, /* buffer is aligned for O_DIRECT */
};

/* Permissions on a node, held and shared; order and names are those of
 * messages: consistent read, write, write unchanged, resize. */
enum {
    PERM_CONSISTENT_READ = 1 << 0,
    PERM_WRITE           = 1 << 1,
    PERM_WRITE_UNCHANGED = 1 << 2,
    PERM_RESIZE          = 1 << 3,
    PERM_ALL             = (1 << 4) - 1,
    N_PERMS              = 4,
};
/* What a format or filter shares when it does not mind. */
#define PERM_SHARE_DEFAULT PERM_ALL

/* What a child is to its parent. */
enum child_role {
    ROLE_DATA     = 1 << 0, /* guest data */
    ROLE_METADATA = 1 << 1, /* the format's tables */
    ROLE_FILTERED = 1 << 2, /* parent reads as this child */
    ROLE_COW      = 1 << 3, /* backing: read where parent has nothing */
    ROLE_PRIMARY  = 1 << 4, /* the "file" of this node */
    ROLE_IMAGE    = ROLE_DATA | ROLE_METADATA | ROLE_PRIMARY,
};

/* Block status of a range, one state for all of it. */
enum {
    STATUS_DATA         = 1 << 0, /* reads from this node's storage */
    STATUS_ZERO         = 1 << 1, /* reads as zeroes */
    STATUS_OFFSET_VALID = 1 << 2, /* .map is where it lies in .file */
    STATUS_ALLOCATED    = 1 << 3, /* this layer decides what is read */
    STATUS_EOF          = 1 << 4, /* the range ends at the node's end */
    STATUS_COMPRESSED   = 1 << 5,
};

struct block_status {
    unsigned flags;     /* STATUS_* */
    int64_t bytes;      /* > 0 unless offset was at or past the end */
    int64_t map;        /* with STATUS_OFFSET_VALID: offset in file */
    struct node *file;  /* borrowed; node that .map is in, or NULL */
};

struct block_limits {
    uint32_t request_alignment;     /* power of two; 1: any */
    int64_t max_transfer;           /* 0: none */
    int64_t max_pwrite_zeroes;      /* 0: none */
    uint32_t pwrite_zeroes_alignment; /* 0: request_alignment */
    int64_t max_pdiscard;           /* 0: none */
    uint32_t pdiscard_alignment;    /* 0: request_alignment */
    uint32_t min_mem_alignment;     /* of buffers; power of two */
    uint32_t opt_mem_alignment;
    int64_t opt_transfer;           /* 0: none */
};

/* Longest single request; longer ones are split by the callers' loops. */
#define BLK_MAX_REQUEST_BYTES ((int64_t)INT32_MAX & ~(int64_t)0xfff)
/* Largest node: offsets leave room for rounding up. */
#define BLK_MAX_LENGTH_BYTES INT64_C(9223372035781033984)
