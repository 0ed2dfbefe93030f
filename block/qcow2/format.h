/* SPDX-License-Identifier: MIT */
/*
 * qcow2 on disk: numbers and bits of the published specification
 * (docs/interop/qcow2.txt in QEMU's tree), nothing of ours.
 *
 * Everything is big-endian.  struct qcow2_header is the header in the host's
 * order; tables are kept as they are on disk and read by load_be*().
 */
#pragma once

#include <endian.h>
#include <stdint.h>
#include <string.h>

enum {
    QCOW2_MAGIC             = 0x514649fb,
    QCOW2_MIN_CLUSTER_BITS  = 9,
    QCOW2_MAX_CLUSTER_BITS  = 21,
    QCOW2_HEADER_V2_BYTES   = 72,
    QCOW2_HEADER_V3_BYTES   = 104,
    QCOW2_HEADER_OUR_BYTES  = 112,      /* with compression_type */
    QCOW2_MAX_BACKING_NAME  = 1023,
    QCOW2_MAX_L1_BYTES      = 32 << 20, /* QEMU's limits, so that it can */
    QCOW2_MAX_REFTABLE_BYTES = 8 << 20, /* open what we write */
    QCOW2_MAX_SNAPSHOTS     = 65536,
    QCOW2_MAX_SNAPSHOT_TABLE_BYTES = 64 << 20,
    QCOW2_MAX_EXTRA_BYTES   = 1024,     /* extra data of one snapshot */
    QCOW2_MIN_EXTENDED_L2_CLUSTER_BITS = 14,
};

/* Incompatible, compatible, autoclear features. */
#define QCOW2_INCOMPAT_DIRTY        (UINT64_C(1) << 0)
#define QCOW2_INCOMPAT_CORRUPT      (UINT64_C(1) << 1)
#define QCOW2_INCOMPAT_DATA_FILE    (UINT64_C(1) << 2)
#define QCOW2_INCOMPAT_COMPRESSION  (UINT64_C(1) << 3)
#define QCOW2_INCOMPAT_EXTENDED_L2  (UINT64_C(1) << 4)
#define QCOW2_INCOMPAT_KNOWN        UINT64_C(0x1f)
#define QCOW2_COMPAT_LAZY_REFCOUNTS (UINT64_C(1) << 0)
#define QCOW2_AUTOCLEAR_BITMAPS     (UINT64_C(1) << 0)
#define QCOW2_AUTOCLEAR_RAW_DATA    (UINT64_C(1) << 1)

/* Header extensions. */
#define QCOW2_EXT_END               0x00000000U
#define QCOW2_EXT_BACKING_FORMAT    0xe2792acaU
#define QCOW2_EXT_FEATURE_NAMES     0x6803f857U
#define QCOW2_EXT_BITMAPS           0x23852875U
#define QCOW2_EXT_CRYPTO            0x0537be77U
#define QCOW2_EXT_DATA_FILE         0x44415441U
/* Ours, made up at random; others skip and keep what they do not know. */
#define QCOW2_EXT_INVALIDATED       0x9ce461d7U

/* L1 and L2 entries. */
#define QCOW2_COPIED                (UINT64_C(1) << 63)
#define QCOW2_COMPRESSED            (UINT64_C(1) << 62)
#define QCOW2_ZERO                  (UINT64_C(1) << 0)
#define QCOW2_OFFSET_MASK           UINT64_C(0x00fffffffffffe00)
#define QCOW2_REFTABLE_OFFSET_MASK  UINT64_C(0xfffffffffffffe00)
/* No cluster that an L1 or L2 entry names lies at or behind this. */
#define QCOW2_MAX_HOST_OFFSET       (INT64_C(1) << 56)

enum { QCOW2_CRYPT_NONE, QCOW2_CRYPT_AES, QCOW2_CRYPT_LUKS };
enum { QCOW2_COMPRESSION_ZLIB, QCOW2_COMPRESSION_ZSTD };

struct qcow2_header {
    uint32_t version;
    uint64_t backing_offset;
    uint32_t backing_bytes;
    uint32_t cluster_bits;
    uint64_t size;
    uint32_t crypt_method;
    uint32_t l1_entries;
    uint64_t l1_offset;
    uint64_t reftable_offset;
    uint32_t reftable_clusters;
    uint32_t n_snapshots;
    uint64_t snapshots_offset;
    /* Version 3; for version 2 what it stands for. */
    uint64_t incompatible, compatible, autoclear;
    uint32_t refcount_order;
    uint32_t header_bytes;
    uint8_t compression_type;
};

static inline uint32_t load_be32(const void *p)
{
    uint32_t v;

    memcpy(&v, p, sizeof(v));
    return be32toh(v);
}

static inline uint64_t load_be64(const void *p)
{
    uint64_t v;

    memcpy(&v, p, sizeof(v));
    return be64toh(v);
}

static inline uint16_t load_be16(const void *p)
{
    uint16_t v;

    memcpy(&v, p, sizeof(v));
    return be16toh(v);
}

static inline void store_be16(void *p, uint16_t v)
{
    v = htobe16(v);
    memcpy(p, &v, sizeof(v));
}

static inline void store_be32(void *p, uint32_t v)
{
    v = htobe32(v);
    memcpy(p, &v, sizeof(v));
}

static inline void store_be64(void *p, uint64_t v)
{
    v = htobe64(v);
    memcpy(p, &v, sizeof(v));
}
