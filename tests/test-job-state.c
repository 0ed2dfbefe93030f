/* SPDX-License-Identifier: MIT */
/*
 * The job state machine, every cell: what may follow what, which verb is
 * accepted where.  The expectations are written out here a second time, from
 * docs/jobs.md, so that a slip in the tables is seen.
 */
#include <string.h>
#include "blockjobs/job-priv.h"

/* Rows: from; columns: to; in the order of JobStatus.
 *                             U C R P Y S W D A X N */
static const char *const change_rows[JOB_STATUS__MAX] = {
    [JOB_STATUS_UNDEFINED] =  ".x.........",
    [JOB_STATUS_CREATED]   =  "..x.....x.x",
    [JOB_STATUS_RUNNING]   =  "...xx.x.x..",
    [JOB_STATUS_PAUSED]    =  "..x........",
    [JOB_STATUS_READY]     =  ".....xx.x..",
    [JOB_STATUS_STANDBY]   =  "....x......",
    [JOB_STATUS_WAITING]   =  ".......xx..",
    [JOB_STATUS_PENDING]   =  "........xx.",
    [JOB_STATUS_ABORTING]  =  "........xx.",
    [JOB_STATUS_CONCLUDED] =  "..........x",
    [JOB_STATUS_NULL]      =  "...........",
};

static const char *const verb_rows[JOB_VERB__COUNT] = {
    [JOB_VERB_CANCEL_]    =   ".xxxxxxx...",
    [JOB_VERB_PAUSE_]     =   ".xxxxx.....",
    [JOB_VERB_RESUME_]    =   ".xxxxx.....",
    [JOB_VERB_SET_SPEED_] =   ".xxxxx.....",
    [JOB_VERB_COMPLETE_]  =   "....xx.....",
    [JOB_VERB_FINALIZE_]  =   ".......x...",
    [JOB_VERB_DISMISS_]   =   ".........x.",
    [JOB_VERB_CHANGE_]    =   ".xxxxx.....",
};

static void test_columns(void)
{
    static const JobStatus order[] = {
        JOB_STATUS_UNDEFINED, JOB_STATUS_CREATED, JOB_STATUS_RUNNING,
        JOB_STATUS_PAUSED, JOB_STATUS_READY, JOB_STATUS_STANDBY,
        JOB_STATUS_WAITING, JOB_STATUS_PENDING, JOB_STATUS_ABORTING,
        JOB_STATUS_CONCLUDED, JOB_STATUS_NULL,
    };

    g_assert_cmpint(G_N_ELEMENTS(order), ==, JOB_STATUS__MAX);
    for (int i = 0; i < JOB_STATUS__MAX; i++) {
        g_assert_cmpint(order[i], ==, i);
    }
}

static void test_changes(void)
{
    for (int from = 0; from < JOB_STATUS__MAX; from++) {
        g_assert_cmpint(strlen(change_rows[from]), ==, JOB_STATUS__MAX);
        for (int to = 0; to < JOB_STATUS__MAX; to++) {
            bool want = change_rows[from][to] == 'x';

            if (job_state_may_change(from, to) != want) {
                g_error("%s -> %s should be %s", JobStatus_str(from),
                        JobStatus_str(to), want ? "allowed" : "refused");
            }
        }
    }
}

static void test_verbs(void)
{
    for (int verb = 0; verb < JOB_VERB__COUNT; verb++) {
        g_assert_cmpint(strlen(verb_rows[verb]), ==, JOB_STATUS__MAX);
        for (int status = 0; status < JOB_STATUS__MAX; status++) {
            struct job job = { .id = (char *)"j0", .status = status };
            bool want = verb_rows[verb][status] == 'x';
            AUTO_ERROR(err);

            g_assert_true(job_state_may_verb(status, verb) == want);
            g_assert_true(job_check_verb(&job, verb, &err) == want);
            if (!want) {
                g_autofree char *text = g_strdup_printf(
                    "Job 'j0' in state '%s' cannot accept command verb '%s'",
                    JobStatus_str(status), job_verb_name(verb));

                g_assert_cmpstr(error_text(err), ==, text);
            }
        }
    }
}

/* Every status but undefined can be reached, and null from every one. */
static void test_reach(void)
{
    unsigned reached = 1u << JOB_STATUS_UNDEFINED;

    for (int round = 0; round < JOB_STATUS__MAX; round++) {
        for (int from = 0; from < JOB_STATUS__MAX; from++) {
            for (int to = 0; to < JOB_STATUS__MAX; to++) {
                if ((reached & (1u << from)) &&
                    job_state_may_change(from, to)) {
                    reached |= 1u << to;
                }
            }
        }
    }
    g_assert_cmpint(reached, ==, (1u << JOB_STATUS__MAX) - 1);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/job-state/columns", test_columns);
    g_test_add_func("/job-state/changes", test_changes);
    g_test_add_func("/job-state/verbs", test_verbs);
    g_test_add_func("/job-state/reach", test_reach);
    return g_test_run();
}
