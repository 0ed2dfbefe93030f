/* SPDX-License-Identifier: MIT */
/* All drivers that blockdev-add knows; block/driver.c lists them. */
#pragma once

#include "block/driver.h"

extern const struct driver driver_blkdebug; /* block/filters/blkdebug.c */
extern const struct driver driver_blkverify; /* block/filters/blkverify.c */
extern const struct driver driver_compress; /* block/filters/compress.c */
extern const struct driver driver_copy_before_write;
                                        /* filters/copy-before-write.c */
extern const struct driver driver_copy_on_read; /* filters/copy-on-read.c */
extern const struct driver driver_file;     /* block/file.c */
extern const struct driver driver_host_device;  /* block/host-device.c */
extern const struct driver driver_null_aio; /* block/null.c */
extern const struct driver driver_nbd;      /* block/nbd/ */
extern const struct driver driver_null_co;  /* block/null.c */
extern const struct driver driver_preallocate;  /* filters/preallocate.c */
extern const struct driver driver_qcow2;    /* block/qcow2/ */
extern const struct driver driver_quorum;   /* block/filters/quorum.c */
extern const struct driver driver_raw;      /* block/raw.c */
extern const struct driver driver_snapshot_access;
                                        /* filters/snapshot-access.c */
extern const struct driver driver_throttle; /* block/filters/throttle.c */
