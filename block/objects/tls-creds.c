/* SPDX-License-Identifier: MIT */
/* What all TLS credentials have in common: see tls-creds.h. */
#include "block/objects/tls-creds.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>
#include "block/objects/read-file.h"

/* TLS 1.0 and 1.1 are withdrawn; who needs them says so. */
#define DEFAULT_PRIORITY "NORMAL:-VERS-TLS1.0:-VERS-TLS1.1"

enum { MAX_DH_BYTES = 1 << 20 };

bool tls_creds_is_server(const struct tls_creds *c)
{
    return c->endpoint == Q_CRYPTO_TLS_CREDS_ENDPOINT_SERVER;
}

bool tls_creds_identify(const struct tls_creds *c)
{
    return c->kind == GNUTLS_CRD_PSK ||
        (c->kind == GNUTLS_CRD_CERTIFICATE && c->verify_peer);
}

/* ---- life --------------------------------------------------------------- */

bool tls_creds_init(struct tls_creds *c, const TlsCredsProperties *options,
                    const char *suffix, struct error **errp)
{
    const char *base = options->priority ? options->priority
        : DEFAULT_PRIORITY;
    g_autofree char *priority = g_strconcat(base, suffix, NULL);
    int ret = gnutls_priority_init(&c->priorities, priority, NULL);

    if (ret < 0) {
        error_set(errp, "Unable to set TLS session priority %s: %s", priority,
                  gnutls_strerror(ret));
        c->priorities = NULL;
        return false;
    }
    c->endpoint = options->endpoint;    /* client unless told */
    c->verify_peer = !options->has_verify_peer || options->verify_peer;
    c->dir = g_strdup(options->dir);
    c->priority = g_strdup(options->priority);
    return true;
}

void tls_creds_fini(struct tls_creds *c)
{
    gnutls_priority_deinit(c->priorities);
    if (c->dh) {
        gnutls_dh_params_deinit(c->dh);
    }
    g_free(c->dir);
    g_free(c->priority);
    g_free(c->username);
    g_free(c->passwordid);
    g_free(c->psk_path);
}

/* ---- files -------------------------------------------------------------- */

bool tls_creds_find(const struct tls_creds *c, const char *name,
                    bool required, char **path, struct error **errp)
{
    *path = NULL;
    if (!c->dir) {
        if (required) {
            error_set(errp, "Missing 'dir' property value");
        }
        return !required;
    }
    *path = g_build_filename(c->dir, name, NULL);
    if (access(*path, R_OK) == 0) {
        return true;
    }
    if (required || errno != ENOENT) {
        error_set_errno(errp, errno, "Unable to access credentials %s", *path);
        g_clear_pointer(path, g_free);
        return false;
    }
    g_clear_pointer(path, g_free);
    return true;
}

static int import_dh(gnutls_dh_params_t *params, char *text, size_t bytes)
{
    gnutls_datum_t data = { (uint8_t *)text, bytes };
    int ret = gnutls_dh_params_init(params);

    if (ret == 0) {
        ret = gnutls_dh_params_import_pkcs3(*params, &data,
                                            GNUTLS_X509_FMT_PEM);
        if (ret < 0) {
            gnutls_dh_params_deinit(*params);
            *params = NULL;
        }
    }
    return ret;
}

bool tls_creds_load_dh(struct tls_creds *c, struct error **errp)
{
    g_autofree char *path = NULL;
    g_autofree char *text = NULL;
    size_t bytes;
    int ret;

    if (!tls_creds_find(c, "dh-params.pem", false, &path, errp)) {
        return false;
    }
    if (!path) {
        return true;
    }
    text = object_read_file(path, MAX_DH_BYTES, &bytes, errp);
    if (!text) {
        return false;
    }
    ret = import_dh(&c->dh, text, bytes);
    if (ret < 0) {
        error_set(errp, "Unable to load DH parameters from %s: %s", path,
                  gnutls_strerror(ret));
    }
    return ret == 0;
}

/* ---- for others --------------------------------------------------------- */

static bool is_tls_creds(const struct object *obj)
{
    return obj->type == &tls_creds_anon_object_type ||
        obj->type == &tls_creds_psk_object_type ||
        obj->type == &tls_creds_x509_object_type;
}

struct tls_creds *tls_creds_get(const char *id,
                                QCryptoTLSCredsEndpoint endpoint,
                                struct error **errp)
{
    struct object *obj = object_find(id);
    struct tls_creds *c = (struct tls_creds *)obj;

    if (!obj) {
        error_set(errp, "No TLS credentials with id '%s'", id);
        return NULL;
    }
    if (!is_tls_creds(obj)) {
        error_set(errp, "Object with id '%s' is not TLS credentials", id);
        return NULL;
    }
    if (c->endpoint != endpoint) {
        error_set(errp, "Expected TLS credentials for a %s endpoint",
                  QCryptoTLSCredsEndpoint_str(endpoint));
        return NULL;
    }
    object_get_again(obj);
    return c;
}

json_t *tls_creds_get_property(struct object *obj, const char *name,
                               struct error **errp)
{
    const struct tls_creds *c = (struct tls_creds *)obj;
    const char *text;

    if (!strcmp(name, "verify-peer")) {
        return json_boolean(c->verify_peer);
    }
    if (!strcmp(name, "sanity-check")) {
        return json_boolean(c->sanity_check);
    }
    text = !strcmp(name, "endpoint") ? QCryptoTLSCredsEndpoint_str(c->endpoint)
        : !strcmp(name, "dir") ? c->dir
        : !strcmp(name, "username") ? c->username
        : !strcmp(name, "passwordid") ? c->passwordid : c->priority;
    return json_string(text ? text : "");
}
