/* SPDX-License-Identifier: MIT */
/*
 * quorum: several nodes with the same data; a request succeeds if enough of
 * them agree.
 *
 * Problem     Children are asked at the same time, each in a thread of its
 *             own.  Two writes of one place, or a write and a read, may reach
 *             them in different orders.
 * Invariants  I1  A write holds its range exclusively, a read shares it: the
 *                 children see overlapping requests in the same order, and a
 *                 vote is about one state.
 *             I2  A correction is made under an exclusive hold from what was
 *                 read and voted under the same hold: it never brings old
 *                 data back.
 *             I3  Children's sizes are equal, and stay so: nobody else may
 *                 resize or write them, and a write past the end makes all
 *                 of them longer.  Who fails it is outvoted there.
 * Threads     Any; children change while drained.
 */
#include "block/drivers.h"
#include "block/filters/quorum.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "base/error.h"

enum {
    /* Every child needs a buffer. */
    MAX_TRANSFER_BYTES = 32 << 20,
    ROLE_MEMBER = ROLE_DATA,
};

/* ---- opening ------------------------------------------------------------ */

static bool check_quorum_options(const BlockdevOptionsQuorum *o, bool fifo,
                                 struct error **errp)
{
    size_t n_children = o->children->n;

    if (n_children == 0) {
        error_set(errp, "Number of provided children must be 1 or more");
        return false;
    }
    if (o->vote_threshold < 1 || o->vote_threshold > INT_MAX) {
        error_set(errp, "Parameter 'vote-threshold' expects a value >= 1");
        return false;
    }
    if (o->vote_threshold > n_children) {
        error_set(errp, "threshold may not exceed children count");
        return false;
    }
    if (fifo || !o->blkverify) {
        return true;
    }
    if (n_children != 2 || o->vote_threshold != 2) {
        error_set(errp, "blkverify=on can only be set if there are exactly "
                  "two files and vote-threshold is 2");
        return false;
    }
    if (o->rewrite_corrupted) {
        error_set(errp, "rewrite-corrupted=on cannot be used with "
                  "blkverify=on");
        return false;
    }
    return true;
}

/* Runs before open(): what child_perm asks is to be known. */
static bool quorum_open_children(struct node *n,
                                 const BlockdevOptions *options,
                                 struct error **errp)
{
    const BlockdevOptionsQuorum *o = &options->u.quorum;
    struct quorum_state *s = n->state;

    s->fifo = o->has_read_pattern &&
              o->read_pattern == QUORUM_READ_PATTERN_FIFO;
    if (!check_quorum_options(o, s->fifo, errp)) {
        return false;
    }
    s->threshold = o->vote_threshold;
    s->blkverify = o->blkverify && !s->fifo;
    s->rewrite = o->rewrite_corrupted && !s->fifo;
    for (size_t i = 0; i < o->children->n; i++) {
        g_autofree char *name = g_strdup_printf("children.%u", s->next_index);

        if (!node_open_child(n, o->children->v[i], name, ROLE_MEMBER,
                             errp)) {
            return false;
        }
        s->next_index++;
    }
    return true;
}

static int quorum_open(struct node *n, const BlockdevOptions *options,
                       struct error **errp)
{
    struct quorum_state *s = n->state;
    int64_t length = node_length(n->children->node);

    for (const struct child *c = n->children; c; c = c->next_sibling) {
        if (node_length(c->node) != length) {
            error_set_errno(errp, EIO, "Could not refresh total sector "
                            "count");
            return -EIO;
        }
    }
    range_lock_init(&s->busy, "quorum-busy");
    lock_init(&s->lock, "quorum", LOCK_LEAF);
    cond_init(&s->told);
    atomic_store(&n->length_bytes, length);
    return 0;
}

static void quorum_close(struct node *n)
{
    struct quorum_state *s = n->state;

    quorum_reports_wait(s);
    cond_deinit(&s->told);
    lock_deinit(&s->lock);
    range_lock_deinit(&s->busy);
}

/* The strictest of all. */
static void quorum_refresh_limits(struct node *n)
{
    struct block_limits *l = &n->limits;

    *l = (struct block_limits){
        .request_alignment = 1, .min_mem_alignment = 1,
        .opt_mem_alignment = 4096, .max_transfer = MAX_TRANSFER_BYTES,
    };
    n->supported_write_flags = BLK_FUA;
    n->supported_zero_flags = BLK_FUA | BLK_MAY_UNMAP | BLK_NO_FALLBACK;
    for (const struct child *c = n->children; c; c = c->next_sibling) {
        const struct node *below = c->node;

        l->request_alignment = MAX(l->request_alignment,
                                   below->limits.request_alignment);
        l->min_mem_alignment = MAX(l->min_mem_alignment,
                                   below->limits.min_mem_alignment);
        l->opt_mem_alignment = MAX(l->opt_mem_alignment,
                                   below->limits.opt_mem_alignment);
        n->supported_write_flags &= below->supported_write_flags;
        n->supported_zero_flags &= below->supported_zero_flags;
    }
}

static void quorum_child_perm(struct node *n, const struct child *c,
                              unsigned perm, unsigned shared,
                              unsigned *child_perm, unsigned *child_shared)
{
    const struct quorum_state *s = n->state;

    *child_perm = perm | (s->rewrite ? PERM_WRITE : 0);
    /* I3. */
    *child_shared = (shared & PERM_CONSISTENT_READ) | PERM_WRITE_UNCHANGED;
}

/* ---- reading ------------------------------------------------------------ */

static void stop_if_different(const struct quorum_run *run)
{
    const uint8_t *a = run->parts[0].buf, *b = run->parts[1].buf;
    int64_t at = 0;

    if (memcmp(a, b, run->bytes) == 0) {
        return;
    }
    while (a[at] == b[at]) {
        at++;
    }
    fprintf(stderr, "quorum: offset=%" PRId64 " bytes=%" PRId64 " contents "
            "mismatch at offset %" PRId64 "\n", run->offset, run->bytes,
            run->offset + at);
    fflush(NULL);
    _exit(EXIT_FAILURE);    /* other threads are at work on what exit() ends */
}

static void correct(const struct quorum_run *run,
                    const struct quorum_part *winner)
{
    for (int i = 0; i < run->n_parts; i++) {
        const struct quorum_part *part = &run->parts[i];

        if (quorum_differs(run, part, winner)) {
            /* Who cannot be corrected was reported, and will be again. */
            node_pwrite(part->child, run->offset, run->bytes, winner->buf,
                        BLK_WRITE_UNCHANGED);
        }
    }
}

/* Enough children were read: their majority's data into the first's buffer.
 * As read_vote(). */
static int take_winner(struct node *n, struct quorum_run *run,
                       bool may_correct, bool *differ)
{
    const struct quorum_state *s = n->state;
    bool unanimous;
    struct quorum_part *winner = quorum_elect(n, run, &unanimous);

    if (!winner) {
        quorum_report_failure(n, run);
        return -EIO;
    }
    *differ = !unanimous;
    if (*differ && s->rewrite && !may_correct) {
        return 0;       /* it is read again, and told then */
    }
    quorum_report_different(n, run, winner);
    if (*differ && may_correct) {
        correct(run, winner);
    }
    if (winner != &run->parts[0]) {
        memcpy(run->parts[0].buf, winner->buf, run->bytes);
    }
    return 0;
}

/* Read and vote.  *DIFFER: somebody was outvoted.  MAY_CORRECT: the range is
 * held exclusively, they are corrected. */
static int read_vote(struct node *n, int64_t offset, int64_t bytes, void *buf,
                     bool may_correct, bool *differ)
{
    const struct quorum_state *s = n->state;
    struct quorum_run run = {
        .type = QUORUM_OP_TYPE_READ, .offset = offset, .bytes = bytes,
    };
    int ret = quorum_run(n, &run, buf);

    if (ret < 0) {
        return ret;
    }
    ret = quorum_count(n, &run, true);
    if (ret == 0 && s->blkverify) {
        stop_if_different(&run);
    }
    if (ret == 0) {
        ret = take_winner(n, &run, may_correct, differ);
    }
    quorum_run_end(&run);
    return ret;
}

static int read_fifo(struct node *n, int64_t offset, int64_t bytes, void *buf)
{
    struct quorum_run about = {
        .type = QUORUM_OP_TYPE_READ, .offset = offset, .bytes = bytes,
    };
    int ret = -EIO;

    for (const struct child *c = n->children; c; c = c->next_sibling) {
        ret = node_pread(c->node, offset, bytes, buf, 0);
        if (ret == 0) {
            break;
        }
        quorum_report_bad(n, &about, c->node, ret);
    }
    return ret;
}

static int quorum_pread(struct node *n, int64_t offset, int64_t bytes,
                        void *buf, unsigned flags)
{
    struct quorum_state *s = n->state;
    struct range_hold hold;
    bool differ = false;
    int ret;

    if (flags & BLK_NOWAIT) {
        return -EAGAIN;
    }
    range_lock_acquire(&s->busy, &hold, offset, bytes, false);
    ret = s->fifo ? read_fifo(n, offset, bytes, buf)
                  : read_vote(n, offset, bytes, buf, false, &differ);
    range_lock_release(&s->busy, &hold);
    if (ret == 0 && differ && s->rewrite) {
        range_lock_acquire(&s->busy, &hold, offset, bytes, true);
        ret = read_vote(n, offset, bytes, buf, true, &differ);  /* I2 */
        range_lock_release(&s->busy, &hold);
    }
    return ret;
}

/* ---- writing ------------------------------------------------------------ */

static int change(struct node *n, struct quorum_run *run)
{
    struct quorum_state *s = n->state;
    struct range_hold hold;
    int ret;

    if (run->flags & BLK_NOWAIT) {
        return -EAGAIN;
    }
    range_lock_acquire(&s->busy, &hold, run->offset, run->bytes, true);
    ret = quorum_run(n, run, NULL);
    if (ret == 0) {
        ret = quorum_count(n, run, true);
        quorum_run_end(run);
    }
    range_lock_release(&s->busy, &hold);
    return ret;
}

static int quorum_pwrite(struct node *n, int64_t offset, int64_t bytes,
                         const void *buf, unsigned flags)
{
    struct quorum_run run = {
        .type = QUORUM_OP_TYPE_WRITE, .offset = offset, .bytes = bytes,
        .data = buf, .flags = flags,
    };

    return change(n, &run);
}

static int quorum_pwrite_zeroes(struct node *n, int64_t offset, int64_t bytes,
                                unsigned flags)
{
    struct quorum_run run = {
        .type = QUORUM_OP_TYPE_WRITE, .zeroes = true, .offset = offset,
        .bytes = bytes, .flags = flags,
    };

    return change(n, &run);
}

/* What a discarded range reads as may differ: it is not passed on. */
static int quorum_pdiscard(struct node *n, int64_t offset, int64_t bytes)
{
    return 0;
}

static int quorum_flush(struct node *n)
{
    struct quorum_run run = { .type = QUORUM_OP_TYPE_FLUSH };
    int ret = quorum_run(n, &run, NULL);

    if (ret == 0) {
        ret = quorum_count(n, &run, false);
        quorum_run_end(&run);
    }
    return ret;
}

/* ---- block status ------------------------------------------------------- */

/* Zero is only what is zero everywhere; the rest has to be read and voted. */
static int quorum_block_status(struct node *n, bool want_zero, int64_t offset,
                               int64_t bytes, struct block_status *st)
{
    struct quorum_run about = {
        .type = QUORUM_OP_TYPE_READ, .offset = offset, .bytes = bytes,
    };
    int64_t zero_bytes = bytes, data_bytes = 0;

    for (const struct child *c = n->children; c; c = c->next_sibling) {
        struct block_status below;
        int ret = node_block_status_above(c->node, NULL, want_zero, offset,
                                          bytes, &below);

        if (ret < 0) {
            quorum_report_bad(n, &about, c->node, ret);
            data_bytes = bytes;
        } else if (below.flags & STATUS_ZERO) {
            zero_bytes = MIN(zero_bytes, below.bytes ? below.bytes : bytes);
        } else {
            data_bytes = MAX(data_bytes, below.bytes);
        }
    }
    st->flags = STATUS_ALLOCATED | (data_bytes ? STATUS_DATA : STATUS_ZERO);
    st->bytes = data_bytes ? data_bytes : zero_bytes;
    return 0;
}

static bool quorum_reads_zero_when_new(struct node *n)
{
    for (const struct child *c = n->children; c; c = c->next_sibling) {
        if (!node_reads_zero_when_new(c->node)) {
            return false;
        }
    }
    return true;
}

/* ---- children that come and go ------------------------------------------ */

static bool quorum_add_child(struct node *n, struct node *child,
                             struct error **errp)
{
    struct quorum_state *s = n->state;
    g_autofree char *name = g_strdup_printf("children.%u", s->next_index);

    if (s->blkverify) {
        error_set(errp, "Cannot add a child to a quorum in blkverify mode");
        return false;
    }
    if (child != n && node_length(child) != node_length(n)) {
        error_set(errp, "Node '%s' has another size than quorum node '%s'",
                  node_name(child), node_name(n));
        return false;
    }
    if (!node_attach_child(n, child, name, ROLE_MEMBER, errp)) {
        return false;
    }
    s->next_index++;
    return true;
}

static bool quorum_del_child(struct node *n, struct child *child,
                             struct error **errp)
{
    struct quorum_state *s = n->state;
    g_autofree char *newest = NULL;
    int n_children = 0;

    for (const struct child *c = n->children; c; c = c->next_sibling) {
        n_children++;
    }
    if (n_children <= s->threshold) {
        error_set(errp, "The number of children cannot be lower than the "
                  "vote threshold %d", s->threshold);
        return false;
    }
    newest = g_strdup_printf("children.%u", s->next_index - 1);
    if (strcmp(child->name, newest) == 0) {
        s->next_index--;
    }
    node_detach_child(n, child);
    return true;
}

static const char *const quorum_strong_options[] = {
    "blkverify", "read-pattern", "rewrite-corrupted", "vote-threshold", NULL
};

const struct driver driver_quorum = {
    .name = "quorum",
    .type = BLOCKDEV_DRIVER_QUORUM,
    .state_size = sizeof(struct quorum_state),
    .flushes_children = true,
    .listed_first = true,
    .may_grow = true,
    .strong_options = quorum_strong_options,
    .open_children = quorum_open_children,
    .open = quorum_open,
    .close = quorum_close,
    .refresh_limits = quorum_refresh_limits,
    .child_perm = quorum_child_perm,
    .pread = quorum_pread,
    .pwrite = quorum_pwrite,
    .pwrite_zeroes = quorum_pwrite_zeroes,
    .pdiscard = quorum_pdiscard,
    .flush_to_disk = quorum_flush,
    .block_status = quorum_block_status,
    .reads_zero_when_new = quorum_reads_zero_when_new,
    .add_child = quorum_add_child,
    .del_child = quorum_del_child,
};
