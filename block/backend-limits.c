/* SPDX-License-Identifier: MIT */
/*
 * Backends: limits.
 *
 * A backend with limits is a member of a throttle group, which has them.
 * Which group that is changes while requests come: they use it only between
 * limits_enter() and limits_leave(), and who changes it keeps others out,
 * lets those go that wait, and waits until they have gone.
 */
#include "block/backend-priv.h"

#include "base/control.h"

void backend_limits_init(struct backend *b)
{
    lock_init(&b->limits.lock, "backend-limits", LOCK_ROOT);
    cond_init(&b->limits.changed);
}

void backend_limits_deinit(struct backend *b)
{
    if (b->limits.group) {
        object_put(&b->limits.group->base);
    }
    cond_deinit(&b->limits.changed);
    lock_deinit(&b->limits.lock);
}

/* ---- requests ----------------------------------------------------------- */

/* False: there are none (any more). */
static bool limits_enter(struct backend_limits *l)
{
    LOCK_GUARD(&l->lock);
    while (l->changing) {
        cond_wait(&l->changed, &l->lock);
    }
    if (!l->group) {
        return false;
    }
    l->n_inside++;
    return true;
}

static void limits_leave(struct backend_limits *l)
{
    bool tell;

    lock_acquire(&l->lock);
    l->n_inside--;
    tell = l->changing && l->n_inside == 0;
    lock_release(&l->lock);
    if (tell) {
        control_notify();
    }
}

bool backend_is_limited(const struct backend *b)
{
    return __atomic_load_n(&b->limits.on, __ATOMIC_RELAXED);
}

void backend_wait_for_turn(struct backend *b, bool is_write, int64_t bytes)
{
    struct backend_limits *l = &b->limits;

    if (G_LIKELY(!backend_is_limited(b)) || !limits_enter(l)) {
        return;
    }
    throttle_member_wait(&l->member, is_write, bytes, false);
    limits_leave(l);
}

/* ---- letting go --------------------------------------------------------- */

void backend_let_go_begin(struct backend *b)
{
    control_assert();
    b->limits.n_let_go++;
    if (b->limits.group) {
        throttle_member_let_go_begin(&b->limits.member);
    }
}

void backend_let_go_end(struct backend *b)
{
    control_assert();
    g_assert(b->limits.n_let_go > 0);
    b->limits.n_let_go--;
    if (b->limits.group) {
        throttle_member_let_go_end(&b->limits.member);
    }
}

void backends_let_go(void)
{
    for (struct backend *b = backend_next(NULL); b; b = b->next) {
        backend_let_go_begin(b);
    }
}

/* ---- changing ----------------------------------------------------------- */

static bool somebody_inside(struct backend_limits *l)
{
    LOCK_GUARD(&l->lock);
    return l->n_inside > 0;
}

/* Yields if requests wait. */
static void change_begin(struct backend *b)
{
    struct backend_limits *l = &b->limits;

    for (;;) {
        lock_acquire(&l->lock);
        if (!l->changing) {
            l->changing = true;
            lock_release(&l->lock);
            break;
        }
        lock_release(&l->lock);
        control_wait();
    }
    if (somebody_inside(l)) {
        backend_let_go_begin(b);
        while (somebody_inside(l)) {
            control_wait();
        }
        backend_let_go_end(b);
    }
}

static void change_end(struct backend *b)
{
    struct backend_limits *l = &b->limits;

    __atomic_store_n(&l->on, l->group != NULL, __ATOMIC_RELAXED);
    lock_acquire(&l->lock);
    l->changing = false;
    cond_broadcast(&l->changed);
    lock_release(&l->lock);
    control_notify();
}

/* GROUP is taken; NULL: none. */
static void move_to(struct backend *b, struct throttle_group_object *group)
{
    struct backend_limits *l = &b->limits;

    change_begin(b);
    if (l->group) {
        object_put(&l->group->base);
    }
    l->group = group;
    if (group) {
        throttle_member_init(&l->member, &group->group);
        for (int i = 0; i < l->n_let_go; i++) {
            throttle_member_let_go_begin(&l->member);
        }
    }
    change_end(b);
}

void backend_set_limits(struct backend *b, const char *group,
                        const struct throttle_limits *limits)
{
    struct backend_limits *l = &b->limits;

    control_assert();
    if (!throttle_limits_any(limits)) {
        if (l->group) {
            move_to(b, NULL);
        }
        return;
    }
    if (!group && !l->group) {
        group = backend_shown_name(b);
    }
    if (group && (!l->group || g_strcmp0(l->group->base.id, group) != 0)) {
        move_to(b, throttle_group_get_or_make(group));
    }
    if (l->group) {     /* another command may have cleared it meanwhile */
        throttle_group_set_limits(&l->group->group, limits);
    }
}

bool backend_get_limits(const struct backend *b, const char **group,
                        struct throttle_limits *limits)
{
    control_assert();
    if (!b->limits.group) {
        return false;
    }
    if (group) {
        *group = b->limits.group->base.id;
    }
    throttle_group_get_limits(&b->limits.group->group, limits);
    return true;
}
