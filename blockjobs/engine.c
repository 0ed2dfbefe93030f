/* SPDX-License-Identifier: MIT */
/* Copy engine: see engine.h.  Here: its life, and the loop. */
#include "blockjobs/engine-priv.h"

#include <errno.h>
#include "block/cancel.h"
#include "block/copier.h"

enum {
    IGNORED_ERROR_NS = 10 * 1000 * 1000,/* before what failed is tried again */
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
    if (e->o.max_workers <= 0 || e->o.max_workers > ENGINE_MAX_WORKERS) {
        e->o.max_workers = ENGINE_MAX_WORKERS;
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

static bool cancel_is_asked(void *job)
{
    return job_is_cancelled(job);
}

void engine_cancel_begin(struct engine *e)
{
    cancel_begin(cancel_is_asked, e->o.job);
}

/* ---- the loop ----------------------------------------------------------- */

/* Nothing in flight.  0: go on (perhaps after the pause that was asked for). */
static int handle_error(struct engine *e, int ret, bool is_read)
{
    BlockdevOnError policy = is_read ? e->o.on_source_error
                                     : e->o.on_target_error;
    const struct job_io_error error = {
        .is_read = is_read, .err = -ret,
        .offset = e->error_offset, .bytes = e->error_bytes,
        .node = copier_node(e->o.copier, is_read),
    };

    if (job_is_cancelled(e->o.job)) {
        return -ECANCELED;
    }
    switch (job_io_error_action(e->o.job, policy, &error)) {
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
    return engine_limit_lets_through(e, clock_ns()) ? 0 : e->next_ns;
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

int engine_wait_paid(struct engine *e)
{
    int64_t deadline;
    int ret = between_bursts(e);

    while (ret == 0 && (deadline = must_sleep_until(e)) != 0) {
        job_sleep_until(e->o.job, deadline);
        ret = between_bursts(e);
    }
    return ret;
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
        engine_burst(e);
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
        engine_cancel_begin(e);
        ret = copier_skip_step(e->o.copier, &offset);
        cancel_end();
        if (ret < 0) {
            ret = handle_error(e, ret, true);
            if (ret < 0) {
                return ret;
            }
        }
    }
    return 0;
}

int engine_flush(struct engine *e)
{
    int ret;

    e->error_bytes = 0;
    for (;;) {
        ret = between_bursts(e);
        if (ret < 0) {
            return ret;
        }
        ret = copier_flush(e->o.copier);
        if (ret == 0) {
            return 0;
        }
        ret = handle_error(e, ret, false);
        if (ret < 0) {
            return ret;
        }
    }
}
