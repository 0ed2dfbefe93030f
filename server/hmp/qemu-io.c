/* SPDX-License-Identifier: MIT */
/*
 * HMP's qemu-io: finding the disk and the command, and running it.
 *
 * What goes to stdout is collected and written when the command ends, with
 * the control lock given up: who reads it may be slow.
 */
#include "server/hmp/qemu-io-priv.h"

#include <string.h>
#include "base/late.h"

/* ---- the table ---------------------------------------------------------- */

#define MORE_AIO \
    " Returns at once; what has become of it is printed when it has\n" \
    " ended, at the latest during aio_flush.\n"
#define MORE_READ \
    " -C: figures separated by commas instead of sentences\n" \
    " -P: say so where something else than this byte is read\n" \
    " -q: print nothing if all is well\n" \
    " -v: print what was read, in hexadecimal\n"
#define MORE_WRITE \
    " -C: figures separated by commas instead of sentences\n" \
    " -f: on stable storage when it ends\n" \
    " -P: write this byte (else 0xcd)\n" \
    " -q: print nothing if all is well\n"
#define MORE_ZERO \
    " -u: with -z, the space may be given back\n" \
    " -z: zeroes, without a buffer of them\n"

const struct io_command io_commands[] = {
    { .name = "abort", .run = io_abort,
      .summary = "simulate a program crash using abort(3)" },
    { .name = "aio_flush", .run = io_aio_flush,
      .summary = "completes all outstanding aio requests" },
    { .name = "aio_read", .min_args = 2, .max_args = -1, .run = io_aio_read,
      .args = "[-Ciqv] [-P pattern] off len [len..]",
      .summary = "asynchronously reads a number of bytes",
      .more = MORE_AIO MORE_READ
      " -i: count an invalid request, and do nothing\n" },
    { .name = "aio_write", .min_args = 2, .max_args = -1, .perm = PERM_WRITE,
      .run = io_aio_write,
      .args = "[-Cfiquz] [-P pattern] off len [len..]",
      .summary = "asynchronously writes a number of bytes",
      .more = MORE_AIO MORE_WRITE MORE_ZERO
      " -i: count an invalid request, and do nothing\n" },
    { .name = "alloc", .alias = "a", .min_args = 1, .max_args = 2,
      .run = io_alloc, .args = "offset [count]",
      .summary = "checks if offset is allocated in the file" },
    { .name = "break", .min_args = 2, .max_args = 2, .run = io_break,
      .args = "event tag",
      .summary = "sets a breakpoint on event and tags the stopped request as "
                 "tag" },
    { .name = "discard", .alias = "d", .min_args = 2, .max_args = -1,
      .perm = PERM_WRITE, .run = io_discard, .args = "[-Cq] off len",
      .summary = "discards a number of bytes at a specified offset",
      .more = " -C: figures separated by commas instead of sentences\n"
              " -q: print nothing if all is well\n" },
    { .name = "flush", .alias = "f", .run = io_flush,
      .summary = "flush all in-core file state to disk" },
    { .name = "help", .alias = "?", .max_args = 1, .run = io_help,
      .args = "[command]", .summary = "help for one or all commands" },
    { .name = "info", .alias = "i", .run = io_info,
      .summary = "prints information about the current file" },
    { .name = "length", .alias = "l", .run = io_length,
      .summary = "gets the length of the current file" },
    { .name = "map", .run = io_map, .args = "",
      .summary = "prints the allocated areas of a file" },
    { .name = "read", .alias = "r", .min_args = 2, .max_args = -1,
      .run = io_read,
      .args = "[-abCqrv] [-P pattern [-s off] [-l len]] off len",
      .summary = "reads a number of bytes at a specified offset",
      .more = MORE_READ
      " -b: of the saved machine (refused: there is none)\n"
      " -l, -s: look for the pattern in so many bytes from there on\n"
      " -r: with a buffer that fits direct I/O\n" },
    { .name = "readv", .min_args = 2, .max_args = -1, .run = io_readv,
      .args = "[-Cqrv] [-P pattern] off len [len..]",
      .summary = "reads a number of bytes at a specified offset",
      .more = MORE_READ },
    { .name = "remove_break", .min_args = 1, .max_args = 1,
      .run = io_remove_break, .args = "tag",
      .summary = "remove a breakpoint by tag" },
    { .name = "reopen", .max_args = -1, .run = io_reopen,
      .args = "[(-r|-w)] [-c cache] [-o options]",
      .summary = "reopens an image with new options",
      .more = " -c: with this cache mode\n"
              " -o: with these options, key=value; what is not said stays\n"
              " -r, -w: for reading only, for writing too\n" },
    { .name = "resume", .min_args = 1, .max_args = 1, .run = io_resume,
      .args = "tag", .summary = "resumes the request tagged as tag" },
    { .name = "sigraise", .min_args = 1, .max_args = 1, .run = io_sigraise,
      .args = "signal", .summary = "raises a signal",
      .more = " The server gets the signal with this number.\n" },
    { .name = "sleep", .min_args = 1, .max_args = 1, .run = io_sleep,
      .summary = "waits for the given value in milliseconds" },
    { .name = "truncate", .alias = "t", .min_args = 1, .max_args = 3,
      .perm = PERM_WRITE | PERM_RESIZE, .run = io_truncate,
      .args = "[-m prealloc_mode] off",
      .summary = "truncates the current file at the given offset" },
    { .name = "wait_break", .min_args = 1, .max_args = 1,
      .run = io_wait_break, .args = "tag",
      .summary = "waits for the suspension of a request" },
    { .name = "write", .alias = "w", .min_args = 2, .max_args = -1,
      .perm = PERM_WRITE, .run = io_write,
      .args = "[-bcCfnqruz] [-P pattern | -s source_file] off len",
      .summary = "writes a number of bytes at a specified offset",
      .more = MORE_WRITE MORE_ZERO
      " -b: to the saved machine (refused: there is none)\n"
      " -c: compressed\n"
      " -n: with -z, fail rather than write from a buffer\n"
      " -r: with a buffer that fits direct I/O\n"
      " -s: write what is in this file, over and over\n" },
    { .name = "writev", .min_args = 2, .max_args = -1, .perm = PERM_WRITE,
      .run = io_writev, .args = "[-Cfqr] [-P pattern] off len [len..]",
      .summary = "writes a number of bytes at a specified offset",
      .more = MORE_WRITE },
    { 0 }
};

const struct io_command *io_command_find(const char *name)
{
    for (const struct io_command *c = io_commands; c->name; c++) {
        if (strcmp(c->name, name) == 0 || g_strcmp0(c->alias, name) == 0) {
            return c;
        }
    }
    return NULL;
}

const char *const *qemu_io_commands(void)
{
    static const char *names[G_N_ELEMENTS(io_commands)];

    control_assert();
    for (size_t i = 0; i < G_N_ELEMENTS(io_commands); i++) {
        names[i] = io_commands[i].name;
    }
    return names;
}

/* ---- saying ------------------------------------------------------------- */

void io_say(struct qemu_io *io, const char *format, ...)
{
    va_list args;

    va_start(args, format);
    g_string_append_vprintf(io->out, format, args);
    va_end(args);
}

void io_say_error(struct qemu_io *io, struct error *err)
{
    if (err) {
        g_string_append_printf(io->said, "%s\n", error_text(err));
        error_free(err);
    }
}

/* ---- running ------------------------------------------------------------ */

static bool check_count(struct qemu_io *io)
{
    const struct io_command *c = io->command;
    int n = io->argc - 1;

    if (n >= c->min_args && (c->max_args < 0 || n <= c->max_args)) {
        return true;
    }
    io_say(io, "bad argument count %d to %s, expected ", n, io->argv[0]);
    if (c->max_args < 0) {
        io_say(io, "at least %d arguments\n", c->min_args);
    } else if (c->min_args == c->max_args) {
        io_say(io, "%d arguments\n", c->min_args);
    } else {
        io_say(io, "between %d and %d arguments\n", c->min_args,
               c->max_args);
    }
    return false;
}

static void run(struct qemu_io *io)
{
    struct error *err = NULL;

    io->command = io_command_find(io->argv[0]);
    if (!io->command) {
        io_say(io, "command \"%s\" not found\n", io->argv[0]);
        return;
    }
    if (!check_count(io)) {
        return;
    }
    if (!target_need_perm(io->target, io->command->perm, &err)) {
        io_say_error(io, err);
        return;
    }
    io->command->run(io);
}

bool qemu_io_run(const char *device, bool qdev, const char *command,
                 GString *said, struct error **errp)
{
    struct qemu_io io = { .said = said };

    control_assert();
    io.target = target_open(device ? device : "", qdev, errp);
    if (!io.target) {
        return false;
    }
    io.argv = io_split(command, &io.argc);
    io.out = g_string_new(NULL);
    if (io.argc > 0) {
        run(&io);
    }
    if (io.out->len > 0) {
        CONTROL_YIELD {
            late_wait();
            io_flush_out(io.out);
        }
    }
    target_unref(io.target);
    if (io.started) {
        io_aio_answered(io.started);
    }
    g_string_free(io.out, TRUE);
    g_strfreev(io.argv);
    return true;
}
