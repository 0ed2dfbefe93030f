/* SPDX-License-Identifier: MIT */
/*
 * Writing guest data.
 *
 * Design      First try: clusters that are ours alone are written in place
 *             under a shared hold.  What is left is done under an exclusive
 *             hold of whole clusters, in steps: find a run that needs new
 *             clusters, allocate them in one piece, write the data (and what
 *             the rest of the first and last cluster read as before), then
 *             point the L2 entries to it.
 * Invariants  I1  The data is in the file before the entry (qcow2.h I1).
 *             I2  A step that fails gives its new clusters back; the old
 *                 mapping stands.
 */
#include <errno.h>
#include <stdlib.h>
#include "block/qcow2/qcow2.h"

/* Up to this, the rest of a cluster and the data go out as one write. */
enum { JOIN_BYTES = 4 << 20 };

struct request {
    int64_t offset, bytes;
    const uint8_t *buf;
    unsigned flags;
};

static void advance(struct request *r, int64_t bytes)
{
    r->offset += bytes;
    r->buf += bytes;
    r->bytes -= bytes;
}

static int write_data(struct qcow2 *s, int64_t host, int64_t bytes,
                      const void *buf, unsigned flags)
{
    return node_pwrite(qcow2_data(s), host, bytes, buf, flags);
}

/* Lock held: about to write guest data there. */
static int check_place(struct qcow2 *s, const struct qcow2_map *map)
{
    return s->data ? 0 : qcow2_check_overlap(s, 0, map->host, map->bytes);
}

/* ---- in place ---------------------------------------------------------- */

/* Write what lies in place at the start of R, which shrinks.  0 or -errno,
 * -EAGAIN with BLK_NOWAIT: nothing done. */
static int write_in_place(struct qcow2 *s, struct request *r)
{
    bool nowait = r->flags & BLK_NOWAIT;
    int ret = 0;

    while (r->bytes > 0 && ret == 0) {
        struct qcow2_map map;
        bool in_place;
        lock_acquire(&s->lock);
        ret = s->corrupt ? -EIO : qcow2_lookup(s, r->offset, r->bytes, nowait,
                                               &map);
        in_place = ret == 0 && map.type == QCOW2_NORMAL && map.copied;
        if (in_place) {
            ret = check_place(s, &map);
        }
        lock_release(&s->lock);
        if (ret < 0 || !in_place) {
            break;
        }
        if (nowait && map.bytes < r->bytes) {
            return -EAGAIN;
        }
        QCOW2_DEBUG(s, WRITE_AIO);
        ret = write_data(s, map.host, map.bytes, r->buf, r->flags);
        if (ret == 0) {
            advance(r, map.bytes);
        }
    }
    return ret;
}

/* ---- new clusters ------------------------------------------------------ */

/* A stretch of data for clusters that are new, or old without data. */
struct fill {
    int64_t cluster_host;       /* of the first cluster */
    int64_t n_new;              /* clusters allocated for it */
    bool first_use;             /* these or others: not the guest's before */
    int64_t offset, bytes;      /* guest's data */
    int64_t head, tail;         /* around it, to where L2 entries can say it */
    bool fresh;                 /* the clusters read as zeroes */
};

/* What the guest reads now in the rest of a cluster; zeroes behind the end. */
static int read_rest(struct qcow2 *s, int64_t offset, int64_t bytes,
                     uint8_t *buf)
{
    int64_t n = CLAMP(node_length(s->node) - offset, 0, bytes);

    memset(buf + n, 0, bytes - n);
    QCOW2_DEBUG(s, COW_READ);
    return n ? qcow2_read_held(s, offset, n, buf, 0) : 0;
}

/* Need [offset, +bytes), the rest of a (sub)cluster, be written? */
static int rest_needed(struct qcow2 *s, const struct fill *f, int64_t offset,
                       int64_t bytes)
{
    LOCK_GUARD(&s->lock);
    if (!f->fresh) {
        return bytes > 0;
    }
    while (bytes > 0) {
        struct qcow2_map map;
        int ret = qcow2_lookup(s, offset, bytes, false, &map);
        if (ret < 0) {
            return ret;
        }
        if (!qcow2_map_reads_zero(s, &map, offset)) {
            return 1;
        }
        offset += map.bytes;
        bytes -= map.bytes;
    }
    return 0;
}

static int write_part(struct qcow2 *s, int64_t host, int64_t offset,
                      int64_t bytes)
{
    g_autofree uint8_t *buf = NULL;
    int ret;

    if (bytes == 0) {
        return 0;
    }
    buf = g_try_malloc(bytes);
    ret = buf ? read_rest(s, offset, bytes, buf) : -ENOMEM;
    if (ret == 0) {
        QCOW2_DEBUG(s, COW_WRITE);
        ret = write_data(s, host, bytes, buf, 0);
    }
    return ret;
}

static int write_joined(struct qcow2 *s, const struct fill *f,
                        const uint8_t *data, int64_t host)
{
    int64_t total = f->head + f->bytes + f->tail;
    uint8_t *buf = aligned_alloc(4096, (total + 4095) & -INT64_C(4096));
    int ret = buf ? 0 : -ENOMEM;

    if (ret == 0 && f->head) {
        ret = read_rest(s, f->offset - f->head, f->head, buf);
    }
    if (ret == 0 && f->tail) {
        ret = read_rest(s, f->offset + f->bytes, f->tail,
                        buf + f->head + f->bytes);
    }
    if (ret == 0) {
        memcpy(buf + f->head, data, f->bytes);
        QCOW2_DEBUG(s, COW_WRITE);
        QCOW2_DEBUG(s, WRITE_AIO);
        ret = write_data(s, host, total, buf, 0);
    }
    free(buf);
    return ret;
}

static int write_fill(struct qcow2 *s, struct fill *f, const uint8_t *data)
{
    int64_t host = f->cluster_host + (f->offset & (s->cluster_bytes - 1));
    int head = rest_needed(s, f, f->offset - f->head, f->head);
    int tail = rest_needed(s, f, f->offset + f->bytes, f->tail);
    int ret;

    if (head < 0 || tail < 0) {
        return head < 0 ? head : tail;
    }
    f->head = head ? f->head : 0;
    f->tail = tail ? f->tail : 0;
    if (!f->head && !f->tail) {
        QCOW2_DEBUG(s, WRITE_AIO);
        return write_data(s, host, f->bytes, data, 0);
    }
    if (f->head + f->bytes + f->tail <= JOIN_BYTES) {
        return write_joined(s, f, data, host - f->head);
    }
    ret = write_part(s, host - f->head, f->offset - f->head, f->head);
    if (ret == 0) {
        ret = write_part(s, host + f->bytes, f->offset + f->bytes, f->tail);
    }
    if (ret == 0) {
        QCOW2_DEBUG(s, WRITE_AIO);
        ret = write_data(s, host, f->bytes, data, 0);
    }
    return ret;
}

/* Lock held: the clusters for R's start, up to the end of a run. */
static int allocate(struct qcow2 *s, const struct request *r, struct fill *f)
{
    int64_t in_cluster = r->offset & (s->cluster_bytes - 1);
    int64_t n = (in_cluster + r->bytes + s->cluster_bytes - 1) >>
                s->cluster_bits;
    int ret = qcow2_l2_count_new(s, r->offset, n, &n);

    if (ret < 0) {
        return ret;
    }
    if (s->data) {
        /* The place is given, and what is there now is nothing. */
        f->cluster_host = r->offset - in_cluster;
        f->first_use = true;
        f->bytes = MIN(r->bytes, (n << s->cluster_bits) - in_cluster);
        return n ? 0 : -EIO;
    }
    f->n_new = qcow2_alloc_run(s, n, false, &f->cluster_host, &f->fresh);
    if (f->n_new <= 0) {
        return f->n_new < 0 ? f->n_new : -EIO;
    }
    f->first_use = true;
    f->bytes = MIN(r->bytes, (f->n_new << s->cluster_bits) - in_cluster);
    return 0;
}

/* Lock held: how much around the data is part of the change. */
static int find_edges(struct qcow2 *s, struct fill *f)
{
    int64_t end = f->offset + f->bytes, unit = s->sub_bytes;
    int first = 0, last = 0;

    if (f->first_use) {
        first = qcow2_l2_has_data(s, f->offset);
        last = qcow2_l2_has_data(s, end - 1);
    }
    if (first < 0 || last < 0) {
        return first < 0 ? first : last;
    }
    f->head = f->offset & ((first ? s->cluster_bytes : unit) - 1);
    f->tail = -end & ((last ? s->cluster_bytes : unit) - 1);
    return 0;
}

/* Lock held: find or allocate the place for a step of R. */
static int step_begin(struct qcow2 *s, const struct request *r,
                      struct qcow2_map *map, struct fill *f)
{
    int ret = qcow2_writeback_some(s);

    if (ret == 0) {
        ret = qcow2_lookup_for_write(s, r->offset, r->bytes, map);
    }
    if (ret < 0) {
        return ret;
    }
    *f = (struct fill) { .offset = r->offset };
    if (map->copied) {
        f->cluster_host = map->host - (r->offset & (s->cluster_bytes - 1));
        f->bytes = map->bytes;
        ret = check_place(s, map);
    } else {
        ret = allocate(s, r, f);
    }
    if (ret == 0) {
        ret = find_edges(s, f);
        if (ret < 0 && f->n_new > 0) {
            qcow2_refcount_release(s, f->cluster_host, f->n_new);
        }
    }
    return ret;
}

/* One step under the exclusive hold; R shrinks. */
static int write_step(struct qcow2 *s, struct request *r)
{
    struct qcow2_l2_change change = {
        .op = QCOW2_L2_LINK,
        .free_flags = s->opt.discard_other ? QCOW2_FREE_DISCARD : 0,
    };
    struct qcow2_map map;
    struct fill f;
    int64_t start, end;
    int ret;

    lock_acquire(&s->lock);
    ret = step_begin(s, r, &map, &f);
    lock_release(&s->lock);
    if (ret < 0) {
        return ret;
    }
    if (map.copied && map.type == QCOW2_NORMAL) {
        QCOW2_DEBUG(s, WRITE_AIO);
        ret = write_data(s, map.host, map.bytes, r->buf, 0);
        advance(r, ret < 0 ? 0 : map.bytes);
        return ret;
    }
    start = f.offset - f.head;
    end = f.offset + f.bytes + f.tail;
    ret = write_fill(s, &f, r->buf);
    lock_acquire(&s->lock);
    if (ret == 0) {
        change.host = f.cluster_host;
        ret = qcow2_l2_set(s, start, end - start, &change);
    }
    if (ret < 0 && f.n_new > 0) {
        qcow2_refcount_release(s, f.cluster_host, f.n_new);     /* I2 */
    }
    lock_release(&s->lock);
    if (ret == 0) {
        advance(r, f.bytes);
    }
    return ret;
}

int qcow2_pwrite(struct node *n, int64_t offset, int64_t bytes,
                 const void *buf, unsigned flags)
{
    struct qcow2 *s = n->state;
    struct request r = {
        .offset = offset, .bytes = bytes, .buf = buf,
        .flags = flags & (BLK_NOWAIT | BLK_REGISTERED_BUF),
    };
    struct range_hold hold;
    int64_t start;
    int ret;

    if (flags & BLK_COMPRESSED) {
        return flags & BLK_NOWAIT ? -EAGAIN
               : qcow2_pwrite_compressed(s, offset, bytes, buf);
    }
    if (!(flags & BLK_NOWAIT)) {
        range_lock_acquire(&s->guest, &hold, offset, bytes, false);
    } else if (NODE_DEBUG_ACTIVE() ||   /* it may be stopped */
               !range_lock_try(&s->guest, &hold, offset, bytes, false)) {
        return -EAGAIN;
    }
    ret = write_in_place(s, &r);
    range_lock_release(&s->guest, &hold);
    if (ret < 0 || r.bytes == 0) {
        return ret;
    }
    if (flags & BLK_NOWAIT) {
        return -EAGAIN;
    }
    start = qcow2_cluster_start(s, r.offset);
    range_lock_acquire(&s->guest, &hold, start,
                       qcow2_cluster_end(s, r.offset + r.bytes) - start, true);
    while (r.bytes > 0 && ret == 0) {
        ret = write_step(s, &r);
    }
    range_lock_release(&s->guest, &hold);
    return ret;
}
