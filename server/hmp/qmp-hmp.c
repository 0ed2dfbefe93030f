/* SPDX-License-Identifier: MIT */
/* QMP: a line of HMP. */
#include "qapi/qapi-commands.h"
#include "server/hmp/hmp.h"

#include <string.h>

/* Lines end with \r\n, as at a terminal. */
static char *with_returns(const char *text)
{
    GString *out = g_string_new(NULL);

    for (; *text; text++) {
        if (*text == '\n') {
            g_string_append_c(out, '\r');
        }
        g_string_append_c(out, *text);
    }
    return g_string_free(out, FALSE);
}

char *qmp_human_monitor_command(const HumanMonitorCommandArgs *args,
                                struct error **errp)
{
    struct hmp m = { 0 };
    g_autofree char *text = NULL;

    if (args->has_cpu_index) {
        error_set(errp, "Parameter 'cpu-index' expects a CPU number");
        return NULL;
    }
    m.out = g_string_new(NULL);
    hmp_run(&m, args->command_line);
    text = g_utf8_make_valid(m.out->str, m.out->len);
    g_string_free(m.out, TRUE);
    return with_returns(text);
}
