/* SPDX-License-Identifier: MIT */
/* Trace: see trace.h. */
#include "base/trace.h"

#include <stdio.h>
#include <string.h>
#include "base/lock.h"

bool trace_on[TRACE__MAX];

static const char *const module_names[TRACE__MAX] = {
#define X(id, name) [TRACE_##id] = name,
    TRACE_MODULES(X)
#undef X
};

void trace_emit(enum trace_module m, const char *fmt, ...)
{
    g_autofree char *text = NULL;
    int64_t now_us = clock_ns() / 1000;
    va_list ap;

    va_start(ap, fmt);
    text = g_strdup_vprintf(fmt, ap);
    va_end(ap);
    fprintf(stderr, "%" G_GINT64_FORMAT ".%06d %s: %s\n", now_us / 1000000,
            (int)(now_us % 1000000), module_names[m], text);
}

bool trace_enable(const char *list, const char **bad)
{
    for (const char *p = list; *p; ) {
        size_t len = strcspn(p, ",");
        bool all = len == 3 && !memcmp(p, "all", 3);
        bool found = all;

        for (int m = 0; m < TRACE__MAX; m++) {
            if (all || (strlen(module_names[m]) == len &&
                        !memcmp(module_names[m], p, len))) {
                trace_on[m] = true;
                found = true;
            }
        }
        if (!found) {
            *bad = p;
            return false;
        }
        p += len;
        p += *p == ',';
    }
    return true;
}
