/* SPDX-License-Identifier: MIT */
/* Zeroes: find them in buffers, and have a buffer of them. */
#pragma once

#include <stdbool.h>
#include <stddef.h>

/* Are all BYTES of BUF zero?  Stops early; any alignment. */
bool buffer_is_zero(const void *buf, size_t bytes);

/* ZEROES_BYTES of zeroes, page-aligned; never written. */
enum { ZEROES_BYTES = 1 << 20 };
extern const unsigned char *const zeroes_buffer;
