/* SPDX-License-Identifier: MIT */
/* Names and error numbers of the NBD protocol: see protocol.h. */
#include "nbd/protocol.h"

#include <errno.h>

#define NAME_CASE(id, n) case n: return #id;

const char *nbd_option_name(uint32_t option)
{
    switch (option) {
    NBD_OPTIONS(NAME_CASE)
    default:
        return "?";
    }
}

const char *nbd_rep_name(uint32_t rep)
{
    switch (rep) {
    NBD_REPS(NAME_CASE)
    default:
        return "?";
    }
}

const char *nbd_cmd_name(uint16_t cmd)
{
    switch (cmd) {
    NBD_CMDS(NAME_CASE)
    default:
        return "?";
    }
}

const char *nbd_error_name(uint32_t error)
{
    switch (error) {
    NBD_ERRORS(NAME_CASE)
    default:
        return "?";
    }
}

uint32_t nbd_error_from_errno(int err)
{
    switch (err) {
    case EPERM:
    case EROFS:
        return NBD_EPERM;
    case ENOMEM:
        return NBD_ENOMEM;
    case EINVAL:
    case EACCES:                /* as QEMU says it */
        return NBD_EINVAL;
    case ENOSPC:
    case EFBIG:
    case EDQUOT:
        return NBD_ENOSPC;
    case EOVERFLOW:
        return NBD_EOVERFLOW;
    case ENOTSUP:
#if ENOTSUP != EOPNOTSUPP
    case EOPNOTSUPP:
#endif
        return NBD_ENOTSUP;
    case ESHUTDOWN:
        return NBD_ESHUTDOWN;
    default:
        return NBD_EIO;
    }
}
