/* SPDX-License-Identifier: MIT */
/* Backends: their life, media and front ends.  See backend.h. */
#include "block/backend-priv.h"

#include <errno.h>
#include <string.h>
#include "base/control.h"
#include "base/id.h"
#include "base/trace.h"
#include "block/graph-priv.h"
#include "block/inactive.h"

static struct backend *oldest, *newest;
static void (*forget_hook)(const struct backend *b);

/* ---- finding ------------------------------------------------------------ */

struct backend *backend_next(const struct backend *b)
{
    control_assert();
    return b ? b->next : oldest;
}

struct backend *backend_find(const char *name)
{
    struct backend *b = backend_next(NULL);

    if (!name || !name[0]) {
        return NULL;
    }
    while (b && g_strcmp0(b->name, name) != 0) {
        b = b->next;
    }
    return b;
}

/* The id, the path, or what is shown of the two. */
static bool dev_is_called(const struct backend_dev *dev, const char *id)
{
    return g_strcmp0(dev->id, id) == 0 || g_strcmp0(dev->path, id) == 0 ||
           g_strcmp0(dev->qdev, id) == 0;
}

struct backend *backend_find_by_dev(const char *id)
{
    struct backend *b = backend_next(NULL);

    while (b && !(id && b->dev && dev_is_called(b->dev, id))) {
        b = b->next;
    }
    return b;
}

struct backend *backend_lookup(const char *device, const char *id,
                               struct error **errp)
{
    struct backend *b;

    if (!device == !id) {
        error_set(errp, "Need exactly one of 'device' and 'id'");
        return NULL;
    }
    b = id ? backend_find_by_dev(id) : backend_find(device);
    if (!b) {
        error_set_class(errp, ERROR_DEVICE_NOT_FOUND, "Device '%s' not found",
                        id ? id : device);
    }
    return b;
}

struct backend *backend_of_node(const struct node *n)
{
    for (const struct child *c = n->parents; c; c = c->next_parent) {
        struct backend *b = c->root ? backend_of_root(c->root) : NULL;

        if (b && b->name) {
            return b;
        }
    }
    return NULL;
}

const char *backend_or_node_name(const struct node *n)
{
    const struct backend *b = backend_of_node(n);

    return b ? b->name : node_name(n);
}

/* A backup's filter is above its source before the job has a name. */
static bool filters(struct node *top, const struct node *n)
{
    while (top && top != n) {
        top = node_filtered(top);
    }
    return top;
}

char *backend_job_id(const char *wanted, const char *device)
{
    const struct node *n = wanted ? NULL : node_lookup(device, device, NULL);
    struct backend *b = backend_next(NULL);

    while (b && n && !(b->name && b->root && filters(root_node(b->root), n))) {
        b = b->next;
    }
    return g_strdup(wanted ? wanted : b && n ? b->name : "");
}

/* ---- the root ----------------------------------------------------------- */

static char *backend_describe(void *opaque)
{
    const char *name = backend_shown_name(opaque);

    return name[0] ? g_strdup_printf("block device '%s'", name) : NULL;
}

static void backend_drained_begin(void *opaque)
{
    backend_let_go_begin(opaque);
}

static void backend_drained_end(void *opaque)
{
    backend_let_go_end(opaque);
}

static void medium_changed(struct backend *b)
{
    if (b->dev && b->dev->medium_changed) {
        b->dev->medium_changed(b->dev);
    }
}

static void backend_resized(void *opaque)
{
    struct backend *b = opaque;

    if (b->root) {      /* not yet, while root_new() runs */
        medium_changed(b);
    }
}

/* While the machine stands still its devices do not write. */
static bool backend_may_be_inactive(void *opaque)
{
    const struct backend *b = opaque;

    return !b->dev || !inactive_machine_runs();
}

static const struct root_ops backend_root_ops = {
    .describe = backend_describe,
    .may_be_inactive = backend_may_be_inactive,
    .drained_begin = backend_drained_begin,
    .drained_end = backend_drained_end,
    .resized = backend_resized,
};

struct backend *backend_of_root(const struct root *r)
{
    return r->ops == &backend_root_ops ? r->opaque : NULL;
}

/* ---- life --------------------------------------------------------------- */

static bool check_name(const char *name, struct error **errp)
{
    if (!name[0] || !id_is_well_formed(name)) {
        error_set(errp, "Invalid device name");
        return false;
    }
    if (backend_find(name)) {
        error_set(errp, "Device with id '%s' already exists", name);
        return false;
    }
    if (node_find(name)) {
        error_set(errp, "Device name '%s' conflicts with an existing node "
                  "name", name);
        return false;
    }
    return true;
}

static void list_append(struct backend *b)
{
    b->prev = newest;
    if (newest) {
        newest->next = b;
    } else {
        oldest = b;
    }
    newest = b;
}

static void list_remove(struct backend *b)
{
    *(b->prev ? &b->prev->next : &oldest) = b->next;
    *(b->next ? &b->next->prev : &newest) = b->prev;
}

struct backend *backend_new(const struct backend_options *options,
                            struct error **errp)
{
    struct backend *b;

    control_assert();
    if (options->name && !check_name(options->name, errp)) {
        return NULL;
    }
    b = g_new0(struct backend, 1);
    b->name = g_strdup(options->name);
    b->serial = root_new_serial();
    b->n_refs = 1;
    b->with_dev = options->with_dev;
    b->read_only_wanted = options->read_only;
    b->perm = PERM_CONSISTENT_READ;
    b->shared = PERM_ALL;
    backend_set_on_error(b, options->on_read_error, options->on_write_error);
    b->writethrough = options->writethrough;
    b->users = USERS_CLOSED;
    b->stats = block_stats_new();
    backend_limits_init(b);
    list_append(b);
    trace(GRAPH, "backend-new name=%s", backend_name(b));
    return b;
}

struct backend *backend_ref(struct backend *b)
{
    control_assert();
    b->n_refs++;
    return b;
}

void backend_unref(struct backend *b)
{
    control_assert();
    if (!b) {
        return;
    }
    g_assert(b->n_refs > 0);
    if (b->n_refs > 1) {
        b->n_refs--;
        return;
    }
    while (b->root && b->n_refs == 1) {
        backend_remove(b);      /* somebody may find it, and fill it again */
    }
    if (--b->n_refs > 0) {
        return;
    }
    g_assert(!b->dev && !b->watchers);
    trace(GRAPH, "backend-gone name=%s", backend_name(b));
    list_remove(b);
    backend_limits_deinit(b);
    block_stats_free(b->stats);
    g_free(b->name);
    g_free(b);
}

void backend_set_forget_hook(void (*forget)(const struct backend *b))
{
    forget_hook = forget;
}

void backend_forget(struct backend *b)
{
    bool drop = b->with_dev;

    control_assert();
    if (forget_hook) {
        forget_hook(b);
    }
    b->with_dev = false;
    g_clear_pointer(&b->name, g_free);
    if (drop) {
        backend_unref(b);
    }
}

/* ---- medium ------------------------------------------------------------- */

const char *backend_name(const struct backend *b)
{
    return b->name ? b->name : "";
}

const char *backend_shown_name(const struct backend *b)
{
    const char *name = b->name ? b->name : b->dev ? b->dev->qdev : NULL;

    return name ? name : "";
}

struct root *backend_root(const struct backend *b)
{
    return b->root;
}

struct node *backend_node(const struct backend *b)
{
    return b->root ? root_node(b->root) : NULL;
}

bool backend_insert(struct backend *b, struct node *node, struct error **errp)
{
    struct root_options options = {
        .name = "root", .ops = &backend_root_ops, .opaque = b,
        .perm = b->perm, .shared = b->shared,
    };

    control_assert();
    g_assert(!b->root);
    b->root = root_new(node, &options, errp);
    if (!b->root) {
        return false;
    }
    atomic_fetch_and(&b->users, ~(uint64_t)USERS_CLOSED);
    medium_changed(b);
    return true;
}

void backend_watch(struct backend *b, struct backend_watcher *w)
{
    control_assert();
    w->next = b->watchers;
    b->watchers = w;
}

void backend_unwatch(struct backend *b, struct backend_watcher *w)
{
    struct backend_watcher **p = &b->watchers;

    control_assert();
    while (*p && *p != w) {
        p = &(*p)->next;
    }
    if (*p) {
        *p = w->next;
    }
}

/* Each is told once; what it does may change the list. */
static void tell_watchers(struct backend *b)
{
    struct backend_watcher *w;

    while ((w = b->watchers)) {
        b->watchers = w->next;
        w->medium_goes(w);
    }
}

static bool has_users(const struct backend *b)
{
    return atomic_load(&b->users) >= USERS_ONE;
}

void backend_remove(struct backend *b)
{
    struct root *root;

    control_assert();
    while (b->removing) {
        control_wait();
    }
    if (!b->root) {
        return;
    }
    b->removing = true;
    tell_watchers(b);
    atomic_fetch_or(&b->users, USERS_CLOSED);
    if (has_users(b)) {
        backend_let_go_begin(b);
        root_hurry(b->root);
        while (has_users(b)) {
            control_wait();
        }
        backend_let_go_end(b);
    }
    tell_watchers(b);           /* who came while that waited */
    root = g_steal_pointer(&b->root);
    root_free(&root);
    b->removing = false;
    control_notify();
    medium_changed(b);
}

bool backend_replace(struct backend *b, struct node *node,
                     struct error **errp)
{
    struct node *both[2];
    struct drain *d;
    bool ok;

    control_assert();
    if (!b->root) {
        return backend_insert(b, node, errp);
    }
    both[0] = node_ref(node);
    both[1] = node_ref(root_node(b->root));
    d = drain_begin(both, G_N_ELEMENTS(both));
    /* It may have gone meanwhile. */
    ok = b->root ? root_set_node(b->root, node, errp)
                 : backend_insert(b, node, errp);
    drain_end(&d);
    if (ok) {
        medium_changed(b);
    }
    node_unref(both[0]);
    node_unref(both[1]);
    return ok;
}

/* ---- front end ---------------------------------------------------------- */

struct backend_dev *backend_dev(const struct backend *b)
{
    return b->dev;
}

void backend_get_perm(const struct backend *b, unsigned *perm,
                      unsigned *shared)
{
    *perm = b->perm;
    *shared = b->shared;
}

bool backend_set_perm(struct backend *b, unsigned perm, unsigned shared,
                      struct error **errp)
{
    control_assert();
    if (b->root && !root_set_perm(b->root, perm, shared, errp)) {
        return false;
    }
    b->perm = perm;
    b->shared = shared;
    return true;
}

bool backend_attach_dev(struct backend *b, struct backend_dev *dev,
                        unsigned perm, unsigned shared, struct error **errp)
{
    control_assert();
    if (b->dev) {
        error_set(errp, "Drive '%s' is already in use by another block "
                  "device", backend_name(b));
        return false;
    }
    b->dev = dev;       /* conflicts name it */
    if (!backend_set_perm(b, perm, shared, errp)) {
        b->dev = NULL;
        return false;
    }
    backend_ref(b);
    return true;
}

void backend_detach_dev(struct backend *b)
{
    control_assert();
    if (!b->dev) {
        return;
    }
    b->dev = NULL;
    /* To give up is always possible. */
    backend_set_perm(b, PERM_CONSISTENT_READ, PERM_ALL, NULL);
    if (b->with_dev) {
        backend_forget(b);
    }
    backend_unref(b);
}
