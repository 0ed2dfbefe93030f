/* SPDX-License-Identifier: MIT */
/* quorum: requests to all children at the same time, votes, events. */
#include "block/filters/quorum.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include "base/control.h"
#include "base/late.h"
#include "block/debug.h"
#include "qapi/qapi-events.h"

enum { SECTOR_BYTES = 512, MAX_REPORTS = 64 };

/* ---- all at the same time ----------------------------------------------- */

static int one_request(const struct quorum_run *run, struct quorum_part *part)
{
    switch (run->type) {
    case QUORUM_OP_TYPE_READ:
        return node_pread(part->child, run->offset, run->bytes, part->buf,
                          run->flags);
    case QUORUM_OP_TYPE_WRITE:
        return run->zeroes
               ? node_pwrite_zeroes(part->child, run->offset, run->bytes,
                                    run->flags)
               : node_pwrite(part->child, run->offset, run->bytes, run->data,
                             run->flags);
    default:
        return node_flush(part->child);
    }
}

static void part_task(void *opaque)
{
    struct quorum_part *part = opaque;
    struct quorum_run *run = part->run;

    if (run->pass) {
        node_debug_pass_begin();
    }
    part->ret = one_request(run, part);
    if (run->pass) {
        node_debug_pass_end();
    }
    LOCK_GUARD(&run->lock);
    if (--run->n_left == 0) {
        cond_signal(&run->done);
    }
}

static bool make_parts(struct node *n, struct quorum_run *run, void *buf)
{
    int i = 0;

    for (const struct child *c = n->children; c; c = c->next_sibling) {
        run->n_parts++;
    }
    run->parts = g_new0(struct quorum_part, run->n_parts);
    for (const struct child *c = n->children; c; c = c->next_sibling, i++) {
        struct quorum_part *part = &run->parts[i];

        part->run = run;
        part->child = c->node;
        if (run->type == QUORUM_OP_TYPE_READ) {
            part->buf = i == 0 ? buf : aligned_alloc(4096,
                (run->bytes + 4095) & ~INT64_C(4095));
            if (!part->buf) {
                return false;
            }
        }
    }
    return true;
}

int quorum_run(struct node *n, struct quorum_run *run, void *buf)
{
    if (!make_parts(n, run, buf)) {
        quorum_run_end(run);
        return -ENOMEM;
    }
    lock_init(&run->lock, "quorum-run", LOCK_LEAF);
    cond_init(&run->done);
    run->pass = node_debug_passing();
    run->n_left = run->n_parts - 1;
    for (int i = 1; i < run->n_parts; i++) {
        pool_submit(part_task, &run->parts[i]);
    }
    run->parts[0].ret = one_request(run, &run->parts[0]);
    lock_acquire(&run->lock);
    while (run->n_left > 0) {
        cond_wait(&run->done, &run->lock);
    }
    lock_release(&run->lock);
    cond_deinit(&run->done);
    lock_deinit(&run->lock);
    return 0;
}

void quorum_run_end(struct quorum_run *run)
{
    for (int i = 1; i < run->n_parts; i++) {
        free(run->parts[i].buf);
    }
    g_clear_pointer(&run->parts, g_free);
    run->n_parts = 0;
}

/* ---- votes -------------------------------------------------------------- */

/* Of several with as many votes the one that came up last wins: an error ... */
static int elect_error(const struct quorum_run *run)
{
    int best = 0, best_votes = 0;

    for (int i = 0; i < run->n_parts; i++) {
        int votes = 0, before = 0;

        for (int k = 0; k < run->n_parts; k++) {
            bool same = run->parts[k].ret == run->parts[i].ret;
            votes += same;
            before += same && k < i;
        }
        if (run->parts[i].ret < 0 && !before && votes >= best_votes) {
            best = run->parts[i].ret;
            best_votes = votes;
        }
    }
    return best;
}

int quorum_count(struct node *n, struct quorum_run *run, bool tell_failure)
{
    const struct quorum_state *s = n->state;
    int n_ok = 0;

    for (int i = 0; i < run->n_parts; i++) {
        const struct quorum_part *part = &run->parts[i];

        n_ok += part->ret == 0;
        if (part->ret < 0) {
            quorum_report_bad(n, run, part->child, part->ret);
        }
    }
    if (n_ok >= s->threshold) {
        return 0;
    }
    if (tell_failure) {
        quorum_report_failure(n, run);
    }
    return elect_error(run);
}

bool quorum_differs(const struct quorum_run *run,
                    const struct quorum_part *part,
                    const struct quorum_part *winner)
{
    return part != winner && part->ret == 0 &&
           memcmp(part->buf, winner->buf, run->bytes) != 0;
}

/* Did an earlier part read the same? */
static bool came_up_before(const struct quorum_run *run, int i)
{
    for (int k = 0; k < i; k++) {
        if (run->parts[k].ret == 0 &&
            !quorum_differs(run, &run->parts[k], &run->parts[i])) {
            return true;
        }
    }
    return false;
}

struct quorum_part *quorum_elect(struct node *n, struct quorum_run *run,
                                 bool *unanimous)
{
    const struct quorum_state *s = n->state;
    struct quorum_part *best = NULL;
    int best_votes = 0, n_left = 0, n_ok;

    for (int i = 0; i < run->n_parts; i++) {
        n_left += run->parts[i].ret == 0;
    }
    n_ok = n_left;
    /* ... or data; what comes up late cannot get more than who is left. */
    for (int i = 0; i < run->n_parts && best_votes <= n_left; i++) {
        struct quorum_part *part = &run->parts[i];
        int votes = 1;

        if (part->ret < 0) {
            continue;
        }
        n_left--;
        if (i > 0 && came_up_before(run, i)) {
            continue;
        }
        for (int k = i + 1; k < run->n_parts; k++) {
            votes += run->parts[k].ret == 0 &&
                     !quorum_differs(run, &run->parts[k], part);
        }
        if (votes >= best_votes) {
            best = part;
            best_votes = votes;
        }
    }
    *unanimous = best_votes == n_ok;
    return best_votes >= s->threshold ? best : NULL;
}

/* ---- events ------------------------------------------------------------- */

/* The control lock is not for requests: a worker sends them. */
struct report {
    struct quorum_state *s;
    char *name;                 /* owned */
    QuorumOpType type;
    int error;                  /* errno, 0: none */
    bool failure;               /* QUORUM_FAILURE */
    int64_t sector, n_sectors;
};

static void report_task(void *opaque)
{
    struct report *r = opaque;

    {
        CONTROL_GUARD();
        if (r->failure) {
            qapi_event_send_quorum_failure(r->name, r->sector, r->n_sectors);
        } else {
            qapi_event_send_quorum_report_bad(
                r->type,
                r->error ? error_errno_text(r->error) : NULL,
                r->name, r->sector, r->n_sectors);
        }
    }
    g_free(r->name);
    {
        LOCK_GUARD(&r->s->lock);
        r->s->n_reports--;
        cond_broadcast(&r->s->told);
    }
    g_free(r);
}

/* Clients are told once a second at most: what is on its way will do. */
static bool may_report(struct quorum_state *s)
{
    LOCK_GUARD(&s->lock);
    if (s->n_reports >= MAX_REPORTS) {
        return false;
    }
    s->n_reports++;
    return true;
}

static void report(struct node *n, const struct quorum_run *run,
                   const struct node *who, int error, bool failure)
{
    int64_t start = run->offset / SECTOR_BYTES;
    int64_t end = (run->offset + run->bytes + SECTOR_BYTES - 1) / SECTOR_BYTES;
    struct report *r;

    if (!may_report(n->state)) {
        return;
    }
    r = g_new(struct report, 1);
    *r = (struct report){
        .s = n->state, .name = g_strdup(node_name(who)), .type = run->type,
        .error = error, .failure = failure,
        .sector = start, .n_sectors = end - start,
    };
    late_submit(report_task, r);
}

void quorum_report_bad(struct node *n, const struct quorum_run *run,
                       const struct node *child, int ret)
{
    report(n, run, child, -ret, false);
}

void quorum_report_failure(struct node *n, const struct quorum_run *run)
{
    report(n, run, n, 0, true);
}

void quorum_report_different(struct node *n, struct quorum_run *run,
                             const struct quorum_part *winner)
{
    for (int i = 0; i < run->n_parts; i++) {
        if (quorum_differs(run, &run->parts[i], winner)) {
            quorum_report_bad(n, run, run->parts[i].child, 0);
        }
    }
}

void quorum_reports_wait(struct quorum_state *s)
{
    LOCK_GUARD(&s->lock);
    while (s->n_reports > 0) {
        cond_wait(&s->told, &s->lock);
    }
}
