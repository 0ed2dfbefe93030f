/* SPDX-License-Identifier: MIT */
/* Reading a small file whole. */
#pragma once

#include <stddef.h>
#include "base/error.h"

/*
 * All of the file at PATH, of at most MAX_BYTES, NUL added; owned.  Blocks:
 * no lock held.  Pipes are read to their end, but not waited for longer than
 * 10 s.
 */
char *object_read_file(const char *path, size_t max_bytes, size_t *bytes,
                       struct error **errp);
