/* SPDX-License-Identifier: MIT */
/* Exports: see export.h. */
#include "nbd/export.h"

#include <string.h>
#include "base/control.h"
#include "base/trace.h"
#include "bitmaps/dirty-bitmap.h"
#include "nbd/conn.h"
#include "nbd/server.h"
#include "qapi/qapi-events.h"

/* Control lock and nbd_lock: either to read, both to write. */
static struct nbd_export *exports;      /* newest first */
static uint64_t last_serial;            /* under the control lock */

/* ---- finding ------------------------------------------------------------ */

struct nbd_export *nbd_export_next(const struct nbd_export *e)
{
    return e ? e->next : exports;
}

struct nbd_export *nbd_export_find_id(const char *id)
{
    struct nbd_export *e = exports;

    control_assert();
    while (e && strcmp(e->id, id) != 0) {
        e = e->next;
    }
    return e;
}

/* Control lock or nbd_lock held. */
static struct nbd_export *find_open(const struct nbd_server *server,
                                    const char *name)
{
    for (struct nbd_export *e = exports; e; e = e->next) {
        if (e->server == server && !e->closing && strcmp(e->name, name) == 0) {
            return e;
        }
    }
    return NULL;
}

struct nbd_export *nbd_export_find_name(const struct nbd_server *server,
                                        const char *name)
{
    LOCK_GUARD(&nbd_lock);
    return find_open(server, name);
}

struct nbd_export *nbd_export_get(struct nbd_server *server, const char *name)
{
    struct nbd_export *e;

    LOCK_GUARD(&nbd_lock);
    e = find_open(server, name);
    if (e) {
        e->n_refs++;
    }
    return e;
}

struct nbd_export **nbd_export_get_all(struct nbd_server *server)
{
    GPtrArray *all = g_ptr_array_new();

    LOCK_GUARD(&nbd_lock);
    for (struct nbd_export *e = exports; e; e = e->next) {
        if (e->server == server && !e->closing) {
            e->n_refs++;
            g_ptr_array_insert(all, 0, e);
        }
    }
    g_ptr_array_add(all, NULL);
    return (struct nbd_export **)g_ptr_array_free(all, false);
}

/* ---- making ------------------------------------------------------------- */

/* QEMU's words: an export's root has no name of its own. */
static char *export_describe(void *opaque)
{
    return g_strdup("an unnamed block device");
}

static char *bitmap_describe(void *opaque)
{
    const struct nbd_export *e = opaque;

    return g_strdup_printf("a bitmap of export '%s'", e->id);
}

/* Threads cannot ask the root: its node may be replaced under them. */
static void export_resized(void *opaque)
{
    struct nbd_export *e = opaque;

    if (e->root) {      /* not yet, while root_new() runs */
        atomic_store(&e->length_bytes, root_length(e->root));
    }
}

static const char *export_id(void *opaque)
{
    const struct nbd_export *e = opaque;

    return e->id;
}

static bool export_may_be_inactive(void *opaque)
{
    const struct nbd_export *e = opaque;

    return e->allow_inactive;
}

static const struct root_ops export_root_ops = {
    .describe = export_describe, .export_id = export_id,
    .may_be_inactive = export_may_be_inactive,
    .resized = export_resized,
};
static const struct root_ops bitmap_root_ops = { .describe = bitmap_describe };

static bool check_names(const struct nbd_export_options *o,
                        struct error **errp)
{
    if (!o->server) {
        error_set(errp, "NBD server not running");
        return false;
    }
    if (strlen(o->name) > NBD_MAX_STRING) {
        error_set(errp, "export name '%s' too long", o->name);
        return false;
    }
    if (o->description && strlen(o->description) > NBD_MAX_STRING) {
        error_set(errp, "description '%s' too long", o->description);
        return false;
    }
    if (nbd_export_find_name(o->server, o->name)) {
        error_set(errp, "NBD server already has export named '%s'", o->name);
        return false;
    }
    return true;
}

struct nbd_export *nbd_export_new(const struct nbd_export_options *options,
                                  struct error **errp)
{
    struct nbd_export *e = g_new0(struct nbd_export, 1);
    struct root_options root = {
        .name = "root", .ops = &export_root_ops, .opaque = e,
        .perm = PERM_CONSISTENT_READ, .shared = PERM_ALL,
    };

    control_assert();
    e->id = g_strdup(options->id);
    e->name = g_strdup(options->name);
    e->description = g_strdup(options->description);
    e->server = options->server;
    e->serial = ++last_serial;
    e->writable = options->writable;
    e->writethrough = options->writethrough;
    e->allocation_depth = options->allocation_depth;
    e->allow_inactive = options->allow_inactive;
    if (options->writable) {
        root.perm |= PERM_WRITE;
    }
    e->root = root_new(options->node, &root, errp);
    /* In QEMU's order: of two mistakes the same one is told.  Clients know
     * the size, so it stays. */
    if (!e->root || !check_names(options, errp) ||
        !root_set_perm(e->root, root.perm, PERM_ALL & ~PERM_RESIZE, errp)) {
        nbd_export_abandon(e);
        return NULL;
    }
    export_resized(e);
    if (options->backend) {
        nbd_guest_init(e, options->backend);
    }
    return e;
}

static bool bitmap_fits(struct nbd_export *e, struct dirty_bitmap *bitmap,
                        struct error **errp)
{
    const char *name = dirty_bitmap_name(bitmap);

    if (!dirty_bitmap_check(bitmap, DIRTY_BITMAP_ALLOW_RO, errp)) {
        return false;
    }
    for (size_t i = 0; i < e->n_bitmaps; i++) {
        if (strcmp(dirty_bitmap_name(e->bitmaps[i].bitmap), name) == 0) {
            error_set(errp, "Bitmap '%s' is given twice", name);
            return false;
        }
    }
    return true;
}

bool nbd_export_add_bitmap(struct nbd_export *e, struct node *node,
                           struct dirty_bitmap *bitmap, struct error **errp)
{
    struct root_options options = {
        .name = "bitmap", .ops = &bitmap_root_ops, .opaque = e,
        .perm = 0, .shared = PERM_ALL, .stay_on_node = true,
    };
    struct root *root;

    control_assert();
    if (!bitmap_fits(e, bitmap, errp)) {
        return false;
    }
    root = root_new(node, &options, errp);
    if (!root) {
        return false;
    }
    dirty_bitmap_set_busy(bitmap, true);
    e->bitmaps = g_renew(struct nbd_bitmap, e->bitmaps, e->n_bitmaps + 1);
    e->bitmaps[e->n_bitmaps++] = (struct nbd_bitmap){
        .context = g_strdup_printf("qemu:dirty-bitmap:%s",
                                   dirty_bitmap_name(bitmap)),
        .bitmap = bitmap, .root = root,
    };
    return true;
}

void nbd_export_publish(struct nbd_export *e)
{
    control_assert();
    LOCK_GUARD(&nbd_lock);
    e->next = exports;
    exports = e;
    trace(NBD, "export-add id=%s name=%s writable=%d", e->id, e->name,
          e->writable);
}

/* Let go of nodes and bitmaps.  May yield; E has no root in that time. */
static void export_release(struct nbd_export *e)
{
    struct root *root = g_steal_pointer(&e->root);

    nbd_guest_deinit(e);
    for (size_t i = 0; i < e->n_bitmaps; i++) {
        dirty_bitmap_set_busy(e->bitmaps[i].bitmap, false);
        root_free(&e->bitmaps[i].root);
    }
    if (root) {
        root_free(&root);
    }
}

static void export_free(struct nbd_export *e)
{
    for (size_t i = 0; i < e->n_bitmaps; i++) {
        g_free(e->bitmaps[i].context);
    }
    g_free(e->bitmaps);
    iothread_claim_remove(&e->claim);
    g_free((char *)e->claim.iothread);
    g_free(e->id);
    g_free(e->name);
    g_free(e->description);
    g_free(e);
}

static struct node *claimed_node(const struct iothread_claim *claim)
{
    const struct nbd_export *e = (const struct nbd_export *)
        ((const char *)claim - G_STRUCT_OFFSET(struct nbd_export, claim));

    return e->root ? root_node(e->root) : NULL;
}

void nbd_export_fix_iothread(struct nbd_export *e, const char *iothread)
{
    e->claim.iothread = g_strdup(iothread);
    e->claim.node = claimed_node;
    iothread_claim_add(&e->claim);
}

void nbd_export_abandon(struct nbd_export *e)
{
    export_release(e);
    export_free(e);
}

/* ---- the end ------------------------------------------------------------ */

/* Control lock held, closing and without references: nobody else has it. */
static void export_finish(struct nbd_export *e)
{
    g_autofree char *id = g_strdup(e->id);
    struct nbd_export **link = &exports;

    control_assert();
    export_release(e);
    lock_acquire(&nbd_lock);
    while (*link != e) {
        link = &(*link)->next;
    }
    *link = e->next;
    lock_release(&nbd_lock);
    trace(NBD, "export-gone id=%s", id);
    export_free(e);
    qapi_event_send_block_export_deleted(id);
    control_notify();
}

bool nbd_export_is_closing(struct nbd_export *e)
{
    LOCK_GUARD(&nbd_lock);
    return e->closing;
}

bool nbd_export_close(struct nbd_export *e, bool if_unused)
{
    bool close, finish;

    control_assert();
    lock_acquire(&nbd_lock);
    close = !e->closing && (e->n_conns == 0 || !if_unused);
    finish = close && e->n_refs == 0;
    if (close) {
        e->closing = true;
        nbd_server_shutdown_export(e->server, e);
    }
    lock_release(&nbd_lock);
    if (finish) {
        export_finish(e);
    } else if (close) {
        root_hurry(e->root);    /* connections end with their requests */
        nbd_guest_hurry(e);
    }
    return close;
}

void nbd_export_wait_gone(uint64_t serial)
{
    struct nbd_export *e;

    for (;;) {
        for (e = exports; e && e->serial != serial; e = e->next) {
            /* look on */
        }
        if (!e) {
            return;
        }
        control_wait();
    }
}

/* nbd_lock held.  True: the caller must finish E. */
static bool export_unref(struct nbd_export *e)
{
    g_assert(e->n_refs > 0);
    return --e->n_refs == 0 && e->closing;
}

void nbd_export_put(struct nbd_export **e)
{
    bool finish;

    lock_acquire(&nbd_lock);
    finish = export_unref(*e);
    lock_release(&nbd_lock);
    if (finish) {
        CONTROL_GUARD();
        export_finish(*e);
    }
    *e = NULL;
}

bool nbd_export_attach(struct nbd_export *e, struct nbd_conn *c)
{
    LOCK_GUARD(&nbd_lock);
    if (e->closing) {
        return false;
    }
    e->n_conns++;
    c->export = e;
    return true;
}

void nbd_export_detach(struct nbd_conn *c)
{
    struct nbd_export *e;

    lock_acquire(&nbd_lock);
    e = c->export;
    c->export = NULL;
    e->n_conns--;
    lock_release(&nbd_lock);
    nbd_export_put(&e);
}

/* ---- what clients are told ---------------------------------------------- */

uint16_t nbd_export_flags(const struct nbd_export *e, const struct nbd_conn *c)
{
    uint16_t flags = NBD_FLAG_HAS_FLAGS | NBD_FLAG_SEND_FLUSH |
                     NBD_FLAG_SEND_FUA | NBD_FLAG_SEND_CACHE;

    if (e->writable) {
        flags |= NBD_FLAG_SEND_TRIM | NBD_FLAG_SEND_WRITE_ZEROES |
                 NBD_FLAG_SEND_FAST_ZERO;
    } else {
        flags |= NBD_FLAG_READ_ONLY;
    }
    if (c->structured) {
        flags |= NBD_FLAG_SEND_DF;
    }
    if (c->extended) {
        flags |= NBD_FLAG_BLOCK_STAT_PAYLOAD;
    }
    /* A flush goes to the node, so it covers the writes of all clients. */
    if (nbd_server_multi_conn(e->server)) {
        flags |= NBD_FLAG_CAN_MULTI_CONN;
    }
    return flags;
}

int64_t nbd_export_length(const struct nbd_export *e)
{
    return atomic_load(&e->length_bytes);
}
