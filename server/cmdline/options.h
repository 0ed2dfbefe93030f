/* SPDX-License-Identifier: MIT */
/*
 * The command line as a list: which options, in which order, with what text.
 * What they mean is in setup.c.
 */
#pragma once

#include <stdio.h>
#include "base/error.h"
#include "server/persona.h"

enum option_kind {
    OPTION_ACCEL,
    OPTION_ADD_FD,
    OPTION_BLOCKDEV,
    OPTION_CHARDEV,
    OPTION_CHROOT,
    OPTION_CPU,
    OPTION_DAEMONIZE,
    OPTION_DEVICE,
    OPTION_DRIVE,
    OPTION_EXPORT,
    OPTION_HELP,
    OPTION_IGNORED,             /* taken; nothing comes of it */
    OPTION_IMAGE,               /* -hda and its like, or no option at all */
    OPTION_INCOMING,
    OPTION_KEY_VALUE,           /* taken if its text is well formed */
    OPTION_MACHINE,
    OPTION_MON,
    OPTION_MONITOR,
    OPTION_NAME,
    OPTION_NBD_SERVER,
    OPTION_NETDEV,
    OPTION_NODEFAULTS,
    OPTION_NOGRAPHIC,
    OPTION_NO_SHUTDOWN,
    OPTION_OBJECT,
    OPTION_PIDFILE,
    OPTION_QMP,
    OPTION_QMP_PRETTY,
    OPTION_QTEST,
    OPTION_READCONFIG,
    OPTION_REFUSED,             /* known, and an error */
    OPTION_RUNAS,
    OPTION_SERIAL,
    OPTION_SET,
    OPTION_SNAPSHOT,
    OPTION_STOPPED,             /* -S */
    OPTION_TRACE,
    OPTION_UUID,
    OPTION_VERSION,
};

/* Whose it is, and whether it takes a text. */
enum {
    OPT_TEXT = 1 << 0,
    OPT_SYSTEM = 1 << 1,        /* qemu-system-x86_64 has it */
    OPT_DAEMON = 1 << 2,        /* qemu-storage-daemon has it */
    OPT_DECIDES = 1 << 3,       /* makes us the system emulator */
};

struct option_desc {
    const char *name;           /* without dashes */
    enum option_kind kind;
    unsigned flags;
    const char *more;           /* OPTION_REFUSED: why; OPTION_IMAGE: the
                                   rest of a -drive; OPTION_KEY_VALUE: the
                                   implied key; or NULL */
};

struct option {
    enum option_kind kind;
    const struct option_desc *desc;     /* NULL: a positional argument */
    char *location;             /* owned: as it was given, for messages */
    char *text;                 /* owned; NULL: takes none */
    bool snapshot;              /* OPTION_IMAGE: keep no changes */
};

/* All, in alphabetical order. */
const struct option_desc *option_table(size_t *n);
/* NAME has no dashes; LEN of it count.  NULL: none of that name. */
const struct option_desc *option_find(const char *name, size_t len);

/* An empty list of struct option, which owns them. */
GArray *options_new(void);
/*
 * Read the command line: one or two dashes, "--name text" or "--name=text".
 * OPTIONS is appended to; *PERSONA is in whose place we stand.  False and
 * errp: an option that is unknown, lacks its text or has one too many.
 */
bool options_parse(int argc, char **argv, GArray *options,
                   enum persona *persona, struct error **errp);
/* The last one given, or NULL. */
const struct option *options_last(const GArray *options,
                                  enum option_kind kind);

/* Text for a person on STREAM. */
void options_print_help(FILE *stream, const char *program);
