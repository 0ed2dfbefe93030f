/* SPDX-License-Identifier: MIT */
/*
 * Jobs: the state machine, seen by job drivers and commands.
 *
 * Problem     A job runs in its own thread as plain C; users pause, cancel,
 *             throttle and finalize it; drains pause it too.
 * Invariants  I1  Status changes only by the tables in job-state.c, under the
 *                 control lock, one JOB_STATUS_CHANGE each.
 *             I2  A job's thread has no request in flight when it pauses, and
 *                 only then takes the control lock.
 *             I3  After run() returned no I/O of the job is in flight.
 *             I4  prepare/commit/abort/clean run once each at most, control
 *                 lock held, all jobs of a transaction together.
 * Threads     "control": lock held.  "job thread": from run(), no lock held.
 *             "any": atomic.
 */
#pragma once

#include "base/error.h"
#include "base/lock.h"
#include "blockjobs/job-rate.h"
#include "qapi/qapi-types.h"

struct job;
struct job_txn;
struct node;
struct root;

struct job_driver {
    JobType type;
    size_t job_size;        /* of the struct that begins with struct job */
    bool is_block_job;      /* BLOCK_JOB_* events, query-block-jobs */

    /* Job thread, no lock.  0 or -errno; text in errp or from strerror.
     * Returns early with -ECANCELED once job_is_cancelled(). */
    int (*run)(struct job *job, struct error **errp);

    /* Control; all may be NULL; may yield unless they say not. */
    int (*prepare)(struct job *job, struct error **errp); /* last chance to
                                                             fail */
    void (*commit)(struct job *job);
    void (*abort)(struct job *job);
    void (*clean)(struct job *job);     /* after commit or abort */
    /* job-complete on a ready job. */
    bool (*complete)(struct job *job, struct error **errp);
    /* Told once that a cancel was asked; wake what could hang (any wait of the
     * job's that is not job_sleep or a pause point).  Must not yield. */
    void (*cancel)(struct job *job, bool force);
    /* True (default if NULL): a soft cancel is a cancel.  False: a ready job
     * ends well without completing (mirror). */
    bool (*soft_cancel_is_hard)(struct job *job);
    void (*user_resume)(struct job *job);   /* before it resumes; no yield */
    void (*set_speed)(struct job *job, int64_t speed);  /* no yield */
    /* block-job-change; the type agrees.  NULL: nothing can be changed. */
    bool (*change)(struct job *job, const BlockJobChangeOptions *options,
                   struct error **errp);
    void (*query)(struct job *job, BlockJobInfo *info); /* fill specifics */
    /* Any thread, no lock, atomic: bytes that writers have made dirty since
     * the job began; never less than before. */
    int64_t (*dirty_bytes)(const struct job *job);
    /* Control; its end does not depend on what remains (sync=none): no
     * expectation is given. */
    bool (*is_endless)(const struct job *job);
    void (*free)(struct job *job);      /* the driver's own fields; no yield */
};

/* Time of day, in microseconds; 0: not yet. */
struct job_times {
    int64_t created_us, started_us, ready_us, ended_us;
};

/* Private to blockjobs/job*.c but for the parts marked public. */
struct job {
    /* Set by job_create(), then constant. */
    const struct job_driver *driver;
    char *id;                       /* owned; NULL: internal */
    bool auto_finalize, auto_dismiss;

    /* Control lock. */
    JobStatus status;
    struct job_txn *txn;            /* ref, or NULL when settled */
    struct job *txn_next;
    struct job *newer, *older;      /* list of all jobs */
    int pause_count;                /* user's, drains', errors' */
    bool user_paused;               /* goes on by job-resume only, because: */
    bool pause_asked;               /* of job-pause */
    bool error_paused;              /* of io_error */
    bool parked;                    /* thread holds still: see job-run.c P1 */
    bool held_at_quit;              /* job-quit.c has paused it */
    bool started;
    bool thread_ended;              /* run() returned (or was never called) */
    int ret;                        /* 0 or -errno, after run() */
    struct error *err;              /* owned; text for query and events */
    struct error *io_error;         /* owned: the last request that failed;
                                       NULL after a resume */
    struct job_times times;
    BlockDeviceIoStatus iostatus;
    GSList *roots;                  /* block jobs: struct root *, owned */
    GSList *blocked_nodes;          /* struct node * (ref) with op blockers */

    /* Shared with the job's thread: lock (rank LOCK_JOB). */
    struct lock lock;
    struct cond wake;               /* pause_count, cancel, speed, kick */
    bool kicked;

    /* Atomic. */
    bool cancel_requested;          /* public: job_is_cancelled() */
    bool force_cancel;
    bool pause_requested;           /* pause_count > 0 */
    bool sleeping;                  /* in job_sleep_until(), or about to */
    int64_t first_step_until_ns;    /* till then a cancel waits for the first
                                       progress; 0: it does not */
    int64_t speed;                  /* bytes/s, 0: no limit */
    int64_t progress_current, progress_total;
    struct job_rate rate;           /* locks itself */
};

/* ---- control ------------------------------------------------------------- */

/* JobFlags as the commands give them. */
struct job_options {
    const char *id;         /* NULL: internal job (JOB_INTERNAL) */
    bool manual_finalize;   /* auto-finalize: false */
    bool manual_dismiss;    /* auto-dismiss: false */
    struct job_txn *txn;    /* borrowed; NULL: a transaction of its own */
    int64_t speed;          /* bytes/s */
};

/* Would job_create() refuse them?  For who makes something first. */
bool job_check_options(const struct job_options *options, struct error **errp);
/*
 * A new job in state "created" (event sent).  NULL: `Invalid job ID 'X'`,
 * `Job ID 'X' already in use`.  The driver fills its part, then job_start();
 * or, when that fails, job_early_fail() (created -> null, freed).
 */
struct job *job_create(const struct job_driver *driver,
                       const struct job_options *options, struct error **errp);
void job_early_fail(struct job *job);
/* Take back a job that was whole but not started: a later action of its
 * transaction failed (created -> aborting -> concluded -> null, freed). */
void job_undo(struct job *job);
/* created -> running; starts the thread (paused at once if drained).  Until
 * then the job is its maker's, who may yield: a cancel acts from here on. */
void job_start(struct job *job);

struct job *job_find(const char *id);           /* borrowed */
struct job *job_next(const struct job *job);    /* newest first; NULL starts */
/*
 * A transaction of jobs: all prepare and commit, or, when one fails, all
 * others are cancelled.  A job without one gets one of its own.
 */
struct job_txn *job_txn_new(void);              /* owned reference */
void job_txn_unref(struct job_txn *txn);        /* NULL is fine */

/* Cancel all, wait for their ends (yields): shutdown. */
void job_cancel_all(void);

/*
 * A root of a block job on NODE: `main node`, `source`, `target`... (static);
 * drains pause the job.  Owned by the job, freed when it ends.  All
 * operations on the node are blocked as in use by this job.
 */
struct root *job_add_root(struct job *job, struct node *node, const char *name,
                          unsigned perm, unsigned shared, struct error **errp);
/* Before the graph changes at the end: drop all roots and blockers. */
void job_drop_roots(struct job *job);
/* One of them, and the blockers on its node, that has no other. */
void job_remove_root(struct job *job, struct root *root);

/* ---- job thread ---------------------------------------------------------- */

/*
 * Any: by force, or before ready.  A job with a speed limit makes its first
 * step before it sees a cancel that comes right behind its start, unless that
 * takes long: what was copied does not depend on who is faster.
 */
bool job_is_cancelled(const struct job *job);
bool job_cancel_requested(const struct job *job); /* any: soft ones too */
/* Pause here if someone asked for it; returns when resumed or cancelled.
 * No request of the job is in flight. */
void job_pause_point(struct job *job);
bool job_should_pause(const struct job *job);   /* any: cheap test */
/*
 * Job thread, no request in flight: the control lock is held and the job counts
 * as paused from begin to end, so that it can drain and change the graph below
 * itself.  end() is a pause point.
 */
void job_graph_begin(struct job *job);
void job_graph_end(struct job *job);
/* Sleep until DEADLINE_NS, a kick, cancel, or a pause (which it takes). */
void job_sleep_until(struct job *job, int64_t deadline_ns);
void job_kick(struct job *job);                 /* any: end a sleep */
/* All is copied: from now on no throttle holds the job's requests back, so that
 * it ends even if the throttle's clock stands still. */
void job_hurry(struct job *job);
void job_progress_add(struct job *job, int64_t bytes);          /* any */
void job_progress_set_remaining(struct job *job, int64_t bytes); /* any */
void job_progress_add_remaining(struct job *job, int64_t bytes); /* any */
int64_t job_speed(const struct job *job);       /* any */
/* running -> ready, BLOCK_JOB_READY. */
void job_set_ready(struct job *job);

/* A request that failed. */
struct job_io_error {
    bool is_read;
    int err;                        /* ABS() is taken */
    int64_t offset, bytes;          /* bytes <= 0: not known */
    const struct node *node;        /* borrowed; NULL: not known */
};

/*
 * An I/O error happened: BLOCK_JOB_ERROR, and for "stop" the job becomes
 * user-paused with io-status set, so that the next pause point waits.  No
 * request in flight.  Returns what to do.  If the job then fails with the same
 * errno and no error data of its own, its error gets this one's.
 */
BlockErrorAction job_io_error_action(struct job *job, BlockdevOnError on_err,
                                     const struct job_io_error *error);
/* As that, nothing else known. */
BlockErrorAction job_error_action(struct job *job, BlockdevOnError on_err,
                                  bool is_read, int err);
