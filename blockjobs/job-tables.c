/* SPDX-License-Identifier: MIT */
/* Prints the tables of job-state.c as Markdown, for docs/jobs.md
 * (jobs-page.py). */
#include "blockjobs/job-priv.h"

#include <stdio.h>
#include <string.h>

static void print_changes(void)
{
    puts("| from | to |\n|---|---|");
    for (int from = JOB_STATUS_CREATED; from < JOB_STATUS_NULL; from++) {
        const char *separator = " ";

        printf("| %s |", JobStatus_str(from));
        for (int to = 0; to < JOB_STATUS__MAX; to++) {
            if (to != from && job_state_may_change(from, to)) {
                printf("%s%s", separator, JobStatus_str(to));
                separator = ", ";
            }
        }
        puts(" |");
    }
}

static void print_verbs(void)
{
    printf("| verb |");
    for (int status = JOB_STATUS_CREATED; status < JOB_STATUS_NULL; status++) {
        printf(" %s |", JobStatus_str(status));
    }
    printf("\n|---|");
    for (int status = JOB_STATUS_CREATED; status < JOB_STATUS_NULL; status++) {
        printf("---|");
    }
    puts("");
    for (int verb = 0; verb < JOB_VERB__COUNT; verb++) {
        printf("| %s |", job_verb_name(verb));
        for (int status = JOB_STATUS_CREATED; status < JOB_STATUS_NULL;
             status++) {
            printf(" %s|", job_state_may_verb(status, verb) ? "x " : "");
        }
        puts("");
    }
}

int main(int argc, char **argv)
{
    if (argc == 2 && !strcmp(argv[1], "status")) {
        print_changes();
    } else if (argc == 2 && !strcmp(argv[1], "verbs")) {
        print_verbs();
    } else {
        fprintf(stderr, "Usage: job-tables status|verbs\n");
        return 2;
    }
    return 0;
}
