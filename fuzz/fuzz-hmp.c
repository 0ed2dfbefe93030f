/* SPDX-License-Identifier: MIT */
/*
 * HMP's lines: what a person may type is parsed as each kind of parameter, and
 * goes through the line editor.
 */
#include <stdint.h>
#include <string.h>
#include "server/hmp/args.h"
#include "server/hmp/readline.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const struct hmp_param params[] = {
    { "flag", HMP_FLAG, true, 'f' }, { "format", HMP_FORMAT, true },
    { "word", HMP_STRING }, { "size", HMP_SIZE, true },
    { "number", HMP_INT, true }, { "small", HMP_INT32, true },
    { "on", HMP_BOOL, true }, { "rest", HMP_REST, true }, { NULL },
};

static void put(void *opaque, const char *text, size_t len)
{
}

static void entered(void *opaque, const char *line)
{
    for (size_t i = 0; params[i].key; i++) {
        struct hmp_args a;
        AUTO_ERROR(err);

        if (hmp_args_parse(&a, params + i, "x", line, &err) == !!err) {
            __builtin_trap();
        }
        hmp_args_clear(&a);
    }
    if (strlen(line) > READLINE_MAX_BYTES) {
        __builtin_trap();
    }
    readline_prompt(*(struct readline **)opaque);
}

static char **complete(void *opaque, const char *line)
{
    return g_strsplit(line, " ", -1);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct readline *editor;
    const struct readline_user user = {
        .put = put, .entered = entered, .complete = complete,
        .opaque = &editor,
    };

    editor = readline_new(&user);
    readline_prompt(editor);
    for (size_t i = 0; i < size; i++) {
        readline_byte(editor, data[i]);
    }
    readline_byte(editor, '\r');
    readline_free(editor);
    return 0;
}
