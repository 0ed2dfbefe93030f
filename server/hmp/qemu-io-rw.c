/* SPDX-License-Identifier: MIT */
/* qemu-io: read, write, discard.  They end when the request has. */
#include "server/hmp/qemu-io-priv.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include "base/late.h"

enum { SECTOR_BYTES = 512 };

/* What the user asked for. */
struct rw {
    int64_t offset, bytes;
    bool quiet, terse, verbose;
    bool vm_state, compressed, zeroes, no_fallback, fua, unmap;
    bool has_pattern;
    uint8_t pattern;
    bool has_from, has_count;   /* of the pattern's range */
    int64_t from, count;
    const char *file;           /* borrowed */
    unsigned flags;             /* BLK_* */
};

/* ---- common ------------------------------------------------------------- */

/* Letters that all have, or that read or write has; false: none of them. */
static bool take_option(struct rw *w, int letter)
{
    bool *const flag = letter == 'C' ? &w->terse :
                       letter == 'q' ? &w->quiet :
                       letter == 'v' ? &w->verbose :
                       letter == 'b' ? &w->vm_state :
                       letter == 'c' ? &w->compressed :
                       letter == 'z' ? &w->zeroes :
                       letter == 'n' ? &w->no_fallback :
                       letter == 'f' ? &w->fua :
                       letter == 'u' ? &w->unmap : NULL;

    if (flag) {
        *flag = true;
    } else if (letter == 'r') {
        w->flags |= BLK_REGISTERED_BUF;
    }
    return flag || letter == 'r' || letter == 'p';
}

static bool take_pattern(struct qemu_io *io, struct rw *w, const char *text)
{
    w->has_pattern = true;
    return io_parse_pattern(io, text, &w->pattern);
}

/* Offset and length; LIMIT 0: none. */
static bool take_range(struct qemu_io *io, const struct io_options *o,
                       struct rw *w, int64_t limit, const char *limit_note)
{
    if (!io_parse_size(io, o->words[0], &w->offset) ||
        !io_parse_size(io, o->words[1], &w->bytes)) {
        return false;
    }
    if (limit && w->bytes > limit) {
        io_say(io, "length cannot exceed %" PRId64 "%s, given %s\n", limit,
               limit_note, o->words[1]);
        return false;
    }
    return true;
}

static bool check_sector(struct qemu_io *io, int64_t value, const char *what)
{
    if (value % SECTOR_BYTES == 0) {
        return true;
    }
    io_say(io, "%" PRId64 " is not a sector-aligned value for '%s'\n", value,
           what);
    return false;
}

static void say_failed(struct qemu_io *io, const char *what, int ret)
{
    io_say(io, "%s failed: %s\n", what, error_errno_text(-ret));
}

static void report(struct qemu_io *io, const struct rw *w, const char *verb,
                   int64_t start_ns)
{
    if (!w->quiet) {
        io_report(io->out, &(struct io_report) {
            .verb = verb, .offset = w->offset, .bytes = w->bytes,
            .ns = clock_ns() - start_ns, .terse = w->terse,
        });
    }
}

/* ---- read --------------------------------------------------------------- */

static void finish_read(struct qemu_io *io, const struct rw *w,
                        const uint8_t *buf, int64_t start_ns)
{
    int64_t took = clock_ns() - start_ns;

    if (w->has_pattern) {
        io_verify(io->out, buf + w->from, w->count, w->pattern,
                  w->offset + w->from);
    }
    if (!w->quiet && w->verbose) {
        io_dump(io->out, buf, w->offset, w->bytes);
    }
    report(io, w, "read", clock_ns() - took);
    io_flush_out(io->out);
}

static void do_read(struct qemu_io *io, const struct rw *w)
{
    uint8_t *buf = w->vm_state ? NULL : io_buffer_new(w->bytes);
    int ret = w->vm_state ? -ENOTSUP : buf ? 0 : -ENOMEM;

    if (ret == 0) {
        CONTROL_YIELD {
            int64_t start_ns = clock_ns();

            ret = target_pread(io->target, false, w->offset, w->bytes, buf);
            late_wait();
            if (ret == 0) {
                finish_read(io, w, buf, start_ns);
            }
        }
    }
    if (ret < 0) {
        say_failed(io, io->command->name, ret);
    }
    free(buf);
}

static bool read_options(struct qemu_io *io, struct io_options *o,
                         struct rw *w)
{
    int letter;

    io_options_begin(o, io, "bCl:pP:qrs:v");
    while ((letter = io_options_next(o, io)) != 0) {
        bool ok = take_option(w, letter);

        switch (letter) {
        case 'P':
            ok = take_pattern(io, w, o->value);
            break;
        case 'l':
            w->has_count = true;
            ok = io_parse_size(io, o->value, &w->count);
            break;
        case 's':
            w->has_from = true;
            ok = io_parse_size(io, o->value, &w->from);
            break;
        }
        if (!ok) {
            return false;
        }
    }
    if (o->n_words != 2 ||
        (!w->has_pattern && (w->has_from || w->has_count))) {
        io_usage(io);
        return false;
    }
    return true;
}

void io_read(struct qemu_io *io)
{
    struct io_options o;
    struct rw w = { 0 };

    if (!read_options(io, &o, &w) ||
        !take_range(io, &o, &w, IO_MAX_BYTES, "")) {
        return;
    }
    if (!w.has_count) {
        w.count = w.bytes - w.from;
    }
    if (w.has_pattern && (w.count < 0 || w.from > w.bytes ||
                          w.count > w.bytes - w.from)) {
        io_say(io, "pattern verification range exceeds end of read data\n");
        return;
    }
    if (w.vm_state && (!check_sector(io, w.offset, "offset") ||
                       !check_sector(io, w.bytes, "count"))) {
        return;
    }
    do_read(io, &w);
}

/* What readv and writev are told: OPTIONS, an offset, lengths.  False: what is
 * wrong has been said. */
static bool take_vector(struct qemu_io *io, struct rw *w, const char *options)
{
    struct io_options o;
    int letter;

    io_options_begin(&o, io, options);
    while ((letter = io_options_next(&o, io)) != 0) {
        if (letter == 'P' ? !take_pattern(io, w, o.value)
                          : !take_option(w, letter)) {
            return false;
        }
    }
    if (o.n_words < 2) {
        io_usage(io);
        return false;
    }
    return io_parse_vector(io, &o, &w->offset, &w->bytes);
}

void io_readv(struct qemu_io *io)
{
    struct rw w = { 0 };

    if (take_vector(io, &w, "CP:qrv")) {
        w.count = w.bytes;
        do_read(io, &w);
    }
}

/* ---- write -------------------------------------------------------------- */

static int write_request(struct qemu_io *io, const struct rw *w,
                         const uint8_t *buf)
{
    if (w->zeroes) {
        return target_pwrite_zeroes(io->target, false, w->offset, w->bytes,
                                    w->flags & ~BLK_REGISTERED_BUF);
    }
    return target_pwrite(io->target, false, w->offset, w->bytes, buf,
                         w->flags);
}

/* BUF (taken, NULL for zeroes). */
static void do_write(struct qemu_io *io, const struct rw *w, uint8_t *buf)
{
    int ret = w->vm_state ? -ENOTSUP : buf || w->zeroes ? 0 : -ENOMEM;

    if (ret == 0) {
        CONTROL_YIELD {
            int64_t start_ns;

            if (buf && !w->file) {
                memset(buf, w->pattern, w->bytes);
            }
            start_ns = clock_ns();
            ret = write_request(io, w, buf);
            if (ret == 0) {
                report(io, w, "wrote", start_ns);
            }
        }
    }
    if (ret < 0) {
        say_failed(io, io->command->name, ret);
    }
    free(buf);
}

/* What does not go together, in QEMU's order. */
static bool check_write(struct qemu_io *io, const struct rw *w)
{
    const char *text = NULL;

    if (w->vm_state && w->zeroes) {
        text = "-b and -z cannot be specified at the same time";
    } else if (w->fua && (w->vm_state || (w->compressed && !w->zeroes))) {
        text = "-f and -b or -c cannot be specified at the same time";
    } else if (w->no_fallback && !w->zeroes) {
        text = "-n requires -z to be specified";
    } else if (w->unmap && !w->zeroes) {
        text = "-u requires -z to be specified";
    } else if (w->zeroes + w->has_pattern + !!w->file > 1) {
        text = "Only one of -z, -P, and -s can be specified at the same time";
    }
    if (text) {
        io_say(io, "%s\n", text);
    }
    return !text;
}

static bool write_options(struct qemu_io *io, struct io_options *o,
                          struct rw *w)
{
    int letter;

    io_options_begin(o, io, "bcCfnpP:qrs:uz");
    while ((letter = io_options_next(o, io)) != 0) {
        if (letter == 'P') {
            if (!take_pattern(io, w, o->value)) {
                return false;
            }
        } else if (letter == 's') {
            w->file = o->value;
        } else if (!take_option(w, letter)) {
            return false;
        }
    }
    if (o->n_words != 2) {
        io_usage(io);
        return false;
    }
    return check_write(io, w);
}

static void set_write_flags(struct rw *w)
{
    w->flags |= (w->fua ? BLK_FUA : 0) |
                (w->zeroes && w->unmap ? BLK_MAY_UNMAP : 0) |
                (w->zeroes && w->no_fallback ? BLK_NO_FALLBACK : 0) |
                (w->compressed && !w->zeroes ? BLK_COMPRESSED : 0);
    if (!w->has_pattern) {
        w->pattern = 0xcd;
    }
}

void io_write(struct qemu_io *io)
{
    struct io_options o;
    struct rw w = { 0 };
    uint8_t *buf = NULL;

    if (!write_options(io, &o, &w) ||
        !take_range(io, &o, &w, w.no_fallback ? 0 : IO_MAX_BYTES,
                    " without -n") ||
        ((w.vm_state || w.compressed) &&
         (!check_sector(io, w.offset, "offset") ||
          !check_sector(io, w.bytes, "count")))) {
        return;
    }
    set_write_flags(&w);
    if (!w.zeroes) {
        buf = w.file ? io_buffer_from_file(io, w.file, w.bytes)
                     : io_buffer_new(w.bytes);
        if (w.file && !buf) {
            return;
        }
    }
    do_write(io, &w, buf);
}

void io_writev(struct qemu_io *io)
{
    struct rw w = { 0 };

    if (take_vector(io, &w, "CfP:qr")) {
        set_write_flags(&w);
        do_write(io, &w, io_buffer_new(w.bytes));
    }
}

/* ---- discard ------------------------------------------------------------ */

void io_discard(struct qemu_io *io)
{
    struct io_options o;
    struct rw w = { 0 };
    int letter, ret = 0;

    io_options_begin(&o, io, "Cq");
    while ((letter = io_options_next(&o, io)) != 0) {
        if (!take_option(&w, letter)) {
            return;
        }
    }
    if (o.n_words != 2) {
        io_usage(io);
        return;
    }
    if (!take_range(io, &o, &w, IO_MAX_BYTES, "")) {
        return;
    }
    CONTROL_YIELD {
        int64_t start_ns = clock_ns();

        ret = target_pdiscard(io->target, w.offset, w.bytes);
        if (ret == 0) {
            report(io, &w, "discard", start_ns);
        }
    }
    if (ret < 0) {
        say_failed(io, "discard", ret);
    }
}
