/* SPDX-License-Identifier: MIT */
/* Sync modes: see sync-mode.h. */
#include "bitmaps/sync-mode.h"

#include <glib.h>
#include "bitmaps/dirty-bitmap.h"

static const unsigned result_sets[][2] = {
    /*                        failed                    succeeded */
    [SYNC_MODE_ON_SUCCESS] = { SYNC_SET_S | SYNC_SET_N, SYNC_SET_N },
    [SYNC_MODE_NEVER]      = { SYNC_SET_S | SYNC_SET_N,
                               SYNC_SET_S | SYNC_SET_N },
    [SYNC_MODE_ALWAYS]     = { SYNC_SET_R | SYNC_SET_N, SYNC_SET_N },
};

unsigned sync_mode_sets(enum sync_mode mode, bool succeeded)
{
    g_assert(mode < G_N_ELEMENTS(result_sets));
    return result_sets[mode][succeeded];
}

/* Mark in BM what the todo bits say is left.  Nobody else changes them. */
static void mark_todo(struct dirty_bitmap *bm, const struct bits *todo,
                      int64_t unit_bytes)
{
    int64_t size = bits_size(todo), length = dirty_bitmap_length(bm);
    int64_t start, n, end;

    for (int64_t at = 0; at < size; at = start + n) {
        n = bits_next_run(todo, at, size, size, &start);
        if (n == 0) {
            break;
        }
        /* The last unit may end behind the bitmap, even all offsets. */
        end = start + n < size ? (start + n) * unit_bytes : length;
        dirty_bitmap_mark(bm, start * unit_bytes, end - start * unit_bytes);
    }
}

void sync_mode_finish(struct dirty_bitmap *bm, enum sync_mode mode,
                      bool succeeded, const struct bits *todo,
                      int64_t unit_bytes)
{
    unsigned sets = sync_mode_sets(mode, succeeded);

    if (sets & SYNC_SET_S) {
        dirty_bitmap_reclaim(bm);
    } else {
        dirty_bitmap_abdicate(bm);
    }
    if (sets & SYNC_SET_R) {
        mark_todo(bm, todo, unit_bytes);
    }
}
