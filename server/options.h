/* SPDX-License-Identifier: MIT */
/*
 * The command line as a list: which options, in which order, with what text.
 * What they mean is in setup.c.
 */
#pragma once

#include <stdio.h>
#include "base/error.h"

enum option_kind {
    OPTION_BLOCKDEV,
    OPTION_CHARDEV,
    OPTION_DAEMONIZE,
    OPTION_EXPORT,
    OPTION_HELP,
    OPTION_MONITOR,
    OPTION_NBD_SERVER,
    OPTION_OBJECT,
    OPTION_PIDFILE,
    OPTION_QMP,
    OPTION_QMP_PRETTY,
    OPTION_TRACE,
    OPTION_VERSION,
};

struct option {
    enum option_kind kind;
    const char *spelling;       /* "--blockdev": static */
    const char *text;           /* borrowed from argv; NULL: takes none */
};

/*
 * Read the command line: one or two dashes, "--name text" or "--name=text".
 * OPTIONS (of struct option) is appended to.  False and errp: an option that
 * is unknown, lacks its text or has one too many.
 */
bool options_parse(int argc, char **argv, GArray *options,
                   struct error **errp);

/* Text for a person on STREAM. */
void options_print_help(FILE *stream, const char *program);
