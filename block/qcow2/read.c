/* SPDX-License-Identifier: MIT */
/*
 * Reading guest data, and telling how it is stored.
 *
 * A hit costs a hold of the range, one lookup under the lock, and the read of
 * the file.
 */
#include <errno.h>
#include "block/qcow2/qcow2.h"

static int64_t backing_length(const struct qcow2 *s)
{
    return s->node->backing ? node_length(s->node->backing->node) : 0;
}

/* What no cluster here decides: the backing file, zeroes behind its end. */
static int read_backing(struct qcow2 *s, int64_t offset, int64_t bytes,
                        uint8_t *buf, unsigned flags)
{
    int64_t n = CLAMP(backing_length(s) - offset, 0, bytes);

    if (n < bytes) {
        memset(buf + n, 0, bytes - n);
    }
    if (n == 0) {
        return 0;
    }
    QCOW2_DEBUG(s, READ_BACKING_AIO);
    return node_pread(s->node->backing->node, offset, n, buf, flags);
}

static int read_map(struct qcow2 *s, const struct qcow2_map *map,
                    int64_t offset, uint8_t *buf, unsigned flags)
{
    switch (map->type) {
    case QCOW2_NORMAL:
        QCOW2_DEBUG(s, READ_AIO);
        return node_pread(qcow2_data(s), map->host, map->bytes, buf, flags);
    case QCOW2_UNALLOCATED:
    case QCOW2_UNALLOC_HELD:
        return read_backing(s, offset, map->bytes, buf, flags);
    case QCOW2_TYPE_COMPRESSED:
        if (flags & BLK_NOWAIT) {
            return -EAGAIN;
        }
        return qcow2_read_compressed(s, map->entry,
                                     offset & (s->cluster_bytes - 1),
                                     map->bytes, buf);
    default:
        memset(buf, 0, map->bytes);
        return 0;
    }
}

int qcow2_read_held(struct qcow2 *s, int64_t offset, int64_t bytes,
                    uint8_t *buf, unsigned flags)
{
    int ret = 0;

    flags &= BLK_NOWAIT | BLK_REGISTERED_BUF;
    while (bytes > 0 && ret == 0) {
        struct qcow2_map map;
        lock_acquire(&s->lock);
        ret = qcow2_lookup(s, offset, bytes, flags & BLK_NOWAIT, &map);
        lock_release(&s->lock);
        if (ret == 0) {
            ret = read_map(s, &map, offset, buf, flags);
            offset += map.bytes;
            buf += map.bytes;
            bytes -= map.bytes;
        }
    }
    return ret;
}

int qcow2_pread(struct node *n, int64_t offset, int64_t bytes, void *buf,
                unsigned flags)
{
    struct qcow2 *s = n->state;
    struct range_hold hold;
    int ret;

    if (!(flags & BLK_NOWAIT)) {
        range_lock_acquire(&s->guest, &hold, offset, bytes, false);
    } else if (NODE_DEBUG_ACTIVE() ||   /* it may be stopped */
               !range_lock_try(&s->guest, &hold, offset, bytes,
                               false)) {
        return -EAGAIN;
    }
    ret = qcow2_read_held(s, offset, bytes, buf, flags);
    range_lock_release(&s->guest, &hold);
    return ret;
}

bool qcow2_map_reads_zero(struct qcow2 *s, const struct qcow2_map *map,
                          int64_t offset)
{
    switch (map->type) {
    case QCOW2_ZERO_PLAIN:
    case QCOW2_ZERO_ALLOC:
        return true;
    case QCOW2_UNALLOCATED:
    case QCOW2_UNALLOC_HELD:
        return offset >= backing_length(s);
    default:
        return false;
    }
}

int qcow2_block_status(struct node *n, bool want_zero, int64_t offset,
                       int64_t bytes, struct block_status *st)
{
    struct qcow2 *s = n->state;
    struct qcow2_map map;
    int ret;

    lock_acquire(&s->lock);
    ret = qcow2_lookup(s, offset, bytes, false, &map);
    lock_release(&s->lock);
    if (ret < 0) {
        return ret;
    }
    *st = (struct block_status) { .bytes = map.bytes };
    switch (map.type) {
    case QCOW2_UNALLOCATED:
    case QCOW2_UNALLOC_HELD:
        break;
    case QCOW2_TYPE_COMPRESSED:
        st->flags = STATUS_DATA | STATUS_ALLOCATED | STATUS_COMPRESSED;
        break;
    case QCOW2_ZERO_PLAIN:
        st->flags = STATUS_ZERO | STATUS_ALLOCATED;
        break;
    default:
        st->flags = STATUS_ALLOCATED | STATUS_OFFSET_VALID |
                    (map.type == QCOW2_NORMAL ? STATUS_DATA : STATUS_ZERO);
        st->map = map.host;
        st->file = qcow2_data(s);
        break;
    }
    return 0;
}
