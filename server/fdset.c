/* SPDX-License-Identifier: MIT */
/*
 * Descriptors that clients pass: see fdset.h.
 *
 * Invariants  I1  A set is listed while it has descriptors, or copies of them
 *                 are in use.
 *             I2  Every copy that fdset_open() has given away is in its set's
 *                 list until fdset_close(): its number means nothing else.
 */
#include "server/fdset.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "base/control.h"
#include "block/file-hook.h"
#include "block/nbd/address.h"
#include "nbd/nbd.h"
#include "qapi/qapi-commands.h"
#include "server/loop.h"

struct passed {
    int fd;                     /* owned */
    char *opaque;               /* owned, or NULL */
    struct passed *next;
};

struct fdset {
    int64_t id;
    struct passed *fds;         /* owned; oldest first */
    GArray *copies;             /* owned; of int: in use (I2) */
    struct fdset *next;
};

static struct lock lock = LOCK_INIT("fdset", LOCK_LEAF);
/* Protected by lock. */
static struct fdset *sets;      /* lowest number first */

/* Start-up: what -add-fd has copied; closed when the loop begins. */
static GArray *originals;

/* ---- sets: lock held ---------------------------------------------------- */

static struct fdset **find_place(int64_t id)
{
    struct fdset **p = &sets;

    while (*p && (*p)->id < id) {
        p = &(*p)->next;
    }
    return p;
}

static struct fdset *find_set(int64_t id)
{
    struct fdset *s = *find_place(id);

    return s && s->id == id ? s : NULL;
}

static int64_t lowest_free_id(void)
{
    int64_t id = 0;

    for (struct fdset *s = sets; s && s->id == id; s = s->next) {
        id++;
    }
    return id;
}

static struct fdset *get_set(int64_t id)
{
    struct fdset **place = find_place(id);
    struct fdset *s = *place;

    if (!s || s->id != id) {
        s = g_new0(struct fdset, 1);
        s->id = id;
        s->copies = g_array_new(FALSE, FALSE, sizeof(int));
        s->next = *place;
        *place = s;
    }
    return s;
}

/* I1 */
static void drop_if_empty(struct fdset *s)
{
    if (!s->fds && s->copies->len == 0) {
        *find_place(s->id) = s->next;
        g_array_unref(s->copies);
        g_free(s);
    }
}

/* Take FD, or all if it is -1, out of S: an owned list. */
static struct passed *take_out(struct fdset *s, int64_t fd)
{
    struct passed **link = &s->fds, *taken = NULL, *p;

    while ((p = *link)) {
        if (fd < 0 || p->fd == fd) {
            *link = p->next;
            p->next = taken;
            taken = p;
        } else {
            link = &p->next;
        }
    }
    return taken;
}

/* Without the lock: close() may take a while. */
static void passed_free_list(struct passed *list)
{
    while (list) {
        struct passed *next = list->next;

        close(list->fd);
        g_free(list->opaque);
        g_free(list);
        list = next;
    }
}

int64_t fdset_add(int fd, int64_t id, const char *opaque, struct error **errp)
{
    struct passed *p, **tail;
    struct fdset *s;

    if (id < -1) {
        error_set(errp, "Parameter 'fdset-id' expects a non-negative value");
        close(fd);
        return -1;
    }
    p = g_new0(struct passed, 1);
    p->fd = fd;
    p->opaque = g_strdup(opaque);
    LOCK_GUARD(&lock);
    s = get_set(id < 0 ? lowest_free_id() : id);
    tail = &s->fds;
    while (*tail) {
        tail = &(*tail)->next;
    }
    *tail = p;
    return s->id;
}

/* ---- as files ----------------------------------------------------------- */

/* With O_DIRECT if FLAGS say so: it is the description's, of all who have a
 * copy. */
static int copy_fd(int fd, int flags)
{
    int copy = fcntl(fd, F_DUPFD_CLOEXEC, 0);
    int status = copy >= 0 ? fcntl(copy, F_GETFL) : 0;

    if (copy >= 0 && (flags & O_DIRECT & ~status) &&
        fcntl(copy, F_SETFL, status | O_DIRECT) < 0) {
        int err = errno;

        close(copy);
        errno = err;
        return -1;
    }
    return copy;
}

int fdset_open(int64_t id, int flags)
{
    struct fdset *s;
    int copy;

    LOCK_GUARD(&lock);
    s = find_set(id);
    if (!s) {
        errno = ENOENT;
        return -1;
    }
    for (struct passed *p = s->fds; p; p = p->next) {
        int status = fcntl(p->fd, F_GETFL);

        if (status >= 0 && (status & O_ACCMODE) == (flags & O_ACCMODE)) {
            copy = copy_fd(p->fd, flags);
            if (copy >= 0) {
                g_array_append_val(s->copies, copy);
            }
            return copy;
        }
    }
    errno = EACCES;
    return -1;
}

static void forget_copy(int fd)
{
    for (struct fdset *s = sets; s; s = s->next) {
        for (guint i = 0; i < s->copies->len; i++) {
            if (g_array_index(s->copies, int, i) == fd) {
                g_array_remove_index_fast(s->copies, i);
                drop_if_empty(s);
                return;
            }
        }
    }
}

int fdset_close(int fd)
{
    /* Forgotten before the number can be another's (I2). */
    lock_acquire(&lock);
    forget_copy(fd);
    lock_release(&lock);
    return close(fd);
}

static const struct file_fdset_hook file_hook = {
    .open = fdset_open, .close = fdset_close,
};

/* ---- -add-fd ------------------------------------------------------------ */

static bool parse_number(const char *text, const char *key, int64_t *value,
                         struct error **errp)
{
    char *end;

    *value = -1;
    if (!text) {
        return true;
    }
    errno = 0;
    *value = strtoll(text, &end, 0);
    if (!*text || *end || errno) {
        error_set(errp, "Parameter '%s' expects a number", key);
        return false;
    }
    return true;
}

static bool check_keys(json_t *options, struct error **errp)
{
    const char *key;
    json_t *value;

    json_object_foreach(options, key, value) {
        if ((strcmp(key, "fd") && strcmp(key, "set") &&
             strcmp(key, "opaque")) || !json_is_string(value)) {
            error_set(errp, "Invalid parameter '%s'", key);
            return false;
        }
    }
    return true;
}

static const char *text_of(const json_t *options, const char *key)
{
    return json_string_value(json_object_get(options, key));
}

static void close_originals(void *unused)
{
    if (!originals) {
        return;         /* the start failed: fdset_deinit() was first */
    }
    for (guint i = 0; i < originals->len; i++) {
        int fd = g_array_index(originals, int, i);

        /* Another option may have made it something else, or taken it. */
        if (!(fcntl(fd, F_GETFD) & FD_CLOEXEC)) {
            close(fd);
        }
    }
    g_clear_pointer(&originals, g_array_unref);
}

/* What is close-on-exec was not inherited: we have opened it. */
static int copy_inherited(int64_t fd, struct error **errp)
{
    int flags = fd <= G_MAXINT ? fcntl(fd, F_GETFD) : -1;
    int copy = flags >= 0 && !(flags & FD_CLOEXEC)
               ? fcntl(fd, F_DUPFD_CLOEXEC, 0) : -1;

    if (copy < 0) {
        error_set(errp, "fd is not valid or already in use");
    }
    return copy;
}

/* The same one may be named again. */
static void remember_original(int fd)
{
    if (!originals) {
        originals = g_array_new(FALSE, FALSE, sizeof(int));
        loop_defer(close_originals, NULL);
    }
    for (guint i = 0; i < originals->len; i++) {
        if (g_array_index(originals, int, i) == fd) {
            return;
        }
    }
    g_array_append_val(originals, fd);
}

static bool add_inherited(int64_t fd, int64_t set, const char *opaque,
                          struct error **errp)
{
    int copy;

    if (fd < 0) {
        error_set(errp, "fd option is required and must be non-negative");
        return false;
    }
    if (fd <= STDERR_FILENO) {
        error_set(errp, "fd cannot be a standard I/O stream");
        return false;
    }
    copy = copy_inherited(fd, errp);
    if (copy < 0) {
        return false;
    }
    if (set < 0) {
        error_set(errp, "set option is required and must be non-negative");
        close(copy);
        return false;
    }
    remember_original(fd);
    return fdset_add(copy, set, opaque, errp) >= 0;
}

bool fdset_add_option(const char *text, struct error **errp)
{
    json_t *options = qapi_keyval_parse(text, NULL, errp);
    int64_t fd, set;
    bool ok = false;

    ok = options && check_keys(options, errp) &&
         parse_number(text_of(options, "fd"), "fd", &fd, errp) &&
         parse_number(text_of(options, "set"), "set", &set, errp) &&
         add_inherited(fd, set, text_of(options, "opaque"), errp);
    json_decref(options);
    return ok;
}

/* ---- commands on sets --------------------------------------------------- */

AddfdInfo *qmp_add_fd(const AddFdArgs *args, struct error **errp)
{
    AddfdInfo *info;
    int fd = passed_fd_take(errp);
    int64_t id;

    if (fd < 0) {
        return NULL;
    }
    if (args->has_fdset_id && args->fdset_id < 0) {
        error_set(errp, "Parameter 'fdset-id' expects a non-negative value");
        close(fd);
        return NULL;
    }
    id = fdset_add(fd, args->has_fdset_id ? args->fdset_id : -1,
                   args->opaque, errp);
    if (id < 0) {
        return NULL;
    }
    info = AddfdInfo_new0();
    info->fdset_id = id;
    info->fd = fd;
    return info;
}

/* False: there is none like that. */
static bool remove_fds(int64_t id, bool all, int64_t fd)
{
    struct passed *taken = NULL;
    struct fdset *s;
    bool found;

    lock_acquire(&lock);
    s = find_set(id);
    found = s && (all || fd >= 0);
    if (found) {
        taken = take_out(s, all ? -1 : fd);
        found = all || taken;
        drop_if_empty(s);
    }
    lock_release(&lock);
    passed_free_list(taken);
    return found;
}

bool qmp_remove_fd(const RemoveFdArgs *args, struct error **errp)
{
    if (remove_fds(args->fdset_id, !args->has_fd, args->fd)) {
        return true;
    }
    if (args->has_fd) {
        error_set(errp, "File descriptor named 'fdset-id:%" G_GINT64_FORMAT
                  ", fd:%" G_GINT64_FORMAT "' not found", args->fdset_id,
                  args->fd);
    } else {
        error_set(errp, "File descriptor named 'fdset-id:%" G_GINT64_FORMAT
                  "' not found", args->fdset_id);
    }
    return false;
}

static FdsetInfo *describe(const struct fdset *s)
{
    FdsetInfo *info = FdsetInfo_new0();

    info->fdset_id = s->id;
    info->fds = FdsetFdInfoList_new0();
    for (const struct passed *p = s->fds; p; p = p->next) {
        FdsetFdInfo *fd = FdsetFdInfo_new0();

        fd->fd = p->fd;
        fd->opaque = g_strdup(p->opaque);
        qapi_list_append(info->fds, fd);
    }
    return info;
}

static void describe_all(const struct fdset *s, FdsetInfoList *list)
{
    g_autoptr(GPtrArray) order = g_ptr_array_new();

    for (; s; s = s->next) {
        g_ptr_array_add(order, (void *)s);
    }
    for (guint i = order->len; i-- > 0;) {
        qapi_list_append(list, describe(g_ptr_array_index(order, i)));
    }
}

FdsetInfoList *qmp_query_fdsets(struct error **errp)
{
    FdsetInfoList *list = FdsetInfoList_new0();

    LOCK_GUARD(&lock);
    describe_all(sets, list);
    return list;
}

/* ---- life --------------------------------------------------------------- */

void fdset_init(void)
{
    file_set_fdset_hook(&file_hook);
    nbd_set_fd_lookup(named_fd_take);
    nbd_address_set_fd_lookup(named_fd_take);
}

void fdset_deinit(void)
{
    LOCK_GUARD(&lock);
    while (sets) {
        passed_free_list(take_out(sets, -1));
        g_array_set_size(sets->copies, 0);
        drop_if_empty(sets);
    }
    g_clear_pointer(&originals, g_array_unref);
}
