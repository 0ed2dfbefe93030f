/* SPDX-License-Identifier: MIT */
/* Throttle groups: see throttle-group.h. */
#include "block/throttle-group.h"

#include <errno.h>

/* On the stack of the thread that waits. */
struct throttle_request {
    struct cond changed;        /* it may go, or must keep time */
    int64_t bytes;
    bool may_go;
    struct throttle_request *next;
};

/* ---- queues: lock held -------------------------------------------------- */

/* At the end of those that wait for their turn. */
static void ring_append(struct throttle_group *g, struct throttle_member *m,
                        bool is_write)
{
    m->next[is_write] = NULL;
    *g->last[is_write] = m;
    g->last[is_write] = &m->next[is_write];
}

static void ring_remove(struct throttle_group *g, struct throttle_member *m,
                        bool is_write)
{
    struct throttle_member **p = &g->first[is_write];

    while (*p != m) {
        p = &(*p)->next[is_write];
    }
    *p = m->next[is_write];
    if (g->last[is_write] == &m->next[is_write]) {
        g->last[is_write] = p;
    }
}

static void enqueue(struct throttle_member *m, bool is_write,
                    struct throttle_request *r)
{
    if (!m->head[is_write]) {
        m->tail[is_write] = &m->head[is_write];
        ring_append(m->group, m, is_write);
    }
    m->n_waiting++;
    r->next = NULL;
    *m->tail[is_write] = r;
    m->tail[is_write] = &r->next;
}

/* The oldest of M's requests goes. */
static void let_one_go(struct throttle_member *m, bool is_write)
{
    struct throttle_group *g = m->group;
    struct throttle_request *r = m->head[is_write];

    m->n_waiting--;
    m->head[is_write] = r->next;
    ring_remove(g, m, is_write);
    if (m->head[is_write]) {
        ring_append(g, m, is_write);        /* I1 */
    } else {
        m->tail[is_write] = &m->head[is_write];
    }
    throttle_account(&g->throttle, is_write, r->bytes);
    r->may_go = true;
    cond_signal(&r->changed);
}

/* ---- whose turn it is: lock held ---------------------------------------- */

static bool serve_direction(struct throttle_group *g, bool is_write,
                            int64_t now_ns)
{
    if (!g->first[is_write] ||
        throttle_wait_ns(&g->throttle, is_write, now_ns) > 0) {
        return false;
    }
    let_one_go(g->first[is_write], is_write);
    g->turn = !is_write;
    return true;
}

static void serve(struct throttle_group *g)
{
    int64_t now_ns = clock_virtual_ns();

    while (serve_direction(g, g->turn, now_ns) ||
           serve_direction(g, !g->turn, now_ns)) {
        /* the next one */
    }
}

/* Virtual, when serve() can do something again; INT64_MAX: never. */
static int64_t next_virtual_deadline(struct throttle_group *g)
{
    int64_t now_ns = clock_virtual_ns(), wait_ns = INT64_MAX;

    for (int is_write = 0; is_write < 2; is_write++) {
        if (g->first[is_write]) {
            wait_ns = MIN(wait_ns, throttle_wait_ns(&g->throttle, is_write,
                                                    now_ns));
        }
    }
    return wait_ns > INT64_MAX - now_ns ? INT64_MAX : now_ns + wait_ns;
}

/* As that, of clock_ns(). */
static int64_t next_deadline(struct throttle_group *g)
{
    return clock_virtual_deadline(next_virtual_deadline(g));
}

/* Things have changed: serve, and let the timekeeper set its alarm anew. */
static void look_again(struct throttle_group *g)
{
    serve(g);
    if (g->timekeeper) {
        cond_signal(&g->timekeeper->changed);
    }
}

static struct throttle_request *any_waiting(const struct throttle_group *g)
{
    for (int is_write = 0; is_write < 2; is_write++) {
        if (g->first[is_write]) {
            return g->first[is_write]->head[is_write];
        }
    }
    return NULL;
}

static void wait_for_turn(struct throttle_group *g,
                          struct throttle_request *r)
{
    while (!r->may_go) {
        if (!g->timekeeper) {
            g->timekeeper = r;
        }
        if (g->timekeeper == r) {
            cond_wait_until(&r->changed, &g->lock, next_deadline(g));
            serve(g);
        } else {
            cond_wait(&r->changed, &g->lock);
        }
    }
    if (g->timekeeper == r) {
        g->timekeeper = any_waiting(g);
        if (g->timekeeper) {
            cond_signal(&g->timekeeper->changed);
        }
    }
}

/* ---- groups ------------------------------------------------------------- */

static struct throttle_group *group_of(struct clock_listener *l)
{
    return (struct throttle_group *)
        ((char *)l - offsetof(struct throttle_group, listener));
}

static void clock_changed(struct clock_listener *l)
{
    struct throttle_group *g = group_of(l);

    LOCK_GUARD(&g->lock);
    look_again(g);
}

static int64_t clock_deadline(struct clock_listener *l, int64_t *n_waiting)
{
    struct throttle_group *g = group_of(l);

    LOCK_GUARD(&g->lock);
    for (int is_write = 0; is_write < 2; is_write++) {
        for (const struct throttle_member *m = g->first[is_write]; m;
             m = m->next[is_write]) {
            for (const struct throttle_request *r = m->head[is_write]; r;
                 r = r->next) {
                ++*n_waiting;
            }
        }
    }
    return next_virtual_deadline(g);
}

static void apply_limits(struct throttle_group *g,
                         const struct throttle_limits *limits)
{
    throttle_set_limits(&g->throttle, limits, clock_virtual_ns());
    for (int is_write = 0; is_write < 2; is_write++) {
        __atomic_store_n(&g->limited[is_write],
                         throttle_has_limit(&g->throttle, is_write),
                         __ATOMIC_RELAXED);
    }
}

void throttle_group_init(struct throttle_group *g,
                         const struct throttle_limits *limits)
{
    lock_init(&g->lock, "throttle-group", LOCK_LEAF);
    g->timekeeper = NULL;
    g->turn = false;
    for (int is_write = 0; is_write < 2; is_write++) {
        g->first[is_write] = NULL;
        g->last[is_write] = &g->first[is_write];
    }
    apply_limits(g, limits);
    g->listener.changed = clock_changed;
    g->listener.deadline = clock_deadline;
    clock_virtual_listen(&g->listener);
}

void throttle_group_deinit(struct throttle_group *g)
{
    g_assert(!any_waiting(g));
    clock_virtual_unlisten(&g->listener);
    lock_deinit(&g->lock);
}

void throttle_group_get_limits(struct throttle_group *g,
                               struct throttle_limits *limits)
{
    LOCK_GUARD(&g->lock);
    *limits = g->throttle.limits;
}

void throttle_group_set_limits(struct throttle_group *g,
                               const struct throttle_limits *limits)
{
    LOCK_GUARD(&g->lock);
    apply_limits(g, limits);
    look_again(g);
}

/* ---- members ------------------------------------------------------------ */

void throttle_member_init(struct throttle_member *m,
                          struct throttle_group *g)
{
    *m = (struct throttle_member){ .group = g };
}

void throttle_member_move(struct throttle_member *m,
                          struct throttle_group *g)
{
    g_assert(m->n_waiting == 0);
    m->group = g;
}

static void (*wait_hook)(void);         /* atomic */

void throttle_set_wait_hook(void (*hook)(void))
{
    __atomic_store_n(&wait_hook, hook, __ATOMIC_RELEASE);
}

int throttle_member_wait(struct throttle_member *m, bool is_write,
                         int64_t bytes, bool nowait)
{
    struct throttle_group *g = m->group;
    struct throttle_request r = { .bytes = bytes };
    void (*hook)(void) = __atomic_load_n(&wait_hook, __ATOMIC_ACQUIRE);

    if (!__atomic_load_n(&g->limited[is_write], __ATOMIC_RELAXED)) {
        return 0;
    }
    if (nowait) {
        /* Even if it might go: below it may be -EAGAIN after all, and it
         * would be counted twice. */
        return -EAGAIN;
    }
    cond_init(&r.changed);
    lock_acquire(&g->lock);
    if (m->n_let_go > 0) {
        throttle_account(&g->throttle, is_write, bytes);
    } else {
        enqueue(m, is_write, &r);
        serve(g);
        if (!r.may_go && hook) {
            lock_release(&g->lock);
            hook();
            lock_acquire(&g->lock);
        }
        wait_for_turn(g, &r);
    }
    lock_release(&g->lock);
    cond_deinit(&r.changed);
    return 0;
}

static void let_all_go(struct throttle_member *m)
{
    for (int is_write = 0; is_write < 2; is_write++) {
        while (m->head[is_write]) {
            let_one_go(m, is_write);
        }
    }
}

void throttle_member_flush(struct throttle_member *m)
{
    LOCK_GUARD(&m->group->lock);
    let_all_go(m);
}

void throttle_member_let_go_begin(struct throttle_member *m)
{
    LOCK_GUARD(&m->group->lock);
    m->n_let_go++;
    let_all_go(m);
}

void throttle_member_let_go_end(struct throttle_member *m)
{
    LOCK_GUARD(&m->group->lock);
    g_assert(m->n_let_go > 0);
    m->n_let_go--;
}
