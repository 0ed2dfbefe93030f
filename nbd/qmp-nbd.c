/* SPDX-License-Identifier: MIT */
/*
 * QMP: the NBD server and exports.
 *
 * nbd-server-start/stop, nbd-server-add/remove, block-export-add/del,
 * query-block-exports; what QEMU calls them and how it words their errors.
 */
#include <stdlib.h>
#include <string.h>
#include "base/control.h"
#include "bitmaps/dirty-bitmap.h"
#include "block/driver.h"
#include "block/objects/iothread.h"
#include "block/objects/tls-creds.h"
#include "nbd/nbd.h"
#include "nbd/protocol.h"
#include "nbd/server.h"
#include "nbd/export.h"
#include "qapi/qapi-commands.h"

enum {
    DEFAULT_MAX_CONNECTIONS = 100,
    DEFAULT_HANDSHAKE_SECONDS = 10,
};

/* A server that commands mean. */
struct entry {
    char *id;                   /* owned; "": the one without */
    struct nbd_server *server;  /* NULL: it waits for its address */
};

/* Under the control lock: struct entry. */
static GSList *servers;

static int (*fd_lookup)(const char *name, struct error **errp);

void nbd_set_fd_lookup(int (*lookup)(const char *name, struct error **errp))
{
    fd_lookup = lookup;
}

/* ---- the server --------------------------------------------------------- */

static struct nbd_listener *listen_inet(const InetSocketAddress *a,
                                        struct error **errp)
{
    struct nbd_inet_address address = {
        .host = a->host, .port = a->port, .to = a->has_to ? a->to : 0,
        .has_ipv4 = a->has_ipv4, .ipv4 = a->ipv4,
        .has_ipv6 = a->has_ipv6, .ipv6 = a->ipv6,
    };

    if (a->has_mptcp && a->mptcp) {
        error_set(errp, "Multipath TCP is not supported");
        return NULL;
    }
    return nbd_listen_inet(&address, errp);
}

static struct nbd_listener *listen_unix(const UnixSocketAddress *a,
                                        struct error **errp)
{
    struct nbd_unix_address address = {
        .path = a->path, .abstract = a->has_abstract && a->abstract,
        .tight = !a->has_tight || a->tight,
    };

    return nbd_listen_unix(&address, errp);
}

/* A descriptor that a monitor got, by name, or one we inherited, by number.
 * Control lock held. */
static int fd_by_name(const char *name, struct error **errp)
{
    char *end;
    long fd = strtol(name, &end, 10);

    if (g_ascii_isdigit(*name) && !*end && fd <= INT32_MAX) {
        return fd;
    }
    if (fd_lookup) {
        return fd_lookup(name, errp);
    }
    error_set(errp, "File descriptor named '%s' not found", name);
    return -1;
}

static struct nbd_listener *listen_at(const SocketAddress *a,
                                      struct error **errp)
{
    struct nbd_listener *l = NULL;
    int fd;

    switch (a->type) {
    case SOCKET_ADDRESS_TYPE_FD:
        fd = fd_by_name(a->u.fd.str, errp);
        return fd >= 0 ? nbd_listen_fd(fd, errp) : NULL;
    case SOCKET_ADDRESS_TYPE_INET:
        CONTROL_YIELD {
            l = listen_inet(&a->u.inet, errp);
        }
        return l;
    case SOCKET_ADDRESS_TYPE_UNIX:
        return listen_unix(&a->u.q_unix, errp);
    default:
        error_set(errp, "Socket address type is not supported");
        return NULL;
    }
}

/* A letter, then letters, digits, '-', '.', '_': as all ids. */
static bool id_well_formed(const char *id)
{
    if (!g_ascii_isalpha(*id)) {
        return false;
    }
    while (*++id) {
        if (!g_ascii_isalnum(*id) && !strchr("-._", *id)) {
            return false;
        }
    }
    return true;
}

/* ID NULL: the one without. */
static struct entry *find_server(const char *id)
{
    for (GSList *l = servers; l; l = l->next) {
        struct entry *e = l->data;

        if (strcmp(e->id, id ? id : "") == 0) {
            return e;
        }
    }
    return NULL;
}

/* The one that runs; NULL and errp. */
static struct nbd_server *running_server(const char *id, struct error **errp)
{
    struct entry *e = find_server(id);

    if (e && e->server) {
        return e->server;
    }
    if (id) {
        error_set(errp, "NBD server '%s' not running", id);
    } else {
        error_set(errp, "NBD server not running");
    }
    return NULL;
}

static void drop_server(struct entry *e)
{
    servers = g_slist_remove(servers, e);
    g_free(e->id);
    g_free(e);
}

static bool check_start(const NbdServerOptions *options, struct error **errp)
{
    if (options->id && !id_well_formed(options->id)) {
        error_set(errp, "Invalid NBD server id");
        return false;
    }
    if (!find_server(options->id)) {
        return true;
    }
    if (options->id) {
        error_set(errp, "NBD server '%s' already running", options->id);
    } else {
        error_set(errp, "NBD server already running");
    }
    return false;
}

/* The credentials, in use from now on; *CREDS is NULL without TLS. */
static bool get_tls(const NbdServerOptions *options, struct tls_creds **creds,
                    struct error **errp)
{
    *creds = NULL;
    if (!options->tls_creds) {
        if (options->tls_authz) {
            error_set(errp, "Parameter 'tls-authz' needs 'tls-creds'");
        }
        return !options->tls_authz;
    }
    *creds = tls_creds_get(options->tls_creds,
                           Q_CRYPTO_TLS_CREDS_ENDPOINT_SERVER, errp);
    if (!*creds) {
        return false;
    }
    /* Whom to let in cannot be said of clients that nobody knows. */
    if (options->tls_authz && !tls_creds_identify(*creds)) {
        error_set(errp, "Parameter 'tls-authz' needs credentials that show "
                  "who a client is, '%s' does not", options->tls_creds);
        object_put(&(*creds)->base);
        return false;
    }
    return true;
}

bool nbd_start(const NbdServerOptions *options, struct error **errp)
{
    struct nbd_server_options server = {
        .max_connections = DEFAULT_MAX_CONNECTIONS,
        .handshake_max_seconds = DEFAULT_HANDSHAKE_SECONDS,
    };
    struct nbd_listener *l;
    struct entry *e;

    control_assert();
    if (!check_start(options, errp) ||
        !get_tls(options, &server.tls_creds, errp)) {
        return false;
    }
    server.tls_authz = options->tls_authz;
    if (options->has_max_connections) {
        server.max_connections = MIN(options->max_connections, INT32_MAX);
    }
    if (options->has_handshake_max_seconds) {
        server.handshake_max_seconds =
            MIN(options->handshake_max_seconds, INT32_MAX);
    }
    e = g_new0(struct entry, 1);
    e->id = g_strdup(options->id ? options->id : "");
    servers = g_slist_append(servers, e);
    l = listen_at(options->addr, errp);
    if (l) {
        e->server = nbd_server_new(l, &server, errp);
    }
    if (e->server) {
        return true;
    }
    drop_server(e);
    if (server.tls_creds) {
        object_put(&server.tls_creds->base);
    }
    return false;
}

/* The older form of an address is nested deeper; nothing is copied. */
bool qmp_nbd_server_start(const NbdServerStartArgs *args, struct error **errp)
{
    SocketAddress addr = { .type = args->addr->type };
    NbdServerOptions options = {
        .addr = &addr,
        .id = args->id,
        .tls_creds = args->tls_creds,
        .tls_authz = args->tls_authz,
        .has_max_connections = args->has_max_connections,
        .max_connections = args->max_connections,
        .has_handshake_max_seconds = args->has_handshake_max_seconds,
        .handshake_max_seconds = args->handshake_max_seconds,
    };

    switch (addr.type) {
    case SOCKET_ADDRESS_TYPE_INET:
        addr.u.inet = *args->addr->u.inet.data;
        break;
    case SOCKET_ADDRESS_TYPE_UNIX:
        addr.u.q_unix = *args->addr->u.q_unix.data;
        break;
    case SOCKET_ADDRESS_TYPE_FD:
        addr.u.fd = *args->addr->u.fd.data;
        break;
    default:
        break;
    }
    return nbd_start(&options, errp);
}

bool qmp_nbd_server_stop(const NbdServerStopArgs *args, struct error **errp)
{
    struct nbd_server *server = running_server(args->id, errp);

    if (!server) {
        return false;
    }
    drop_server(find_server(args->id));
    nbd_server_stop(server);
    return true;
}

void nbd_stop_all(void)
{
    control_assert();
    while (servers) {
        struct entry *e = servers->data;
        struct nbd_server *server = e->server;

        if (!server) {              /* its command is about to end */
            control_wait();
            continue;
        }
        drop_server(e);
        nbd_server_stop(server);
    }
    while (nbd_export_next(NULL)) {     /* of a server that is stopping */
        control_wait();
    }
}

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
    if (!id_well_formed(args->id)) {
        error_set(errp, "Invalid block export id");
        return false;
    }
    if (nbd_export_find_id(args->id)) {
        error_set(errp, "Block export id '%s' is already in use", args->id);
        return false;
    }
    return true;
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
    return true;
}

/* The id is fine; NODE is what ARGS->node_name or an older command's device means. */
static bool export_add(const BlockExportOptions *args, struct node *node,
                       struct error **errp)
{
    const BlockExportOptionsNbd *nbd = &args->u.nbd;
    struct nbd_export_options options = {
        .id = args->id,
        .name = nbd->name ? nbd->name : args->node_name,
        .description = nbd->description,
        .server = running_server(nbd->server, NULL),
        .node = node,
        .writable = args->has_writable && args->writable,
        .writethrough = args->has_writethrough && args->writethrough,
        .allocation_depth = nbd->has_allocation_depth && nbd->allocation_depth,
    };
    struct nbd_export *e;

    if (!check_node(args, node, errp) ||
        (nbd->server && !running_server(nbd->server, errp))) {
        return false;
    }
    e = nbd_export_new(&options, errp);
    if (!e) {
        return false;
    }
    if (!add_bitmaps(e, node, nbd->bitmaps, errp)) {
        nbd_export_abandon(e);
        return false;
    }
    nbd_export_publish(e);
    return true;
}

bool qmp_block_export_add(const BlockExportOptions *args, struct error **errp)
{
    struct node *node;

    if (!check_id(args, errp)) {
        return false;
    }
    node = node_lookup(NULL, args->node_name, errp);
    return node && export_add(args, node, errp);
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
    return check_id(&options, errp) && export_add(&options, node, errp);
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
