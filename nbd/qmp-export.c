/* SPDX-License-Identifier: MIT */
/*
 * QMP: exports: block-export-add and -del, query-block-exports, and what they
 * were called before (nbd-server-add, nbd-server-remove).
 */
#include <string.h>
#include "base/control.h"
#include "base/id.h"
#include "bitmaps/dirty-bitmap.h"
#include "block/driver.h"
#include "block/inactive.h"
#include "block/objects/iothread.h"
#include "nbd/export.h"
#include "nbd/nbd.h"
#include "nbd/protocol.h"
#include "nbd/server.h"
#include "qapi/qapi-commands.h"

/* ---- exports: adding ---------------------------------------------------- */

/* The nearest bitmap called NAME, from *NODE down the backing chain. */
static struct dirty_bitmap *find_bitmap_below(struct node **node,
                                              const char *name)
{
    for (struct node *n = *node; n;
         n = node_filtered(n) ? node_filtered(n) : node_backing(n)) {
        struct dirty_bitmap *bitmap = dirty_bitmap_find(n->bitmaps, name);

        if (bitmap) {
            *node = n;
            return bitmap;
        }
    }
    return NULL;
}

static struct node *find_bitmap_node(const char *name, struct error **errp)
{
    struct node *n = node_lookup(name, name, NULL);

    if (!n) {
        error_set(errp, "Node '%s' not found", name);
    }
    return n;
}

static bool add_bitmap(struct nbd_export *e, struct node *node,
                       const BlockDirtyBitmapOrStr *which, struct error **errp)
{
    struct dirty_bitmap *bitmap;

    if (which->type == QAPI_TYPE_STRING) {
        bitmap = find_bitmap_below(&node, which->u.local);
        if (!bitmap) {
            error_set(errp, "Bitmap '%s' is not found", which->u.local);
            return false;
        }
        /* It would change under a reader who thinks that nothing does.  Who
         * names the node knows that it is another one's (fleecing). */
        if (!e->writable && !node_is_read_only(node) &&
            dirty_bitmap_enabled(bitmap) && !dirty_bitmap_busy(bitmap)) {
            error_set(errp, "Enabled bitmap '%s' incompatible with readonly "
                      "export", which->u.local);
            return false;
        }
    } else {
        const BlockDirtyBitmap *external = which->u.external;

        node = find_bitmap_node(external->node, errp);
        if (!node) {
            return false;
        }
        bitmap = dirty_bitmap_find(node->bitmaps, external->name);
        if (!bitmap) {
            error_set(errp, "Dirty bitmap '%s' not found", external->name);
            return false;
        }
    }
    return nbd_export_add_bitmap(e, node, bitmap, errp);
}

static bool add_bitmaps(struct nbd_export *e, struct node *node,
                        const BlockDirtyBitmapOrStrList *bitmaps,
                        struct error **errp)
{
    for (size_t i = 0; bitmaps && i < bitmaps->n; i++) {
        if (!add_bitmap(e, node, bitmaps->v[i], errp)) {
            return false;
        }
    }
    return true;
}

static bool check_id(const BlockExportOptions *args, struct error **errp)
{
    if (!id_is_well_formed(args->id)) {
        error_set(errp, "Invalid block export id");
        return false;
    }
    if (nbd_export_find_id(args->id)) {
        error_set(errp, "Block export id '%s' is already in use", args->id);
        return false;
    }
    return true;
}

/* On its iothread: it shall fail rather than have another. */
static bool insists(const BlockExportOptions *args)
{
    return args->has_fixed_iothread && args->fixed_iothread;
}

static bool check_node(const BlockExportOptions *args, struct node *node,
                       struct error **errp)
{
    if (args->has_writable && args->writable && node_is_read_only(node)) {
        error_set(errp, "Cannot export read-only node as writable");
        return false;
    }
    if (args->iothread && !iothread_find(args->iothread)) {
        error_set(errp, "iothread \"%s\" not found", args->iothread);
        return false;
    }
    return !insists(args) ||
        iothread_claim_check(node, args->iothread, NULL, errp);
}

/* An export that does not live with an inactive node activates it.  Yields. */
static bool make_active(const BlockExportOptions *args, struct node *node,
                        struct error **errp)
{
    return (args->has_allow_inactive && args->allow_inactive) ||
           !node_is_inactive(node) || node_activate(node, errp);
}

/* NODE, held, is what ARGS->node_name or an older command's device means, and
 * DEVICE, if it is one, is that. */
static bool add_to_node(const BlockExportOptions *args, struct node *node,
                        struct backend *device, struct error **errp)
{
    const BlockExportOptionsNbd *nbd = &args->u.nbd;
    struct nbd_export_options options = {
        .id = args->id,
        .name = nbd->name ? nbd->name : args->node_name,
        .description = nbd->description,
        .node = node,
        .backend = device,
        .writable = args->has_writable && args->writable,
        .writethrough = args->has_writethrough && args->writethrough,
        .allocation_depth = nbd->has_allocation_depth && nbd->allocation_depth,
        .allow_inactive = args->has_allow_inactive && args->allow_inactive,
    };
    struct nbd_export *e;

    if (!check_node(args, node, errp) ||
        (nbd->server && !nbd_running_server(nbd->server, errp)) ||
        !make_active(args, node, errp) || !check_id(args, errp)) {
        return false;
    }
    /* After the yield. */
    options.server = nbd_running_server(nbd->server, NULL);
    e = nbd_export_new(&options, errp);
    if (!e) {
        return false;
    }
    if (!add_bitmaps(e, node, nbd->bitmaps, errp)) {
        nbd_export_abandon(e);
        return false;
    }
    if (insists(args)) {
        nbd_export_fix_iothread(e, args->iothread);
    }
    nbd_export_publish(e);
    return true;
}

/* The id is fine. */
static bool export_add(const BlockExportOptions *args, struct node *node,
                       struct backend *device, struct error **errp)
{
    bool ok;

    node_ref(node);
    if (device) {
        backend_ref(device);
    }
    ok = add_to_node(args, node, device, errp);
    backend_unref(device);
    node_unref(node);
    return ok;
}

bool qmp_block_export_add(const BlockExportOptions *args, struct error **errp)
{
    struct node *node;

    if (!check_id(args, errp)) {
        return false;
    }
    node = node_lookup(NULL, args->node_name, errp);
    return node && export_add(args, node, NULL, errp);
}

bool qmp_nbd_server_add(const NbdServerAddOptions *args, struct error **errp)
{
    BlockDirtyBitmapOrStr bitmap = {
        .type = QAPI_TYPE_STRING, .u.local = args->bitmap,
    };
    BlockDirtyBitmapOrStr *bitmap_pointer = &bitmap;
    BlockDirtyBitmapOrStrList bitmaps = { &bitmap_pointer, 1 };
    BlockExportOptions options = {
        .type = BLOCK_EXPORT_TYPE_NBD,
        .id = args->name ? args->name : args->device,
        .node_name = args->device,
        .has_writable = true,
        .u.nbd = {
            .name = args->name ? args->name : args->device,
            .description = args->description,
            .bitmaps = args->bitmap ? &bitmaps : NULL,
        },
    };
    struct node *node = node_lookup(args->device, args->device, errp);

    if (!node) {
        return false;
    }
    /* This command does not mind a read-only node. */
    options.writable = args->has_writable && args->writable &&
                       !node_is_read_only(node);
    return check_id(&options, errp) &&
           export_add(&options, node, backend_find(args->device), errp);
}

/* ---- exports: removing, listing ----------------------------------------- */

/* On success *SERIAL is of the export that goes. */
static bool close_export(const char *id, bool hard, uint64_t *serial,
                         struct error **errp)
{
    struct nbd_export *e = nbd_export_find_id(id);

    if (!e) {
        error_set(errp, "Export '%s' is not found", id);
        return false;
    }
    if (nbd_export_is_closing(e)) {
        error_set(errp, "Export '%s' is already shutting down", id);
        return false;
    }
    *serial = e->serial;
    if (!nbd_export_close(e, !hard)) {
        error_set(errp, "export '%s' still in use", id);
        error_append_hint(errp, "Use mode='hard' to force client "
                          "disconnect\n");
        return false;
    }
    return true;
}

bool qmp_block_export_del(const BlockExportDelArgs *args, struct error **errp)
{
    bool hard = args->has_mode && args->mode == BLOCK_EXPORT_REMOVE_MODE_HARD;
    uint64_t serial;

    return close_export(args->id, hard, &serial, errp);
}

/* Its event precedes the reply: the export is gone when this returns. */
bool qmp_nbd_server_remove(const NbdServerRemoveArgs *args,
                           struct error **errp)
{
    bool hard = args->has_mode && args->mode == BLOCK_EXPORT_REMOVE_MODE_HARD;
    uint64_t serial;

    if (!close_export(args->name, hard, &serial, errp)) {
        return false;
    }
    nbd_export_wait_gone(serial);
    return true;
}

BlockExportInfoList *qmp_query_block_exports(struct error **errp)
{
    BlockExportInfoList *list = BlockExportInfoList_new0();

    for (struct nbd_export *e = nbd_export_next(NULL); e;
         e = nbd_export_next(e)) {
        BlockExportInfo *info;

        if (!e->root) {         /* its node is closing */
            continue;
        }
        info = BlockExportInfo_new0();
        info->id = g_strdup(e->id);
        info->type = BLOCK_EXPORT_TYPE_NBD;
        info->node_name = g_strdup(node_name(root_node(e->root)));
        info->shutting_down = nbd_export_is_closing(e);
        qapi_list_append(list, info);
    }
    return list;
}
