/* SPDX-License-Identifier: MIT */
/*
 * Opening: from options to nodes.
 *
 * Problem     A node stands on others that are named, nested in its options,
 *             or named by the image's header; reading headers takes time, in
 *             which the graph goes on changing; any of it may fail.
 * Answer      A session per outermost open.  Its nodes have their names from
 *             the start but are hidden; they are published together at the
 *             end, or all dropped.
 * Invariants  I1  A hidden node is used by its session only: nobody finds it,
 *                 no root is on it.  What it uses of the graph (by
 *                 reference) is held by its child links.
 *             I2  driver->open() runs with the control lock given up and
 *                 node.n_busy raised; no drain is active below then.
 *             I3  Nodes are published file first, then the node on it, then
 *                 its backing chain: the order of query-named-block-nodes.
 *                 Drivers with listed_first come before all below them.
 * Threads     Control lock; yields.
 */
#include "block/open-priv.h"

#include <string.h>
#include "base/control.h"
#include "base/trace.h"
#include "block/filename.h"

enum {
    MAX_NESTED = 64,        /* children within children in one open */
};

/* ---- options ------------------------------------------------------------ */

const BlockdevRef *options_file(const BlockdevOptions *o)
{
    const struct driver *drv = driver_by_type(o->driver);

    return drv && drv->file_option
           ? *drv->file_option((BlockdevOptions *)o) : NULL;
}

const BlockdevRefOrNull *options_backing(const BlockdevOptions *o)
{
    const struct driver *drv = driver_by_type(o->driver);

    return drv && drv->backing_option
           ? *drv->backing_option((BlockdevOptions *)o) : NULL;
}

/* ---- session ------------------------------------------------------------ */

void open_session_begin(struct open_session *s)
{
    *s = (struct open_session){ .done = g_ptr_array_new() };
}

void open_session_publish(struct open_session *s)
{
    for (guint i = 0; i < s->done->len; i++) {
        node_publish(s->done->pdata[i]);
    }
}

void open_session_end(struct open_session *s)
{
    for (guint i = s->done->len; i-- > 0;) {
        node_unref(s->done->pdata[i]);
    }
    g_ptr_array_free(s->done, TRUE);
}

/* ---- one node ----------------------------------------------------------- */

/* The node that REF means for a child of N; owned. */
static struct node *open_ref(struct node *n, const BlockdevRef *ref,
                             const char *child_name, unsigned role,
                             struct error **errp)
{
    struct open_place place = { .parent = n, .role = role };

    if (!ref) {
        error_set(errp, "Parameter '%s' is missing", child_name);
        return NULL;
    }
    return ref->type == QAPI_TYPE_STRING
           ? open_reference(n->opening, ref->u.reference, errp)
           : open_tree(n->opening, ref->u.definition, &place, errp);
}

/*
 * N gets its name and its children.  What "file" is comes first: of several
 * things that are wrong QEMU tells those below first.
 */
static bool open_children(struct node *n, const char *name, struct node *file,
                          struct error **errp)
{
    const struct driver *drv = n->driver;
    const char *child_name = drv->file_child_name ? drv->file_child_name
                                                  : "file";
    unsigned role = drv->file_role ? drv->file_role(n->options)
                    : drv->is_filter ? ROLE_FILTERED | ROLE_PRIMARY
                    : ROLE_IMAGE;
    bool ok;

    if (file) {
        file->inherits_from = n->id;    /* probing had opened it */
        node_ref(file);
    } else if (drv->file_option) {
        file = open_ref(n, options_file(n->options), child_name, role, errp);
        if (!file) {
            return false;
        }
    }
    ok = options_check(n->options, errp) &&
         node_take_name(n, name, errp) &&
         (!file || node_attach_child(n, file, child_name, role, errp)) &&
         (!drv->open_children || drv->open_children(n, n->options, errp));
    node_unref(file);
    return ok;
}

/* I2. */
static bool open_driver(struct node *n, struct error **errp)
{
    AUTO_ERROR(err);
    int ret = 0;

    while (drain_covers(n) && !control_in_loop_thread()) {
        control_wait();
    }
    n->n_busy++;
    CONTROL_YIELD {
        if (n->driver->open) {
            ret = n->driver->open(n, n->options, &err);
        }
    }
    n->n_busy--;
    control_notify();
    if (ret < 0) {
        if (!err) {
            error_set_errno(&err, -ret, "Could not open '%s'", n->name);
        }
        error_add_errno(&err, -ret);
        error_add_node(&err, n->options->node_name);
        error_propagate(errp, g_steal_pointer(&err));
        return false;
    }
    n->opened = true;
    return true;
}

static void name_from_file(struct node *n)
{
    if (n->file && n->filename[0] == '\0') {
        g_free(n->filename);
        n->filename = g_strdup(n->file->node->filename);
    }
}

/* What an overlay shows of it is right whatever has become of the rest. */
static bool is_below_overlay(const struct open_place *place)
{
    return place->parent &&
           ((place->role & ROLE_COW) ||
            ((place->role & ROLE_FILTERED) && place->parent->use_anyway));
}

struct node *open_one(struct open_session *s, const BlockdevOptions *options,
                      const struct open_place *place, struct error **errp)
{
    const struct driver *drv = driver_by_type(options->driver);
    struct options_source from = { 0 };
    guint first = s->done->len;
    struct node *n;

    if (!drv) {
        error_set(errp, "Driver '%s' is not supported",
                  BlockdevDriver_str(options->driver));
        return NULL;
    }
    n = node_new_nameless(drv);
    n->opening = s;
    n->probed = place->probed;
    n->use_anyway = place->to_look || is_below_overlay(place);
    n->options = BlockdevOptions_clone(options);
    if (place->parent) {
        from = options_source_of(place->parent);
        n->inherits_from = place->parent->id;
    } else if (place->from) {
        from = *place->from;
    }
    n->inherited = options_inherit(n->options, &from, place->role);
    options_apply(n, n->options);
    n->inactive = !n->options->active;
    if (!open_children(n, options->node_name, place->file, errp)) {
        node_unref(n);
        return NULL;
    }
    name_from_file(n);
    if (!open_driver(n, errp)) {
        node_unref(n);
        return NULL;
    }
    node_refresh_limits(n);
    if (n->header_backing_file && n->header_backing_file[0] == '\0') {
        g_clear_pointer(&n->header_backing_file, g_free);
    }
    if (!n->auto_backing_file) {
        n->auto_backing_file = g_strdup(n->header_backing_file);
    }
    g_ptr_array_insert(s->done, drv->listed_first ? (int)first : -1,
                       node_ref(n));
    trace(GRAPH, "node-open node-name=%s driver=%s", n->name, drv->name);
    return n;
}

/* ---- a node and its backing chain --------------------------------------- */

struct node *open_tree(struct open_session *s, const BlockdevOptions *options,
                       const struct open_place *place, struct error **errp)
{
    struct node *n;

    if (s->n_nested >= MAX_NESTED) {
        error_set(errp, "Block nodes are nested too deeply");
        return NULL;
    }
    s->n_nested++;
    n = open_one(s, options, place, errp);
    if (n && !open_backing_chain(s, n, errp)) {
        node_unref(n);
        n = NULL;
    }
    s->n_nested--;
    return n;
}

struct node *open_reference(struct open_session *s, const char *name,
                            struct error **errp)
{
    struct node *n = s ? node_find_hidden(name) : NULL;

    if (!n || n->opening != s) {
        n = node_lookup(name, name, errp);
    }
    return n ? node_ref(n) : NULL;
}

struct child *node_open_child(struct node *n, const BlockdevRef *ref,
                              const char *child_name, unsigned role,
                              struct error **errp)
{
    struct child *c = NULL;
    struct node *below;

    control_assert();
    g_assert(n->opening);
    below = open_ref(n, ref, child_name, role, errp);
    if (below) {
        c = node_attach_child(n, below, child_name, role, errp);
        node_unref(below);
    }
    return c;
}

/* ---- from outside ------------------------------------------------------- */

struct node *node_open(const BlockdevOptions *options, struct error **errp)
{
    struct open_place top = { 0 };
    struct open_session s;
    struct node *n;

    control_assert();
    open_session_begin(&s);
    n = open_tree(&s, options, &top, errp);
    if (n) {
        open_session_publish(&s);
    }
    open_session_end(&s);
    return n;
}

struct node *node_open_ref(const BlockdevRef *ref, struct error **errp)
{
    return ref->type == QAPI_TYPE_STRING
           ? open_reference(NULL, ref->u.reference, errp)
           : node_open(ref->u.definition, errp);
}

/* A session for one name, and for the chain below if it is wanted. */
static struct node *open_name_alone(const struct open_name *name,
                                    bool to_look, struct error **errp)
{
    struct open_place top = { .to_look = to_look };
    struct open_session s;
    struct node *n;

    control_assert();
    open_session_begin(&s);
    n = open_by_name(&s, name, &top, errp);
    if (n && !open_backing_chain(&s, n, errp)) {
        node_unref(n);
        n = NULL;
    }
    if (n) {
        open_session_publish(&s);
    }
    open_session_end(&s);
    return n;
}

struct node *node_open_filename(const char *filename, const char *format,
                                bool read_only,
                                const BlockdevRefOrNull *backing,
                                struct error **errp)
{
    struct open_name name = {
        .filename = filename, .format = format, .backing = backing,
        .has_read_only = true, .read_only = read_only,
    };

    return open_name_alone(&name, false, errp);
}

struct node *node_open_medium(const char *filename, const char *format,
                              bool read_only, const struct node *like,
                              struct error **errp)
{
    struct open_name name = {
        .filename = filename, .format = format,
        .has_read_only = true, .read_only = read_only, .like = like,
    };

    return open_name_alone(&name, false, errp);
}

struct node *node_open_target(const struct node_target *target,
                              struct error **errp)
{
    BlockdevRefOrNull none = { .type = QAPI_TYPE_NULL };
    struct open_name name = {
        .filename = target->filename, .format = target->format,
        .backing = &none, .has_read_only = true,
        .node_name = target->node_name, .like = target->like,
    };

    return open_name_alone(&name, false, errp);
}

struct node *node_open_to_look(const char *filename, const char *format,
                               bool chain, bool force_share,
                               struct error **errp)
{
    BlockdevRefOrNull none = { .type = QAPI_TYPE_NULL };
    struct open_name name = {
        .filename = filename, .format = format,
        .backing = chain ? NULL : &none,
        .has_read_only = true, .read_only = true, .force_share = force_share,
    };

    return open_name_alone(&name, true, errp);
}
