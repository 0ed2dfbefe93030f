/* SPDX-License-Identifier: MIT */
/*
 * Removable media: trays, and what lies on them.
 *
 * Problem     The medium of a drive is taken out and put in while commands,
 *             jobs and exports use what is below it, and opening the next one
 *             takes a while.
 * Invariants  I1  A command that fails has moved no tray and sent no event,
 *                 and the medium is the one it was.
 *             I2  Trays are opened, and closed again, with an event each;
 *                 what is so already stays so without one.
 *             I3  A drive without a tray is always open and always closed; a
 *                 drive without a device takes media in and out.
 * Threads     Control lock held; what takes media out yields.
 */
#include "base/control.h"
#include "block/backend.h"
#include "block/driver.h"
#include "qapi/qapi-commands.h"
#include "qapi/qapi-events.h"

/* ---- what a drive is ---------------------------------------------------- */

/* NAME is what the user called it. */
static bool check_removable(const struct backend *b, const char *name,
                            struct error **errp)
{
    const struct backend_dev *dev = backend_dev(b);

    if (dev && !dev->removable) {
        error_set(errp, "Device '%s' is not removable", name);
        return false;
    }
    return true;
}

static bool is_shut(const struct backend *b)
{
    const struct backend_dev *dev = backend_dev(b);

    return dev && dev->has_tray && !dev->tray_open;
}

/* No job is at the medium, if there is one. */
static bool check_unused(const struct backend *b, struct error **errp)
{
    const struct node *n = backend_node(b);

    return !n || node_op_allowed(n, NODE_OP_DELETE, errp);
}

static void move_tray(struct backend *b, bool open)
{
    struct backend_dev *dev = backend_dev(b);

    if (dev && dev->has_tray && dev->tray_open != open) {
        dev->tray_open = open;
        qapi_event_send_device_tray_moved(backend_name(b),
                                          dev->id ? dev->id : dev->path,
                                          open);
    }
}

/*
 * Into B, which is empty.  A drive without a tray is one that writes: floppies;
 * what it asks of a medium is what can be had of this one.
 */
static bool put_medium_in(struct backend *b, struct node *n,
                          struct error **errp)
{
    const struct backend_dev *dev = backend_dev(b);
    unsigned perm, shared;

    if (dev && !dev->has_tray) {
        backend_get_perm(b, &perm, &shared);
        perm = node_is_read_only(n) ? perm & ~PERM_WRITE : perm | PERM_WRITE;
        if (!backend_set_perm(b, perm, shared, errp)) {
            return false;
        }
    }
    return backend_insert(b, n, errp);
}

/* The next one is as this one was, unless the user says otherwise. */
static void take_medium_out(struct backend *b)
{
    const struct node *n = backend_node(b);

    if (n) {
        backend_set_read_only_wanted(b, node_is_read_only(n));
        backend_remove(b);
    }
}

/* ---- trays -------------------------------------------------------------- */

/* FORCE is for trays that a guest has locked; there is no guest that does. */
bool qmp_blockdev_open_tray(const BlockdevOpenTrayArgs *args,
                            struct error **errp)
{
    struct backend *b = backend_lookup(args->device, args->id, errp);
    const char *name = args->device ? args->device : args->id;

    if (!b || !check_removable(b, name, errp)) {
        return false;
    }
    move_tray(b, true);
    return true;
}

bool qmp_blockdev_close_tray(const BlockdevCloseTrayArgs *args,
                             struct error **errp)
{
    struct backend *b = backend_lookup(args->device, args->id, errp);
    const char *name = args->device ? args->device : args->id;

    if (!b || !check_removable(b, name, errp)) {
        return false;
    }
    move_tray(b, false);
    return true;
}

/*
 * The commands that take no 'device' mean with ID a device, or else a drive
 * that has none and is called so.
 */
static struct backend *lookup_by_id(const char *id, struct error **errp)
{
    struct backend *b = backend_find_by_dev(id) ? NULL : backend_find(id);

    return b && !backend_dev(b) ? b : backend_lookup(NULL, id, errp);
}

/* ---- out ---------------------------------------------------------------- */

bool qmp_eject(const EjectArgs *args, struct error **errp)
{
    struct backend *b = backend_lookup(args->device, args->id, errp);
    const char *name = args->device ? args->device : args->id;

    if (!b || !check_removable(b, name, errp) || !check_unused(b, errp)) {
        return false;
    }
    backend_ref(b);
    move_tray(b, true);
    take_medium_out(b);
    backend_unref(b);
    return true;
}

bool qmp_blockdev_remove_medium(const BlockdevRemoveMediumArgs *args,
                                struct error **errp)
{
    struct backend *b = lookup_by_id(args->id, errp);

    if (!b || !check_removable(b, args->id, errp)) {
        return false;
    }
    if (is_shut(b)) {
        error_set(errp, "Tray of device '%s' is not open", args->id);
        return false;
    }
    if (!check_unused(b, errp)) {
        return false;
    }
    backend_ref(b);
    take_medium_out(b);
    backend_unref(b);
    return true;
}

/* ---- in ----------------------------------------------------------------- */

/* A drive, an export or a job's end: not what nodes and jobs' filters do. */
static bool is_somebodys(const struct node *n)
{
    for (const struct child *c = n->parents; c; c = c->next_parent) {
        if (c->root) {
            return true;
        }
    }
    return false;
}

bool qmp_blockdev_insert_medium(const BlockdevInsertMediumArgs *args,
                                struct error **errp)
{
    struct backend *b = lookup_by_id(args->id, errp);
    struct node *n;

    if (!b) {
        return false;
    }
    n = node_find(args->node_name);
    if (!n) {
        error_set(errp, "Node '%s' not found", args->node_name);
        error_add_node(errp, args->node_name);
    } else if (is_somebodys(n)) {
        error_set(errp, "Node '%s' is already in use", args->node_name);
        error_add_node(errp, args->node_name);
    } else if (!check_removable(b, args->id, NULL)) {
        error_set(errp, "Device is not removable");
    } else if (is_shut(b)) {
        error_set(errp, "Tray of the device is not open");
    } else if (backend_node(b)) {
        error_set(errp, "There already is a medium in the device");
    } else {
        return put_medium_in(b, n, errp);
    }
    return false;
}

/* ---- one for another ---------------------------------------------------- */

static bool wants_read_only(const struct backend *b,
                            BlockdevChangeReadOnlyMode mode)
{
    const struct node *n = backend_node(b);

    switch (mode) {
    case BLOCKDEV_CHANGE_READ_ONLY_MODE_READ_ONLY:
        return true;
    case BLOCKDEV_CHANGE_READ_ONLY_MODE_READ_WRITE:
        return false;
    default:
        return n ? node_is_read_only(n) : backend_read_only_wanted(b);
    }
}

/*
 * The old one goes first: the new one may be of the same file.  It goes back
 * if the new one cannot be had (I1).
 */
static bool exchange(struct backend *b, struct node *new_node,
                     struct error **errp)
{
    struct node *old = backend_node(b);
    bool ok;

    node_ref(old);
    backend_remove(b);
    /* While that yielded somebody may have put in another one. */
    if (backend_node(b)) {
        error_set(errp, "There already is a medium in the device");
        ok = false;
    } else {
        ok = put_medium_in(b, new_node, errp);
        if (!ok) {
            put_medium_in(b, old, NULL);
        }
    }
    node_unref(old);
    return ok;
}

/* B is looked at again: opening NEW_NODE took a while. */
static bool change_medium(struct backend *b, const char *name,
                          struct node *new_node, struct error **errp)
{
    bool ok;

    if (!check_removable(b, name, errp) || !check_unused(b, errp)) {
        return false;
    }
    ok = backend_node(b) ? exchange(b, new_node, errp)
                         : put_medium_in(b, new_node, errp);
    if (ok) {
        backend_set_read_only_wanted(b, node_is_read_only(new_node));
        move_tray(b, true);
        move_tray(b, false);
    }
    return ok;
}

bool qmp_blockdev_change_medium(const BlockdevChangeMediumArgs *args,
                                struct error **errp)
{
    struct backend *b = backend_lookup(args->device, args->id, errp);
    BlockdevChangeReadOnlyMode mode = args->has_read_only_mode
        ? args->read_only_mode : BLOCKDEV_CHANGE_READ_ONLY_MODE_RETAIN;
    struct node *n, *like;
    bool ok = false;

    if (!b) {
        return false;
    }
    backend_ref(b);
    like = backend_node(b) ? node_ref(backend_node(b)) : NULL;
    n = node_open_medium(args->filename, args->format,
                         wants_read_only(b, mode), like, errp);
    if (n) {
        ok = change_medium(b, args->device ? args->device : args->id, n,
                           errp);
    }
    node_unref(like);
    node_unref(n);
    backend_unref(b);
    return ok;
}
