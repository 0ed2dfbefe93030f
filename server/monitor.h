/* SPDX-License-Identifier: MIT */
/* Monitors: what the command line asks for; clients become sessions. */
#pragma once

#include "base/error.h"

struct monitor_options {
    const char *chardev;    /* id */
    bool pretty;
};

/* Serve QMP to whoever comes over a channel, when the loop runs.  False and
 * errp: there is no such channel, or it is in use. */
bool monitor_add(const struct monitor_options *options, struct error **errp);
/* How many there are. */
int monitor_count(void);
/* Sessions are closed already. */
void monitor_free_all(void);
