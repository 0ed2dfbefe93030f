/* SPDX-License-Identifier: MIT */
/* Zeroes: see zeroes.h. */
#include "block/zeroes.h"

#include <stdint.h>
#include <string.h>

/* Not const: bss costs no file space, and no memory until it is read. */
static unsigned char zeroes[ZEROES_BYTES] __attribute__((aligned(4096)));
const unsigned char *const zeroes_buffer = zeroes;

typedef uint64_t v4u64 __attribute__((vector_size(32), aligned(1),
                                      may_alias));
enum { STRIDE = 4 * sizeof(v4u64) };

static bool tail_is_zero(const unsigned char *p, size_t bytes)
{
    unsigned char sum = 0;

    for (size_t i = 0; i < bytes; i++) {
        sum |= p[i];
    }
    return sum == 0;
}

bool buffer_is_zero(const void *buf, size_t bytes)
{
    const unsigned char *p = buf;

    if (bytes == 0) {
        return true;
    }
    /* Data is rarely zero at these three places. */
    if (p[0] || p[bytes - 1] || p[bytes / 2]) {
        return false;
    }
    for (; bytes >= STRIDE; p += STRIDE, bytes -= STRIDE) {
        const v4u64 *v = (const v4u64 *)p;
        v4u64 sum = v[0] | v[1] | v[2] | v[3];
        if (sum[0] | sum[1] | sum[2] | sum[3]) {
            return false;
        }
    }
    return tail_is_zero(p, bytes);
}
