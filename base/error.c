/* SPDX-License-Identifier: MIT */
/* Error objects: see error.h for the contract. */
#include "base/error.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

struct error {
    enum error_class cls;
    int err;        /* > 0, or 0 */
    char *text;     /* owned */
    char *hint;     /* owned, or NULL */
    struct error_data *data;    /* owned, or NULL */
};

static char *program_name;  /* set once, before any thread starts */

const char *error_errno_text(int err)
{
    const char *text = strerrordesc_np(err);

    return text ? text : "Unknown error";
}

const char *error_errno_name(int err)
{
    const char *name = strerrorname_np(err);

    return name ? name : "EUNKNOWN";
}

const char *error_errno_hint(int err)
{
    static const struct {
        int err;
        const char *hint;
    } hints[] = {
        { ENOSPC, "Make room where the image is stored, then resume the job "
                  "or try again" },
        { EDQUOT, "Raise the quota of the user that the server runs as, then "
                  "resume the job or try again" },
        { EIO, "Look at the log of the machine that stores the image; its "
               "disk or network has failed" },
        { EACCES, "Let the user that the server runs as open the file" },
        { ENOENT, "See whether the file is there under this name; relative "
                  "names start in the server's folder" },
        { EROFS, "The file system is mounted read-only" },
        { ETIMEDOUT, "See whether the server that stores the image answers" },
        { ECONNREFUSED, "See whether a server listens at this address" },
        { EMFILE, "Raise the server's limit of open files (ulimit -n)" },
    };

    for (size_t i = 0; i < G_N_ELEMENTS(hints); i++) {
        if (hints[i].err == err) {
            return hints[i].hint;
        }
    }
    return NULL;
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

/* ---- what it is about ---------------------------------------------------- */

/* NULL: nobody wants it. */
static struct error_data *error_data_of(struct error **errp)
{
    struct error *e = errp ? *errp : NULL;

    if (e && !e->data) {
        e->data = g_new0(struct error_data, 1);
        e->data->offset = e->data->bytes = -1;
    }
    return e ? e->data : NULL;
}

static void set_once(char **to, const char *value)
{
    if (!*to && value && *value) {
        *to = g_strdup(value);
    }
}

void error_add_node(struct error **errp, const char *node_name)
{
    struct error_data *d = error_data_of(errp);

    if (d) {
        set_once(&d->node_name, node_name);
    }
}

void error_add_file(struct error **errp, const char *filename)
{
    struct error_data *d = error_data_of(errp);

    if (d) {
        set_once(&d->filename, filename);
    }
}

void error_add_job(struct error **errp, const char *id)
{
    struct error_data *d = error_data_of(errp);

    if (d) {
        set_once(&d->job, id);
    }
}

void error_add_range(struct error **errp, int64_t offset, int64_t bytes)
{
    struct error_data *d = error_data_of(errp);

    if (d && d->offset < 0) {
        d->offset = offset;
        d->bytes = bytes;
    }
}

void error_add_errno(struct error **errp, int err)
{
    if (errp && *errp && (*errp)->err == 0) {
        (*errp)->err = err;
    }
}

const struct error_data *error_get_data(const struct error *err)
{
    return err->data;
}

static void error_data_free(struct error_data *d)
{
    if (d) {
        g_free(d->node_name);
        g_free(d->filename);
        g_free(d->job);
        g_free(d);
    }
}

/* ---- life ------------------------------------------------------------------- */

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
    if (err->data) {
        e->data = g_new(struct error_data, 1);
        *e->data = *err->data;
        e->data->node_name = g_strdup(err->data->node_name);
        e->data->filename = g_strdup(err->data->filename);
        e->data->job = g_strdup(err->data->job);
    }
    return e;
}

void error_free(struct error *err)
{
    if (err) {
        g_free(err->text);
        g_free(err->hint);
        error_data_free(err->data);
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
        fprintf(stderr, "%s%s", err->hint,
                g_str_has_suffix(err->hint, "\n") ? "" : "\n");
        fflush(stderr);
    }
}
