/* SPDX-License-Identifier: MIT */
/*
 * QMP: NBD servers: nbd-server-start and -stop, as QEMU has them, and with an
 * id for each but one.
 */
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include "base/control.h"
#include "base/id.h"
#include "block/objects/tls-creds.h"
#include "nbd/export.h"
#include "nbd/nbd.h"
#include "nbd/server.h"
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
        struct stat st;

        fd = fd_lookup(name, errp);
        if (fd >= 0 && (fstat(fd, &st) < 0 || !S_ISSOCK(st.st_mode))) {
            error_set(errp, "File descriptor '%s' is not a socket", name);
            close(fd);
            return -1;
        }
        return fd;
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

struct nbd_server *nbd_running_server(const char *id, struct error **errp)
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
    if (options->id && !id_is_well_formed(options->id)) {
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
    struct nbd_server *server = nbd_running_server(args->id, errp);

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
