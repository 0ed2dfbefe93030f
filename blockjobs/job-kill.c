/* SPDX-License-Identifier: MIT */
/* Kill points: see job-kill.h. */
#include "blockjobs/job-kill.h"

#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include "base/control.h"
#include "blockjobs/job.h"

#ifdef BLOCKJOBD_KILL_POINTS
struct kill_at {
    char *job, *point;      /* owned, for ever; NULL: nowhere */
    int n_left;
};

static struct kill_at kill_at_from_environment(void)
{
    const char *text = getenv("BLOCKJOBD_KILL_AT");
    g_auto(GStrv) parts = g_strsplit(text ? text : "", ":", 3);
    struct kill_at at = { 0 };

    if (g_strv_length(parts) < 2) {
        return at;
    }
    at.job = g_strdup(parts[0]);
    at.point = g_strdup(parts[1]);
    at.n_left = parts[2] ? atoi(parts[2]) : 1;
    return at;
}

void job_kill_point(const struct job *job, const char *point)
{
    static struct kill_at at;       /* control lock */
    static bool looked;

    control_assert();
    if (!looked) {
        looked = true;
        at = kill_at_from_environment();
    }
    if (at.job && job->id && strcmp(at.job, job->id) == 0 &&
        strcmp(at.point, point) == 0 && --at.n_left == 0) {
        raise(SIGKILL);
    }
}
#else
void job_kill_point(const struct job *job, const char *point)
{
}
#endif
