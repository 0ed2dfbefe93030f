/* SPDX-License-Identifier: MIT */
/* The registry of block drivers. */
#include "block/drivers.h"

#include <string.h>

const struct driver *const block_drivers[] = {
    &driver_blkdebug,
    &driver_blkverify,
    &driver_compress,
    &driver_copy_before_write,
    &driver_copy_on_read,
    &driver_file,
    &driver_host_device,
    &driver_null_aio,
    &driver_nbd,
    &driver_null_co,
    &driver_preallocate,
#ifdef HAVE_QCOW2
    &driver_qcow2,
#endif
    &driver_quorum,
    &driver_raw,
    &driver_snapshot_access,
    &driver_throttle,
    NULL
};

const struct driver *driver_find(const char *name)
{
    for (size_t i = 0; block_drivers[i]; i++) {
        if (strcmp(block_drivers[i]->name, name) == 0) {
            return block_drivers[i];
        }
    }
    return NULL;
}

const struct driver *driver_by_type(BlockdevDriver type)
{
    for (size_t i = 0; block_drivers[i]; i++) {
        if (block_drivers[i]->type == type) {
            return block_drivers[i];
        }
    }
    return NULL;
}
