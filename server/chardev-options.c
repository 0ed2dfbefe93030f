/* SPDX-License-Identifier: MIT */
/*
 * The text of --chardev and --qmp: see chardev-options.h.
 *
 * A word without "=" behind the first comma is an old way to write a switch:
 * "server" is server=on, "nowait" is wait=off.
 */
#include "server/chardev-options.h"

#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include "base/id.h"
#include "qapi/qapi.h"
#include "server/cmdline/text.h"

void chardev_options_free(struct chardev_options *o)
{
    if (o) {
        g_free(o->id);
        g_free(o->path);
        g_free(o->host);
        g_free(o->port);
        g_free(o->fd);
        g_free(o);
    }
}

/* ---- text to keys and values -------------------------------------------- */

/* Take the text of KEY out of OBJECT; NULL if it is not there. */
static char *take_text(json_t *object, const char *key)
{
    char *text = g_strdup(json_string_value(json_object_get(object, key)));

    if (text) {
        json_object_del(object, key);
    }
    return text;
}

/* *HAS (may be NULL): it was there.  Left alone otherwise. */
static bool take_switch(json_t *object, const char *key, bool *value,
                        bool *has, struct error **errp)
{
    g_autofree char *text = take_text(object, key);

    if (has) {
        *has = text != NULL;
    }
    if (!text) {
        return true;
    }
    if (strcmp(text, "on") && strcmp(text, "off")) {
        error_set(errp, "Parameter '%s' expects 'on' or 'off'", key);
        return false;
    }
    *value = !strcmp(text, "on");
    return true;
}

static bool take_reconnect(json_t *object, struct chardev_options *o,
                           struct error **errp)
{
    enum { MAX_MS = 1000 * 1000 * 1000 };
    static const struct {
        const char *key;
        int unit_ms;
    } keys[] = { { "reconnect", 1000 }, { "reconnect-ms", 1 } };

    for (size_t i = 0; i < G_N_ELEMENTS(keys); i++) {
        g_autofree char *text = take_text(object, keys[i].key);
        int64_t n = 0;
        char *end;

        if (!text) {
            continue;
        }
        n = g_ascii_strtoll(text, &end, 10);
        if (!*text || *end || n < 0 || n > MAX_MS / keys[i].unit_ms) {
            error_set(errp, "Parameter '%s' expects a number",
                      keys[i].key);
            return false;
        }
        o->reconnect_ms = n * keys[i].unit_ms;
    }
    if (o->reconnect_ms && o->server) {
        error_set(errp, "'reconnect' option is incompatible with socket in "
                  "server listen mode");
        return false;
    }
    return true;
}

/* ---- checks ------------------------------------------------------------- */

static bool check_id(const char *id, struct error **errp)
{
    if (!id) {
        error_set(errp, "chardev: no id specified");
        return false;
    }
    if (!id_is_well_formed(id)) {
        error_set(errp, "Parameter 'id' expects an identifier");
        error_append_hint(errp, "Identifiers consist of letters, digits, "
                          "'-', '.', '_', starting with a letter.\n");
        return false;
    }
    return true;
}

static bool take_family(json_t *object, struct chardev_options *o,
                        struct error **errp)
{
    bool v4 = false, v6 = false, has_v4, has_v6;

    if (!take_switch(object, "ipv4", &v4, &has_v4, errp) ||
        !take_switch(object, "ipv6", &v6, &has_v6, errp)) {
        return false;
    }
    if (has_v4 && has_v6 && !v4 && !v6) {
        error_set(errp, "Cannot disable IPv4 and IPv6 at same time");
        return false;
    }
    if (v4 != v6) {
        o->family = v4 ? AF_INET : AF_INET6;
    } else if (has_v4 != has_v6) {
        o->family = has_v4 ? AF_INET6 : AF_INET;    /* the other one is off */
    } else {
        o->family = AF_UNSPEC;
    }
    return true;
}

/* What would be spoken on the connection besides the monitor's language. */
static bool refuse_protocols(json_t *object, struct error **errp)
{
    static const char *const keys[] = { "telnet", "tn3270", "websocket" };
    g_autofree char *creds = take_text(object, "tls-creds");

    for (size_t i = 0; i < G_N_ELEMENTS(keys); i++) {
        bool on = false;

        if (!take_switch(object, keys[i], &on, NULL, errp)) {
            return false;
        }
        if (on) {
            error_set(errp, "Parameter '%s' is not supported for a channel",
                      keys[i]);
            return false;
        }
    }
    if (creds) {
        error_set(errp, "Parameter 'tls-creds' is not supported for a "
                  "channel");
    }
    return !creds;
}

static bool take_socket(json_t *object, struct chardev_options *o,
                        struct error **errp)
{
    bool has_wait, delay;

    if (!refuse_protocols(object, errp)) {
        return false;
    }

    o->path = take_text(object, "path");
    o->host = take_text(object, "host");
    o->port = take_text(object, "port");
    o->fd = take_text(object, "fd");
    o->wait = true;
    if (!!o->path + !!o->fd + !!(o->host || o->port) != 1) {
        error_set(errp, "One of 'path', 'fd' or 'host' option required");
        return false;
    }
    if (o->host && !o->port) {
        error_set(errp, "chardev: socket: no port given");
        return false;
    }
    if (o->port && o->port[strspn(o->port, "0123456789")] == '\0' &&
        (strlen(o->port) > 5 || atoi(o->port) > 65535)) {
        error_set(errp, "Port '%s' is out of range", o->port);
        return false;
    }
    if (o->port && !o->host) {
        o->host = g_strdup("");
    }
    if (!take_switch(object, "server", &o->server, NULL, errp) ||
        !take_switch(object, "wait", &o->wait, &has_wait, errp) ||
        !take_switch(object, "nodelay", &delay, NULL, errp) ||
        !take_family(object, o, errp) || !take_reconnect(object, o, errp)) {
        return false;
    }
    if (has_wait && !o->server) {
        error_set(errp, "'wait' option is incompatible with socket in "
                  "client connect mode");
        return false;
    }
    return true;
}

static bool take_path(json_t *object, struct chardev_options *o,
                      struct error **errp)
{
    o->path = take_text(object, "path");
    if (!o->path) {
        error_set(errp, "chardev: %s: no filename given",
                  o->kind == CHARDEV_FILE ? "file" : "pipe");
    }
    return o->path != NULL;
}

/* What KIND has of its own. */
static bool take_kind(json_t *object, const char *kind,
                      struct chardev_options *o, struct error **errp)
{
    static const char *const without_use[] = {
        "braille", "dbus", "memory", "msmouse", "mux", "parallel", "parport",
        "qemu-vdagent", "ringbuf", "serial", "spiceport", "spicevmc",
        "testdev", "tty", "udp", "vc", "wctablet",
    };
    bool unused;

    if (!strcmp(kind, "stdio")) {
        o->kind = CHARDEV_STDIO;
        return take_switch(object, "signal", &unused, NULL, errp);
    }
    if (!strcmp(kind, "socket")) {
        o->kind = CHARDEV_SOCKET;
        return take_socket(object, o, errp);
    }
    if (!strcmp(kind, "null")) {
        o->kind = CHARDEV_NULL;
        return true;
    }
    if (!strcmp(kind, "pty")) {
        o->kind = CHARDEV_PTY;
        o->path = take_text(object, "path");
        return true;
    }
    if (!strcmp(kind, "pipe")) {
        o->kind = CHARDEV_PIPE;
        return take_path(object, o, errp);
    }
    if (!strcmp(kind, "file")) {
        o->kind = CHARDEV_FILE;
        return take_path(object, o, errp) &&
            take_switch(object, "append", &o->append, NULL, errp);
    }
    for (size_t i = 0; i < G_N_ELEMENTS(without_use); i++) {
        if (!strcmp(kind, without_use[i])) {
            error_set(errp, "char driver '%s' is not supported", kind);
            return false;
        }
    }
    error_set(errp, "'%s' is not a valid char driver name", kind);
    return false;
}

/* What any of them may have: nothing is shared and nothing logged, as no
 * guest's device writes here. */
static bool take_common(json_t *object, struct error **errp)
{
    g_autofree char *log = take_text(object, "logfile");
    bool unused;

    return take_switch(object, "mux", &unused, NULL, errp) &&
        take_switch(object, "logappend", &unused, NULL, errp);
}

static bool take_all(json_t *object, struct chardev_options *o,
                     struct error **errp)
{
    g_autofree char *backend = take_text(object, "backend");
    void *left;

    o->id = take_text(object, "id");
    if (!check_id(o->id, errp)) {
        return false;
    }
    if (!backend) {
        error_set(errp, "chardev: \"%s\" missing backend", o->id);
        return false;
    }
    if (!take_kind(object, backend, o, errp) || !take_common(object, errp)) {
        return false;
    }
    left = json_object_iter(object);
    if (left) {
        error_set(errp, "Invalid parameter '%s'", json_object_iter_key(left));
    }
    return !left;
}

/* JSON's switches and numbers as the command line writes them. */
static void write_out(json_t *object)
{
    const char *key;
    json_t *value;
    void *unused;

    json_object_foreach_safe(object, unused, key, value) {
        if (json_is_boolean(value)) {
            json_object_set_new(object, key, json_string(
                json_is_true(value) ? "on" : "off"));
        } else if (json_is_integer(value)) {
            g_autofree char *text = g_strdup_printf(
                "%lld", (long long)json_integer_value(value));

            json_object_set_new(object, key, json_string(text));
        }
    }
}

struct chardev_options *chardev_options_parse(const char *text,
                                              struct error **errp)
{
    g_autofree char *expanded = text_is_json(text) ? g_strdup(text)
        : text_expand_switches(text);
    json_t *object = text_parse(expanded, "backend", errp);
    struct chardev_options *o;

    if (!object) {
        return NULL;
    }
    write_out(object);
    o = g_new0(struct chardev_options, 1);
    if (!take_all(object, o, errp)) {
        chardev_options_free(o);
        o = NULL;
    }
    json_decref(object);
    return o;
}

struct chardev_options *chardev_options_parse_where(const char *text,
                                                    const char *id,
                                                    struct error **errp)
{
    g_autofree char *long_text = NULL;
    const char *rest, *colon;

    if (!strcmp(text, "stdio") || !strcmp(text, "pty") ||
        !strcmp(text, "null")) {
        long_text = g_strdup_printf("%s,id=%s", text, id);
    } else if (g_str_has_prefix(text, "file:") ||
               g_str_has_prefix(text, "pipe:")) {
        long_text = g_strdup_printf("%.4s,id=%s,path=%s", text, id, text + 5);
    } else if (g_str_has_prefix(text, "unix:")) {
        long_text = g_strdup_printf("socket,id=%s,path=%s", id, text + 5);
    } else if (g_str_has_prefix(text, "tcp:")) {
        rest = text + 4;
        colon = rest + strcspn(rest, ",");
        while (colon > rest && *colon != ':') {
            colon--;    /* the last: an IPv6 address has others */
        }
        if (*colon != ':') {
            error_set(errp, "'%s' is not tcp:HOST:PORT", text);
            return NULL;
        }
        if (rest[0] == '[' && colon > rest && colon[-1] == ']') {
            long_text = g_strdup_printf("socket,id=%s,host=%.*s,port=%s", id,
                                        (int)(colon - rest - 2), rest + 1,
                                        colon + 1);
        } else {
            long_text = g_strdup_printf("socket,id=%s,host=%.*s,port=%s", id,
                                        (int)(colon - rest), rest, colon + 1);
        }
    } else {
        error_set(errp, "'%s' is not a valid char driver", text);
        error_append_hint(errp, "Valid are unix:PATH, tcp:HOST:PORT, stdio, "
                          "pty, pipe:PATH, file:PATH, chardev:ID, none.\n");
        return NULL;
    }
    return chardev_options_parse(long_text, errp);
}
