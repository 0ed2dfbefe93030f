/* SPDX-License-Identifier: MIT */
/* tls-creds-anon: TLS in which nobody says who he is. */
#include "base/control.h"
#include "block/objects/tls-creds.h"

static bool load(struct tls_creds *c, struct error **errp)
{
    if (!tls_creds_is_server(c)) {
        if (gnutls_anon_allocate_client_credentials(
                &c->handle.anon_client) < 0) {
            error_set(errp, "Cannot allocate credentials");
            return false;
        }
        return true;
    }
    if (!tls_creds_load_dh(c, errp)) {
        return false;
    }
    if (gnutls_anon_allocate_server_credentials(&c->handle.anon_server) < 0) {
        error_set(errp, "Cannot allocate credentials");
        return false;
    }
    if (c->dh) {
        gnutls_anon_set_server_dh_params(c->handle.anon_server, c->dh);
    }
    return true;
}

static bool anon_init(struct object *obj, const ObjectOptions *options,
                      struct error **errp)
{
    struct tls_creds *c = (struct tls_creds *)obj;
    bool ok = false;

    /* TLS 1.3 has no such thing. */
    if (!tls_creds_init(c, (const TlsCredsProperties *)
                        &options->u.tls_creds_anon,
                        ":-VERS-TLS1.3:+ANON-ECDH:+ANON-DH", errp)) {
        return false;
    }
    c->kind = GNUTLS_CRD_ANON;
    CONTROL_YIELD {
        ok = load(c, errp);
    }
    if (!ok) {
        tls_creds_fini(c);
    }
    return ok;
}

static void anon_fini(struct object *obj)
{
    struct tls_creds *c = (struct tls_creds *)obj;

    if (c->handle.any && tls_creds_is_server(c)) {
        gnutls_anon_free_server_credentials(c->handle.anon_server);
    } else if (c->handle.any) {
        gnutls_anon_free_client_credentials(c->handle.anon_client);
    }
    tls_creds_fini(c);
}

static const struct object_property properties[] = {
    TLS_CREDS_PROPERTIES,
    { NULL },
};

const struct object_type tls_creds_anon_object_type = {
    .type = OBJECT_TYPE_TLS_CREDS_ANON,
    .size = sizeof(struct tls_creds),
    .init = anon_init,
    .fini = anon_fini,
    .parent = "tls-creds",
    .del_in_use = true,
    .properties = properties,
};
