/* SPDX-License-Identifier: MIT */
/*
 * qemu-io's lines: the first byte chooses which options there are, the rest is
 * split, taken apart as options and parsed as numbers and patterns.
 */
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include "server/hmp/qemu-io-priv.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const char *const specs[] = {
    "abCqrvP:s:l:", "CfiP:quz", "CiP:qv", "c:o:rw", "m:", "",
};

/* What qemu-io.c has. */
void io_say(struct qemu_io *io, const char *format, ...)
{
    va_list args;

    va_start(args, format);
    g_string_append_vprintf(io->out, format, args);
    va_end(args);
}

void io_usage(struct qemu_io *io)
{
    io_say(io, "%s\n", io->argv[0]);
}

/* Numbers are none below zero, and none is taken that was told to be wrong. */
static void parse_word(struct qemu_io *io, const char *word)
{
    gsize told = io->out->len;
    int64_t value = -1;
    uint8_t byte = 0;

    if (io_parse_size(io, word, &value) != (io->out->len == told) ||
        (io->out->len == told && value < 0)) {
        __builtin_trap();
    }
    told = io->out->len;
    if (io_parse_pattern(io, word, &byte) != (io->out->len == told)) {
        __builtin_trap();
    }
}

static void parse(struct qemu_io *io, const char *spec)
{
    struct io_options o;
    int64_t offset, bytes;
    int letter;

    io_options_begin(&o, io, spec);
    while ((letter = io_options_next(&o, io)) != 0) {
        if (letter == '?') {
            return;
        }
        if (strchr(spec, letter)[1] == ':') {
            parse_word(io, o.value);
        }
    }
    for (int i = 0; i < o.n_words; i++) {
        parse_word(io, o.words[i]);
    }
    if (o.n_words > 1 && io_parse_vector(io, &o, &offset, &bytes) &&
        (offset < 0 || bytes < 0 || bytes > IO_MAX_BYTES)) {
        __builtin_trap();
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    g_autofree char *line = size ? g_strndup((const char *)data + 1, size - 1)
                                 : NULL;
    struct qemu_io io = { 0 };

    if (!size) {
        return 0;
    }
    io.out = g_string_new(NULL);
    io.said = g_string_new(NULL);
    io.argv = io_split(line, &io.argc);
    if (io.argc > 0) {
        parse(&io, specs[data[0] % G_N_ELEMENTS(specs)]);
    }
    g_string_free(io.out, TRUE);
    g_string_free(io.said, TRUE);
    g_strfreev(io.argv);
    return 0;
}
