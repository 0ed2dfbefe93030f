/* SPDX-License-Identifier: MIT */
/*
 * Copy engine with a job around it and memory below: all is copied, whatever
 * the number of workers; the speed limit and its change; pause, cancel;
 * what an error means.
 */
#include <errno.h>
#include <string.h>
#include "base/control.h"
#include "base/pool.h"
#include "bitmaps/dirty-bitmap.h"
#include "block/copier.h"
#include "block/driver.h"
#include "blockjobs/engine.h"
#include "blockjobs/job-priv.h"
#include "qapi/qapi-events.h"

enum { UNIT = 64 * 1024, N_UNITS = 160, LENGTH = N_UNITS * UNIT,
       MS = 1000 * 1000 };

struct mem_state {
    uint8_t data[LENGTH];
    int64_t bad_offset;         /* a write there fails; -1: none */
    int n_bad;                  /* so often */
    /* Atomic. */
    int n_writes, n_inside, most_inside;
    bool slow;
};

static int mem_pread(struct node *n, int64_t offset, int64_t bytes, void *buf,
                     unsigned flags)
{
    memcpy(buf, ((struct mem_state *)n->state)->data + offset, bytes);
    return 0;
}

static int mem_pwrite(struct node *n, int64_t offset, int64_t bytes,
                      const void *buf, unsigned flags)
{
    struct mem_state *s = n->state;
    int inside = __atomic_add_fetch(&s->n_inside, 1, __ATOMIC_RELAXED);
    int most = __atomic_load_n(&s->most_inside, __ATOMIC_RELAXED);
    int ret = 0;

    while (inside > most &&
           !__atomic_compare_exchange_n(&s->most_inside, &most, inside, false,
                                        __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {
    }
    if (__atomic_load_n(&s->slow, __ATOMIC_RELAXED)) {
        g_usleep(2000);
    }
    if (s->bad_offset >= offset && s->bad_offset < offset + bytes &&
        __atomic_fetch_sub(&s->n_bad, 1, __ATOMIC_RELAXED) > 0) {
        ret = -EIO;
    } else {
        memcpy(s->data + offset, buf, bytes);
    }
    __atomic_sub_fetch(&s->n_inside, 1, __ATOMIC_RELAXED);
    __atomic_add_fetch(&s->n_writes, 1, __ATOMIC_RELAXED);
    return ret;
}

static const struct driver mem_driver = {
    .name = "mem", .is_protocol = true,
    .pread = mem_pread, .pwrite = mem_pwrite,
};

/* ---- the job ------------------------------------------------------------ */

struct copy_job {
    struct job job;
    struct engine *engine;      /* owned */
};

static int copy_run(struct job *job, struct error **errp)
{
    struct copy_job *cj = (struct copy_job *)job;

    return engine_run(cj->engine);
}

static void copy_set_speed(struct job *job, int64_t speed)
{
    engine_set_speed(((struct copy_job *)job)->engine);
}

static void copy_free(struct job *job)
{
    engine_free(&((struct copy_job *)job)->engine);
}

static const struct job_driver copy_driver = {
    .type = JOB_TYPE_BACKUP,
    .job_size = sizeof(struct copy_job),
    .is_block_job = true,
    .run = copy_run,
    .set_speed = copy_set_speed,
    .free = copy_free,
};

static void ignore_event(QAPIEvent id, json_t *object)
{
    json_decref(object);
}

struct world {
    struct node source, target;
    struct child source_child, target_child;
    struct copier *copier;
    struct copy_job *cj;
};

static void node_setup(struct node *n)
{
    struct mem_state *s = g_new0(struct mem_state, 1);

    memset(n, 0, sizeof(*n));
    s->bad_offset = -1;
    n->driver = &mem_driver;
    n->state = s;
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

static struct mem_state *target_of(struct world *w)
{
    return w->target.state;
}

static void on_progress(void *opaque, int64_t bytes, bool skipped)
{
    job_progress_add(opaque, bytes);
}

static void copier_setup(struct world *w)
{
    struct copier_options options = {
        .source = &w->source_child, .target = &w->target_child,
        .length = LENGTH, .cluster_bytes = UNIT,
    };
    struct mem_state *s;
    g_autoptr(GRand) rnd = g_rand_new_with_seed(5);

    node_setup(&w->source);
    node_setup(&w->target);
    w->source_child.node = &w->source;
    w->target_child.node = &w->target;
    s = w->source.state;
    for (int i = 0; i < LENGTH; i += 4) {
        uint32_t r = g_rand_int(rnd);
        memcpy(s->data + i, &r, 4);
    }
    w->copier = copier_new(&options);
    bits_set(copier_todo(w->copier), 0, N_UNITS);
}

/* O: what differs from the usual. */
static void setup(struct world *w, const struct engine_options *o,
                  int64_t speed)
{
    struct job_options job_options = { .id = "a", .manual_dismiss = true,
                                       .speed = speed };
    struct engine_options options = *o;

    copier_setup(w);
    w->cj = (struct copy_job *)job_create(&copy_driver, &job_options, NULL);
    options.job = &w->cj->job;
    options.copier = w->copier;
    w->cj->engine = engine_new(&options);
    copier_set_progress(w->copier, on_progress, &w->cj->job);
    job_progress_set_remaining(&w->cj->job, LENGTH);
}

/* The job's result, once it has ended. */
static int wait_end(struct world *w)
{
    while (w->cj->job.status != JOB_STATUS_CONCLUDED) {
        control_wait();
    }
    return w->cj->job.ret;
}

static int64_t copied(struct world *w)
{
    return __atomic_load_n(&w->cj->job.progress_current, __ATOMIC_RELAXED);
}

static int load(const int *counter)
{
    return __atomic_load_n(counter, __ATOMIC_ACQUIRE);
}

static void expect_same(struct world *w)
{
    struct mem_state *s = w->source.state;

    g_assert_cmpmem(target_of(w)->data, LENGTH, s->data, LENGTH);
    g_assert_cmpint(copied(w), ==, LENGTH);
}

static void teardown(struct world *w)
{
    job_dismiss_now(&w->cj->job);
    copier_free(&w->copier);
    node_teardown(&w->source);
    node_teardown(&w->target);
}

/* ---- tests -------------------------------------------------------------- */

static void test_all(void)
{
    static const int workers[] = { 0, 1, 3, 64 };

    for (size_t i = 0; i < G_N_ELEMENTS(workers); i++) {
        struct engine_options o = { .max_workers = workers[i],
                                    .max_chunk_bytes = UNIT };
        struct world w;
        CONTROL_GUARD();
        setup(&w, &o, 0);
        target_of(&w)->slow = true;
        job_start(&w.cj->job);
        g_assert_cmpint(wait_end(&w), ==, 0);
        expect_same(&w);
        if (workers[i]) {
            g_assert_cmpint(target_of(&w)->most_inside, <=, workers[i]);
        } else {
            g_assert_cmpint(target_of(&w)->most_inside, >, 1);
        }
        teardown(&w);
    }
}

/* The first step is let through; a limit that is lifted holds no more. */
static void test_speed(void)
{
    struct engine_options o = { .limited_chunk_bytes = 2 * UNIT };
    struct world w;

    CONTROL_GUARD();
    setup(&w, &o, 1);
    job_start(&w.cj->job);
    while (copied(&w) == 0) {
        control_wait_until(clock_ns() + MS);
    }
    control_wait_until(clock_ns() + 150 * MS);
    g_assert_cmpint(copied(&w), ==, 2 * UNIT);
    g_assert_cmpint(load(&target_of(&w)->n_writes), ==, 1);
    __atomic_store_n(&w.cj->job.speed, 0, __ATOMIC_RELAXED);
    engine_set_speed(w.cj->engine);
    g_assert_cmpint(wait_end(&w), ==, 0);
    expect_same(&w);
    teardown(&w);
}

/* On average over its run. */
static void test_rate(void)
{
    struct engine_options o = { .limited_chunk_bytes = UNIT };
    int64_t begun_ns = clock_ns(), took_ns;
    struct world w;

    CONTROL_GUARD();
    setup(&w, &o, 4 * LENGTH);
    job_start(&w.cj->job);
    g_assert_cmpint(wait_end(&w), ==, 0);
    took_ns = clock_ns() - begun_ns;
    g_assert_cmpint(took_ns, >, 140 * MS);  /* a slice is free */
    expect_same(&w);
    teardown(&w);
}

static void test_pause(void)
{
    struct engine_options o = { .max_chunk_bytes = UNIT };
    struct world w;
    int64_t then;

    CONTROL_GUARD();
    setup(&w, &o, 0);
    target_of(&w)->slow = true;
    job_start(&w.cj->job);
    while (copied(&w) == 0) {
        control_wait_until(clock_ns() + MS);
    }
    job_pause(&w.cj->job);
    while (!w.cj->job.parked) {
        control_wait();
    }
    then = copied(&w);
    g_assert_cmpint(load(&target_of(&w)->n_inside), ==, 0);
    control_wait_until(clock_ns() + 30 * MS);
    g_assert_cmpint(copied(&w), ==, then);
    g_assert_cmpint(then, <, LENGTH);
    job_resume(&w.cj->job);
    g_assert_cmpint(wait_end(&w), ==, 0);
    expect_same(&w);
    teardown(&w);
}

static void test_cancel(void)
{
    struct engine_options o = { .max_chunk_bytes = UNIT, .max_workers = 1 };
    struct world w;

    CONTROL_GUARD();
    setup(&w, &o, 0);
    target_of(&w)->slow = true;
    job_start(&w.cj->job);
    while (copied(&w) == 0) {
        control_wait_until(clock_ns() + MS);
    }
    job_cancel(&w.cj->job, true);
    g_assert_cmpint(wait_end(&w), ==, -ECANCELED);
    g_assert_cmpint(copied(&w), <, LENGTH);
    g_assert_cmpint(copied(&w) + copier_remaining(w.copier), ==, LENGTH);
    teardown(&w);
}

static void test_error(BlockdevOnError policy, bool skips, int want)
{
    struct engine_options o = { .max_chunk_bytes = UNIT,
                                .on_target_error = policy,
                                .ignore_skips = skips };
    struct world w;
    struct mem_state *s;

    CONTROL_GUARD();
    setup(&w, &o, 0);
    s = target_of(&w);
    s->bad_offset = 7 * UNIT;
    s->n_bad = skips ? 1 : 2;
    job_start(&w.cj->job);
    g_assert_cmpint(wait_end(&w), ==, want);
    if (want == 0) {
        expect_same(&w);
    } else if (skips) {         /* all but that */
        memcpy(s->data + 7 * UNIT,
               ((struct mem_state *)w.source.state)->data + 7 * UNIT, UNIT);
        expect_same(&w);
        g_assert_cmpint(s->n_bad, ==, 0);
    } else {
        g_assert_true(bits_test(copier_todo(w.copier), 7));
    }
    teardown(&w);
}

static void test_report(void)
{
    test_error(BLOCKDEV_ON_ERROR_REPORT, false, -EIO);
}

static void test_ignore(void)
{
    test_error(BLOCKDEV_ON_ERROR_IGNORE, false, 0);
}

static void test_ignore_skips(void)
{
    test_error(BLOCKDEV_ON_ERROR_IGNORE, true, -EIO);
}

int main(int argc, char **argv)
{
    int ret;

    g_test_init(&argc, &argv, NULL);
    qapi_event_set_emit(ignore_event);
    g_test_add_func("/engine/all", test_all);
    g_test_add_func("/engine/speed", test_speed);
    g_test_add_func("/engine/rate", test_rate);
    g_test_add_func("/engine/pause", test_pause);
    g_test_add_func("/engine/cancel", test_cancel);
    g_test_add_func("/engine/report", test_report);
    g_test_add_func("/engine/ignore", test_ignore);
    g_test_add_func("/engine/ignore-skips", test_ignore_skips);
    ret = g_test_run();
    pool_shutdown();
    return ret;
}
