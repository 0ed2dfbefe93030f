/* SPDX-License-Identifier: MIT */
/* Copy engine: see engine.h. */
#include "blockjobs/engine.h"

#include <errno.h>
#include "base/pool.h"
#include "block/copier.h"

enum {
    FIRST_WORKERS = 4,                  /* of a burst; more if it helps */
    MAX_WORKERS = 64,
    SLOW_COPY_NS = 2 * 1000 * 1000,
    SLICE_NS = 100 * 1000 * 1000,       /* what the speed limit may save up */
    MAX_ZERO_RUN_BYTES = 64 << 20,      /* of one write of zeroes */
    IGNORED_ERROR_NS = 10 * 1000 * 1000,/* before what failed is tried again */
};

struct engine {
    /* Set by engine_new(), then constant. */
    struct engine_options o;

    /* Protected by lock (rank LOCK_COPIER). */
    struct lock lock;
    struct cond burst_over;
    int n_workers;              /* in the burst, the job's thread included */
    int64_t cursor;             /* where the next run is looked for */
    bool pass_over;             /* nothing at or behind the cursor */
    int64_t next_ns;            /* when the limit lets the next copy through */
    int64_t limit;              /* the speed that next_ns was made with */
    int error;                  /* -errno of the first that failed */
    bool error_is_read;
    int64_t error_offset, error_bytes;
    int left_out;               /* -errno of the first that was left out */
};

struct engine *engine_new(const struct engine_options *options)
{
    struct engine *e = g_new0(struct engine, 1);

    e->o = *options;
    if (e->o.max_chunk_bytes <= 0) {
        e->o.max_chunk_bytes = COPIER_CHUNK_BYTES;
    }
    if (e->o.limited_chunk_bytes <= 0) {
        e->o.limited_chunk_bytes = e->o.max_chunk_bytes;
    }
    if (e->o.max_workers <= 0 || e->o.max_workers > MAX_WORKERS) {
        e->o.max_workers = MAX_WORKERS;
    }
    lock_init(&e->lock, "engine", LOCK_COPIER);
    cond_init(&e->burst_over);
    return e;
}

void engine_free(struct engine **ep)
{
    struct engine *e = *ep;

    *ep = NULL;
    if (e) {
        cond_deinit(&e->burst_over);
        lock_deinit(&e->lock);
        g_free(e);
    }
}

/* ---- speed -------------------------------------------------------------- */

/*
 * A request is let through when its predecessors have been paid for at the
 * limit's rate; the first one always is.  Up to a slice is saved up, so that
 * the average holds although sleeps are never exact.
 */
static bool limit_lets_through(struct engine *e, int64_t now)
{
    int64_t speed = job_speed(e->o.job);

    if (speed != e->limit) {
        e->limit = speed;
        e->next_ns = now;       /* what was owed was owed to the old limit */
    }
    return speed == 0 || now >= e->next_ns;
}

static void limit_charge(struct engine *e, int64_t now, int64_t bytes)
{
    double cost_ns;

    if (e->limit > 0) {
        cost_ns = (double)bytes * 1e9 / e->limit;
        e->next_ns = MAX(e->next_ns, now - SLICE_NS);
        e->next_ns = cost_ns >= (double)(INT64_MAX - e->next_ns)
                     ? INT64_MAX : e->next_ns + (int64_t)cost_ns;
    }
}

void engine_set_speed(struct engine *e)
{
    job_kick(e->o.job);
}

/* ---- a burst ------------------------------------------------------------ */

static bool burst_should_stop(struct engine *e)
{
    return job_is_cancelled(e->o.job) || job_should_pause(e->o.job) ||
           (e->o.check && e->o.check(e->o.opaque) < 0);
}

/* The next run for one worker; false: the burst is over. */
static bool take_next(struct engine *e, int64_t *offset, int64_t *bytes)
{
    int64_t now;

    if (burst_should_stop(e)) {
        return false;
    }
    LOCK_GUARD(&e->lock);
    if (e->error || e->pass_over) {
        return false;
    }
    now = job_speed(e->o.job) ? clock_ns() : 0;
    if (!limit_lets_through(e, now)) {
        return false;
    }
    *bytes = copier_next(e->o.copier, e->cursor,
                         e->limit ? e->o.limited_chunk_bytes
                                  : e->o.max_chunk_bytes, offset);
    if (*bytes == 0) {
        e->pass_over = true;
        return false;
    }
    e->cursor = *offset + *bytes;
    limit_charge(e, now, *bytes);
    return true;
}

/* A long hole is one write of zeroes, not thousands: if nobody has taken what
 * comes behind the run, take it too. */
static void widen_zero_run(struct engine *e, int64_t offset, int64_t *bytes)
{
    int64_t end = MIN(copier_length(e->o.copier),
                      offset + MAX_ZERO_RUN_BYTES);
    int64_t zero, start, next;

    if (job_speed(e->o.job) || offset + *bytes >= end ||
        copier_zero_run(e->o.copier, offset, offset + *bytes) < *bytes) {
        return;
    }
    zero = copier_zero_run(e->o.copier, offset, end);
    LOCK_GUARD(&e->lock);
    if (e->cursor != offset + *bytes) {
        return;
    }
    next = copier_next(e->o.copier, e->cursor, zero - *bytes, &start);
    if (zero > *bytes && next > 0 && start == e->cursor) {
        *bytes += next;
        e->cursor += next;
    }
}

static void note_error(struct engine *e, int ret, bool is_read,
                       int64_t offset, int64_t bytes)
{
    LOCK_GUARD(&e->lock);
    if (!e->error) {
        e->error = ret;
        e->error_is_read = is_read;
        e->error_offset = offset;
        e->error_bytes = bytes;
    }
}

static void pool_worker(void *opaque);

/* A copy that takes long mostly waits: then more of them at once help.  Where
 * copies are quick, what is in flight goes through the same cache. */
static void grow_if_slow(struct engine *e, int64_t started_ns)
{
    int limit = job_speed(e->o.job) ? 1 : e->o.max_workers;

    if (clock_ns() - started_ns < SLOW_COPY_NS) {
        return;
    }
    lock_acquire(&e->lock);
    if (e->n_workers >= limit || e->pass_over || e->error) {
        lock_release(&e->lock);
        return;
    }
    e->n_workers++;
    lock_release(&e->lock);
    pool_submit(pool_worker, e);
}

static void work(struct engine *e)
{
    struct copier_result result;
    int64_t offset, bytes;
    int ret;

    while (take_next(e, &offset, &bytes)) {
        int64_t started_ns = clock_ns();
        widen_zero_run(e, offset, &bytes);
        ret = copier_copy(e->o.copier, offset, bytes, &result);
        if (ret < 0) {
            note_error(e, ret, result.is_read, offset, bytes);
        } else {
            grow_if_slow(e, started_ns);
        }
    }
}

static void leave_burst(struct engine *e)
{
    LOCK_GUARD(&e->lock);
    if (--e->n_workers == 0) {
        cond_signal(&e->burst_over);
    }
}

static void pool_worker(void *opaque)
{
    struct engine *e = opaque;

    work(e);
    leave_burst(e);
}

static void burst(struct engine *e)
{
    /* With a limit the order of copies is what a reader expects. */
    int n = job_speed(e->o.job) ? 1 : MIN(e->o.max_workers, FIRST_WORKERS);

    lock_acquire(&e->lock);
    e->n_workers = n;
    lock_release(&e->lock);
    for (int i = 1; i < n; i++) {
        pool_submit(pool_worker, e);
    }
    work(e);
    leave_burst(e);
    LOCK_GUARD(&e->lock);
    while (e->n_workers > 0) {
        cond_wait(&e->burst_over, &e->lock);
    }
}

/* ---- the loop ----------------------------------------------------------- */

/* Nothing in flight.  0: go on (perhaps after the pause that was asked for). */
static int handle_error(struct engine *e, int ret, bool is_read)
{
    BlockdevOnError policy = is_read ? e->o.on_source_error
                                     : e->o.on_target_error;

    if (job_is_cancelled(e->o.job)) {
        return -ECANCELED;
    }
    switch (job_error_action(e->o.job, policy, is_read, -ret)) {
    case BLOCK_ERROR_ACTION_REPORT:
        return ret;
    case BLOCK_ERROR_ACTION_IGNORE:
        if (e->o.ignore_skips && e->error_bytes > 0) {
            e->left_out = e->left_out ? e->left_out : ret;
            copier_leave_out(e->o.copier, e->error_offset, e->error_bytes);
            return 0;
        }
        job_sleep_until(e->o.job, clock_ns() + IGNORED_ERROR_NS);
        return 0;
    default:
        return 0;
    }
}

/* What stands in the way of the next burst; 0: nothing any more. */
static int between_bursts(struct engine *e)
{
    job_pause_point(e->o.job);
    if (job_is_cancelled(e->o.job)) {
        return -ECANCELED;
    }
    return e->o.check ? e->o.check(e->o.opaque) : 0;
}

/* The limit's deadline, or 0. */
static int64_t must_sleep_until(struct engine *e)
{
    LOCK_GUARD(&e->lock);
    return limit_lets_through(e, clock_ns()) ? 0 : e->next_ns;
}

/* False: all is on the target.  A guest's write may still be copying what it
 * took from todo, and put it back if it fails. */
static bool next_pass(struct engine *e)
{
    struct bits *todo = copier_todo(e->o.copier);

    if (bits_empty(todo)) {
        copier_settle(e->o.copier);
        if (bits_empty(todo)) {
            return false;
        }
    }
    LOCK_GUARD(&e->lock);
    if (e->pass_over) {
        e->pass_over = false;
        e->cursor = 0;
    }
    e->error = 0;
    return true;
}

int engine_run(struct engine *e)
{
    int ret;

    for (;;) {
        int64_t deadline;
        ret = between_bursts(e);
        if (ret < 0) {
            return ret;
        }
        if (!next_pass(e)) {
            return e->left_out;
        }
        deadline = must_sleep_until(e);
        if (deadline) {
            job_sleep_until(e->o.job, deadline);
            continue;
        }
        burst(e);
        if (e->error) {
            ret = handle_error(e, e->error, e->error_is_read);
            if (ret < 0) {
                return ret;
            }
        }
    }
}

int engine_skip_unallocated(struct engine *e)
{
    int64_t offset = 0;
    int ret;

    while (offset < copier_length(e->o.copier)) {
        ret = between_bursts(e);
        if (ret < 0) {
            return ret;
        }
        ret = copier_skip_step(e->o.copier, &offset);
        if (ret < 0) {
            ret = handle_error(e, ret, true);
            if (ret < 0) {
                return ret;
            }
        }
    }
    return 0;
}
