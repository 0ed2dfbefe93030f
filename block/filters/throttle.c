/* SPDX-License-Identifier: MIT */
/*
 * Filter throttle: its requests keep the limits of a throttle group.
 *
 * Flushes and questions pass; what changes data counts as a write.  A drain
 * lets everything go that waits: what is drained must not depend on how slow
 * somebody wants it to be.
 */
#include "block/drivers.h"

#include "base/control.h"
#include "block/objects/throttle-group.h"
#include "block/reopen.h"

struct throttle_state {
    struct throttle_group_object *group;    /* owned use; control lock */
    struct throttle_member member;
};

static struct node *below(const struct node *n)
{
    return n->file->node;
}

/* ---- life --------------------------------------------------------------- */

static BlockdevRef **throttle_file_option(BlockdevOptions *options)
{
    return &options->u.throttle.file;
}

static int throttle_open(struct node *n, const BlockdevOptions *options,
                         struct error **errp)
{
    struct throttle_state *s = n->state;

    CONTROL_GUARD();
    s->group = throttle_group_get(options->u.throttle.throttle_group, errp);
    if (!s->group) {
        return -EINVAL;
    }
    throttle_member_init(&s->member, &s->group->group);
    atomic_store(&n->length_bytes, node_length(below(n)));
    return 0;
}

static void throttle_close(struct node *n)
{
    struct throttle_state *s = n->state;

    CONTROL_GUARD();
    object_put(&s->group->base);
    s->group = NULL;
}

/* ---- requests ----------------------------------------------------------- */

static int wait_for_turn(struct node *n, bool is_write, int64_t bytes,
                         unsigned flags)
{
    struct throttle_state *s = n->state;

    return throttle_member_wait(&s->member, is_write, bytes,
                                flags & BLK_NOWAIT);
}

static int throttle_pread(struct node *n, int64_t offset, int64_t bytes,
                          void *buf, unsigned flags)
{
    int ret = wait_for_turn(n, false, bytes, flags);

    return ret < 0 ? ret : node_pread(below(n), offset, bytes, buf, flags);
}

static int throttle_pwrite(struct node *n, int64_t offset, int64_t bytes,
                           const void *buf, unsigned flags)
{
    int ret = wait_for_turn(n, true, bytes, flags);

    return ret < 0 ? ret : node_pwrite(below(n), offset, bytes, buf, flags);
}

static int throttle_pwrite_zeroes(struct node *n, int64_t offset,
                                  int64_t bytes, unsigned flags)
{
    int ret = wait_for_turn(n, true, bytes, flags);

    return ret < 0 ? ret : node_pwrite_zeroes(below(n), offset, bytes, flags);
}

static int throttle_pdiscard(struct node *n, int64_t offset, int64_t bytes)
{
    wait_for_turn(n, true, bytes, 0);
    return node_pdiscard(below(n), offset, bytes);
}

/* ---- letting go --------------------------------------------------------- */

static void throttle_drained_begin(struct node *n)
{
    struct throttle_state *s = n->state;

    throttle_member_let_go_begin(&s->member);
}

static void throttle_drained_end(struct node *n)
{
    struct throttle_state *s = n->state;

    throttle_member_let_go_end(&s->member);
}

static void throttle_cancel_in_flight(struct node *n)
{
    struct throttle_state *s = n->state;

    throttle_member_flush(&s->member);
}

/* ---- reopen ------------------------------------------------------------- */

static bool throttle_reopen_prepare(struct node_reopen *r,
                                    struct error **errp)
{
    CONTROL_GUARD();
    r->driver_state =
        throttle_group_get(r->options->u.throttle.throttle_group, errp);
    return r->driver_state;
}

static void throttle_reopen_commit(struct node_reopen *r)
{
    struct throttle_state *s = r->node->state;
    struct throttle_group_object *group = r->driver_state;

    CONTROL_GUARD();
    throttle_member_move(&s->member, &group->group);
    object_put(&s->group->base);
    s->group = group;
}

static void throttle_reopen_abort(struct node_reopen *r)
{
    struct throttle_group_object *group = r->driver_state;

    CONTROL_GUARD();
    object_put(&group->base);
}

static const char *const throttle_strong_options[] = {
    "throttle-group", NULL
};

const struct driver driver_throttle = {
    .name = "throttle",
    .type = BLOCKDEV_DRIVER_THROTTLE,
    .state_size = sizeof(struct throttle_state),
    .is_filter = true,
    .may_grow = true,
    .strong_options = throttle_strong_options,
    .file_option = throttle_file_option,
    .open = throttle_open,
    .close = throttle_close,
    .pread = throttle_pread,
    .pwrite = throttle_pwrite,
    .pwrite_zeroes = throttle_pwrite_zeroes,
    .pdiscard = throttle_pdiscard,
    .drained_begin = throttle_drained_begin,
    .drained_end = throttle_drained_end,
    .cancel_in_flight = throttle_cancel_in_flight,
    .reopen_options = throttle_strong_options,
    .reopen_prepare = throttle_reopen_prepare,
    .reopen_commit = throttle_reopen_commit,
    .reopen_abort = throttle_reopen_abort,
};
