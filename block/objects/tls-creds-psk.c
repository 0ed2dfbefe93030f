/* SPDX-License-Identifier: MIT */
/* tls-creds-psk: TLS with keys that both sides have had before. */
#include <string.h>
#include "base/control.h"
#include "block/objects/read-file.h"
#include "block/objects/secret.h"
#include "block/objects/tls-creds.h"

enum { MAX_KEYS_BYTES = 16 << 20 };

static bool load_server(struct tls_creds *c, struct error **errp)
{
    int ret;

    if (!tls_creds_load_dh(c, errp)) {
        return false;
    }
    if (gnutls_psk_allocate_server_credentials(&c->handle.psk_server) < 0) {
        error_set(errp, "Cannot allocate credentials");
        return false;
    }
    ret = gnutls_psk_set_server_credentials_file(c->handle.psk_server,
                                                 c->psk_path);
    if (ret < 0) {
        error_set(errp, "Cannot set PSK server credentials: %s",
                  gnutls_strerror(ret));
        return false;
    }
    if (c->dh) {
        gnutls_psk_set_server_dh_params(c->handle.psk_server, c->dh);
    }
    return true;
}

/* The key of USERNAME in TEXT, lines NAME:KEY, which is cut there; NULL:
 * none. */
static char *find_key(char *text, const char *username)
{
    size_t length = strlen(username);

    while (*text) {
        size_t line = strcspn(text, "\r\n");
        bool last = !text[line];

        text[line] = '\0';
        if (!strncmp(text, username, length) && text[length] == ':') {
            return text + length + 1;
        }
        text += line + !last;
    }
    return NULL;
}

static bool load_client(struct tls_creds *c, struct error **errp)
{
    const char *username = c->username ? c->username
        : TLS_PSK_DEFAULT_USERNAME;
    gnutls_datum_t key;
    char *text;
    size_t bytes;
    int ret = 0;

    text = object_read_file(c->psk_path, MAX_KEYS_BYTES, &bytes, errp);
    if (!text) {
        return false;
    }
    key.data = (uint8_t *)find_key(text, username);
    if (!key.data) {
        error_set(errp, "Username %s not found in PSK file %s", username,
                  c->psk_path);
        secret_wipe(&text, bytes);
        return false;
    }
    key.size = strlen((char *)key.data);
    ret = gnutls_psk_allocate_client_credentials(&c->handle.psk_client);
    if (ret == 0) {
        ret = gnutls_psk_set_client_credentials(c->handle.psk_client, username,
                                                &key, GNUTLS_PSK_KEY_HEX);
    }
    if (ret < 0) {
        error_set(errp, "Failed to set PSK client credentials: %s",
                  gnutls_strerror(ret));
    }
    secret_wipe(&text, bytes);
    return ret == 0;
}

static bool load(struct tls_creds *c, struct error **errp)
{
    return tls_creds_find(c, "keys.psk", true, &c->psk_path, errp) &&
        (tls_creds_is_server(c) ? load_server(c, errp)
                                : load_client(c, errp));
}

static void psk_fini(struct object *obj)
{
    struct tls_creds *c = (struct tls_creds *)obj;

    if (c->handle.any && tls_creds_is_server(c)) {
        gnutls_psk_free_server_credentials(c->handle.psk_server);
    } else if (c->handle.any) {
        gnutls_psk_free_client_credentials(c->handle.psk_client);
    }
    tls_creds_fini(c);
}

static bool psk_init(struct object *obj, const ObjectOptions *options,
                     struct error **errp)
{
    const TlsCredsPskProperties *o = &options->u.tls_creds_psk;
    struct tls_creds *c = (struct tls_creds *)obj;
    bool ok = false;

    if (o->username && o->endpoint == Q_CRYPTO_TLS_CREDS_ENDPOINT_SERVER) {
        error_set(errp, "username should not be set when endpoint=server");
        return false;
    }
    if (!tls_creds_init(c, (const TlsCredsProperties *)o,
                        ":+ECDHE-PSK:+DHE-PSK:+PSK", errp)) {
        return false;
    }
    c->kind = GNUTLS_CRD_PSK;
    c->username = g_strdup(o->username);
    CONTROL_YIELD {
        ok = load(c, errp);
    }
    if (!ok) {
        psk_fini(obj);
    }
    return ok;
}

static const struct object_property properties[] = {
    TLS_CREDS_PROPERTIES,
    { "username", "string", tls_creds_get_property },
    { NULL },
};

const struct object_type tls_creds_psk_object_type = {
    .type = OBJECT_TYPE_TLS_CREDS_PSK,
    .size = sizeof(struct tls_creds),
    .init = psk_init,
    .fini = psk_fini,
    .parent = "tls-creds",
    .del_in_use = true,
    .properties = properties,
};
