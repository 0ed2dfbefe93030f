/* SPDX-License-Identifier: MIT */
/* tls-creds-x509: TLS with certificates. */
#include <string.h>
#include "base/control.h"
#include "block/objects/secret.h"
#include "block/objects/tls-creds.h"

/* What is in the folder; NULL: not there. */
struct paths {
    char *ca, *crl, *cert, *key;    /* owned */
};

static void paths_clear(struct paths *p)
{
    g_free(p->ca);
    g_free(p->crl);
    g_free(p->cert);
    g_free(p->key);
}

static bool paths_find(const struct tls_creds *c, struct paths *p,
                       struct error **errp)
{
    bool server = tls_creds_is_server(c);

    return tls_creds_find(c, "ca-cert.pem", true, &p->ca, errp) &&
        tls_creds_find(c, "ca-crl.pem", false, &p->crl, errp) &&
        tls_creds_find(c, server ? "server-cert.pem" : "client-cert.pem",
                       server, &p->cert, errp) &&
        tls_creds_find(c, server ? "server-key.pem" : "client-key.pem",
                       server, &p->key, errp);
}

static bool load_key(struct tls_creds *c, const struct paths *p,
                     const char *password, struct error **errp)
{
    int ret = gnutls_certificate_set_x509_key_file2(
        c->handle.x509, p->cert, p->key, GNUTLS_X509_FMT_PEM, password, 0);

    if (ret < 0) {
        error_set(errp, "Cannot load certificate '%s' & key '%s': %s", p->cert,
                  p->key, gnutls_strerror(ret));
    }
    return ret >= 0;
}

static bool load_authorities(struct tls_creds *c, const struct paths *p,
                             struct error **errp)
{
    int ret = gnutls_certificate_set_x509_trust_file(
        c->handle.x509, p->ca, GNUTLS_X509_FMT_PEM);

    if (ret < 0) {
        error_set(errp, "Cannot load CA certificate '%s': %s", p->ca,
                  gnutls_strerror(ret));
        return false;
    }
    if (p->crl) {
        ret = gnutls_certificate_set_x509_crl_file(c->handle.x509, p->crl,
                                                   GNUTLS_X509_FMT_PEM);
    }
    if (ret < 0) {
        error_set(errp, "Cannot load CRL '%s': %s", p->crl,
                  gnutls_strerror(ret));
    }
    return ret >= 0;
}

static bool load_from(struct tls_creds *c, const struct paths *p,
                      const char *password, struct error **errp)
{
    if (c->sanity_check && !tls_sanity_check(c, p->ca, p->cert, errp)) {
        return false;
    }
    if (gnutls_certificate_allocate_credentials(&c->handle.x509) < 0) {
        error_set(errp, "Cannot allocate credentials");
        return false;
    }
    if (!load_authorities(c, p, errp) ||
        (p->cert && p->key && !load_key(c, p, password, errp)) ||
        (tls_creds_is_server(c) && !tls_creds_load_dh(c, errp))) {
        return false;
    }
    if (c->dh) {
        gnutls_certificate_set_dh_params(c->handle.x509, c->dh);
    }
    return true;
}

static void x509_fini(struct object *obj)
{
    struct tls_creds *c = (struct tls_creds *)obj;

    if (c->handle.x509) {
        gnutls_certificate_free_credentials(c->handle.x509);
    }
    tls_creds_fini(c);
}

static bool x509_init(struct object *obj, const ObjectOptions *options,
                      struct error **errp)
{
    const TlsCredsX509Properties *o = &options->u.tls_creds_x509;
    struct tls_creds *c = (struct tls_creds *)obj;
    struct paths paths = { 0 };
    char *password = NULL;
    bool ok = false;

    if (o->passwordid) {
        password = secret_get_text(o->passwordid, errp);
        if (!password) {
            return false;
        }
    }
    if (tls_creds_init(c, (const TlsCredsProperties *)o, NULL, errp)) {
        c->kind = GNUTLS_CRD_CERTIFICATE;
        c->sanity_check = !o->has_sanity_check || o->sanity_check;
        c->passwordid = g_strdup(o->passwordid);
        CONTROL_YIELD {
            ok = paths_find(c, &paths, errp) &&
                load_from(c, &paths, password, errp);
        }
        paths_clear(&paths);
        if (!ok) {
            x509_fini(obj);
        }
    }
    secret_wipe(&password, password ? strlen(password) : 0);
    return ok;
}

static const struct object_property properties[] = {
    TLS_CREDS_PROPERTIES,
    { "sanity-check", "bool", tls_creds_get_property },
    { "passwordid", "string", tls_creds_get_property },
    { NULL },
};

const struct object_type tls_creds_x509_object_type = {
    .type = OBJECT_TYPE_TLS_CREDS_X509,
    .size = sizeof(struct tls_creds),
    .init = x509_init,
    .fini = x509_fini,
    .parent = "tls-creds",
    .del_in_use = true,
    .properties = properties,
};
