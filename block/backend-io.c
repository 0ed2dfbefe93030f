/* SPDX-License-Identifier: MIT */
/*
 * Backends: requests.
 *
 * A request is in flight on the root while it waits for the limits: a drain
 * lets it go, and it ends before the drain begins.
 */
#include "block/backend-priv.h"

#include <errno.h>
#include "base/control.h"
#include "block/graph-priv.h"

/* ---- who may use the medium --------------------------------------------- */

void backend_leave(struct backend *b)
{
    uint64_t old = atomic_fetch_sub(&b->users, USERS_ONE);

    g_assert(old >= USERS_ONE);
    if (old == (USERS_ONE | USERS_CLOSED)) {
        control_notify();
    }
}

bool backend_enter(struct backend *b)
{
    if (atomic_fetch_add(&b->users, USERS_ONE) & USERS_CLOSED) {
        backend_leave(b);
        return false;
    }
    return true;
}

int64_t backend_count_entered(void)
{
    int64_t n = 0;

    for (struct backend *b = backend_next(NULL); b; b = b->next) {
        n += atomic_load(&b->users) / USERS_ONE;
    }
    return n;
}

/* ---- requests ----------------------------------------------------------- */

static unsigned write_flags(const struct backend *b, unsigned flags)
{
    return atomic_load_explicit(&b->writethrough, memory_order_relaxed)
           ? flags | BLK_FUA : flags;
}

static int counted(struct backend *b, enum block_stats_op op, int64_t bytes,
                   int64_t start_ns, int ret)
{
    block_stats_done(b->stats, op, bytes, start_ns, ret);
    return ret;
}

int backend_pread(struct backend *b, int64_t offset, int64_t bytes, void *buf)
{
    int64_t start_ns = block_stats_start(b->stats);
    int ret;

    root_enter(b->root);
    ret = root_check_range(b->root, offset, bytes);
    if (ret == 0 && bytes > 0) {
        backend_wait_for_turn(b, false, bytes);
        ret = node_pread(root_node(b->root), offset, bytes, buf, 0);
    }
    root_leave(b->root);
    return counted(b, STATS_READ, bytes, start_ns, ret);
}

int backend_pwrite(struct backend *b, int64_t offset, int64_t bytes,
                   const void *buf, unsigned flags)
{
    int64_t start_ns = block_stats_start(b->stats);
    int ret;

    root_enter(b->root);
    ret = root_check_write(b->root, offset, bytes, flags);
    if (ret == 0 && bytes > 0) {
        backend_wait_for_turn(b, true, bytes);
        ret = node_pwrite(root_node(b->root), offset, bytes, buf,
                          write_flags(b, flags));
    }
    root_leave(b->root);
    return counted(b, STATS_WRITE, bytes, start_ns, ret);
}

int backend_pwrite_zeroes(struct backend *b, int64_t offset, int64_t bytes,
                          unsigned flags)
{
    int64_t start_ns = block_stats_start(b->stats);
    int ret;

    root_enter(b->root);
    ret = root_check_write(b->root, offset, bytes, flags);
    if (ret == 0 && bytes > 0) {
        backend_wait_for_turn(b, true, bytes);
        ret = node_pwrite_zeroes(root_node(b->root), offset, bytes,
                                 write_flags(b, flags));
    }
    root_leave(b->root);
    return counted(b, STATS_WRITE, bytes, start_ns, ret);
}

int backend_pdiscard(struct backend *b, int64_t offset, int64_t bytes)
{
    int64_t start_ns = block_stats_start(b->stats);
    int ret;

    root_enter(b->root);
    ret = root_check_write(b->root, offset, bytes, 0);
    if (ret == 0 && bytes > 0) {
        backend_wait_for_turn(b, true, bytes);
        ret = node_pdiscard(root_node(b->root), offset, bytes);
    }
    root_leave(b->root);
    return counted(b, STATS_UNMAP, bytes, start_ns, ret);
}

int backend_flush(struct backend *b)
{
    int64_t start_ns = block_stats_start(b->stats);

    return counted(b, STATS_FLUSH, 0, start_ns, root_flush(b->root));
}
