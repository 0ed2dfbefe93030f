/* SPDX-License-Identifier: MIT */
/*
 * What the files of qemu-io share.
 *
 * Files    qemu-io.c          finding the disk, the table of commands, running
 *          qemu-io-args.c     words, options, numbers
 *          qemu-io-target.c   a disk: requests, as a guest makes them
 *          qemu-io-report.c   what is printed of a request
 *          qemu-io-rw.c       read, write, discard
 *          qemu-io-aio.c      aio_read, aio_write, aio_flush
 *          qemu-io-pattern.c  what is written, and what should be read
 *          qemu-io-others.c, qemu-io-map.c, qemu-io-reopen.c,
 *          qemu-io-break.c, qemu-io-help.c
 */
#pragma once

#include <inttypes.h>
#include "base/control.h"
#include "block/backend.h"
#include "block/driver.h"
#include "server/hmp/qemu-io.h"

/* One request's most, and what an iovec may have in all. */
#define IO_MAX_BYTES INT64_C(2147483136)

/* ---- a disk (qemu-io-target.c) ------------------------------------------ */

/* A backend, or a node with a root of its own for as long as it is needed. */
struct io_target {
    struct backend *backend;    /* owned reference, or NULL */
    struct root *root;          /* owned, or NULL */
    const void *key;            /* the backend, or the node: not followed */
    int n_refs;                 /* control lock */
};

/* Control lock.  The texts of errors are QEMU's; yields. */
struct io_target *target_open(const char *device, bool qdev,
                              struct error **errp);
struct io_target *target_ref(struct io_target *t);
void target_unref(struct io_target *t);         /* yields */
/* Hold these on T from now on. */
bool target_need_perm(struct io_target *t, unsigned perm, struct error **errp);
/* Take writing back, so that the node may become read-only. */
void target_stop_writing(struct io_target *t);
/* NULL: no medium. */
struct node *target_node(const struct io_target *t);

/*
 * No lock held.  0 or -errno, -ENOMEDIUM.  COUNTED: in the statistics of the
 * backend.
 */
int target_pread(struct io_target *t, bool counted, int64_t offset,
                 int64_t bytes, void *buf);
int target_pwrite(struct io_target *t, bool counted, int64_t offset,
                  int64_t bytes, const void *buf, unsigned flags);
int target_pwrite_zeroes(struct io_target *t, bool counted, int64_t offset,
                         int64_t bytes, unsigned flags);
int target_pdiscard(struct io_target *t, int64_t offset, int64_t bytes);
int target_flush(struct io_target *t);
int64_t target_length(struct io_target *t);
/* Does this layer decide what is read?  For *PART bytes from OFFSET on; 0 at
 * the end. */
int target_is_allocated(struct io_target *t, int64_t offset, int64_t bytes,
                        int64_t *part);

/* ---- a command ---------------------------------------------------------- */

struct aio;
struct qemu_io;

struct io_command {
    const char *name, *alias;   /* NULL: none */
    int min_args, max_args;     /* max < 0: any number */
    unsigned perm;              /* PERM_*: needed before it begins */
    void (*run)(struct qemu_io *io);
    const char *args;           /* for help; NULL: none */
    const char *summary;
    const char *more;           /* lines for "help X", or NULL */
};

struct qemu_io {
    struct io_target *target;
    const struct io_command *command;
    int argc;
    char **argv;
    GString *out;               /* for stdout; flushed when the command ends */
    GString *said;              /* for the monitor */
    struct aio *started;        /* by aio_*: not answered yet; or NULL */
};

/* Sorted; ends with one without a name (qemu-io.c). */
extern const struct io_command io_commands[];
const struct io_command *io_command_find(const char *name);
/* "read [-q] off len -- reads ..." to io->out, as QEMU answers mistakes. */
void io_usage(struct qemu_io *io);
void io_say(struct qemu_io *io, const char *format, ...) G_GNUC_PRINTF(2, 3);
/* To the monitor: the text and hint of ERR (taken). */
void io_say_error(struct qemu_io *io, struct error *err);

/* ---- words, options, numbers (qemu-io-args.c) --------------------------- */

/* Words are what is between blanks; owned. */
char **io_split(const char *line, int *argc);

/* Options, as getopt() has them: anywhere among the words, until "--". */
struct io_options {
    const char *spec;           /* "qP:": letters, a colon if with a value */
    int at;                     /* next word */
    const char *cluster;        /* rest of a word of letters, or NULL */
    const char *value;          /* of the last one */
    bool ended;                 /* by "--" */
    char **words;               /* the others: in the command's argv */
    int n_words;
};
void io_options_begin(struct io_options *o, struct qemu_io *io,
                      const char *spec);
/* The next one; 0: no more; '?': a mistake, which has been told. */
int io_options_next(struct io_options *o, struct qemu_io *io);

bool io_size(const char *text, int64_t *value);
/* A size; false: it is none, which has been told. */
bool io_parse_size(struct qemu_io *io, const char *text, int64_t *value);
bool io_parse_pattern(struct qemu_io *io, const char *text, uint8_t *value);

/* OFFSET and the sum of lengths of WORDS. */
bool io_parse_vector(struct qemu_io *io, const struct io_options *o,
                     int64_t *offset, int64_t *bytes);

/* ---- what is printed (qemu-io-report.c) --------------------------------- */

/* "1.500 KiB" */
char *io_size_text(double bytes);

struct io_report {
    const char *verb;           /* "read" */
    int64_t offset, bytes;
    int64_t ns;                 /* it took */
    bool terse;
};
void io_report(GString *out, const struct io_report *r);
/* No lock held: what is long is written by the way. */
void io_dump(GString *out, const uint8_t *buf, int64_t offset, int64_t bytes);
/* Write OUT to stdout and empty it; no lock held. */
void io_flush_out(GString *out);

/* ---- patterns (qemu-io-pattern.c) --------------------------------------- */

/* free(); NULL: no memory. */
uint8_t *io_buffer_new(int64_t bytes);
/* Filled with what the file PATH has, over and over; NULL: told.  Yields. */
uint8_t *io_buffer_from_file(struct qemu_io *io, const char *path,
                             int64_t bytes);
/* Says so if BUF is not all PATTERN. */
void io_verify(GString *out, const uint8_t *buf, int64_t bytes,
               uint8_t pattern, int64_t offset);

/* ---- aio (qemu-io-aio.c) ------------------------------------------------ */

/* The calling thread's request was stopped at a breakpoint: who started it
 * need not wait for it. */
void io_aio_stopped(void);
/* The command that started A ends, and yields no more. */
void io_aio_answered(struct aio *a);

/* ---- functions of commands ---------------------------------------------- */

typedef void io_fn(struct qemu_io *io);
io_fn io_read, io_readv, io_write, io_writev, io_discard,
    io_aio_read, io_aio_write, io_aio_flush,
    io_flush, io_truncate, io_length, io_info, io_map, io_alloc, io_reopen,
    io_break, io_remove_break, io_resume, io_wait_break,
    io_sleep, io_sigraise, io_abort, io_help;
