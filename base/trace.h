/* SPDX-License-Identifier: MIT */
/*
 * Trace: one line per event on stderr, chosen per module at start-up.
 *
 * trace(GRAPH, "node-add node-name=%s driver=%s", ...): `event key=value`,
 * keys spelled as in QMP.  Control path only unless the module's name ends
 * in _IO.  Off costs one predicted branch.  Never parsed by tests.
 */
#pragma once

#include <stdbool.h>
#include <glib.h>

#define TRACE_MODULES(X) \
    X(GRAPH, "graph") X(DRAIN, "drain") X(PERM, "perm") X(BLOCK_IO, "block-io") \
    X(FILE, "file") X(QCOW2, "qcow2") X(QCOW2_IO, "qcow2-io") \
    X(BITMAP, "bitmap") X(JOB, "job") X(COPY_IO, "copy-io") X(NBD, "nbd") \
    X(NBD_IO, "nbd-io") X(QMP, "qmp") X(SERVER, "server")

enum trace_module {
#define X(id, name) TRACE_##id,
    TRACE_MODULES(X)
#undef X
    TRACE__MAX
};

extern bool trace_on[TRACE__MAX];   /* constant after trace_enable() */

#define trace(module, ...) \
    do { \
        if (G_UNLIKELY(trace_on[TRACE_##module])) { \
            trace_emit(TRACE_##module, __VA_ARGS__); \
        } \
    } while (0)

void trace_emit(enum trace_module m, const char *fmt, ...) G_GNUC_PRINTF(2, 3);

/* Switch modules on: "job,nbd" or "all".  Call before threads start.
 * False for an unknown name, which *BAD (borrowed from LIST) points to. */
bool trace_enable(const char *list, const char **bad);
