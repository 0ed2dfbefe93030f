/* SPDX-License-Identifier: MIT */
/* All drivers that blockdev-add knows; block/driver.c lists them. */
#pragma once

#include "block/driver.h"

extern const struct driver driver_file;     /* block/file.c */
extern const struct driver driver_null_co;  /* block/null.c */
extern const struct driver driver_qcow2;    /* block/qcow2/ */
extern const struct driver driver_raw;      /* block/raw.c */
