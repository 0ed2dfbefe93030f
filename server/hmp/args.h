/* SPDX-License-Identifier: MIT */
/*
 * The words of a line become arguments.
 *
 * Problem     A line is what a person types: words, some of them in quotes,
 *             switches that may be left out, numbers with suffixes, sums.
 * Answer      A command lists its parameters; each has a kind, and takes its
 *             part from the front of the line.
 * Threads     None: no state.
 */
#pragma once

#include <glib.h>
#include "base/error.h"

enum hmp_kind {
    HMP_STRING,         /* a word; "..." with \n \r \\ \' \" inside */
    HMP_BLOCK,          /* as that: a block device */
    HMP_JOB,            /* as that: a block job, called as a device */
    HMP_DEVICE,         /* as that: a device's id */
    HMP_OBJECT,         /* as that: an object's id */
    HMP_FILE,           /* as that: the name of a file */
    HMP_OPTIONS,        /* as that: a=b,c=d */
    HMP_REST,           /* all that is left of the line */
    HMP_INT,            /* 64 bits; 1+2, (3*4), 'a', 0x10 */
    HMP_INT32,          /* as that; 32 bits */
    HMP_SIZE,           /* 1.5G; MiB without a suffix */
    HMP_BOOL,           /* on, off */
    HMP_FLAG,           /* -f */
    HMP_FORMAT,         /* /x: its letter is the number */
};

struct hmp_param {
    const char *key;
    enum hmp_kind kind;
    bool optional;
    char letter;        /* of a flag */
};

struct hmp_value {
    bool given;
    char *text;         /* owned */
    int64_t number;     /* also 1 for a flag, on */
};

/* Of a command that has at most this many. */
enum { HMP_MAX_PARAMS = 12 };

struct hmp_args {
    const struct hmp_param *params;
    struct hmp_value values[HMP_MAX_PARAMS];
};

/*
 * Take what PARAMS (NULL: nothing) ask for from LINE.  NAME is what messages
 * call the command.  False and errp; the text is all there is to say.
 * Either way hmp_args_clear() A.
 */
bool hmp_args_parse(struct hmp_args *a, const struct hmp_param *params,
                    const char *name, const char *line, struct error **errp);
void hmp_args_clear(struct hmp_args *a);

/* What was given for KEY, which is a parameter; NULL, 0: nothing. */
const char *hmp_arg_text(const struct hmp_args *a, const char *key);
int64_t hmp_arg_number(const struct hmp_args *a, const char *key);
bool hmp_arg_given(const struct hmp_args *a, const char *key);
bool hmp_arg_flag(const struct hmp_args *a, const char *key);

/*
 * The word *P begins with, after blanks; *P goes behind it.  Owned.  NULL:
 * there is none (errp is not set), or its quotes are wrong (it is).
 */
char *hmp_word(const char **p, struct error **errp);

/* A size at *P, which goes behind it (size.c).  False: it is none. */
bool hmp_size(const char **p, int64_t *value);
/* A sum at *P, which goes behind it (expression.c). */
bool hmp_expression(const char **p, int64_t *value, struct error **errp);
