/* SPDX-License-Identifier: MIT */
/*
 * Questions on the command line: "-machine help", "-device X,help",
 * "-drive format=help"... answered on stdout, and nothing else is done.
 */
#pragma once

#include <stdbool.h>
#include <glib.h>

enum probe {
    PROBE_NONE,                 /* no option asks anything */
    PROBE_ANSWERED,
    PROBE_FAILED,               /* said on stderr */
};

/* The first question in OPTIONS (of struct option).  Control lock held. */
enum probe probe_options(const GArray *options);
