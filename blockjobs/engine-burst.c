/* SPDX-License-Identifier: MIT */
/* Copy engine: see engine.h.  Here: a burst, and its workers. */
#include "blockjobs/engine-priv.h"

#include "base/pool.h"
#include "block/cancel.h"
#include "block/copier-pace.h"
#include "block/copier.h"

enum {
    MS = 1000 * 1000,
    LOOK_NS = 20 * MS,                  /* while a worker waits for its turn:
                                           does someone want it to stop? */
    FIRST_ZERO_BYTES = 16 << 20,        /* of one write of zeroes */
    MAX_ZERO_BYTES = 1 << 30,
    ZERO_NS = 10 * MS,                  /* what it may take */
    FLUSH_BYTES = 32 << 20,
};

static bool burst_should_stop(struct engine *e)
{
    return job_is_cancelled(e->o.job) || job_should_pause(e->o.job) ||
           (e->o.check && e->o.check(e->o.opaque) < 0);
}

/* One worker's copy. */
struct piece {
    int64_t offset, bytes;
    struct pace_ticket ticket;
};

/* How much at once, when guests leave room for it; 0: the burst goes on, or
 * ends, without this worker. */
static int64_t wait_for_room(struct engine *e, struct pace_ticket *ticket)
{
    struct pace *pace = copier_pace(e->o.copier);
    enum pace_answer answer;
    int64_t bytes;

    do {
        if (burst_should_stop(e)) {
            return 0;
        }
        bytes = job_speed(e->o.job) ? e->o.limited_chunk_bytes
                                    : e->o.max_chunk_bytes;
        answer = pace_begin(pace, ticket, &bytes, clock_ns() + LOOK_NS);
    } while (answer == PACE_WAIT);
    return answer == PACE_GO ? bytes : 0;
}

static bool take_run(struct engine *e, int64_t most, struct piece *p)
{
    int64_t now;

    LOCK_GUARD(&e->lock);
    if (e->error || e->pass_over) {
        return false;
    }
    now = job_speed(e->o.job) ? clock_ns() : 0;
    if (!engine_limit_lets_through(e, now)) {
        return false;
    }
    p->bytes = copier_next(e->o.copier, e->cursor, most, &p->offset);
    if (p->bytes == 0) {
        e->pass_over = true;
        return false;
    }
    e->cursor = p->offset + p->bytes;
    engine_limit_charge(e, now, p->bytes);
    return true;
}

/* False: this worker's part of the burst is over. */
static bool take_next(struct engine *e, struct piece *p)
{
    int64_t most = wait_for_room(e, &p->ticket);

    if (most == 0) {
        return false;
    }
    if (!take_run(e, most, p)) {
        pace_end(copier_pace(e->o.copier), &p->ticket, 0);
        return false;
    }
    return true;
}

/* A long hole is one write of zeroes, not thousands: if nobody has taken what
 * comes behind the run, take it too. */
static void widen_zero_run(struct engine *e, int64_t offset, int64_t *bytes)
{
    int64_t zero, start, next, end;

    /* Smaller ones are for guests not to wait behind. */
    if (*bytes < e->o.max_chunk_bytes) {
        return;
    }
    lock_acquire(&e->lock);
    end = MIN(copier_length(e->o.copier),
              offset + (e->zero_bytes ? e->zero_bytes : FIRST_ZERO_BYTES));
    lock_release(&e->lock);
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

/* BYTES of zeroes took NS: where that is long, guests would wait for it. */
static void learn_zero_bytes(struct engine *e, int64_t bytes, int64_t ns)
{
    double fit = (double)bytes * ZERO_NS / MAX(ns, 1);

    LOCK_GUARD(&e->lock);
    e->zero_bytes = CLAMP(fit, 2 * e->o.max_chunk_bytes,
                          MIN(2 * bytes, MAX_ZERO_BYTES));
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

/* As many workers as there are copies worth having in flight. */
static void grow(struct engine *e)
{
    int limit = job_speed(e->o.job) ? 1 : e->o.max_workers, n;

    lock_acquire(&e->lock);
    n = e->pass_over || e->error ? limit : e->n_workers;
    lock_release(&e->lock);
    if (n >= limit || !pace_wants_more(copier_pace(e->o.copier), n)) {
        return;
    }
    lock_acquire(&e->lock);
    n = e->n_workers < limit ? e->n_workers++ : limit;
    lock_release(&e->lock);
    if (n < limit) {
        pool_submit(pool_worker, e);
    }
}

/* Every job ends with a flush, which is a long one if nothing was written
 * back until then. */
static void write_back(struct engine *e, int64_t bytes)
{
    bool much;

    lock_acquire(&e->lock);
    e->unflushed_bytes += bytes;
    much = e->unflushed_bytes >= FLUSH_BYTES;
    if (much) {
        e->unflushed_bytes = 0;
    }
    lock_release(&e->lock);
    if (much) {
        copier_begin_flush(e->o.copier);
    }
}

static void work(struct engine *e)
{
    struct copier_result result;
    struct piece p;
    int ret;

    engine_cancel_begin(e);
    while (take_next(e, &p)) {
        int64_t bytes = p.bytes;    /* what the target is known to take */
        widen_zero_run(e, p.offset, &p.bytes);
        ret = copier_copy(e->o.copier, p.offset, p.bytes, &result);
        pace_end(copier_pace(e->o.copier), &p.ticket, ret < 0 ? 0 : bytes);
        if (e->o.copied) {
            e->o.copied(e->o.opaque);
        }
        if (ret < 0) {
            note_error(e, ret, result.is_read, p.offset, p.bytes);
        } else {
            grow(e);
            write_back(e, bytes);
            if (p.bytes > bytes) {
                learn_zero_bytes(e, p.bytes, clock_ns() - p.ticket.begun_ns);
            }
        }
    }
    cancel_end();
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

void engine_burst(struct engine *e)
{
    /* With a limit the order of copies is what a reader expects. */
    int n = job_speed(e->o.job)
            ? 1 : MIN(e->o.max_workers, ENGINE_FIRST_WORKERS);

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
