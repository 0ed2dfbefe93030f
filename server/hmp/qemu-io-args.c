/* SPDX-License-Identifier: MIT */
/*
 * qemu-io: words, options, numbers.
 *
 * Quotes mean nothing here: HMP has taken its own away.
 */
#include "server/hmp/qemu-io-priv.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* ---- words and options -------------------------------------------------- */

char **io_split(const char *line, int *argc)
{
    GPtrArray *words = g_ptr_array_new();

    while (*line) {
        size_t length = strcspn(line, " ");

        if (length > 0) {
            g_ptr_array_add(words, g_strndup(line, length));
        }
        line += length + strspn(line + length, " ");
    }
    *argc = words->len;
    g_ptr_array_add(words, NULL);
    return (char **)g_ptr_array_free(words, FALSE);
}

void io_options_begin(struct io_options *o, struct qemu_io *io,
                      const char *spec)
{
    *o = (struct io_options) {
        .spec = spec, .at = 1, .words = io->argv + 1,
    };
}

static int mistake(struct qemu_io *io, const char *what, char letter)
{
    g_autofree char *line = g_strdup_printf("%s: %s -- '%c'\n", io->argv[0],
                                            what, letter);

    fputs(line, stderr);
    io_usage(io);
    return '?';
}

/* The next word that begins with '-'; others are put in order at the front of
 * the words.  False: there is none. */
static bool find_cluster(struct io_options *o, struct qemu_io *io)
{
    while (o->at < io->argc) {
        char *word = io->argv[o->at++];

        if (o->ended || word[0] != '-' || !word[1]) {
            /* Swapped, so that each stays owned once. */
            char *other = o->words[o->n_words];

            o->words[o->n_words++] = word;
            io->argv[o->at - 1] = other;
        } else if (strcmp(word, "--") == 0) {
            o->ended = true;
        } else {
            o->cluster = word + 1;
            return true;
        }
    }
    return false;
}

int io_options_next(struct io_options *o, struct qemu_io *io)
{
    const char *known;
    char letter;

    if ((!o->cluster || !*o->cluster) && !find_cluster(o, io)) {
        return 0;
    }
    letter = *o->cluster++;
    known = letter == ':' ? NULL : strchr(o->spec, letter);
    if (!known) {
        return mistake(io, "invalid option", letter);
    }
    if (known[1] != ':') {
        return letter;
    }
    if (*o->cluster) {
        o->value = o->cluster;
    } else if (o->at < io->argc) {
        o->value = io->argv[o->at++];
    } else {
        return mistake(io, "option requires an argument", letter);
    }
    o->cluster = NULL;
    return letter;
}

/* ---- numbers ------------------------------------------------------------ */

/* The power of 1024 that C stands for; -1: none. */
static int suffix_power(char c)
{
    static const char letters[] = "BKMGTPE";
    const char *at = c ? strchr(letters, g_ascii_toupper(c)) : NULL;

    return at ? at - letters : -1;
}

/* Digits behind a point at *TEXT, which goes behind them. */
static double take_fraction(const char **text)
{
    double value = 0, unit = 0.1;

    while (g_ascii_isdigit(**text)) {
        value += unit * (**text - '0');
        unit /= 10;
        ++*text;
    }
    return value;
}

/* -EINVAL, -ERANGE. */
static int parse_size(const char *text, int64_t *value, bool *hex_suffix)
{
    const char *digits = text + (text[0] == '+');
    bool hex = digits[0] == '0' && (digits[1] == 'x' || digits[1] == 'X');
    double fraction = 0;
    char *end;
    const char *at;
    uint64_t whole, scaled;
    int power = 0;

    if (!g_ascii_isdigit(digits[0]) || (hex && !g_ascii_isxdigit(digits[2]))) {
        return -EINVAL;
    }
    errno = 0;
    whole = g_ascii_strtoull(digits, &end, hex ? 16 : 10);
    if (errno == ERANGE) {
        return -ERANGE;
    }
    at = end;
    if (!hex && *at == '.') {
        at++;
        fraction = take_fraction(&at);
    }
    if (*at) {
        power = suffix_power(*at++);
        *hex_suffix = hex;
    }
    if (power < 0 || *at || (fraction > 0 && power == 0)) {
        return -EINVAL;
    }
    scaled = (uint64_t)1 << (10 * power);
    if (whole > (uint64_t)INT64_MAX / scaled) {
        return -ERANGE;
    }
    whole = whole * scaled + (uint64_t)(fraction * scaled + 0.5);
    if (whole > INT64_MAX) {
        return -ERANGE;
    }
    *value = whole;
    return 0;
}

bool io_size(const char *text, int64_t *value)
{
    bool unused = false;

    return parse_size(text, value, &unused) == 0;
}

bool io_parse_size(struct qemu_io *io, const char *text, int64_t *value)
{
    bool hex_suffix = false;
    int ret = parse_size(text, value, &hex_suffix);

    if (ret == -ERANGE) {
        io_say(io, "Parsing error: argument too large -- %s\n", text);
    } else if (ret < 0) {
        io_say(io, "Parsing error: non-numeric argument, or extraneous/"
               "unrecognized suffix -- %s\n", text);
    } else if (hex_suffix) {
        g_string_append_printf(io->said, "warning: Using a multiplier suffix "
                               "on hex numbers is deprecated: %s\n", text);
    }
    return ret == 0;
}

bool io_parse_pattern(struct qemu_io *io, const char *text, uint8_t *value)
{
    char *end;
    long number;

    errno = 0;
    number = strtol(text, &end, 0);
    if (errno || end == text || *end || number < 0 || number > 255) {
        io_say(io, "%s is not a valid pattern byte\n", text);
        return false;
    }
    *value = number;
    return true;
}

bool io_parse_vector(struct qemu_io *io, const struct io_options *o,
                     int64_t *offset, int64_t *bytes)
{
    int64_t part;

    *bytes = 0;
    if (!io_parse_size(io, o->words[0], offset)) {
        return false;
    }
    for (int i = 1; i < o->n_words; i++) {
        if (!io_parse_size(io, o->words[i], &part)) {
            return false;
        }
        if (part > IO_MAX_BYTES) {
            io_say(io, "Argument '%s' exceeds maximum size %" PRId64 "\n",
                   o->words[i], IO_MAX_BYTES);
            return false;
        }
        *bytes += part;
        if (*bytes > IO_MAX_BYTES) {
            io_say(io, "The total number of bytes exceed the maximum size "
                   "%" PRId64 "\n", IO_MAX_BYTES);
            return false;
        }
    }
    return true;
}
