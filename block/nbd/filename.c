/* SPDX-License-Identifier: MIT */
/* File names of exports: see filename.h. */
#include "block/nbd/filename.h"

#include <string.h>

#define DEFAULT_PORT "10809"

static const char *const schemes[] = {
    "nbd", "nbd+tcp", "nbd+unix", "nbds", "nbds+tcp", "nbds+unix",
};

bool nbd_filename_matches(const char *name)
{
    for (size_t i = 0; i < G_N_ELEMENTS(schemes); i++) {
        size_t length = strlen(schemes[i]);

        if (strncmp(name, schemes[i], length) == 0 && name[length] == ':') {
            return true;
        }
    }
    return false;
}

/* ---- in ----------------------------------------------------------------- */

/* Strings are taken. */
static SocketAddress *inet_address(char *host, char *port)
{
    SocketAddress *a = SocketAddress_new0();

    a->type = SOCKET_ADDRESS_TYPE_INET;
    a->u.inet.host = host;
    a->u.inet.port = port;
    return a;
}

static SocketAddress *unix_address(char *path)
{
    SocketAddress *a = SocketAddress_new0();

    a->type = SOCKET_ADDRESS_TYPE_UNIX;
    a->u.q_unix.path = path;
    return a;
}

/* nbd:HOST:PORT or nbd:unix:PATH, then perhaps :exportname=EXPORT. */
static bool parse_old(const char *name, BlockdevOptionsNbd *o,
                      struct error **errp)
{
    static const char export_word[] = ":exportname=";
    const char *at = name + strlen("nbd:");
    const char *export = strstr(at, export_word);
    g_autofree char *where = export ? g_strndup(at, export - at)
                                    : g_strdup(at);
    char *colon;

    if (export && export[strlen(export_word)]) {
        o->export = g_strdup(export + strlen(export_word));
    }
    if (g_str_has_prefix(where, "unix:")) {
        o->server = unix_address(g_strdup(where + strlen("unix:")));
        return true;
    }
    colon = strrchr(where, ':');
    if (!colon || !colon[1]) {
        error_set(errp, "'%s' has no port", name);
        return false;
    }
    *colon = '\0';
    if (where[0] == '[' && colon[-1] == ']') {
        o->server = inet_address(g_strndup(where + 1, colon - where - 2),
                                 g_strdup(colon + 1));
    } else {
        o->server = inet_address(g_strdup(where), g_strdup(colon + 1));
    }
    return true;
}

/* What stands behind the question mark: socket, tls-creds, tls-hostname. */
static bool parse_query(const char *name, const char *query, char **socket,
                        BlockdevOptionsNbd *o, struct error **errp)
{
    g_autoptr(GHashTable) table = NULL;
    GHashTableIter iter;
    char *key, *value;

    if (!query) {
        return true;
    }
    table = g_uri_parse_params(query, -1, "&", G_URI_PARAMS_NONE, NULL);
    if (!table) {
        error_set(errp, "'%s' is not a valid URI", name);
        return false;
    }
    g_hash_table_iter_init(&iter, table);
    while (g_hash_table_iter_next(&iter, (void **)&key, (void **)&value)) {
        char **to = strcmp(key, "socket") == 0 ? socket
                    : strcmp(key, "tls-creds") == 0 ? &o->tls_creds
                    : strcmp(key, "tls-hostname") == 0 ? &o->tls_hostname
                    : NULL;

        if (!to) {
            error_set(errp, "'%s': unknown parameter '%s'", name, key);
            return false;
        }
        *to = g_strdup(value);
    }
    return true;
}

static bool check_parts(const char *name, bool is_unix, bool is_tls,
                        const char *host, const char *socket,
                        const BlockdevOptionsNbd *o, struct error **errp)
{
    if (is_unix && (!socket || (host && *host))) {
        error_set(errp, "'%s' needs '?socket=PATH' and no host", name);
    } else if (!is_unix && (socket || !host || !*host)) {
        error_set(errp, "'%s' needs a host and no socket", name);
    } else if (is_tls && !o->tls_creds) {
        error_set(errp, "'%s' needs '?tls-creds=ID'", name);
    } else if (!is_tls && (o->tls_creds || o->tls_hostname)) {
        error_set(errp, "'%s' has parameters of TLS but not its scheme",
                  name);
    } else {
        return true;
    }
    return false;
}

static bool parse_uri(const char *name, BlockdevOptionsNbd *o,
                      struct error **errp)
{
    g_autoptr(GUri) uri = g_uri_parse(name, G_URI_FLAGS_ENCODED_QUERY, NULL);
    g_autofree char *socket = NULL;
    const char *scheme, *path;
    bool is_unix, is_tls;
    int port;

    if (!uri) {
        error_set(errp, "'%s' is not a valid URI", name);
        return false;
    }
    scheme = g_uri_get_scheme(uri);
    is_unix = g_str_has_suffix(scheme, "+unix");
    is_tls = g_str_has_prefix(scheme, "nbds");
    if (!parse_query(name, g_uri_get_query(uri), &socket, o, errp) ||
        !check_parts(name, is_unix, is_tls, g_uri_get_host(uri), socket, o,
                     errp)) {
        return false;
    }
    path = g_uri_get_path(uri);
    path += *path == '/';
    o->export = *path ? g_strdup(path) : NULL;
    port = g_uri_get_port(uri);
    o->server = is_unix ? unix_address(g_steal_pointer(&socket))
                : inet_address(g_strdup(g_uri_get_host(uri)),
                               port > 0 ? g_strdup_printf("%d", port)
                                        : g_strdup(DEFAULT_PORT));
    return true;
}

BlockdevOptions *nbd_filename_parse(const char *name, struct error **errp)
{
    g_autoptr(BlockdevOptions) o = BlockdevOptions_new0();

    o->driver = BLOCKDEV_DRIVER_NBD;
    if (strstr(name, "://") ? parse_uri(name, &o->u.nbd, errp)
        : g_str_has_prefix(name, "nbd:") && parse_old(name, &o->u.nbd, errp)) {
        return g_steal_pointer(&o);
    }
    if (errp && !*errp) {
        error_set(errp, "'%s' is not a valid URI", name);
    }
    return NULL;
}

/* ---- out ---------------------------------------------------------------- */

/* Only what would be taken for something else is escaped. */
static char *escape(const char *text, const char *allowed)
{
    return g_uri_escape_string(text, allowed, true);
}

static char *unix_name(const UnixSocketAddress *a, const char *export)
{
    g_autofree char *path = escape(a->path, "/:@,;=!$'()*");

    if (a->has_abstract && a->abstract) {
        return g_strdup("");
    }
    return g_strdup_printf("nbd+unix://%s%s?socket=%s", export ? "/" : "",
                           export ? export : "", path);
}

static char *inet_name(const InetSocketAddress *a, const char *export)
{
    bool v6 = strchr(a->host, ':') != NULL;

    if (a->has_ipv4 || a->has_ipv6 || a->has_to) {
        return g_strdup("");
    }
    return g_strdup_printf("nbd://%s%s%s:%s%s%s", v6 ? "[" : "", a->host,
                           v6 ? "]" : "", a->port, export ? "/" : "",
                           export ? export : "");
}

char *nbd_filename_make(const BlockdevOptionsNbd *o)
{
    g_autofree char *export = o->export ? escape(o->export, "/:@,;=!$&'()*+")
                                        : NULL;

    if (o->tls_creds || o->x_dirty_bitmap) {
        return g_strdup("");
    }
    switch (o->server->type) {
    case SOCKET_ADDRESS_TYPE_INET:
        return inet_name(&o->server->u.inet, export);
    case SOCKET_ADDRESS_TYPE_UNIX:
        return unix_name(&o->server->u.q_unix, export);
    default:
        return g_strdup("");
    }
}
