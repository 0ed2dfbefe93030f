/* SPDX-License-Identifier: MIT */
/* Error objects: see error.h for the contract. */
#include "base/error.h"

#include <stdio.h>
#include <string.h>

struct error {
    enum error_class cls;
    int err;        /* > 0, or 0 */
    char *text;     /* owned */
    char *hint;     /* owned, or NULL */
};

static char *program_name;  /* set once, before any thread starts */

const char *error_errno_text(int err)
{
    const char *text = strerrordesc_np(err);

    return text ? text : "Unknown error";
}

static void G_GNUC_PRINTF(4, 0)
error_make(struct error **errp, enum error_class cls, int err,
           const char *fmt, va_list ap)
{
    struct error *e;

    if (!errp) {
        return;
    }
    g_assert(*errp == NULL);
    e = g_new0(struct error, 1);
    e->cls = cls;
    e->text = g_strdup_vprintf(fmt, ap);
    if (err) {
        g_autofree char *head = e->text;

        e->err = err < 0 ? -err : err;
        e->text = g_strdup_printf("%s: %s", head, error_errno_text(e->err));
    }
    *errp = e;
}

void error_set(struct error **errp, const char *fmt, ...)
{
    va_list ap;

    va_start(ap, fmt);
    error_make(errp, ERROR_GENERIC, 0, fmt, ap);
    va_end(ap);
}

void error_set_class(struct error **errp, enum error_class cls,
                     const char *fmt, ...)
{
    va_list ap;

    va_start(ap, fmt);
    error_make(errp, cls, 0, fmt, ap);
    va_end(ap);
}

void error_set_errno(struct error **errp, int err, const char *fmt, ...)
{
    va_list ap;

    va_start(ap, fmt);
    error_make(errp, ERROR_GENERIC, err, fmt, ap);
    va_end(ap);
}

void error_prepend(struct error **errp, const char *fmt, ...)
{
    g_autofree char *head = NULL;
    g_autofree char *tail = NULL;
    va_list ap;

    if (!errp || !*errp) {
        return;
    }
    va_start(ap, fmt);
    head = g_strdup_vprintf(fmt, ap);
    va_end(ap);
    tail = (*errp)->text;
    (*errp)->text = g_strconcat(head, tail, NULL);
}

void error_append_hint(struct error **errp, const char *fmt, ...)
{
    g_autofree char *more = NULL;
    g_autofree char *old = NULL;
    va_list ap;

    if (!errp || !*errp) {
        return;
    }
    va_start(ap, fmt);
    more = g_strdup_vprintf(fmt, ap);
    va_end(ap);
    old = (*errp)->hint;
    (*errp)->hint = g_strconcat(old ? old : "", more, NULL);
}

void error_propagate(struct error **dst, struct error *err)
{
    if (!dst || *dst) {
        error_free(err);
        return;
    }
    *dst = err;
}

const char *error_text(const struct error *err)
{
    return err->text;
}

const char *error_hint(const struct error *err)
{
    return err->hint;
}

enum error_class error_get_class(const struct error *err)
{
    return err->cls;
}

const char *error_class_name(enum error_class cls)
{
    static const char *const names[] = {
        [ERROR_GENERIC] = "GenericError",
        [ERROR_COMMAND_NOT_FOUND] = "CommandNotFound",
        [ERROR_DEVICE_NOT_ACTIVE] = "DeviceNotActive",
        [ERROR_DEVICE_NOT_FOUND] = "DeviceNotFound",
        [ERROR_KVM_MISSING_CAP] = "KVMMissingCap",
    };

    g_assert(cls < G_N_ELEMENTS(names));
    return names[cls];
}

int error_get_errno(const struct error *err)
{
    return err->err;
}

struct error *error_copy(const struct error *err)
{
    struct error *e = g_new0(struct error, 1);

    e->cls = err->cls;
    e->err = err->err;
    e->text = g_strdup(err->text);
    e->hint = g_strdup(err->hint);
    return e;
}

void error_free(struct error *err)
{
    if (err) {
        g_free(err->text);
        g_free(err->hint);
        g_free(err);
    }
}

void error_cleanup(struct error **errp)
{
    error_free(*errp);
    *errp = NULL;
}

void error_set_program(const char *argv0)
{
    g_free(program_name);
    program_name = g_path_get_basename(argv0);
}

void error_report_text(const char *fmt, ...)
{
    g_autofree char *text = NULL;
    va_list ap;

    va_start(ap, fmt);
    text = g_strdup_vprintf(fmt, ap);
    va_end(ap);
    /* One call, so that lines of several threads do not mix. */
    fprintf(stderr, "%s: %s\n", program_name ? program_name : "blockjobd",
            text);
    fflush(stderr);
}

void error_report(const struct error *err)
{
    error_report_text("%s", err->text);
    if (err->hint) {
        fprintf(stderr, "%s", err->hint);
        fflush(stderr);
    }
}
