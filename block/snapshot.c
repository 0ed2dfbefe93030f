/* SPDX-License-Identifier: MIT */
/*
 * External snapshots: an overlay takes a node's place, the node becomes its
 * backing file.
 *
 * Invariants  I1  From new to free a node is claimed by one snapshot: a
 *                 second one is refused as it will be when the first is done.
 *             I2  The link to the node and the move of its parents are one
 *                 graph_change: nobody sees half of it, and permissions are
 *                 judged as they will be.
 *             I3  Undo moves back the parents that were moved, by serial
 *                 number, and no others: the overlay may have users of its
 *                 own (a mirror writes it).
 *             I4  What was written before the section is flushed and in the
 *                 node; what is written after it is in the overlay.
 * Threads     Control lock held.
 */
#include "block/snapshot.h"

#include <string.h>
#include "base/control.h"
#include "base/trace.h"
#include "bitmaps/dirty-bitmap.h"
#include "block/filename.h"
#include "block/graph-priv.h"
#include "block/inactive.h"
#include "block/new-image.h"
#include "block/reopen.h"
#include "qapi/qapi-visit.h"

/* A link that was moved from the node to the overlay. */
struct moved {
    struct child *child;        /* valid while it is on the overlay */
    bool is_root;
    uint64_t serial;            /* of its root, or id of its parent */
};

struct snapshot {
    struct node *node, *overlay;    /* owned references */
    bool names_node;            /* the overlay's header names the node */
    bool committed;
    bool made_inactive;         /* the overlay, for the node's sake */
    struct child *link;         /* prepared: overlay's "backing" */
    GArray *moved;              /* struct moved */
};

static GSList *claims;          /* struct snapshot *, newest first (I1) */

/* ---- life --------------------------------------------------------------- */

static bool check_unclaimed(const struct node *n, struct error **errp)
{
    for (GSList *l = claims; l; l = l->next) {
        const struct snapshot *s = l->data;

        if (s->node == n) {
            error_set(errp, "Node '%s' is busy: node is used as backing hd "
                      "of '%s'", node_name(n),
                      s->overlay ? node_name(s->overlay) : "");
            error_add_node(errp, node_name(n));
            return false;
        }
    }
    return true;
}

static struct snapshot *snapshot_claim(struct node *n, struct error **errp)
{
    struct snapshot *s;

    if (!node_op_allowed(n, NODE_OP_SNAPSHOT, errp) ||
        !check_unclaimed(n, errp)) {
        return NULL;
    }
    s = g_new0(struct snapshot, 1);
    s->node = node_ref(n);
    s->moved = g_array_new(FALSE, FALSE, sizeof(struct moved));
    claims = g_slist_prepend(claims, s);
    return s;
}

/* The snapshot is made; a node that somebody else writes, or that cannot store
 * its bitmaps, stays writable.  Queries show it. */
static void protect(struct node *n)
{
    AUTO_ERROR(err);

    if (n->read_only || !n->driver->reopen_prepare) {
        return;                 /* most filters never change */
    }
    if (!node_set_read_only(n, true, &err)) {
        error_prepend(&err, "Node '%s' stays writable below its overlay: ",
                      node_name(n));
        error_report(err);
    }
}

static void activate_again(struct node *overlay)
{
    AUTO_ERROR(err);

    if (!node_activate(overlay, &err)) {
        error_report(err);
    }
}

void snapshot_free(struct snapshot *s)
{
    if (!s) {
        return;
    }
    claims = g_slist_remove(claims, s);
    if (s->committed) {
        protect(s->node);
    } else if (s->made_inactive) {
        activate_again(s->overlay);
    }
    node_unref(s->overlay);
    node_unref(s->node);
    g_array_free(s->moved, TRUE);
    g_free(s);
}

/* ---- new: blockdev-snapshot --------------------------------------------- */

struct snapshot *snapshot_new(const BlockdevSnapshot *args,
                              struct error **errp)
{
    struct node *n = node_lookup(args->node, args->node, errp), *overlay;
    struct snapshot *s = n ? snapshot_claim(n, errp) : NULL;

    if (!s) {
        return NULL;
    }
    overlay = node_lookup(args->overlay, args->overlay, errp);
    if (!overlay) {
        snapshot_free(s);
        return NULL;
    }
    s->overlay = node_ref(overlay);
    return s;
}

/* ---- new: blockdev-snapshot-sync ---------------------------------------- */

/* Options of the format node, "file" set, for a file NAME. */
static BlockdevOptions *overlay_options(const struct driver *drv,
                                        const char *name, struct error **errp)
{
    g_autoptr(BlockdevOptions) o = BlockdevOptions_new0();
    g_autoptr(BlockdevOptions) file = NULL;
    BlockdevRef **ref;
    json_t *object;

    if (filename_is_json(name)) {
        object = filename_parse_json(name, errp);
        file = object ? BlockdevOptions_from_json(object, errp) : NULL;
        json_decref(object);
    } else {
        file = filename_protocol_options(name, errp);
    }
    if (!file) {
        return NULL;
    }
    if (file->driver == drv->type) {
        return g_steal_pointer(&file);  /* json: that has the format, too */
    }
    o->driver = drv->type;
    ref = drv->file_option(o);
    *ref = BlockdevRef_new0();
    (*ref)->type = QAPI_TYPE_OBJECT;
    (*ref)->u.definition = g_steal_pointer(&file);
    return g_steal_pointer(&o);
}

/* Open as the node is: writable or not, with its cache and discard modes. */
static void options_as_node(BlockdevOptions *o, const struct node *n,
                            const char *name)
{
    BlockdevRefOrNull **backing = driver_by_type(o->driver)->backing_option(o);

    g_free(o->node_name);
    o->node_name = g_strdup(name);
    o->has_read_only = true;
    o->read_only = n->read_only;
    if (!o->cache) {
        o->cache = BlockdevCacheOptions_new0();
    }
    o->cache->has_direct = o->cache->has_no_flush = true;
    o->cache->direct = n->cache_direct;
    o->cache->no_flush = n->cache_no_flush;
    o->has_discard = true;
    o->discard = n->discard_unmap ? BLOCKDEV_DISCARD_OPTIONS_UNMAP
                                  : BLOCKDEV_DISCARD_OPTIONS_IGNORE;
    BlockdevRefOrNull_free(*backing);
    *backing = BlockdevRefOrNull_new0();
    (*backing)->type = QAPI_TYPE_NULL;
}

static struct node *open_overlay(const struct node *n,
                                 const BlockdevSnapshotSync *args,
                                 const char *format, struct error **errp)
{
    const struct driver *drv = driver_find(format);
    g_autoptr(BlockdevOptions) o = NULL;

    if (!drv) {
        error_set(errp, "Unknown driver '%s'", format);
        return NULL;
    }
    if (!drv->supports_backing || !drv->file_option || !drv->backing_option) {
        error_set(errp, "The overlay does not support backing images");
        return NULL;
    }
    o = overlay_options(drv, args->snapshot_file, errp);
    if (!o) {
        return NULL;
    }
    options_as_node(o, n, args->snapshot_node_name);
    return node_open(o, errp);
}

static bool make_overlay(struct snapshot *s, const BlockdevSnapshotSync *args,
                         struct error **errp)
{
    bool existing = args->has_mode && args->mode == NEW_IMAGE_MODE_EXISTING;
    const char *format = args->format ? args->format : "qcow2";
    struct new_image image = {
        .filename = args->snapshot_file, .format = format,
        .length_bytes = node_length(s->node), .backing = s->node,
    };

    if (!existing && !new_image_create(&image, errp)) {
        return false;
    }
    s->overlay = open_overlay(s->node, args, format, errp);
    if (!s->overlay) {
        return false;
    }
    s->names_node = !existing;
    if (s->names_node) {
        /* Until it has its backing node its name is as it will be then: the
         * next snapshot of the same transaction writes it down. */
        g_clear_pointer(&s->overlay->auto_backing_file, g_free);
        node_filenames_changed();
    }
    return true;
}

static bool check_overlay_name(const BlockdevSnapshotSync *args,
                               struct error **errp)
{
    const char *name = args->snapshot_node_name;

    if (!name && args->node_name) {
        error_set(errp, "New overlay node-name missing");
        return false;
    }
    if (name && node_lookup(name, name, NULL)) {
        error_set(errp, "New overlay node-name already in use");
        return false;
    }
    return true;
}

struct snapshot *snapshot_new_sync(const BlockdevSnapshotSync *args,
                                   struct error **errp)
{
    struct node *n = node_lookup(args->device, args->node_name, errp);
    struct snapshot *s;

    s = n ? snapshot_claim(n, errp) : NULL;
    if (!s) {
        return NULL;
    }
    if (!check_overlay_name(args, errp) || !make_overlay(s, args, errp)) {
        snapshot_free(s);
        return NULL;
    }
    return s;
}

void snapshot_add_nodes(struct snapshot *s, GPtrArray *nodes)
{
    g_ptr_array_add(nodes, s->node);
    g_ptr_array_add(nodes, s->overlay);
}

/* ---- prepare ------------------------------------------------------------ */

/* I4. */
static bool flush_node(struct node *n, struct error **errp)
{
    int ret = 0;

    if (n->read_only) {
        return true;
    }
    node_work_begin(n);
    CONTROL_YIELD {
        ret = node_flush(n);
    }
    node_work_end(n);
    if (ret < 0) {
        trace(GRAPH, "snapshot node-name=%s flush=%d", node_name(n), ret);
        error_set(errp, "An IO error has occurred");
        return false;
    }
    return true;
}

static bool check_overlay(const struct snapshot *s, struct error **errp)
{
    const struct node *o = s->overlay;

    if (o->perm & PERM_CONSISTENT_READ) {
        error_set(errp, "The overlay is already in use");
    } else if (o->driver->is_filter) {
        error_set(errp, "Filters cannot be used as overlays");
    } else if (!o->driver->supports_backing) {
        error_set(errp, "The overlay does not support backing images");
    } else if (o->backing) {
        error_set(errp, "The overlay already has a backing image");
    } else if (o == s->node || node_reaches(s->node, o)) {
        error_set(errp, "Making '%s' a backing child of '%s' would create a "
                  "cycle", node_name(s->node), node_name(o));
    } else {
        return true;
    }
    return false;
}

/* The links that are to be moved, oldest first (I3). */
static void collect_parents(struct snapshot *s)
{
    uint64_t mark = graph_new_mark();

    graph_mark_below(s->overlay, mark);
    for (struct child *c = s->node->parents; c; c = c->next_parent) {
        struct moved m = {
            .child = c, .is_root = c->root,
            .serial = c->root ? c->root->serial : c->parent->id,
        };

        if (!child_stays(c, mark)) {
            g_array_prepend_val(s->moved, m);
        }
    }
}

/* An overlay of an inactive node becomes inactive with it, as QEMU has it.
 * Not one with bitmaps: the transaction may have claimed them. */
static bool follow_inactive(struct snapshot *s, struct error **errp)
{
    struct node *o = s->overlay;

    if (!s->node->inactive || o->inactive ||
        dirty_bitmap_next(o->bitmaps, NULL)) {
        return true;
    }
    s->made_inactive = node_inactivate(o, errp);
    return s->made_inactive;
}

/* I2. */
static bool insert_overlay(struct snapshot *s, struct error **errp)
{
    struct graph_change *gc;
    struct child *c;

    collect_parents(s);
    gc = graph_change_begin();
    c = child_new(s->overlay, "backing", ROLE_COW);
    graph_change_link(gc, c, s->node);
    for (guint i = 0; i < s->moved->len; i++) {
        graph_change_move(gc, g_array_index(s->moved, struct moved, i).child,
                          s->overlay);
    }
    if (!graph_change_finish(gc, NULL, errp)) {
        g_free(c);
        g_array_set_size(s->moved, 0);
        return false;
    }
    s->link = c;
    return true;
}

bool snapshot_prepare(struct snapshot *s, struct error **errp)
{
    struct node *o = s->overlay;

    control_assert();
    /* The flush yields: look again behind it. */
    if (!node_op_allowed(s->node, NODE_OP_SNAPSHOT, errp) ||
        !check_overlay(s, errp) || !follow_inactive(s, errp) ||
        !flush_node(s->node, errp) ||
        !node_op_allowed(s->node, NODE_OP_SNAPSHOT, errp) ||
        !check_overlay(s, errp) || !insert_overlay(s, errp)) {
        return false;
    }
    if (s->names_node) {
        g_free(o->auto_backing_file);
        o->auto_backing_file = g_strdup(node_filename(s->node));
        node_filenames_changed();
    }
    trace(GRAPH, "snapshot node-name=%s overlay=%s moved=%u",
          node_name(s->node), node_name(o), s->moved->len);
    return true;
}

/* ---- commit, undo ------------------------------------------------------- */

void snapshot_commit(struct snapshot *s)
{
    s->committed = true;
}

static bool is_still_there(const struct moved *m, const struct node *overlay)
{
    for (const struct child *c = overlay->parents; c; c = c->next_parent) {
        if (c == m->child && m->is_root == (c->root != NULL) &&
            m->serial == (c->root ? c->root->serial : c->parent->id)) {
            return true;
        }
    }
    return false;
}

void snapshot_undo(struct snapshot *s)
{
    struct graph_change *gc;

    if (!s->link) {
        return;
    }
    gc = graph_change_begin();
    for (guint i = 0; i < s->moved->len; i++) {
        struct moved *m = &g_array_index(s->moved, struct moved, i);

        if (is_still_there(m, s->overlay)) {
            graph_change_move(gc, m->child, s->node);
        }
    }
    if (s->overlay->backing == s->link) {
        graph_change_unlink(gc, s->link);
    }
    graph_change_finish_nofail(gc, NULL);
    s->link = NULL;
}
