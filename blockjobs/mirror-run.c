/* SPDX-License-Identifier: MIT */
/*
 * Mirror: the job's thread.
 *
 * Phases      1  Look what is to be copied (dirty the copier's todo).
 *             2  Copy until nothing is dirty; then the job is ready.
 *             3  Sleep; when guests have made something dirty, copy that;
 *                until a user completes or cancels the job.
 * Invariants  R1  A granule that differs between source and target is in todo,
 *                 or was not looked at yet, or a guest's write of it is under
 *                 way (mirror-top.h I1).
 */
#include <errno.h>
#include "bitmaps/bits.h"
#include "block/cancel.h"
#include "block/copier.h"
#include "block/driver.h"
#include "block/filters/mirror-top.h"
#include "blockjobs/engine.h"
#include "blockjobs/mirror-priv.h"

#define MS INT64_C(1000000)

enum {
    LOOK_BYTES = 1 << 30,           /* of one question for the block status */
    GATHER_MS = 50,                 /* what guests write in that time is
                                       copied together */
    IDLE_MS = 10 * 1000,
    /* A guest that writes all the time never lets a mirror be clean: some time
     * after a user has asked for the end so much is left for the moment when
     * guests hold still. */
    END_PATIENCE_MS = 1000,
    END_BYTES = 8 << 20,            /* and twice that after each such time */
    END_BYTES_MOST = 256 << 20,
};

/* ---- progress ----------------------------------------------------------- */

void mirror_progress(void *opaque, int64_t bytes, bool skipped)
{
    if (skipped) {
        job_progress_add_remaining(opaque, -bytes);
    } else {
        job_progress_add(opaque, bytes);
    }
}

static void guest_dirtied(void *opaque, int64_t bytes, int64_t granules)
{
    struct mirror_job *mj = opaque;

    if (bytes > 0) {
        __atomic_add_fetch(&mj->dirty_bytes, bytes, __ATOMIC_RELAXED);
    }
    if (granules) {
        job_progress_add_remaining(&mj->job, granules);
    }
    /* The second call, when todo has it. */
    if (bytes == 0 &&
        __atomic_load_n(&mj->waiting_for_dirt, __ATOMIC_SEQ_CST) &&
        __atomic_exchange_n(&mj->waiting_for_dirt, false, __ATOMIC_SEQ_CST)) {
        job_kick(&mj->job);
    }
}

static void guest_written(void *opaque, int64_t bytes, int64_t granules)
{
    struct mirror_job *mj = opaque;

    job_progress_add_remaining(&mj->job, bytes - granules);
    job_progress_add(&mj->job, bytes);
}

/* The job's thread does what the policy says. */
static void guest_failed(void *opaque, int err, int64_t offset, int64_t bytes)
{
    struct mirror_job *mj = opaque;
    int none = 0;

    if (__atomic_compare_exchange_n(&mj->guest_error, &none, 1, false,
                                    __ATOMIC_ACQUIRE, __ATOMIC_RELAXED)) {
        mj->guest_error_offset = offset;
        mj->guest_error_bytes = bytes;
        __atomic_store_n(&mj->guest_error, err, __ATOMIC_RELEASE);
        job_kick(&mj->job);
    }
}

static int64_t guest_delay_ns(void *opaque, int64_t bytes)
{
    struct mirror_job *mj = opaque;

    return __atomic_load_n(&mj->next_converge_ns, __ATOMIC_ACQUIRE)
           ? converge_delay_ns(&mj->converge, bytes) : 0;
}

const struct mirror_top_ops mirror_guest_ops = {
    .dirtied = guest_dirtied,
    .written = guest_written,
    .failed = guest_failed,
    .delay_ns = guest_delay_ns,
};

static int64_t dirty_now(const struct mirror_job *mj)
{
    return bits_total(copier_todo(mj->copier)) *
           (int64_t)copier_cluster_bytes(mj->copier);
}

/* ---- the deadline ------------------------------------------------------- */

static void converge_start(struct mirror_job *mj)
{
    int64_t now = clock_ns();

    if (mj->o.converge_seconds) {
        converge_begin(&mj->converge, now,
                       now + mj->o.converge_seconds * 1000 * MS);
        __atomic_store_n(&mj->next_converge_ns, now, __ATOMIC_RELEASE);
    }
}

/* Any of the engine's threads. */
static void converge_look(struct mirror_job *mj)
{
    int64_t next = __atomic_load_n(&mj->next_converge_ns, __ATOMIC_ACQUIRE);
    int64_t now;

    if (G_LIKELY(next == 0)) {
        return;
    }
    now = clock_ns();
    if (now >= next &&
        __atomic_compare_exchange_n(&mj->next_converge_ns, &next,
                                    now + CONVERGE_STEP_NS, false,
                                    __ATOMIC_ACQ_REL, __ATOMIC_RELAXED)) {
        converge_update(&mj->converge, now, dirty_now(mj),
                        __atomic_load_n(&mj->job.progress_current,
                                        __ATOMIC_RELAXED),
                        __atomic_load_n(&mj->dirty_bytes, __ATOMIC_RELAXED));
    }
}

/* The job's thread, with no copy in flight. */
static void converge_stop(struct mirror_job *mj)
{
    if (mj->o.converge_seconds) {
        __atomic_store_n(&mj->next_converge_ns, 0, __ATOMIC_RELEASE);
        converge_end(&mj->converge);
    }
}

/* ---- phase 1 ------------------------------------------------------------ */

/* [offset, offset + bytes) is to be copied. */
static void want(struct mirror_job *mj, int64_t offset, int64_t bytes)
{
    int64_t unit = copier_cluster_bytes(mj->copier);
    int64_t most = bytes + 2 * unit;

    /* As the filter does it: never less than there is to do. */
    job_progress_add_remaining(&mj->job, most);
    job_progress_add_remaining(&mj->job,
                               copier_set_dirty(mj->copier, offset, bytes) -
                               most);
    mj->counted_end = MIN((offset + bytes + unit - 1) / unit * unit,
                          copier_length(mj->copier));
}

/* [offset, offset + bytes) is right in the target already; COUNTS: as work
 * done.  A granule that is partly so is counted by want(), or at its end. */
static void want_nothing(struct mirror_job *mj, int64_t offset, int64_t bytes,
                         bool counts)
{
    int64_t unit = copier_cluster_bytes(mj->copier), end = offset + bytes;

    if (end < copier_length(mj->copier)) {
        end -= end % unit;
    }
    if (end <= mj->counted_end) {
        return;
    }
    if (counts) {
        job_progress_add_remaining(&mj->job, end - mj->counted_end);
        job_progress_add(&mj->job, end - mj->counted_end);
    }
    mj->counted_end = end;
}

/*
 * Does the target read as zeroes in [offset, offset + *bytes), and will it
 * when the job has ended?  *BYTES gets smaller to what is so as a whole.
 */
static bool target_is_zero(struct mirror_job *mj, int64_t offset,
                           int64_t *bytes)
{
    struct node *target = mj->target;
    bool stays = mj->o.backing != MIRROR_BACKING_OPEN;
    struct block_status st;

    if (mj->o.target_is_zero) {
        return true;
    }
    if (node_block_status_above(target, NULL, true, offset, *bytes, &st) < 0 ||
        st.bytes == 0) {
        return false;
    }
    *bytes = MIN(*bytes, st.bytes);
    return (st.flags & STATUS_ZERO) &&
           (stays || (st.flags & STATUS_ALLOCATED));
}

/* The source reads as zeroes; ALLOCATED: because one of its layers says so,
 * which counts as work. */
static void want_zeroes(struct mirror_job *mj, int64_t offset, int64_t bytes,
                        bool allocated)
{
    while (bytes > 0) {
        int64_t part = bytes;

        if (!target_is_zero(mj, offset, &part)) {
            want(mj, offset, part);
        } else {
            want_nothing(mj, offset, part, allocated);
        }
        offset += part;
        bytes -= part;
    }
}

/* How far it looked, from OFFSET on. */
static int64_t look(struct mirror_job *mj, int64_t offset)
{
    bool full = mj->o.sync == MIRROR_SYNC_MODE_FULL;
    int64_t bytes = MIN(copier_length(mj->copier) - offset,
                        (int64_t)LOOK_BYTES);
    struct block_status st;
    /* What cannot be told is copied: if it is an error, reading will tell. */
    int ret = node_block_status_above(mj->source, full ? NULL : mj->base, full,
                                      offset, bytes, &st);

    if (ret < 0 || st.bytes == 0) {
        want(mj, offset, bytes);
        return bytes;
    }
    if (full && (st.flags & STATUS_ZERO)) {
        want_zeroes(mj, offset, st.bytes, st.flags & STATUS_ALLOCATED);
    } else if (full || (st.flags & STATUS_ALLOCATED)) {
        want(mj, offset, st.bytes);
    }
    return st.bytes;
}

static bool cancel_is_asked(void *opaque)
{
    struct mirror_job *mj = opaque;

    return job_is_cancelled(&mj->job);
}

static int look_at_all(struct mirror_job *mj)
{
    int64_t length = copier_length(mj->copier);

    if (mj->o.sync == MIRROR_SYNC_MODE_NONE) {
        return 0;
    }
    for (int64_t offset = 0; offset < length; ) {
        job_pause_point(&mj->job);
        if (job_is_cancelled(&mj->job)) {
            return -ECANCELED;
        }
        cancel_begin(cancel_is_asked, mj);
        offset += look(mj, offset);
        cancel_end();
    }
    return 0;
}

/* ---- phases 2 and 3 ----------------------------------------------------- */

static bool has_guest_error(const struct mirror_job *mj)
{
    return __atomic_load_n(&mj->guest_error, __ATOMIC_ACQUIRE) < 0;
}

/* What the policy says to a guest's write that did not reach the target. */
static int handle_guest_error(struct mirror_job *mj)
{
    struct job_io_error error = {
        .err = mj->guest_error, .offset = mj->guest_error_offset,
        .bytes = mj->guest_error_bytes, .node = mj->target,
    };
    BlockErrorAction action = job_io_error_action(&mj->job,
                                                  mj->o.on_target_error,
                                                  &error);

    __atomic_store_n(&mj->guest_error, 0, __ATOMIC_RELEASE);
    return action == BLOCK_ERROR_ACTION_REPORT ? error.err : 0;
}

/* The user wants the job to end, whatever the target is to be then. */
static bool end_is_asked(const struct mirror_job *mj)
{
    return __atomic_load_n(&mj->ready, __ATOMIC_RELAXED) &&
           (__atomic_load_n(&mj->complete_asked, __ATOMIC_ACQUIRE) ||
            job_cancel_requested(&mj->job));
}

int mirror_check_end(void *opaque)
{
    struct mirror_job *mj = opaque;
    int64_t asked_ns, waited_ms, most;

    converge_look(mj);
    if (G_UNLIKELY(has_guest_error(mj))) {
        return -EINPROGRESS;
    }
    if (G_LIKELY(!end_is_asked(mj))) {
        return 0;
    }
    asked_ns = __atomic_load_n(&mj->end_asked_ns, __ATOMIC_RELAXED);
    if (asked_ns == 0) {
        __atomic_store_n(&mj->end_asked_ns, clock_ns(), __ATOMIC_RELAXED);
        return 0;
    }
    waited_ms = (clock_ns() - asked_ns) / MS;
    if (waited_ms < END_PATIENCE_MS) {
        return 0;
    }
    most = MIN((int64_t)END_BYTES << MIN(waited_ms / END_PATIENCE_MS - 1, 16),
               END_BYTES_MOST);
    return dirty_now(mj) <= most ? -EINPROGRESS : 0;
}

/* Sleep until there is something to do. */
static void wait_for_dirt(struct mirror_job *mj)
{
    struct bits *todo = copier_todo(mj->copier);

    __atomic_store_n(&mj->waiting_for_dirt, true, __ATOMIC_SEQ_CST);
    if (bits_empty(todo) && !end_is_asked(mj) && !has_guest_error(mj)) {
        job_sleep_until(&mj->job, clock_ns() + IDLE_MS * MS);
    }
    __atomic_store_n(&mj->waiting_for_dirt, false, __ATOMIC_SEQ_CST);
    if (!bits_empty(todo) && !end_is_asked(mj)) {
        job_sleep_until(&mj->job, clock_ns() + GATHER_MS * MS);
    }
}

/* Bring all that is dirty to the target; durably if it matters. */
static int catch_up(struct mirror_job *mj)
{
    int ret;

    do {
        ret = engine_run(mj->engine);
        if (ret < 0) {
            return ret;
        }
        if (__atomic_load_n(&mj->ready, __ATOMIC_RELAXED) &&
            !end_is_asked(mj)) {
            return 0;
        }
        ret = engine_flush(mj->engine);
        if (ret < 0) {
            return ret;
        }
    } while (!bits_empty(copier_todo(mj->copier)));
    return 0;
}

static int follow(struct mirror_job *mj)
{
    for (;;) {
        int ret = catch_up(mj);

        if (has_guest_error(mj) && !job_is_cancelled(&mj->job)) {
            ret = handle_guest_error(mj);
            if (ret < 0) {
                return ret;
            }
            continue;
        }
        if (ret == -EINPROGRESS) {
            return 0;
        }
        if (ret < 0) {
            return ret;
        }
        if (!__atomic_load_n(&mj->ready, __ATOMIC_RELAXED)) {
            ret = engine_wait_paid(mj->engine);
            if (ret < 0) {
                return ret;
            }
            if (!bits_empty(copier_todo(mj->copier))) {
                continue;
            }
            converge_stop(mj);
            __atomic_store_n(&mj->ready, true, __ATOMIC_RELEASE);
            job_set_ready(&mj->job);
        } else if (end_is_asked(mj)) {
            return 0;
        }
        wait_for_dirt(mj);
    }
}

/* ---- run ---------------------------------------------------------------- */

static bool check_sizes(struct mirror_job *mj, struct error **errp)
{
    if (node_length(mj->source) == node_length(mj->target)) {
        return true;
    }
    error_set(errp, "Source and target image have different sizes");
    return false;
}

int mirror_run(struct job *job, struct error **errp)
{
    struct mirror_job *mj = mirror_of(job);
    int ret;

    if (!check_sizes(mj, errp)) {
        return -EINVAL;
    }
    /* Either we see the mode, or mirror_change() that we run. */
    __atomic_store_n(&mj->running, true, __ATOMIC_SEQ_CST);
    if (__atomic_load_n(&mj->copy_mode, __ATOMIC_SEQ_CST) ==
        MIRROR_COPY_MODE_WRITE_BLOCKING) {
        mirror_top_set_mode(mj->filter, MIRROR_TOP_BLOCKING);
    }
    converge_start(mj);
    ret = look_at_all(mj);
    if (ret == 0) {
        ret = follow(mj);
    }
    converge_stop(mj);
    return ret;
}
