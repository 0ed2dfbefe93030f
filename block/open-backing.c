/* SPDX-License-Identifier: MIT */
/*
 * Backing chains: what options or headers name, opened one below the other.
 *
 * Not recursive: a chain is as long as its files say.  It may not be longer
 * than the graph may be deep, and a file whose header was followed once must
 * not come again, by whatever name.
 */
#include "block/open-priv.h"

#include <sys/stat.h>
#include "base/control.h"
#include "block/filename.h"

struct file_id {
    dev_t dev;
    ino_t ino;
};

struct chain {
    struct open_session *session;
    GArray *ids;                /* struct file_id: host files whose headers
                                   were followed so far */
    GPtrArray *resolved;        /* nodes whose backing came from the header */
};

/* ---- loops -------------------------------------------------------------- */

static bool path_id(const char *path, struct file_id *id)
{
    g_autofree char *own = g_strdup(path);
    struct stat st;
    bool ok = false;

    CONTROL_YIELD {
        ok = stat(own, &st) == 0;
    }
    if (ok) {
        *id = (struct file_id){ .dev = st.st_dev, .ino = st.st_ino };
    }
    return ok;
}

static void note_file(struct chain *c, const struct node *n)
{
    struct file_id id;

    while (n->file) {
        n = n->file->node;
    }
    if ((n->driver->type == BLOCKDEV_DRIVER_FILE ||
         n->driver->type == BLOCKDEV_DRIVER_HOST_DEVICE) &&
        path_id(n->filename, &id)) {
        g_array_append_val(c->ids, id);
    }
}

static bool check_loop(struct chain *c, const char *name, struct error **errp)
{
    const char *path = filename_local_path(name);
    struct file_id id;

    if (!path || !path_id(path, &id)) {
        return true;        /* to open it tells what is wrong */
    }
    for (guint i = 0; i < c->ids->len; i++) {
        struct file_id *old = &g_array_index(c->ids, struct file_id, i);

        if (old->dev == id.dev && old->ino == id.ino) {
            error_set(errp, "Backing file '%s' creates an infinite loop",
                      name);
            return false;
        }
    }
    return true;
}

/* ---- one step ----------------------------------------------------------- */

static struct node *open_header_backing(struct chain *c, struct node *n,
                                        struct error **errp)
{
    struct open_place place = { .parent = n, .role = ROLE_COW };
    g_autofree char *filename = node_resolved_backing_name(n, errp);
    struct open_name name = { .filename = filename,
                              .format = n->header_backing_format };
    struct node *backing;

    note_file(c, n);
    if (!filename || !check_loop(c, filename, errp)) {
        return NULL;
    }
    backing = open_by_name(c->session, &name, &place, errp);
    if (backing) {
        g_ptr_array_add(c->resolved, n);
    }
    return backing;
}

/*
 * What N's backing node is to be, owned; NULL without error: none.  *GOES_ON:
 * it is new and may want one itself.
 */
static struct node *open_backing(struct chain *c, struct node *n,
                                 bool *goes_on, struct error **errp)
{
    struct open_place place = { .parent = n, .role = ROLE_COW };
    const BlockdevRefOrNull *ref = options_backing(n->options);

    *goes_on = true;
    if (!n->driver->supports_backing || n->backing) {
        return NULL;
    }
    if (!ref) {
        return n->header_backing_file ? open_header_backing(c, n, errp)
                                      : NULL;
    }
    switch (ref->type) {
    case QAPI_TYPE_OBJECT:
        return open_one(c->session, ref->u.definition, &place, errp);
    case QAPI_TYPE_STRING:
        *goes_on = false;
        /* An empty name is the old way to say null. */
        return ref->u.reference[0] == '\0'
               ? NULL : open_reference(c->session, ref->u.reference, errp);
    default:
        return NULL;
    }
}

/* N's backing node in *NEXT (borrowed) if it is to be looked at, too. */
static bool chain_step(struct chain *c, struct node *n, struct node **next,
                       struct error **errp)
{
    AUTO_ERROR(err);
    struct node *backing;
    struct child *child;
    bool goes_on;

    *next = NULL;
    backing = open_backing(c, n, &goes_on, &err);
    if (err) {
        error_prepend(&err, "Could not open backing file: ");
        error_propagate(errp, g_steal_pointer(&err));
    }
    if (!backing) {
        return !*errp;
    }
    child = node_attach_child(n, backing, "backing", ROLE_COW, errp);
    *next = child && goes_on ? backing : NULL;
    node_unref(backing);
    return child;
}

/* ---- the chain ---------------------------------------------------------- */

/* As nested opens would say it, but not five hundred times. */
static void prepend_depth(struct error **err, int depth)
{
    for (int i = 0; i < MIN(depth, 8); i++) {
        error_prepend(err, "Could not open backing file: ");
    }
}

/* From the end up: a name depends on the names below. */
static void remember_resolved(struct chain *c)
{
    for (guint i = c->resolved->len; i-- > 0;) {
        struct node *n = c->resolved->pdata[i];

        g_free(n->auto_backing_file);
        n->auto_backing_file = g_strdup(node_filename(node_backing(n)));
    }
}

bool open_backing_chain(struct open_session *s, struct node *n,
                        struct error **errp)
{
    g_autoptr(GArray) ids = g_array_new(FALSE, FALSE, sizeof(struct file_id));
    g_autoptr(GPtrArray) resolved = g_ptr_array_new();
    struct chain c = { .session = s, .ids = ids, .resolved = resolved };
    AUTO_ERROR(err);

    for (int depth = 0; n; depth++) {
        struct node *next;

        if (!chain_step(&c, n, &next, &err)) {
            prepend_depth(&err, depth);
            error_propagate(errp, g_steal_pointer(&err));
            return false;
        }
        n = next;
    }
    remember_resolved(&c);
    return true;
}
