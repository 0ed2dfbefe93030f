/* SPDX-License-Identifier: MIT */
/*
 * Error objects: what went wrong, for a person or a QMP client.
 *
 * Contract    A function that can fail takes a last argument
 *             `struct error **errp` and says failure in its return value too
 *             (false, NULL, or -errno).  On failure it sets *errp exactly
 *             once; on success it leaves it alone.  errp may be NULL: the
 *             caller does not want the text.  A caller that wants it starts
 *             with `AUTO_ERROR(err);` and passes &err.
 *
 *   Create      error_set(errp, "Node '%s' is busy", name); return false;
 *   Pass on     if (!f(x, errp)) { return false; }
 *   Look, pass  AUTO_ERROR(err); if (!f(x, &err)) { ...;
 *               error_propagate(errp, g_steal_pointer(&err)); return false; }
 *   Ignore      f(x, NULL);
 *
 *             Text: no newline, no full stop; names the object.  On the data
 *             path there are no error objects but 0 or -errno.
 * Threads     An error belongs to one thread at a time; it may be handed on.
 */
#pragma once

#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <glib.h>

/* The classes of QMP; ERROR_GENERIC unless the interface says otherwise. */
enum error_class {
    ERROR_GENERIC,
    ERROR_COMMAND_NOT_FOUND,
    ERROR_DEVICE_NOT_ACTIVE,
    ERROR_DEVICE_NOT_FOUND,
    ERROR_KVM_MISSING_CAP,
};

struct error;

/* A local error, NULL at first, freed when it goes out of scope. */
#define AUTO_ERROR(name) \
    __attribute__((cleanup(error_cleanup))) struct error *name = NULL

/* Set *errp (must be NULL before) to a GenericError. */
void error_set(struct error **errp, const char *fmt, ...) G_GNUC_PRINTF(2, 3);

/* As error_set(), of class CLS. */
void error_set_class(struct error **errp, enum error_class cls,
                     const char *fmt, ...) G_GNUC_PRINTF(3, 4);

/* As error_set(), with ": strerror(ERR)" behind; ERR > 0 is kept. */
void error_set_errno(struct error **errp, int err,
                     const char *fmt, ...) G_GNUC_PRINTF(3, 4);

/* Put text before the message of *errp (nothing happens if it is NULL). */
void error_prepend(struct error **errp, const char *fmt, ...)
    G_GNUC_PRINTF(2, 3);

/* Add advice for a person at a terminal; QMP clients get it only if they have
 * asked for error data. */
void error_append_hint(struct error **errp, const char *fmt, ...)
    G_GNUC_PRINTF(2, 3);

/* Give ERR (owned, may be NULL) to *DST; freed when DST is NULL or set. */
void error_propagate(struct error **dst, struct error *err);

/*
 * What the error is about, for programs; most errors have none of it.  Each
 * adds to *errp (nothing happens if it is NULL, or for what is known already:
 * the innermost knows best).  Names are copied; NULL is fine.
 */
void error_add_node(struct error **errp, const char *node_name);
void error_add_file(struct error **errp, const char *filename);
void error_add_job(struct error **errp, const char *id);    /* in the way */
void error_add_range(struct error **errp, int64_t offset, int64_t bytes);
/* ERR > 0; does not change the text. */
void error_add_errno(struct error **errp, int err);

struct error_data {
    char *node_name, *filename, *job;   /* owned; NULL: not known */
    int64_t offset, bytes;              /* -1: not known */
};
const struct error_data *error_get_data(const struct error *err);  /* or NULL */

const char *error_text(const struct error *err);       /* borrowed */
const char *error_hint(const struct error *err);       /* borrowed or NULL */
enum error_class error_get_class(const struct error *err);
const char *error_class_name(enum error_class cls);    /* "GenericError" */
int error_get_errno(const struct error *err);          /* > 0, or 0: none */

struct error *error_copy(const struct error *err);     /* owned */
void error_free(struct error *err);                    /* NULL is fine */
void error_cleanup(struct error **errp);               /* for AUTO_ERROR */

/* What ERR (> 0) means: "Input/output error".  Constant text, any thread. */
const char *error_errno_text(int err);
/* "EIO"; "EUNKNOWN" if it has no name.  Constant text, any thread. */
const char *error_errno_name(int err);
/* What usually helps against ERR, or NULL.  Constant text, any thread. */
const char *error_errno_hint(int err);

/* "PROG: text" and the hint on stderr, PROG from error_set_program(). */
void error_report(const struct error *err);
void error_report_text(const char *fmt, ...) G_GNUC_PRINTF(1, 2);
void error_set_program(const char *argv0);
