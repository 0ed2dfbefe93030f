/* SPDX-License-Identifier: MIT */
/*
 * qemu-io: aio_read, aio_write, aio_flush.
 *
 * Problem     A request is a thread that blocks, but requests have an order:
 *             a breakpoint that is set before two of them stops the first
 *             one.  And what a request prints comes after the reply to the
 *             command that started it, as with QEMU.
 * Answer      The command waits until its request has ended, or stands at a
 *             breakpoint, or waits for a limit, or has had its time to get as
 *             far as it gets.  A request that has ended prints when the
 *             command has, and with the control lock between: the command
 *             holds it until it is answered.
 * Invariants  I1  A request is in the list until what it has to say is
 *                 printed and its hold on the disk is given back.
 *             I2  At most MAX_REQUESTS are in the list: each has a thread.
 */
#include "server/hmp/qemu-io-priv.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include "base/late.h"
#include "base/pool.h"
#include "block/stats.h"
#include "block/throttle-group.h"

enum { MAX_REQUESTS = 4096 };

/* Time for a request to get where it waits. */
#define SETTLE_NS INT64_C(20000000)

enum stage { SUBMITTED, RUNNING, SETTLED };

struct aio {
    struct aio *prev, *next;    /* control lock: I1 */
    struct io_target *target;   /* a reference */
    bool answered;              /* control lock: its command has ended */
    const char *name;           /* "aio_read" */
    bool is_write, zeroes, quiet, terse, verbose, has_pattern;
    uint8_t pattern;
    unsigned flags;             /* BLK_* */
    int64_t offset, bytes;
    uint8_t *buf;               /* owned; NULL for zeroes */

    int64_t submitted_ns;
    struct cond changed;
    /* Protected by stage_lock. */
    enum stage stage;
    int64_t running_ns;         /* since when */
};

static struct lock stage_lock = LOCK_INIT("qemu-io", LOCK_LEAF);
static struct aio *first, *last;        /* control lock */
static int n_requests;                  /* control lock */
static _Thread_local struct aio *mine;  /* of a thread that runs one */

/* ---- order -------------------------------------------------------------- */

static void set_stage(struct aio *a, enum stage stage)
{
    LOCK_GUARD(&stage_lock);
    a->stage = stage;
    a->running_ns = clock_ns();
    cond_broadcast(&a->changed);
}

void io_aio_stopped(void)
{
    if (mine) {
        set_stage(mine, SETTLED);
    }
}

/* No lock held.  A thread that has not begun yet is waited for. */
static void wait_settled(struct aio *a)
{
    LOCK_GUARD(&stage_lock);
    while (a->stage != SETTLED) {
        int64_t until = a->stage == RUNNING ? a->running_ns + SETTLE_NS
                                            : INT64_MAX;

        if (until == INT64_MAX) {
            cond_wait(&a->changed, &stage_lock);
        } else if (!cond_wait_until(&a->changed, &stage_lock, until)) {
            break;
        }
    }
}

/* ---- one request -------------------------------------------------------- */

static int perform(struct aio *a)
{
    if (!a->is_write) {
        return target_pread(a->target, true, a->offset, a->bytes, a->buf);
    }
    if (a->zeroes) {
        return target_pwrite_zeroes(a->target, false, a->offset, a->bytes,
                                    a->flags);
    }
    return target_pwrite(a->target, true, a->offset, a->bytes, a->buf,
                         a->flags);
}

static void print_result(const struct aio *a, int ret, int64_t ended_ns)
{
    GString *out = g_string_new(NULL);

    if (ret < 0) {
        g_string_append_printf(out, "%s failed: %s\n", a->name,
                               error_errno_text(-ret));
    } else {
        if (a->has_pattern && !a->is_write) {
            io_verify(out, a->buf, a->bytes, a->pattern, a->offset);
        }
        if (a->verbose && !a->quiet) {
            io_dump(out, a->buf, a->offset, a->bytes);
        }
        if (!a->quiet) {
            io_report(out, &(struct io_report) {
                .verb = a->is_write ? "wrote" : "read",
                .offset = a->offset, .bytes = a->bytes,
                .ns = ended_ns - a->submitted_ns, .terse = a->terse,
            });
        }
    }
    late_wait();
    io_flush_out(out);
    g_string_free(out, TRUE);
}

static void run_request(void *arg)
{
    struct aio *a = arg;
    int64_t ended_ns;
    int ret;

    mine = a;
    set_stage(a, RUNNING);
    ret = perform(a);
    ended_ns = clock_ns();
    mine = NULL;
    set_stage(a, SETTLED);
    {
        CONTROL_GUARD();
        while (!a->answered) {
            control_wait();
        }
        CONTROL_YIELD {
            print_result(a, ret, ended_ns);
        }
        target_unref(a->target);
        *(a->prev ? &a->prev->next : &first) = a->next;
        *(a->next ? &a->next->prev : &last) = a->prev;
        n_requests--;
        control_notify();
    }
    cond_deinit(&a->changed);
    free(a->buf);
    g_free(a);
}

int qemu_io_count_requests(void)
{
    control_assert();
    return n_requests;
}

/* A (taken) goes. */
static void start(struct qemu_io *io, struct aio *a)
{
    if (n_requests >= MAX_REQUESTS || (!a->buf && !a->zeroes)) {
        io_say(io, "%s failed: %s\n", a->name,
               error_errno_text(a->buf || a->zeroes ? EAGAIN : ENOMEM));
        free(a->buf);
        g_free(a);
        return;
    }
    a->target = target_ref(io->target);
    cond_init(&a->changed);
    a->prev = last;
    *(last ? &last->next : &first) = a;
    last = a;
    n_requests++;
    a->submitted_ns = clock_ns();
    io->started = a;
    throttle_set_wait_hook(io_aio_stopped);
    pool_submit(run_request, a);
    CONTROL_YIELD {
        wait_settled(a);
    }
}

void io_aio_answered(struct aio *a)
{
    control_assert();
    a->answered = true;
    control_notify();
}

/* ---- commands ----------------------------------------------------------- */

/* -i: as if the device had refused the guest's request. */
static void count_invalid(struct qemu_io *io, bool is_write)
{
    io_say(io, "injecting invalid %s request\n",
           is_write ? "write" : "read");
    if (io->target->backend) {
        block_stats_invalid(backend_stats(io->target->backend),
                            is_write ? STATS_WRITE : STATS_READ);
    }
}

struct aio_options {
    struct io_options words;
    bool invalid, unmap;
};

static bool take_options(struct qemu_io *io, struct aio *a,
                         struct aio_options *o)
{
    int letter;

    io_options_begin(&o->words, io, a->is_write ? "CfiP:quz" : "CiP:qv");
    while ((letter = io_options_next(&o->words, io)) != 0) {
        switch (letter) {
        case 'C':
            a->terse = true;
            break;
        case 'f':
            a->flags |= BLK_FUA;
            break;
        case 'i':
            o->invalid = true;
            break;
        case 'P':
            a->has_pattern = true;
            if (!io_parse_pattern(io, o->words.value, &a->pattern)) {
                return false;
            }
            break;
        case 'q':
            a->quiet = true;
            break;
        case 'u':
            o->unmap = true;
            break;
        case 'v':
            a->verbose = true;
            break;
        case 'z':
            a->zeroes = true;
            break;
        default:
            return false;
        }
    }
    if (o->words.n_words < 2) {
        io_usage(io);
        return false;
    }
    return true;
}

/* What does not go together, and the range. */
static bool take_range(struct qemu_io *io, struct aio *a,
                       const struct aio_options *o)
{
    if (a->zeroes && o->words.n_words != 2) {
        io_say(io, "-z supports only a single length parameter\n");
        return false;
    }
    if (o->unmap && !a->zeroes) {
        io_say(io, "-u requires -z to be specified\n");
        return false;
    }
    a->flags |= o->unmap ? BLK_MAY_UNMAP : 0;
    if (!a->zeroes) {
        return io_parse_vector(io, &o->words, &a->offset, &a->bytes);
    }
    return io_parse_size(io, o->words.words[0], &a->offset) &&
           io_parse_size(io, o->words.words[1], &a->bytes);
}

static void fill(struct aio *a)
{
    a->buf = io_buffer_new(a->bytes);
    if (a->buf && a->is_write) {
        CONTROL_YIELD {
            memset(a->buf, a->has_pattern ? a->pattern : 0xcd, a->bytes);
        }
    }
}

static void begin(struct qemu_io *io, bool is_write)
{
    struct aio *a = g_new0(struct aio, 1);
    struct aio_options o = { 0 };

    a->name = io->command->name;
    a->is_write = is_write;
    if (!take_options(io, a, &o) || !take_range(io, a, &o)) {
        g_free(a);
        return;
    }
    if (o.invalid) {
        count_invalid(io, is_write);
        g_free(a);
        return;
    }
    if (!a->zeroes) {
        fill(a);
    }
    start(io, a);
}

void io_aio_read(struct qemu_io *io)
{
    begin(io, false);
}

void io_aio_write(struct qemu_io *io)
{
    begin(io, true);
}

/* ---- waiting ------------------------------------------------------------ */

/* KEY NULL: of any disk. */
static bool has_requests(const void *key)
{
    const struct aio *a = first;

    while (a && key && a->target->key != key) {
        a = a->next;
    }
    return a;
}

void io_aio_flush(struct qemu_io *io)
{
    const int64_t round_ns = 10000000;

    /* A drain lets go what limits hold back; a request may just come to its
     * gate. */
    while (has_requests(io->target->key)) {
        struct node *n = target_node(io->target);
        struct drain *d = n ? drain_begin(&n, 1) : NULL;

        if (d) {
            drain_end(&d);
        }
        if (has_requests(io->target->key)) {
            control_wait_until(clock_ns() + round_ns);
        }
    }
}

void qemu_io_finish(void)
{
    while (has_requests(NULL)) {
        control_wait();
    }
}
