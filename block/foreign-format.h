/* SPDX-License-Identifier: MIT */
/*
 * Image formats that others read but we do not: known by how they begin.
 */
#ifndef BLOCK_FOREIGN_FORMAT_H
#define BLOCK_FOREIGN_FORMAT_H

#include <stddef.h>
#include <stdint.h>

/* The name of the format whose header BUF starts with, NULL: none that is
 * known.  Any thread. */
const char *foreign_format(const uint8_t *buf, size_t len);

#endif
