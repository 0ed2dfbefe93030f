/* SPDX-License-Identifier: MIT */
/* What is known about an error: see error-data.h. */
#include "qapi/error-data.h"

#include <string.h>

/* Hints for a terminal are whole lines; this one is a sentence. */
static char *hint_of(const struct error *err)
{
    int code = error_get_errno(err);
    const char *text = error_hint(err);

    if (!text && code) {
        text = error_errno_hint(code);
    }
    return text ? g_strchomp(g_strdup(text)) : NULL;
}

static void add_names(ErrorData *to, const struct error_data *from)
{
    to->node_name = g_strdup(from->node_name);
    to->filename = g_strdup(from->filename);
    to->job = g_strdup(from->job);
    to->has_offset = from->offset >= 0;
    to->offset = from->offset;
    to->has_bytes = from->bytes >= 0;
    to->bytes = from->bytes;
}

ErrorData *error_to_qapi(const struct error *err)
{
    const struct error_data *data = err ? error_get_data(err) : NULL;
    int code = err ? error_get_errno(err) : 0;
    ErrorData *result;

    if (!err || (!data && !code && !error_hint(err))) {
        return NULL;
    }
    result = ErrorData_new0();
    if (code) {
        result->has_errno = true;
        result->q_errno = code;
        result->errno_name = g_strdup(error_errno_name(code));
    }
    if (data) {
        add_names(result, data);
    }
    result->hint = hint_of(err);
    return result;
}
