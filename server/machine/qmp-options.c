/* SPDX-License-Identifier: MIT */
/* query-command-line-options: what managers ask before they pass it. */
#include <string.h>
#include "base/error.h"
#include "qapi/qapi-commands.h"

/* NAME:TYPE, s string, b boolean, n number, z size. */
static const struct option {
    const char *name;
    const char *parameters;
} options[] = {
    { "add-fd", "fd:n set:n opaque:s" },
    { "chardev", "id:s backend:s path:s host:s port:s fd:s ipv4:b ipv6:b "
      "wait:b server:b reconnect:n logfile:s logappend:b mux:b" },
    { "device", "" },
    { "drive", "bus:n unit:n if:s index:n media:s snapshot:b file:s "
      "cache:s format:s rerror:s werror:s copy-on-read:b read-only:b "
      "discard:s detect-zeroes:s aio:s cache.direct:b cache.no-flush:b "
      "cache.writeback:b throttling.iops-total:n throttling.iops-read:n "
      "throttling.iops-write:n throttling.bps-total:n "
      "throttling.bps-read:n throttling.bps-write:n "
      "throttling.iops-total-max:n throttling.iops-read-max:n "
      "throttling.iops-write-max:n throttling.bps-total-max:n "
      "throttling.bps-read-max:n throttling.bps-write-max:n "
      "throttling.iops-size:n throttling.group:s" },
    { "machine", "type:s accel:s usb:b dump-guest-core:b mem-merge:b "
      "memory-backend:s acpi:b" },
    { "mon", "mode:s chardev:s pretty:b" },
    { "name", "guest:s process:s debug-threads:b" },
    { "object", "" },
};

static CommandLineParameterType type_of(char letter)
{
    switch (letter) {
    case 'b':
        return COMMAND_LINE_PARAMETER_TYPE_BOOLEAN;
    case 'n':
        return COMMAND_LINE_PARAMETER_TYPE_NUMBER;
    case 'z':
        return COMMAND_LINE_PARAMETER_TYPE_SIZE;
    default:
        return COMMAND_LINE_PARAMETER_TYPE_STRING;
    }
}

static CommandLineOptionInfo *describe(const struct option *o)
{
    CommandLineOptionInfo *info = CommandLineOptionInfo_new0();
    g_auto(GStrv) words = g_strsplit(o->parameters, " ", 0);

    info->option = g_strdup(o->name);
    info->parameters = CommandLineParameterInfoList_new0();
    for (char **word = words; *word; word++) {
        const char *colon = strchr(*word, ':');
        CommandLineParameterInfo *p;

        if (colon) {
            p = CommandLineParameterInfo_new0();
            p->name = g_strndup(*word, colon - *word);
            p->type = type_of(colon[1]);
            qapi_list_append(info->parameters, p);
        }
    }
    return info;
}

CommandLineOptionInfoList *
qmp_query_command_line_options(const QueryCommandLineOptionsArgs *args,
                               struct error **errp)
{
    CommandLineOptionInfoList *list = CommandLineOptionInfoList_new0();

    for (size_t i = 0; i < G_N_ELEMENTS(options); i++) {
        if (!args->option || !strcmp(args->option, options[i].name)) {
            qapi_list_append(list, describe(&options[i]));
        }
    }
    if (args->option && list->n == 0) {
        CommandLineOptionInfoList_free(list);
        error_set(errp, "invalid option name: %s", args->option);
        return NULL;
    }
    return list;
}
