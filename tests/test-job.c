/* SPDX-License-Identifier: MIT */
/*
 * A job's life with a driver made for the test: sequences of status, pause and
 * resume, cancel at each point, transactions, errors, dismiss.
 */
#include <errno.h>
#include <string.h>
#include "base/pool.h"
#include "blockjobs/job-priv.h"
#include "qapi/qapi-commands.h"
#include "qapi/qapi-events.h"

struct fake_job {
    struct job job;
    /* What run() does, set before job_start(). */
    int ticks;              /* sleeps of 1 ms; -1: until cancelled */
    int result;
    int prepare_result;
    bool ready_first;       /* becomes ready, then waits for complete */
    bool completed;         /* atomic */
};

static GString *log_text;   /* control lock */

static void log_event(QAPIEvent id, json_t *object)
{
    json_t *data = json_object_get(object, "data");
    const char *status = json_string_value(json_object_get(data, "status"));
    const char *job = json_string_value(json_object_get(data, "id"));

    if (status) {
        g_string_append_printf(log_text, "%s:%s ", job, status);
    } else {
        g_string_append_printf(log_text, "%s ", QAPIEvent_str(id));
    }
    json_decref(object);
}

static int fake_run(struct job *job, struct error **errp)
{
    struct fake_job *f = (struct fake_job *)job;

    job_progress_set_remaining(job, 100);
    if (f->ready_first) {
        job_set_ready(job);
        while (!__atomic_load_n(&f->completed, __ATOMIC_ACQUIRE) &&
               !job_cancel_requested(job)) {
            job_sleep_until(job, clock_ns() + 1000000);
        }
        return 0;
    }
    for (int i = 0; f->ticks < 0 || i < f->ticks; i++) {
        if (job_is_cancelled(job)) {
            return -ECANCELED;
        }
        job_sleep_until(job, clock_ns() + 1000000);
    }
    job_progress_add(job, 100);
    if (f->result == -EIO) {
        error_set(errp, "It broke");
    }
    return f->result;
}

static int fake_prepare(struct job *job, struct error **errp)
{
    int ret = ((struct fake_job *)job)->prepare_result;

    g_string_append_printf(log_text, "prepare ");
    if (ret) {
        error_set(errp, "Not prepared");
    }
    return ret;
}

static void fake_commit(struct job *job)
{
    g_string_append(log_text, "commit ");
}

static void fake_abort(struct job *job)
{
    g_string_append(log_text, "abort ");
}

static void fake_clean(struct job *job)
{
    g_string_append(log_text, "clean ");
}

static bool fake_complete(struct job *job, struct error **errp)
{
    __atomic_store_n(&((struct fake_job *)job)->completed, true,
                     __ATOMIC_RELEASE);
    job_kick(job);
    return true;
}

static bool fake_soft_is_hard(struct job *job)
{
    return job->status != JOB_STATUS_READY &&
           job->status != JOB_STATUS_STANDBY;
}

static const struct job_driver fake_driver = {
    .type = JOB_TYPE_BACKUP,
    .job_size = sizeof(struct fake_job),
    .is_block_job = true,
    .run = fake_run,
    .prepare = fake_prepare,
    .commit = fake_commit,
    .abort = fake_abort,
    .clean = fake_clean,
    .complete = fake_complete,
    .soft_cancel_is_hard = fake_soft_is_hard,
};

static struct fake_job *make(const char *id, struct job_txn *txn,
                             bool manual_finalize, bool manual_dismiss)
{
    struct job_options options = {
        .id = id, .txn = txn, .manual_finalize = manual_finalize,
        .manual_dismiss = manual_dismiss,
    };
    AUTO_ERROR(err);
    struct job *job = job_create(&fake_driver, &options, &err);

    g_assert_nonnull(job);
    return (struct fake_job *)job;
}

static void wait_gone(const char *id)
{
    while (job_find(id)) {
        control_wait();
    }
}

static void wait_status(const char *id, JobStatus status)
{
    while (job_find(id)->status != status) {
        control_wait();
    }
}

static void expect_log(const char *want)
{
    g_strchomp(log_text->str);
    g_assert_cmpstr(log_text->str, ==, want);
    g_string_truncate(log_text, 0);
}

static void test_success(void)
{
    CONTROL_GUARD();
    job_start(&make("a", NULL, false, false)->job);
    wait_gone("a");
    expect_log("a:created a:running a:waiting a:pending prepare commit clean "
               "BLOCK_JOB_COMPLETED a:concluded a:null");
}

static void test_failure(void)
{
    struct fake_job *f;
    AUTO_ERROR(err);
    JobDismissArgs dismiss = { .id = (char *)"a" };

    CONTROL_GUARD();
    f = make("a", NULL, false, true);
    f->result = -EIO;
    job_start(&f->job);
    wait_status("a", JOB_STATUS_CONCLUDED);
    g_assert_cmpstr(error_text(f->job.err), ==, "It broke");
    expect_log("a:created a:running a:aborting abort clean "
               "BLOCK_JOB_COMPLETED a:concluded");
    g_assert_true(qmp_job_dismiss(&dismiss, &err));
    expect_log("a:null");
    g_assert_false(qmp_job_dismiss(&dismiss, &err));
    g_assert_cmpstr(error_text(err), ==, "Job not found");
}

static void test_failure_without_text(void)
{
    struct fake_job *f;

    CONTROL_GUARD();
    f = make("a", NULL, false, true);
    f->result = -ENOSPC;
    job_start(&f->job);
    wait_status("a", JOB_STATUS_CONCLUDED);
    g_assert_cmpstr(error_text(f->job.err), ==, "No space left on device");
    job_dismiss_now(&f->job);
    g_string_truncate(log_text, 0);
}

static void test_pause_resume(void)
{
    JobPauseArgs pause = { .id = (char *)"a" };
    JobResumeArgs resume = { .id = (char *)"a" };
    struct fake_job *f;
    AUTO_ERROR(err);
    AUTO_ERROR(err2);

    CONTROL_GUARD();
    f = make("a", NULL, false, false);
    f->ticks = -1;
    job_start(&f->job);
    g_assert_true(qmp_job_pause(&pause, &err));
    g_assert_false(qmp_job_pause(&pause, &err));
    g_assert_cmpstr(error_text(err), ==, "Job is already paused");
    wait_status("a", JOB_STATUS_PAUSED);
    while (!f->job.parked) {
        control_wait();
    }
    g_assert_true(qmp_job_resume(&resume, NULL));
    g_assert_cmpint(f->job.status, ==, JOB_STATUS_RUNNING);
    g_assert_false(qmp_job_resume(&resume, &err2));
    g_assert_cmpstr(error_text(err2), ==,
                    "Can't resume a job that was not paused");
    job_cancel(&f->job, true);
    wait_gone("a");
    expect_log("a:created a:running a:paused a:running a:aborting abort clean "
               "BLOCK_JOB_CANCELLED a:concluded a:null");
}

/* Cancelling a job that its user paused first shows it running. */
static void test_cancel_paused(void)
{
    struct fake_job *f;

    CONTROL_GUARD();
    f = make("a", NULL, false, false);
    f->ticks = -1;
    job_start(&f->job);
    f->job.user_paused = true;
    job_pause(&f->job);
    wait_status("a", JOB_STATUS_PAUSED);
    job_cancel(&f->job, true);
    wait_gone("a");
    expect_log("a:created a:running a:paused a:running a:aborting abort clean "
               "BLOCK_JOB_CANCELLED a:concluded a:null");
}

static void test_cancel_created(void)
{
    CONTROL_GUARD();
    struct fake_job *f = make("a", NULL, false, false);

    /* Its maker still has it. */
    job_cancel(&f->job, true);
    g_assert_true(job_find("a") == &f->job);
    job_start(&f->job);
    wait_gone("a");
    expect_log("a:created a:running a:aborting abort clean "
               "BLOCK_JOB_CANCELLED a:concluded a:null");
    f = make("a", NULL, false, false);
    job_cancel(&f->job, true);
    job_undo(&f->job);
    expect_log("a:created a:aborting a:concluded a:null");
    job_early_fail(&make("b", NULL, false, true)->job);
    expect_log("b:created b:null");
    job_undo(&make("c", NULL, false, true)->job);
    expect_log("c:created c:aborting c:concluded c:null");
}

/* Started inside a drained section: running, paused at once; running again. */
static void test_start_drained(void)
{
    struct fake_job *f;

    CONTROL_GUARD();
    f = make("a", NULL, false, false);
    job_pause(&f->job);
    job_start(&f->job);
    g_assert_cmpint(f->job.status, ==, JOB_STATUS_PAUSED);
    job_resume(&f->job);
    g_assert_cmpint(f->job.status, ==, JOB_STATUS_RUNNING);
    wait_gone("a");
    expect_log("a:created a:running a:paused a:running a:waiting a:pending "
               "prepare commit clean BLOCK_JOB_COMPLETED a:concluded a:null");
}

static void test_manual_finalize(void)
{
    JobFinalizeArgs args = { .id = (char *)"a" };
    struct fake_job *f;
    AUTO_ERROR(err);

    CONTROL_GUARD();
    f = make("a", NULL, true, true);
    job_start(&f->job);
    wait_status("a", JOB_STATUS_PENDING);
    expect_log("a:created a:running a:waiting a:pending BLOCK_JOB_PENDING");
    g_assert_true(qmp_job_finalize(&args, &err));
    expect_log("prepare commit clean BLOCK_JOB_COMPLETED a:concluded");
    job_dismiss_now(&f->job);
    g_string_truncate(log_text, 0);
}

static void test_cancel_pending(void)
{
    CONTROL_GUARD();
    job_start(&make("a", NULL, true, false)->job);
    wait_status("a", JOB_STATUS_PENDING);
    job_cancel(job_find("a"), true);
    g_assert_null(job_find("a"));
    expect_log("a:created a:running a:waiting a:pending BLOCK_JOB_PENDING "
               "a:aborting abort clean BLOCK_JOB_CANCELLED a:concluded a:null");
}

static void test_ready(bool cancel, bool force, const char *want)
{
    struct fake_job *f;

    CONTROL_GUARD();
    f = make("a", NULL, false, false);
    f->ready_first = true;
    job_start(&f->job);
    wait_status("a", JOB_STATUS_READY);
    g_string_truncate(log_text, 0);
    if (cancel) {
        job_cancel(&f->job, force);
    } else {
        JobCompleteArgs args = { .id = (char *)"a" };

        g_assert_true(qmp_job_complete(&args, NULL));
    }
    wait_gone("a");
    expect_log(want);
}

#define ENDS_WELL "a:waiting a:pending prepare commit clean " \
                  "BLOCK_JOB_COMPLETED a:concluded a:null"

static void test_ready_complete(void)
{
    test_ready(false, false, ENDS_WELL);
}

static void test_ready_soft_cancel(void)
{
    test_ready(true, false, ENDS_WELL);
}

static void test_ready_force_cancel(void)
{
    test_ready(true, true, "a:aborting abort clean BLOCK_JOB_CANCELLED "
               "a:concluded a:null");
}

static void test_txn_waits(void)
{
    struct job_txn *txn;
    struct fake_job *a, *b;

    CONTROL_GUARD();
    txn = job_txn_new();
    a = make("a", txn, false, false);
    b = make("b", txn, false, false);
    job_txn_unref(txn);
    b->ticks = 20;
    job_start(&a->job);
    job_start(&b->job);
    wait_status("a", JOB_STATUS_WAITING);
    wait_gone("b");
    wait_gone("a");
    expect_log("a:created b:created a:running b:running a:waiting b:waiting "
               "b:pending a:pending prepare prepare "
               "commit clean BLOCK_JOB_COMPLETED b:concluded b:null "
               "commit clean BLOCK_JOB_COMPLETED a:concluded a:null");
}

static void test_txn_failure_cancels(void)
{
    struct job_txn *txn;
    struct fake_job *a, *b;

    CONTROL_GUARD();
    txn = job_txn_new();
    a = make("a", txn, false, false);
    b = make("b", txn, false, false);
    job_txn_unref(txn);
    b->ticks = 20;
    b->result = -EIO;
    job_start(&a->job);
    job_start(&b->job);
    wait_gone("a");
    wait_gone("b");
    expect_log("a:created b:created a:running b:running a:waiting b:aborting "
               "abort clean BLOCK_JOB_COMPLETED b:concluded b:null "
               "a:aborting abort clean BLOCK_JOB_CANCELLED a:concluded a:null");
}

/* One has failed before the other is started. */
static void test_txn_failure_before_start(void)
{
    struct job_txn *txn;
    struct fake_job *a, *b;

    CONTROL_GUARD();
    txn = job_txn_new();
    a = make("a", txn, false, false);
    b = make("b", txn, false, false);
    job_txn_unref(txn);
    a->result = -EIO;
    job_start(&a->job);
    wait_status("a", JOB_STATUS_ABORTING);
    g_assert_cmpint(b->job.status, ==, JOB_STATUS_CREATED);
    job_start(&b->job);
    wait_gone("a");
    wait_gone("b");
    expect_log("a:created b:created a:running a:aborting b:running b:aborting "
               "abort clean BLOCK_JOB_CANCELLED b:concluded b:null "
               "abort clean BLOCK_JOB_COMPLETED a:concluded a:null");
}

static void test_txn_prepare_fails(void)
{
    struct job_txn *txn;
    struct fake_job *a, *b;

    CONTROL_GUARD();
    txn = job_txn_new();
    a = make("a", txn, false, true);
    b = make("b", txn, false, false);
    job_txn_unref(txn);
    a->prepare_result = -EPERM;
    job_start(&a->job);
    job_start(&b->job);
    wait_gone("b");
    g_assert_cmpstr(error_text(a->job.err), ==, "Not prepared");
    job_dismiss_now(&a->job);
    g_string_truncate(log_text, 0);
}

static void test_ids(void)
{
    static const char *const bad[] = { "", "1a", "a b", "a/b", "-a" };
    struct fake_job *f;

    CONTROL_GUARD();
    for (size_t i = 0; i < G_N_ELEMENTS(bad); i++) {
        struct job_options options = { .id = bad[i] };
        AUTO_ERROR(err);

        g_assert_null(job_create(&fake_driver, &options, &err));
        g_assert_true(g_str_has_prefix(error_text(err), "Invalid job ID '"));
    }
    f = make("a-1.b_c", NULL, false, false);
    {
        struct job_options options = { .id = "a-1.b_c" };
        AUTO_ERROR(err);

        g_assert_null(job_create(&fake_driver, &options, &err));
        g_assert_cmpstr(error_text(err), ==,
                        "Job ID 'a-1.b_c' already in use");
    }
    job_early_fail(&f->job);
    g_string_truncate(log_text, 0);
}

static void test_cancel_all(void)
{
    CONTROL_GUARD();
    for (int i = 0; i < 10; i++) {
        g_autofree char *id = g_strdup_printf("j%d", i);
        struct fake_job *f = make(id, NULL, i & 1, i & 2);

        f->ticks = i < 5 ? 0 : -1;
        job_start(&f->job);
    }
    job_cancel_all();
    g_assert_null(job_next(NULL));
    g_string_truncate(log_text, 0);
}

/* Pause, resume, cancel from another thread at random moments. */
static void test_storm(void)
{
    for (int round = 0; round < 100; round++) {
        struct fake_job *f;

        CONTROL_GUARD();
        f = make("a", NULL, false, true);
        f->ticks = round % 5;
        job_start(&f->job);
        for (int i = 0; i < 20; i++) {
            job_pause(&f->job);
            if (i & 1) {
                CONTROL_YIELD {
                    g_usleep(g_random_int_range(0, 300));
                }
            }
            job_resume(&f->job);
        }
        if (round & 1) {
            job_cancel(&f->job, true);
        }
        wait_status("a", JOB_STATUS_CONCLUDED);
        job_dismiss_now(&f->job);
        g_string_truncate(log_text, 0);
    }
}

int main(int argc, char **argv)
{
    int ret;

    g_test_init(&argc, &argv, NULL);
    log_text = g_string_new(NULL);
    qapi_event_set_emit(log_event);
    g_test_add_func("/job/success", test_success);
    g_test_add_func("/job/failure", test_failure);
    g_test_add_func("/job/failure-without-text", test_failure_without_text);
    g_test_add_func("/job/pause-resume", test_pause_resume);
    g_test_add_func("/job/cancel-paused", test_cancel_paused);
    g_test_add_func("/job/cancel-created", test_cancel_created);
    g_test_add_func("/job/start-drained", test_start_drained);
    g_test_add_func("/job/manual-finalize", test_manual_finalize);
    g_test_add_func("/job/cancel-pending", test_cancel_pending);
    g_test_add_func("/job/ready/complete", test_ready_complete);
    g_test_add_func("/job/ready/soft-cancel", test_ready_soft_cancel);
    g_test_add_func("/job/ready/force-cancel", test_ready_force_cancel);
    g_test_add_func("/job/txn/waits", test_txn_waits);
    g_test_add_func("/job/txn/failure-cancels", test_txn_failure_cancels);
    g_test_add_func("/job/txn/failure-before-start",
                    test_txn_failure_before_start);
    g_test_add_func("/job/txn/prepare-fails", test_txn_prepare_fails);
    g_test_add_func("/job/ids", test_ids);
    g_test_add_func("/job/cancel-all", test_cancel_all);
    g_test_add_func("/job/storm", test_storm);
    ret = g_test_run();
    pool_shutdown();
    g_string_free(log_text, TRUE);
    return ret;
}
