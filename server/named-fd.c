/* SPDX-License-Identifier: MIT */
/* Descriptors with names: the session's that passed them.  See fdset.h. */
#include "server/fdset.h"

#include <unistd.h>
#include "base/control.h"
#include "qapi/qapi-commands.h"
#include "server/dispatch.h"

int passed_fd_take(struct error **errp)
{
    struct session *s = dispatch_session();
    int fd = s ? session_take_passed_fd(s) : -1;

    if (fd < 0) {
        error_set(errp, "No file descriptor supplied via SCM_RIGHTS");
    }
    return fd;
}

static void close_value(void *value)
{
    close(GPOINTER_TO_INT(value));
}

bool qmp_getfd(const GetfdArgs *args, struct error **errp)
{
    enum { MAX_NAMED = 256 };
    struct session *s = dispatch_session();
    int fd = passed_fd_take(errp);

    if (fd < 0) {
        return false;
    }
    if (g_ascii_isdigit(args->fdname[0])) {
        error_set(errp, "Parameter 'fdname' expects a name not starting with "
                  "a digit");
        close(fd);
        return false;
    }
    if (!s->named_fds) {
        s->named_fds = g_hash_table_new_full(g_str_hash, g_str_equal, g_free,
                                             close_value);
    }
    if (g_hash_table_size(s->named_fds) >= MAX_NAMED &&
        !g_hash_table_contains(s->named_fds, args->fdname)) {
        error_set(errp, "Too many named file descriptors");
        close(fd);
        return false;
    }
    g_hash_table_replace(s->named_fds, g_strdup(args->fdname),
                         GINT_TO_POINTER(fd));
    return true;
}

bool qmp_closefd(const ClosefdArgs *args, struct error **errp)
{
    struct session *s = dispatch_session();

    if (!s || !s->named_fds ||
        !g_hash_table_remove(s->named_fds, args->fdname)) {
        error_set(errp, "File descriptor named '%s' not found", args->fdname);
        return false;
    }
    return true;
}

int named_fd_take(const char *name, struct error **errp)
{
    struct session *s = dispatch_session();
    void *key, *value;

    if (!s || !s->named_fds ||
        !g_hash_table_steal_extended(s->named_fds, name, &key, &value)) {
        error_set(errp, "File descriptor named '%s' has not been found", name);
        return -1;
    }
    g_free(key);
    return GPOINTER_TO_INT(value);
}
