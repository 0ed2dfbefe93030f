/* SPDX-License-Identifier: MIT */
/*
 * The NBD protocol on the wire: numbers, names and message layouts.
 *
 * From the published protocol document (proto.md).  All integers are
 * big-endian.  Each list of numbers is one table from which both the enum
 * and the function from number to name are made.
 */
#pragma once

#include <stdint.h>
#include <glib.h>

#define NBD_INIT_MAGIC          UINT64_C(0x4e42444d41474943) /* "NBDMAGIC" */
#define NBD_OPTION_MAGIC        UINT64_C(0x49484156454f5054) /* "IHAVEOPT" */
#define NBD_OPTION_REPLY_MAGIC  UINT64_C(0x0003e889045565a9)
#define NBD_REQUEST_MAGIC       UINT32_C(0x25609513)
#define NBD_SIMPLE_REPLY_MAGIC  UINT32_C(0x67446698)
#define NBD_CHUNK_MAGIC         UINT32_C(0x668e33ef)
#define NBD_EXTENDED_REQUEST_MAGIC  UINT32_C(0x21e41c71)
#define NBD_EXTENDED_CHUNK_MAGIC    UINT32_C(0x6e8a278c)

enum {
    NBD_MAX_STRING = 4096,              /* names, queries, descriptions */
    NBD_PREFERRED_BLOCK_BYTES = 4096,
    NBD_MAX_PAYLOAD_BYTES = 32 << 20,   /* maximum block size */
};

/* Server's and client's flags of the handshake have the same bits. */
enum {
    NBD_FIXED_NEWSTYLE = 1 << 0,
    NBD_NO_ZEROES      = 1 << 1,
};

#define NBD_OPTIONS(X) \
    X(EXPORT_NAME, 1) X(ABORT, 2) X(LIST, 3) X(STARTTLS, 5) X(INFO, 6) \
    X(GO, 7) X(STRUCTURED_REPLY, 8) X(LIST_META_CONTEXT, 9) \
    X(SET_META_CONTEXT, 10) X(EXTENDED_HEADERS, 11)

#define NBD_REP_ERROR_BIT UINT32_C(0x80000000)
#define NBD_REPS(X) \
    X(ACK, 1) X(SERVER, 2) X(INFO, 3) X(META_CONTEXT, 4) \
    X(ERR_UNSUP, 0x80000001) X(ERR_POLICY, 0x80000002) \
    X(ERR_INVALID, 0x80000003) X(ERR_PLATFORM, 0x80000004) \
    X(ERR_TLS_REQD, 0x80000005) X(ERR_UNKNOWN, 0x80000006) \
    X(ERR_SHUTDOWN, 0x80000007) X(ERR_BLOCK_SIZE_REQD, 0x80000008) \
    X(ERR_TOO_BIG, 0x80000009) X(ERR_EXT_HEADER_REQD, 0x8000000a)

#define NBD_INFOS(X) \
    X(EXPORT, 0) X(NAME, 1) X(DESCRIPTION, 2) X(BLOCK_SIZE, 3)

#define NBD_CMDS(X) \
    X(READ, 0) X(WRITE, 1) X(DISC, 2) X(FLUSH, 3) X(TRIM, 4) X(CACHE, 5) \
    X(WRITE_ZEROES, 6) X(BLOCK_STATUS, 7)

#define NBD_CHUNKS(X) \
    X(NONE, 0) X(OFFSET_DATA, 1) X(OFFSET_HOLE, 2) X(BLOCK_STATUS, 5) \
    X(BLOCK_STATUS_EXT, 6) X(ERROR, 0x8001) X(ERROR_OFFSET, 0x8002)

#define NBD_ERRORS(X) \
    X(EPERM, 1) X(EIO, 5) X(ENOMEM, 12) X(EINVAL, 22) X(ENOSPC, 28) \
    X(EOVERFLOW, 75) X(ENOTSUP, 95) X(ESHUTDOWN, 108)

#define NBD_NUMBER_OPT(id, n) NBD_OPT_##id = n,
#define NBD_NUMBER_REP(id, n) NBD_REP_##id = n,
#define NBD_NUMBER_INFO(id, n) NBD_INFO_##id = n,
#define NBD_NUMBER_CMD(id, n) NBD_CMD_##id = n,
#define NBD_NUMBER_CHUNK(id, n) NBD_CHUNK_##id = n,
#define NBD_NUMBER_ERROR(id, n) NBD_##id = n,
enum { NBD_OPTIONS(NBD_NUMBER_OPT) };
enum { NBD_REPS(NBD_NUMBER_REP) };
enum { NBD_INFOS(NBD_NUMBER_INFO) };
enum { NBD_CMDS(NBD_NUMBER_CMD) };
enum { NBD_CHUNKS(NBD_NUMBER_CHUNK) };
enum { NBD_ERRORS(NBD_NUMBER_ERROR) };

/* "GO", "ERR_UNKNOWN"...; "?" for what is not in the table.  Static. */
const char *nbd_option_name(uint32_t option);
const char *nbd_rep_name(uint32_t rep);
const char *nbd_cmd_name(uint16_t cmd);
/* What to tell a person who got this errno (> 0).  Static. */
const char *nbd_error_name(uint32_t error);

/* errno (> 0) as the protocol can say it; EIO where it has no number. */
uint32_t nbd_error_from_errno(int err);

/* Transmission flags. */
enum {
    NBD_FLAG_HAS_FLAGS         = 1 << 0,
    NBD_FLAG_READ_ONLY         = 1 << 1,
    NBD_FLAG_SEND_FLUSH        = 1 << 2,
    NBD_FLAG_SEND_FUA          = 1 << 3,
    NBD_FLAG_ROTATIONAL        = 1 << 4,
    NBD_FLAG_SEND_TRIM         = 1 << 5,
    NBD_FLAG_SEND_WRITE_ZEROES = 1 << 6,
    NBD_FLAG_SEND_DF           = 1 << 7,
    NBD_FLAG_CAN_MULTI_CONN    = 1 << 8,
    NBD_FLAG_SEND_RESIZE       = 1 << 9,
    NBD_FLAG_SEND_CACHE        = 1 << 10,
    NBD_FLAG_SEND_FAST_ZERO    = 1 << 11,
    NBD_FLAG_BLOCK_STAT_PAYLOAD = 1 << 12,
};

/* Command flags. */
enum {
    NBD_CMD_FLAG_FUA       = 1 << 0,
    NBD_CMD_FLAG_NO_HOLE   = 1 << 1,
    NBD_CMD_FLAG_DF        = 1 << 2,
    NBD_CMD_FLAG_REQ_ONE   = 1 << 3,
    NBD_CMD_FLAG_FAST_ZERO = 1 << 4,
    NBD_CMD_FLAG_PAYLOAD_LEN = 1 << 5,
};

enum { NBD_CHUNK_FLAG_DONE = 1 << 0 };

/* Extents of base:allocation and qemu:dirty-bitmap:NAME. */
enum {
    NBD_STATE_HOLE = 1 << 0,
    NBD_STATE_ZERO = 1 << 1,
    NBD_STATE_DIRTY = 1 << 0,
};

/* ---- messages ----------------------------------------------------------- */

#define NBD_PACKED __attribute__((packed))

struct nbd_wire_greeting {
    uint64_t init_magic, option_magic;
    uint16_t flags;
} NBD_PACKED;

struct nbd_wire_option {
    uint64_t magic;
    uint32_t option, length;
} NBD_PACKED;

struct nbd_wire_option_reply {
    uint64_t magic;
    uint32_t option, rep, length;
} NBD_PACKED;

struct nbd_wire_export_name_reply {
    uint64_t size;
    uint16_t flags;
    uint8_t zeroes[124];        /* left out with NBD_NO_ZEROES */
} NBD_PACKED;

struct nbd_wire_info_export {
    uint16_t info;
    uint64_t size;
    uint16_t flags;
} NBD_PACKED;

struct nbd_wire_info_block_size {
    uint16_t info;
    uint32_t minimum, preferred, maximum;
} NBD_PACKED;

struct nbd_wire_request {
    uint32_t magic;
    uint16_t flags, cmd;
    uint64_t cookie;            /* not interpreted: kept as it came */
    uint64_t offset;
    uint32_t length;
} NBD_PACKED;

struct nbd_wire_extended_request {
    uint32_t magic;
    uint16_t flags, cmd;
    uint64_t cookie, offset, length;
} NBD_PACKED;

struct nbd_wire_simple_reply {
    uint32_t magic, error;
    uint64_t cookie;
} NBD_PACKED;

struct nbd_wire_chunk {
    uint32_t magic;
    uint16_t flags, type;
    uint64_t cookie;
    uint32_t length;
} NBD_PACKED;

struct nbd_wire_extended_chunk {
    uint32_t magic;
    uint16_t flags, type;
    uint64_t cookie;
    uint64_t offset;            /* of the request */
    uint64_t length;
} NBD_PACKED;

struct nbd_wire_hole {
    uint64_t offset;
    uint32_t length;
} NBD_PACKED;

struct nbd_wire_error {
    uint32_t error;
    uint16_t text_length;
} NBD_PACKED;

struct nbd_wire_extent {
    uint32_t length, flags;
} NBD_PACKED;

struct nbd_wire_extended_extent {
    uint64_t length, flags;
} NBD_PACKED;

static inline uint16_t nbd_get16(const void *p)
{
    uint16_t v;

    __builtin_memcpy(&v, p, sizeof(v));
    return GUINT16_FROM_BE(v);
}

static inline uint32_t nbd_get32(const void *p)
{
    uint32_t v;

    __builtin_memcpy(&v, p, sizeof(v));
    return GUINT32_FROM_BE(v);
}

static inline uint64_t nbd_get64(const void *p)
{
    uint64_t v;

    __builtin_memcpy(&v, p, sizeof(v));
    return GUINT64_FROM_BE(v);
}

static inline void nbd_put64(void *p, uint64_t v)
{
    v = GUINT64_TO_BE(v);
    __builtin_memcpy(p, &v, sizeof(v));
}

static inline void nbd_put32(void *p, uint32_t v)
{
    v = GUINT32_TO_BE(v);
    __builtin_memcpy(p, &v, sizeof(v));
}
