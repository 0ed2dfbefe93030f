/* SPDX-License-Identifier: MIT */
/* quorum: what its two files share. */
#pragma once

#include "block/driver.h"

struct quorum_state {
    /* Set by open, then constant. */
    int threshold;
    bool blkverify, rewrite, fifo;

    /* Under the control lock, and while drained. */
    unsigned next_index;        /* of the next child's name */

    struct range_lock busy;     /* reads share, writes exclude */

    /* Protected by lock (rank LOCK_LEAF). */
    struct lock lock;
    struct cond told;
    int n_reports;              /* events on their way */
};

/* One request to one child. */
struct quorum_part {
    struct quorum_run *run;
    struct node *child;         /* borrowed */
    void *buf;                  /* read into; the first child's is the
                                   caller's, the others' are owned */
    int ret;
};

/* A request to all children. */
struct quorum_run {
    QuorumOpType type;
    bool zeroes;                /* write them; data is NULL */
    int64_t offset, bytes;
    const void *data;           /* borrowed: to be written */
    unsigned flags;
    struct quorum_part *parts;
    int n_parts;
    bool pass;                  /* see node_debug_pass_begin() */

    struct lock lock;           /* rank LOCK_LEAF */
    struct cond done;
    int n_left;
};

/* Make RUN's request in all children of N at the same time and wait.  For
 * a read the first child's data comes to BUF.  -ENOMEM, or 0: the results
 * are in the parts, until quorum_run_end(). */
int quorum_run(struct node *n, struct quorum_run *run, void *buf);
void quorum_run_end(struct quorum_run *run);

/* The result of RUN: 0 if enough children succeeded, else the error that most
 * of them have.  Children that failed are reported; also the failure as a
 * whole if TELL_FAILURE. */
int quorum_count(struct node *n, struct quorum_run *run, bool tell_failure);
/* For a read that enough children did: the part that most others that
 * succeeded equal, NULL: too few.  *UNANIMOUS: nobody differs. */
struct quorum_part *quorum_elect(struct node *n, struct quorum_run *run,
                                 bool *unanimous);
/* Report those whose data differs from WINNER's. */
void quorum_report_different(struct node *n, struct quorum_run *run,
                             const struct quorum_part *winner);
void quorum_report_failure(struct node *n, const struct quorum_run *run);
void quorum_report_bad(struct node *n, const struct quorum_run *run,
                       const struct node *child, int ret);
/* Is PART's data another one than WINNER's? */
bool quorum_differs(const struct quorum_run *run,
                    const struct quorum_part *part,
                    const struct quorum_part *winner);
/* Wait until all events are sent. */
void quorum_reports_wait(struct quorum_state *s);
