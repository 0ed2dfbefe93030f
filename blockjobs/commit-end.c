/* SPDX-License-Identifier: MIT */
/*
 * The end of a commit: what was above the layers is above the base, in the
 * headers and in the graph.
 *
 * Invariants  I1  A header names the base only when the base has, on stable
 *                 storage, all that the layers showed: whoever opens the
 *                 overlay, whenever we die, reads the same.
 *             I2  The graph changes when every header is rewritten; overlays
 *                 that came meanwhile are seen to first.
 * Threads     Control lock.
 */
#include "blockjobs/commit-priv.h"

#include "base/control.h"
#include "block/graph-priv.h"
#include "block/reopen.h"

struct overlay {
    struct node *node;          /* ref */
    char *file, *format;        /* owned: what its header said */
    char *auto_file;            /* owned; see struct node */
    bool made_writable, renamed;
};

struct commit_end {
    struct node *filter, *base; /* borrowed */
    char *file, *format;        /* owned: what headers are to say */
    bool by_user;               /* the file is the user's choice */
    bool replaced;
    GPtrArray *overlays;        /* struct overlay, owned */
};

static void overlay_free(void *opaque)
{
    struct overlay *o = opaque;

    node_unref(o->node);
    g_free(o->file);
    g_free(o->format);
    g_free(o->auto_file);
    g_free(o);
}

struct commit_end *commit_end_new(struct node *filter, struct node *base,
                                  const char *backing_file,
                                  bool mask_protocol)
{
    struct commit_end *e = g_new0(struct commit_end, 1);
    struct node *image = node_skip_filters(base);

    control_assert();
    e->filter = filter;
    e->base = base;
    e->by_user = backing_file;
    e->file = g_strdup(backing_file ? backing_file : node_filename(image));
    e->format = g_strdup(mask_protocol && image->driver->is_protocol
                         ? "raw" : node_driver_name(image));
    e->overlays = g_ptr_array_new_with_free_func(overlay_free);
    return e;
}

/* ---- one header --------------------------------------------------------- */

static bool write_header(struct node *n, const char *file, const char *format,
                         struct error **errp)
{
    AUTO_ERROR(err);
    int ret = 0;

    if (!n->driver->change_backing_file) {
        error_set(errp, "Block format '%s' used by node '%s' cannot change "
                  "its backing file", node_driver_name(n), node_name(n));
        return false;
    }
    node_work_begin(n);
    CONTROL_YIELD {
        ret = n->driver->change_backing_file(n, file, format, &err);
    }
    node_work_end(n);
    if (ret < 0) {
        error_prepend(&err, "Could not change the backing file of '%s' to "
                      "'%s': ", node_name(n), file ? file : "");
        error_propagate(errp, g_steal_pointer(&err));
        return false;
    }
    return true;
}

/* What the header says now, whatever the backing node is. */
static void note_header(struct node *n, const char *file, const char *format,
                        const char *auto_file)
{
    g_free(n->header_backing_file);
    g_free(n->header_backing_format);
    g_free(n->auto_backing_file);
    n->header_backing_file = g_strdup(file);
    n->header_backing_format = g_strdup(format);
    n->auto_backing_file = g_strdup(auto_file);
    node_filenames_changed();
}

/* ---- overlays ----------------------------------------------------------- */

static struct overlay *find(const struct commit_end *e, const struct node *n)
{
    for (guint i = 0; i < e->overlays->len; i++) {
        struct overlay *o = e->overlays->pdata[i];

        if (o->node == n) {
            return o;
        }
    }
    return NULL;
}

/* An image whose backing file is N, or a filter over N, that was not seen. */
static struct node *next_overlay(const struct commit_end *e,
                                 const struct node *n)
{
    for (const struct child *c = n->parents; c; c = c->next_parent) {
        struct node *found = NULL;

        if (c->parent && (c->role & ROLE_COW)) {
            found = find(e, c->parent) ? NULL : c->parent;
        } else if (c->parent && (c->role & ROLE_FILTERED)) {
            found = next_overlay(e, c->parent);
        }
        if (found) {
            return found;
        }
    }
    return NULL;
}

static bool rename_overlay(struct commit_end *e, struct node *n,
                           struct error **errp)
{
    struct overlay *o = g_new0(struct overlay, 1);

    o->node = node_ref(n);
    /* A stream that has just put it above us may be writing its header. */
    while (atomic_load(&n->n_in_flight) > 0) {
        control_wait();
    }
    o->file = g_strdup(n->header_backing_file);
    o->format = g_strdup(n->header_backing_format);
    o->auto_file = g_strdup(n->auto_backing_file);
    g_ptr_array_add(e->overlays, o);
    if (n->read_only) {
        if (!node_set_read_only(n, false, errp)) {
            return false;
        }
        o->made_writable = true;
    }
    o->renamed = write_header(n, e->file, e->format, errp);
    return o->renamed;
}

bool commit_end_rename(struct commit_end *e, struct error **errp)
{
    struct node *n;

    control_assert();
    while ((n = next_overlay(e, e->filter))) {          /* I2 */
        if (!rename_overlay(e, n, errp)) {
            return false;
        }
    }
    return true;
}

bool commit_end_replace(struct commit_end *e, struct error **errp)
{
    control_assert();
    if (!node_replace(e->filter, e->base, errp)) {
        return false;
    }
    e->replaced = true;
    for (guint i = 0; i < e->overlays->len; i++) {
        struct node *n = ((struct overlay *)e->overlays->pdata[i])->node;

        if (e->by_user) {
            note_header(n, e->file, e->format, e->file);
        } else {
            node_set_header_backing(n, e->file, e->format);
        }
    }
    return true;
}

/* ---- putting back ------------------------------------------------------- */

static void put_back(const struct commit_end *e, struct overlay *o)
{
    AUTO_ERROR(err);

    if (o->renamed && !e->replaced) {
        if (!write_header(o->node, o->file, o->format, &err)) {
            error_report(err);      /* it names the base, which is as good */
            error_free(g_steal_pointer(&err));
        }
    }
    if (o->made_writable && !node_set_read_only(o->node, true, &err)) {
        error_prepend(&err, "Node '%s' stays writable: ",
                      node_name(o->node));
        error_report(err);
    }
}

void commit_end_free(struct commit_end *e)
{
    control_assert();
    if (!e) {
        return;
    }
    for (guint i = 0; i < e->overlays->len; i++) {
        put_back(e, e->overlays->pdata[i]);
    }
    g_ptr_array_free(e->overlays, TRUE);
    g_free(e->file);
    g_free(e->format);
    g_free(e);
}
