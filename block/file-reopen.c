/* SPDX-License-Identifier: MIT */
/*
 * File driver: blockdev-reopen.
 *
 * What may change is how the file is open: for writing, with O_DIRECT, and
 * whether that follows the users (auto-read-only).  The file is opened once
 * more for whatever may be needed; which of it is shows when permissions are
 * settled.  The image locks, on their own descriptor, are not touched.
 */
#include "block/file-priv.h"

#include <fcntl.h>
#include <unistd.h>
#include "base/control.h"
#include "base/error.h"
#include "block/reopen.h"

const char *const file_reopen_options[] = {
    "drop-cache", "x-check-cache-dropped", NULL
};

struct file_reopen {
    bool dynamic, direct;       /* as they are to be */
    int read_fd, write_fd;      /* owned; -1: not opened */
    struct error *write_error;  /* owned; why there is no write_fd */

    int old_fd;                 /* owned; what fd stood for; -1: not yet
                                   activated, or to no purpose */
    bool old_dynamic, old_direct, old_writable, activated;
};

static void close_fd(int *fd)
{
    if (*fd >= 0) {
        file_close_fd(*fd);
        *fd = -1;
    }
}

static void state_free(struct file_reopen *fr)
{
    close_fd(&fr->read_fd);
    close_fd(&fr->write_fd);
    close_fd(&fr->old_fd);
    error_free(fr->write_error);
    g_free(fr);
}

/* ---- prepare ------------------------------------------------------------ */

static int open_again(const struct node *n, const struct file_reopen *fr,
                      bool writable, struct error **errp)
{
    const struct file_state *s = n->state;

    return file_open_same(s->fd, n->filename,
                          (writable ? O_RDWR : O_RDONLY) | O_CLOEXEC |
                          (fr->direct ? O_DIRECT : 0), errp);
}

static bool check_options(const struct node_reopen *r, struct error **errp)
{
    const BlockdevOptionsFile *o = file_options(r->options);

    if (o->has_aio && o->aio == BLOCKDEV_AIO_OPTIONS_NATIVE &&
        !r->cache_direct) {
        error_set(errp, "aio=native was specified, but it requires "
                  "cache.direct=on, which was not specified.");
        return false;
    }
    return true;
}

static bool open_both(const struct node_reopen *r, struct file_reopen *fr,
                      struct error **errp)
{
    AUTO_ERROR(err);

    if (!r->read_only) {
        fr->write_fd = open_again(r->node, fr, true, &err);
        if (fr->write_fd < 0 && !fr->dynamic) {
            error_propagate(errp, g_steal_pointer(&err));
            return false;
        }
        fr->write_error = g_steal_pointer(&err);
    }
    if (r->read_only || fr->dynamic) {
        fr->read_fd = open_again(r->node, fr, false, errp);
        return fr->read_fd >= 0;
    }
    return true;
}

bool file_reopen_prepare(struct node_reopen *r, struct error **errp)
{
    struct file_reopen *fr;

    if (!check_options(r, errp)) {
        return false;
    }
    fr = g_new0(struct file_reopen, 1);
    fr->read_fd = fr->write_fd = fr->old_fd = -1;
    fr->direct = r->cache_direct;
    fr->dynamic = !r->read_only && r->options->auto_read_only;
    if (!open_both(r, fr, errp)) {
        state_free(fr);
        return false;
    }
    r->driver_state = fr;
    return true;
}

/* ---- into use, and back ------------------------------------------------- */

/* Does N, opened as R says, have to be writable for those who use it now? */
static bool needs_write(const struct node_reopen *r,
                        const struct file_reopen *fr)
{
    return !r->read_only &&
           (!fr->dynamic || (r->node->perm & FILE_PERM_ANY_WRITE));
}

bool file_reopen_activate(struct node_reopen *r, struct error **errp)
{
    struct file_reopen *fr = r->driver_state;
    struct file_state *s = r->node->state;
    bool writable;

    CONTROL_GUARD();
    writable = needs_write(r, fr);
    if (writable && fr->write_fd < 0) {
        error_propagate(errp, g_steal_pointer(&fr->write_error));
        return false;
    }
    fr->old_fd = fcntl(s->fd, F_DUPFD_CLOEXEC, 0);
    if (fr->old_fd < 0 ||
        dup3(writable ? fr->write_fd : fr->read_fd, s->fd, O_CLOEXEC) < 0) {
        error_set_errno(errp, errno, "Could not reopen '%s'",
                        r->node->filename);
        error_add_file(errp, r->node->filename);
        return false;
    }
    fr->old_dynamic = s->dynamic;
    fr->old_direct = s->direct;
    fr->old_writable = s->writable;
    s->dynamic = fr->dynamic;
    s->direct = fr->direct;
    s->writable = writable;
    fr->activated = true;
    return true;
}

void file_reopen_commit(struct node_reopen *r)
{
    state_free(g_steal_pointer(&r->driver_state));
}

void file_reopen_abort(struct node_reopen *r)
{
    struct file_reopen *fr = g_steal_pointer(&r->driver_state);
    struct file_state *s = r->node->state;

    if (fr->activated) {
        CONTROL_GUARD();
        if (dup3(fr->old_fd, s->fd, O_CLOEXEC) < 0) {
            error_report_text("Could not reopen '%s' as it was: %s",
                              r->node->filename, error_errno_text(errno));
        }
        s->dynamic = fr->old_dynamic;
        s->direct = fr->old_direct;
        s->writable = fr->old_writable;
    }
    state_free(fr);
}
