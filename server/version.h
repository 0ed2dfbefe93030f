/* SPDX-License-Identifier: MIT */
/* The version that is reported: of QEMU's interface, and of the program. */
#pragma once

#include <jansson.h>

enum {
    VERSION_MAJOR = 10,
    VERSION_MINOR = 2,
    VERSION_MICRO = 50,
};

/* "blockjobd-1.2": static. */
const char *version_package(void);
/* As query-version returns it; a new reference. */
json_t *version_json(void);
