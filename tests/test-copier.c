/* SPDX-License-Identifier: MIT */
/*
 * Copier: a point-in-time copy while guests write, with failing copies, holes
 * and zeroes; the target must be what the source was at the start.
 */
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <string.h>
#include "base/pool.h"
#include "bitmaps/dirty-bitmap.h"
#include "block/copier.h"
#include "block/driver.h"

enum { UNIT = 4096, N_UNITS = 96, TAIL = 1000,
       LENGTH = N_UNITS * UNIT - UNIT + TAIL,
       COUNTED = N_UNITS * UNIT };      /* progress is in whole clusters */

/* Plain memory on purpose: TSan sees a copy that reads what a guest is
 * writing, or two copies of one cluster. */
struct mem_state {
    uint8_t data[N_UNITS * UNIT];
    bool hole[N_UNITS];         /* block status says zero */
    bool elsewhere[N_UNITS];    /* block status says: not in this layer */
    int64_t reads[N_UNITS];     /* how often a unit was read */
    int fail_every;             /* every n-th write fails; 0: none */
    int n_calls;
};

static int mem_pread(struct node *n, int64_t offset, int64_t bytes, void *buf,
                     unsigned flags)
{
    struct mem_state *s = n->state;

    for (int64_t u = offset / UNIT; u * UNIT < offset + bytes; u++) {
        __atomic_add_fetch(&s->reads[u], 1, __ATOMIC_RELAXED);
    }
    memcpy(buf, s->data + offset, bytes);
    sched_yield();
    return 0;
}

static bool fails(struct mem_state *s)
{
    int call = __atomic_add_fetch(&s->n_calls, 1, __ATOMIC_RELAXED);

    return s->fail_every && call % s->fail_every == 0;
}

static int mem_pwrite(struct node *n, int64_t offset, int64_t bytes,
                      const void *buf, unsigned flags)
{
    struct mem_state *s = n->state;

    if (fails(s)) {
        return -ENOSPC;
    }
    memcpy(s->data + offset, buf, bytes);
    return 0;
}

static int mem_pwrite_zeroes(struct node *n, int64_t offset, int64_t bytes,
                             unsigned flags)
{
    struct mem_state *s = n->state;

    if (fails(s)) {
        return -ENOSPC;
    }
    memset(s->data + offset, 0, bytes);
    return 0;
}

static int mem_block_status(struct node *n, bool want_zero, int64_t offset,
                            int64_t bytes, struct block_status *st)
{
    struct mem_state *s = n->state;
    int64_t u = offset / UNIT;

    st->flags = s->elsewhere[u] ? 0 : STATUS_ALLOCATED |
                (s->hole[u] ? STATUS_ZERO : STATUS_DATA);
    st->bytes = MIN((u + 1) * UNIT - offset, bytes);
    return 0;
}

static const struct driver mem_driver = {
    .name = "mem", .is_protocol = true,
    .pread = mem_pread, .pwrite = mem_pwrite,
    .pwrite_zeroes = mem_pwrite_zeroes, .block_status = mem_block_status,
};

struct world {
    struct node source, target;
    struct child source_child, target_child;
    struct copier *copier;
    int64_t copied, skipped;
    uint8_t *frozen;            /* the source at the start */
};

static void node_setup(struct node *n)
{
    memset(n, 0, sizeof(*n));
    n->driver = &mem_driver;
    n->state = g_new0(struct mem_state, 1);
    n->bitmaps = dirty_bitmap_list_new();
    range_lock_init(&n->serialising, "test");
    n->limits.request_alignment = 1;
    atomic_store(&n->length_bytes, LENGTH);
}

static void node_teardown(struct node *n)
{
    range_lock_deinit(&n->serialising);
    dirty_bitmap_list_free(n->bitmaps);
    g_free(n->state);
}

static void on_progress(void *opaque, int64_t bytes, bool skipped)
{
    struct world *w = opaque;

    __atomic_add_fetch(skipped ? &w->skipped : &w->copied, bytes,
                       __ATOMIC_RELAXED);
}

/* Random content; some units are holes, some zero without saying so. */
static void world_setup(struct world *w, uint32_t cluster_bytes, bool skip)
{
    struct copier_options options = {
        .source = &w->source_child, .target = &w->target_child,
        .length = LENGTH, .cluster_bytes = cluster_bytes,
        .skip_unallocated = skip,
    };
    struct mem_state *s;
    g_autoptr(GRand) rnd = g_rand_new_with_seed(99);

    memset(w, 0, sizeof(*w));
    node_setup(&w->source);
    node_setup(&w->target);
    w->source_child.node = &w->source;
    w->target_child.node = &w->target;
    s = w->source.state;
    for (int u = 0; u < N_UNITS; u++) {
        int kind = g_rand_int_range(rnd, 0, 4);
        s->hole[u] = kind == 0;
        for (int i = 0; kind > 1 && i < UNIT; i++) {
            s->data[u * UNIT + i] = g_rand_int(rnd);
        }
    }
    memset(((struct mem_state *)w->target.state)->data, 0xcc,
           sizeof(s->data));
    w->frozen = g_memdup2(s->data, LENGTH);
    w->copier = copier_new(&options);
    copier_set_progress(w->copier, on_progress, w);
    bits_set(copier_todo(w->copier), 0, bits_size(copier_todo(w->copier)));
}

static void world_teardown(struct world *w)
{
    copier_free(&w->copier);
    node_teardown(&w->source);
    node_teardown(&w->target);
    g_free(w->frozen);
}

static uint8_t *target_data(struct world *w)
{
    return ((struct mem_state *)w->target.state)->data;
}

/* ---- one thread --------------------------------------------------------- */

static void test_all_at_once(void)
{
    struct world w;
    struct copier_result result;
    struct mem_state *s;
    int64_t start;

    world_setup(&w, 2 * UNIT, false);
    s = w.source.state;
    g_assert_cmpint(copier_remaining(w.copier), ==, COUNTED);
    g_assert_cmpint(copier_next(w.copier, 0, 5 * UNIT, &start), ==, 4 * UNIT);
    g_assert_cmpint(start, ==, 0);
    g_assert_cmpint(copier_copy(w.copier, 0, LENGTH, &result), ==, 0);
    g_assert_cmpmem(target_data(&w), LENGTH, w.frozen, LENGTH);
    g_assert_cmpint(w.copied, ==, COUNTED);
    g_assert_cmpint(copier_remaining(w.copier), ==, 0);
    g_assert_cmpint(copier_next(w.copier, 0, LENGTH, &start), ==, 0);
    /* Once each, and what is known to be zero not at all. */
    for (int u = 0; u + 1 < N_UNITS; u += 2) {
        bool zero = s->hole[u] && s->hole[u + 1];
        g_assert_cmpint(s->reads[u], ==, zero ? 0 : 1);
    }
    world_teardown(&w);
}

static void test_skip(void)
{
    struct world w;
    struct copier_result result;
    struct mem_state *s;
    int64_t offset = 0, expected = 0;

    world_setup(&w, 2 * UNIT, true);
    s = w.source.state;
    for (int u = 0; u < N_UNITS; u++) {
        s->elsewhere[u] = u % 7 < 4 || u >= N_UNITS - 3;
    }
    while (offset < LENGTH) {
        g_assert_cmpint(copier_skip_step(w.copier, &offset), ==, 0);
    }
    for (int u = 0; u < N_UNITS; u += 2) {
        bool skip = s->elsewhere[u] && s->elsewhere[u + 1];
        g_assert_cmpint(bits_test(copier_todo(w.copier), u / 2), ==, !skip);
        if (skip) {
            expected += 2 * UNIT;
        }
    }
    g_assert_cmpint(w.skipped, ==, expected);
    g_assert_cmpint(copier_copy(w.copier, 0, LENGTH, &result), ==, 0);
    g_assert_cmpint(w.copied, ==, COUNTED - expected);
    g_assert_cmpint(w.skipped, ==, expected);
    /* What a guest is about to write is skipped in the same way. */
    bits_set(copier_todo(w.copier), 0, 2);
    w.copied = 0;
    g_assert_cmpint(copier_before_write(w.copier, 100, 2 * UNIT,
                                        COPIER_FOREVER), ==, 0);
    g_assert_cmpint(w.copied, ==, 0);
    g_assert_false(bits_test(copier_todo(w.copier), 0));
    world_teardown(&w);
}

static void test_failure(void)
{
    struct world w;
    struct copier_result result;
    struct mem_state *t;

    world_setup(&w, UNIT, false);
    t = w.target.state;
    t->fail_every = 1;
    g_assert_cmpint(copier_copy(w.copier, 0, LENGTH, &result), ==, -ENOSPC);
    g_assert_false(result.is_read);
    g_assert_cmpint(copier_remaining(w.copier), ==, COUNTED);    /* I1 */
    g_assert_cmpint(copier_before_write(w.copier, 5, 1,
                                        COPIER_FOREVER), ==, -ENOSPC);
    g_assert_cmpint(copier_before_write(w.copier, 5, 1,
                                        COPIER_NOWAIT), ==, -EAGAIN);
    t->fail_every = 0;
    g_assert_cmpint(copier_before_write(w.copier, 5, 1, COPIER_FOREVER), ==, 0);
    g_assert_cmpint(copier_before_write(w.copier, 5, 1, COPIER_NOWAIT), ==, 0);
    g_assert_cmpint(copier_remaining(w.copier), ==, COUNTED - UNIT);
    /* Behind the end is nothing to keep. */
    g_assert_cmpint(copier_before_write(w.copier, LENGTH, 1,
                                        COPIER_FOREVER), ==, 0);
    world_teardown(&w);
}

/* All below is on the target, whatever else is. */
static void test_done_below(void)
{
    struct world w;
    struct copier_result result;
    struct mem_state *t;
    struct range_hold hold;
    int64_t bytes = 2 * UNIT;
    bool copied;

    world_setup(&w, UNIT, false);
    t = w.target.state;
    g_assert_cmpint(copier_done_below(w.copier, 0), ==, 0);
    g_assert_cmpint(copier_copy(w.copier, 2 * UNIT, UNIT, &result), ==, 0);
    g_assert_cmpint(copier_done_below(w.copier, 0), ==, 0);
    g_assert_cmpint(copier_copy(w.copier, 0, 2 * UNIT, &result), ==, 0);
    g_assert_cmpint(copier_done_below(w.copier, 0), ==, 3 * UNIT);
    t->fail_every = 1;
    g_assert_cmpint(copier_copy(w.copier, 3 * UNIT, UNIT, &result), <, 0);
    g_assert_cmpint(copier_done_below(w.copier, UNIT), ==, 3 * UNIT);
    t->fail_every = 0;
    copier_leave_out(w.copier, 3 * UNIT, UNIT);
    g_assert_cmpint(copier_done_below(w.copier, 3 * UNIT), ==, 4 * UNIT);
    g_assert_cmpint(copier_copy(w.copier, 0, LENGTH, &result), ==, 0);
    g_assert_cmpint(copier_done_below(w.copier, 0), ==, LENGTH);
    /* Held: somebody may put it back. */
    g_assert_true(copier_hold_run(w.copier, &hold, 5 * UNIT, &bytes, &copied,
                                  COPIER_FOREVER));
    g_assert_cmpint(copier_done_below(w.copier, 0), ==, 5 * UNIT);
    copier_release_run(w.copier, &hold);
    world_teardown(&w);
}

/* ---- guests and background at once -------------------------------------- */

enum { N_GUESTS = 3, N_COPIERS = 3, GUEST_UNITS = N_UNITS / N_GUESTS };

struct guest {
    struct world *w;
    int index;
};

/* Writes at any offset inside its third; all that a guest may do. */
static void *guest_thread(void *arg)
{
    struct guest *g = arg;
    g_autoptr(GRand) rnd = g_rand_new_with_seed(g->index);
    int64_t from = g->index * GUEST_UNITS * UNIT;
    int64_t to = MIN(from + GUEST_UNITS * UNIT, LENGTH);
    uint8_t buf[3 * UNIT];
    int64_t deadlines[] = { COPIER_FOREVER, COPIER_FOREVER, COPIER_NOWAIT, 0 };

    for (int step = 0; step < 400; step++) {
        int64_t offset = g_rand_int_range(rnd, from, to);
        int64_t bytes = g_rand_int_range(rnd, 1, sizeof(buf));
        int ret;
        bytes = MIN(bytes, to - offset);
        memset(buf, g_rand_int(rnd), bytes);
        deadlines[3] = clock_ns() + g_rand_int_range(rnd, 0, 200000);
        ret = copier_before_write(g->w->copier, offset, bytes,
                                  deadlines[g_rand_int_range(rnd, 0, 4)]);
        if (ret == 0) {
            ret = node_pwrite(&g->w->source, offset, bytes, buf, 0);
            g_assert_cmpint(ret, ==, 0);
        } else {
            g_assert_true(ret == -ENOSPC || ret == -EAGAIN ||
                          ret == -ETIMEDOUT);
        }
    }
    return NULL;
}

/* Two look at the same runs: whoever comes second finds nothing to do. */
static void *copy_thread(void *arg)
{
    struct guest *g = arg;
    struct copier *c = g->w->copier;
    int64_t start, bytes, at = g->index / 2 * (LENGTH / 2);

    while (!bits_empty(copier_todo(c))) {
        struct copier_result result;
        bytes = copier_next(c, at, 4 * UNIT, &start);
        if (bytes == 0) {
            at = 0;
            continue;
        }
        int ret = copier_copy(c, start, bytes, &result);
        g_assert_true(ret == 0 || ret == -ENOSPC);
        at = start + bytes;
    }
    return NULL;
}

static void run_point_in_time(uint32_t cluster_bytes, int fail_every)
{
    struct world w;
    struct guest guests[N_GUESTS + N_COPIERS];
    pthread_t threads[N_GUESTS + N_COPIERS];

    world_setup(&w, cluster_bytes, false);
    ((struct mem_state *)w.target.state)->fail_every = fail_every;
    for (int i = 0; i < N_GUESTS + N_COPIERS; i++) {
        guests[i].w = &w;
        guests[i].index = i < N_GUESTS ? i : i - N_GUESTS;
        pthread_create(&threads[i], NULL,
                       i < N_GUESTS ? guest_thread : copy_thread, &guests[i]);
    }
    for (int i = 0; i < N_GUESTS + N_COPIERS; i++) {
        pthread_join(threads[i], NULL);
    }
    copier_settle(w.copier);
    g_assert_true(bits_empty(copier_todo(w.copier)));
    g_assert_cmpmem(target_data(&w), LENGTH, w.frozen, LENGTH);
    g_assert_cmpint(w.copied, ==, COUNTED);
    world_teardown(&w);
}

static void test_point_in_time(void)
{
    run_point_in_time(UNIT, 0);
    run_point_in_time(8 * UNIT, 0);
}

static void test_point_in_time_failing(void)
{
    run_point_in_time(UNIT, 5);
    run_point_in_time(4 * UNIT, 3);
}

int main(int argc, char **argv)
{
    int ret;

    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/copier/all-at-once", test_all_at_once);
    g_test_add_func("/copier/skip", test_skip);
    g_test_add_func("/copier/failure", test_failure);
    g_test_add_func("/copier/done-below", test_done_below);
    g_test_add_func("/copier/point-in-time", test_point_in_time);
    g_test_add_func("/copier/point-in-time-failing",
                    test_point_in_time_failing);
    ret = g_test_run();
    pool_shutdown();
    return ret;
}
