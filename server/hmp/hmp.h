/* SPDX-License-Identifier: MIT */
/*
 * HMP: the monitor for people.  A line in, text out.
 *
 * Threads  hmp_run(): on a worker, control lock held; yields.
 */
#pragma once

#include <glib.h>
#include "base/error.h"

/* Who talks: one per -monitor; one per call of human-monitor-command. */
struct hmp {
    GString *out;               /* what a command says; lines end with \n */
    /* Borrowed; told when there is more in OUT and the command goes on.
     * NULL: nobody looks before the end. */
    void (*flush)(struct hmp *m);
    void *opaque;
    bool quit;                  /* the line was quit */
};

/* Run LINE; whatever goes wrong is said in M->out ("Error: ..."). */
void hmp_run(struct hmp *m, const char *line);

void hmp_printf(struct hmp *m, const char *format, ...) G_GNUC_PRINTF(2, 3);
/* "Error: TEXT\n" with its hint, if ERR is not NULL; frees it. */
void hmp_error(struct hmp *m, struct error *err);

/* What can stand at the end of LINE: full words, sorted; owned (strv). */
char **hmp_complete(const char *line);
