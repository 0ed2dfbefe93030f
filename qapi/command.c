/* SPDX-License-Identifier: MIT */
/* What generated command code shares. */
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "qapi/command.h"

static int compare_name(const void *name, const void *command)
{
    return strcmp(name, ((const struct qapi_command *)command)->name);
}

const struct qapi_command *
qapi_command_search(const struct qapi_command *commands, size_t n,
                    const char *name)
{
    return bsearch(name, commands, n, sizeof(commands[0]), compare_name);
}

void *qapi_command_args(const struct qapi_type *type, json_t *arguments,
                        struct error **errp)
{
    json_t *empty;
    void *args;

    if (arguments) {
        return qapi_from_json(type, arguments, errp);
    }
    empty = json_object();
    args = qapi_from_json(type, empty, errp);
    json_decref(empty);
    return args;
}

bool qapi_command_no_args(json_t *arguments, struct error **errp)
{
    void *first = arguments ? json_object_iter(arguments) : NULL;

    if (first) {
        error_set(errp, "Parameter '%s' is unexpected",
                  json_object_iter_key(first));
    }
    return !first;
}
