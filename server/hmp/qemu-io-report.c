/* SPDX-License-Identifier: MIT */
/*
 * qemu-io: what is printed of a request.
 *
 * Lines reach stdout whole: a write of up to PIPE_BUF bytes does not mix with
 * those of others.
 */
#include "server/hmp/qemu-io-priv.h"

#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>
#include "server/shutdown.h"

/* ---- stdout ------------------------------------------------------------- */

/* Nobody reads; the server is not to wait for that at its end. */
static bool can_write(void)
{
    enum { ROUND_MS = 250, ROUNDS_AT_END = 8 };
    struct pollfd pfd = { .fd = STDOUT_FILENO, .events = POLLOUT };

    for (int rounds = 0; rounds < ROUNDS_AT_END; ) {
        int n = poll(&pfd, 1, ROUND_MS);

        if (n > 0) {
            return true;
        }
        if (n < 0 && errno != EINTR) {
            return false;
        }
        rounds += shutdown_has_begun();
    }
    return false;
}

static bool write_all(const char *text, size_t length)
{
    while (length > 0) {
        ssize_t n = can_write() ? write(STDOUT_FILENO, text, length) : -1;

        if (n < 0 && errno != EINTR && errno != EAGAIN) {
            return false;
        }
        text += MAX(n, 0);
        length -= MAX(n, 0);
    }
    return true;
}

/* How much of the text goes at once: whole lines, if one fits. */
static size_t piece_length(const char *text, size_t length)
{
    const char *end;

    if (length <= PIPE_BUF) {
        return length;
    }
    end = memrchr(text, '\n', PIPE_BUF);
    return end ? (size_t)(end - text) + 1 : PIPE_BUF;
}

void io_flush_out(GString *out)
{
    const char *text = out->str;
    size_t length = out->len;

    fflush(stdout);     /* what others have printed before */
    while (length > 0) {
        size_t n = piece_length(text, length);

        if (!write_all(text, n)) {
            break;
        }
        text += n;
        length -= n;
    }
    g_string_truncate(out, 0);
}

/* ---- numbers ------------------------------------------------------------ */

char *io_size_text(double bytes)
{
    static const char units[] = "KMGTPE";
    double unit = 1024.0 * 1024 * 1024 * 1024 * 1024 * 1024;
    char number[64];
    size_t point;
    int i;

    for (i = 5; i >= 0 && bytes < unit; i--) {
        unit /= 1024;
    }
    if (i < 0) {
        g_snprintf(number, sizeof(number), "%f", bytes);
    } else {
        g_snprintf(number, sizeof(number), "%.3f", bytes / unit);
    }
    point = strcspn(number, ".");
    if (strspn(number + point + 1, "0") == strlen(number + point + 1)) {
        number[point] = '\0';
    }
    return i < 0 ? g_strdup_printf("%s bytes", number)
                 : g_strdup_printf("%s %ciB", number, units[i]);
}

/* Hundredths of a second, rounded; hours and minutes if there are any. */
static char *time_text(int64_t ns, bool terse)
{
    int64_t hundredths = (ns + 5000000) / 10000000;
    unsigned rest = hundredths % 100;
    unsigned seconds = hundredths / 100 % 60;
    unsigned minutes = hundredths / 6000 % 60;
    unsigned hours = hundredths / 360000;

    if (hours || terse) {
        return g_strdup_printf("%u:%02u:%02u.%02u", hours, minutes, seconds,
                               rest);
    }
    if (minutes) {
        return g_strdup_printf("%02u:%02u.%02u", minutes, seconds, rest);
    }
    return g_strdup_printf("%02u.%02u sec", seconds, rest);
}

void io_report(GString *out, const struct io_report *r)
{
    double seconds = MAX(r->ns, 1) / 1e9;
    g_autofree char *time = time_text(r->ns, r->terse);
    g_autofree char *size = io_size_text(r->bytes);
    g_autofree char *rate = io_size_text(r->bytes / seconds);

    if (r->terse) {
        g_string_append_printf(out, "%" PRId64 ",1,%s,%.3f,%.3f\n", r->bytes,
                               time, r->bytes / seconds, 1 / seconds);
        return;
    }
    g_string_append_printf(out, "%s %" PRId64 "/%" PRId64 " bytes at offset "
                           "%" PRId64 "\n", r->verb, r->bytes, r->bytes,
                           r->offset);
    g_string_append_printf(out, "%s, 1 ops; %s (%s/sec and %.4f ops/sec)\n",
                           size, time, rate, 1 / seconds);
}

/* ---- hexdump ------------------------------------------------------------ */

static void dump_line(GString *out, const uint8_t *buf, int64_t offset, int n)
{
    static const char digits[] = "0123456789abcdef";

    g_string_append_printf(out, "%08" PRIx64 ":  ", (uint64_t)offset);
    for (int i = 0; i < n; i++) {
        g_string_append_c(out, digits[buf[i] >> 4]);
        g_string_append_c(out, digits[buf[i] & 15]);
        g_string_append_c(out, ' ');
    }
    g_string_append_c(out, ' ');
    for (int i = 0; i < n; i++) {
        g_string_append_c(out, g_ascii_isalnum(buf[i]) ? buf[i] : '.');
    }
    g_string_append_c(out, '\n');
}

void io_dump(GString *out, const uint8_t *buf, int64_t offset, int64_t bytes)
{
    enum { LINE_BYTES = 16, FLUSH_BYTES = 1 << 20 };

    for (int64_t at = 0; at < bytes; at += LINE_BYTES) {
        dump_line(out, buf + at, offset + at, MIN(LINE_BYTES, bytes - at));
        if (out->len > FLUSH_BYTES) {
            io_flush_out(out);
        }
    }
}
