/* SPDX-License-Identifier: MIT */
/* The table of QMP commands, as the dispatcher sees it. */
#pragma once

#include "qapi/descr.h"

enum {
    QAPI_CMD_ALLOW_OOB = 1 << 0,            /* exec-oob is fine; quick */
    QAPI_CMD_BLOCKING = 1 << 1,             /* run it on a worker */
    QAPI_CMD_NO_SUCCESS_RESPONSE = 1 << 2,  /* no reply unless it fails */
    QAPI_CMD_ALLOW_PRECONFIG = 1 << 3,      /* as in QEMU; no effect here */
    QAPI_CMD_COROUTINE = 1 << 4,            /* as in QEMU; no effect here */
};

struct qapi_command {
    const char *name;
    unsigned flags;             /* QAPI_CMD_* */
    /*
     * Check ARGUMENTS (borrowed, an object or NULL for none), run the
     * handler, and give its value in *RET (new reference, an empty object if
     * it returns nothing).  Needs the control lock, as handlers do.
     */
    bool (*run)(json_t *arguments, json_t **ret, struct error **errp);
};

/* Generated.  NULL if there is no such command. */
const struct qapi_command *qapi_command_find(const char *name);
/* Generated.  All commands, sorted by name. */
const struct qapi_command *qapi_command_list(size_t *n);

/* For generated code. */
const struct qapi_command *
qapi_command_search(const struct qapi_command *commands, size_t n,
                    const char *name);
void *qapi_command_args(const struct qapi_type *type, json_t *arguments,
                        struct error **errp);
bool qapi_command_no_args(json_t *arguments, struct error **errp);
