/* SPDX-License-Identifier: MIT */
/* HMP's commands for the NBD server. */
#include "server/hmp/command.h"

#include <stdlib.h>
#include <string.h>
#include "block/backend.h"
#include "block/node.h"
#include "qapi/qapi-commands.h"

/* HOST:PORT or [HOST]:PORT; *HOST and *PORT are owned. */
static bool parse_inet(const char *text, char **host, char **port,
                       struct error **errp)
{
    const char *colon = strrchr(text, ':');
    const char *begin = text, *end = colon;

    if (colon && text[0] == '[' && colon > text && colon[-1] == ']') {
        begin = text + 1;
        end = colon - 1;
    } else if (!colon || strchr(text, ':') != colon) {
        colon = NULL;
    }
    if (!colon || !colon[1] || strpbrk(colon, ", ")) {
        error_set(errp, "error parsing address '%s'", text);
        return false;
    }
    *host = g_strndup(begin, end - begin);
    *port = g_strdup(colon + 1);
    return true;
}

static bool start_at(const char *text, struct error **errp)
{
    SocketAddressLegacy addr = { .type = SOCKET_ADDRESS_TYPE_INET };
    const NbdServerStartArgs args = { .addr = &addr };
    g_autofree char *host = NULL, *port = NULL;
    UnixSocketAddress local = { 0 };
    InetSocketAddress inet = { 0 };

    if (g_str_has_prefix(text, "unix:")) {
        local.path = (char *)text + strlen("unix:");
        addr.type = SOCKET_ADDRESS_TYPE_UNIX;
        addr.u.q_unix.data = &local;
    } else {
        if (!parse_inet(text, &host, &port, errp)) {
            return false;
        }
        inet.host = host;
        inet.port = port;
        addr.u.inet.data = &inet;
    }
    return qmp_nbd_server_start(&args, errp);
}

/* Every device that has a medium; its name is the export's. */
static bool export_all(bool writable, struct error **errp)
{
    g_autoptr(GPtrArray) names = g_ptr_array_new_with_free_func(g_free);

    for (struct backend *b = backend_next(NULL); b; b = backend_next(b)) {
        if (*backend_name(b) && backend_node(b)) {
            g_ptr_array_add(names, g_strdup(backend_name(b)));
        }
    }
    for (guint i = 0; i < names->len; i++) {
        const NbdServerAddOptions args = {
            .device = names->pdata[i],
            .has_writable = true, .writable = writable,
        };

        if (!qmp_nbd_server_add(&args, errp)) {
            return false;
        }
    }
    return true;
}

void hmp_nbd_server_start(struct hmp *m, const struct hmp_args *a)
{
    const NbdServerStopArgs stop = { 0 };
    bool all = hmp_arg_flag(a, "all"), writable = hmp_arg_flag(a, "writable");
    struct error *err = NULL;

    if (writable && !all) {
        error_set(&err, "-w only valid together with -a");
    } else if (start_at(hmp_arg_text(a, "uri"), &err) && all &&
               !export_all(writable, &err)) {
        qmp_nbd_server_stop(&stop, NULL);
    }
    hmp_error(m, err);
}

void hmp_nbd_server_add(struct hmp *m, const struct hmp_args *a)
{
    const NbdServerAddOptions args = {
        .device = (char *)hmp_arg_text(a, "device"),
        .name = (char *)hmp_arg_text(a, "name"),
        .has_writable = true, .writable = hmp_arg_flag(a, "writable"),
    };
    struct error *err = NULL;

    qmp_nbd_server_add(&args, &err);
    hmp_error(m, err);
}

void hmp_nbd_server_remove(struct hmp *m, const struct hmp_args *a)
{
    const NbdServerRemoveArgs args = {
        .name = (char *)hmp_arg_text(a, "name"),
        .has_mode = true,
        .mode = hmp_arg_flag(a, "force") ? BLOCK_EXPORT_REMOVE_MODE_HARD
                                         : BLOCK_EXPORT_REMOVE_MODE_SAFE,
    };
    struct error *err = NULL;

    qmp_nbd_server_remove(&args, &err);
    hmp_error(m, err);
}

void hmp_nbd_server_stop(struct hmp *m, const struct hmp_args *a)
{
    const NbdServerStopArgs args = { 0 };
    struct error *err = NULL;

    qmp_nbd_server_stop(&args, &err);
    hmp_error(m, err);
}
