/* SPDX-License-Identifier: MIT */
/*
 * TLS credentials: tls-creds-anon, tls-creds-psk, tls-creds-x509.
 *
 * Everything is read and checked when the object is made and constant from
 * then on, so that whoever has it in use may look at it in any thread, and
 * gnutls may share it among sessions.  (A server's keys.psk is read by
 * gnutls at each handshake: keys can be added while it runs.)
 */
#pragma once

#include <gnutls/gnutls.h>
#include "block/objects/object.h"

struct tls_creds {
    struct object base;
    QCryptoTLSCredsEndpoint endpoint;
    bool verify_peer;
    char *dir;                  /* owned; NULL with tls-creds-anon: none */
    char *priority;             /* owned; as given, or NULL */
    char *username;             /* owned; as given, or NULL; PSK */
    char *passwordid;           /* owned; as given, or NULL; x509: the key is
                                   encrypted */
    bool sanity_check;          /* x509 */
    char *psk_path;             /* owned; PSK: the file of keys */

    /* For sessions: gnutls_priority_set(), gnutls_credentials_set(). */
    gnutls_priority_t priorities;
    gnutls_dh_params_t dh;      /* or NULL; .handle refers to it */
    gnutls_credentials_type_t kind;
    union {
        void *any;
        gnutls_anon_client_credentials_t anon_client;
        gnutls_anon_server_credentials_t anon_server;
        gnutls_psk_server_credentials_t psk_server;
        gnutls_psk_client_credentials_t psk_client;
        gnutls_certificate_credentials_t x509;
    } handle;
};

#define TLS_PSK_DEFAULT_USERNAME "qemu"

/*
 * The TLS credentials ID for that side, in use from now on (object_put() of
 * .base); NULL and errp, with QEMU's texts.  Control lock held.
 */
struct tls_creds *tls_creds_get(const char *id,
                                QCryptoTLSCredsEndpoint endpoint,
                                struct error **errp);
bool tls_creds_is_server(const struct tls_creds *c);
/* Of a server: do they show who a client is? */
bool tls_creds_identify(const struct tls_creds *c);

/* ---- what the types share ----------------------------------------------- */

/* Base options into C, and priorities with SUFFIX.  False: C is as it was. */
bool tls_creds_init(struct tls_creds *c, const TlsCredsProperties *options,
                    const char *suffix, struct error **errp);
/* Frees all but the handle. */
void tls_creds_fini(struct tls_creds *c);
/* The path of NAME in the folder (owned); *PATH is NULL if it is not there.
 * False and errp: it is REQUIRED, or cannot be looked at.  Blocks. */
bool tls_creds_find(const struct tls_creds *c, const char *name,
                    bool required, char **path, struct error **errp);
/* dh-params.pem to C->dh, NULL if it is not there: gnutls has parameters of
 * its own.  Blocks. */
bool tls_creds_load_dh(struct tls_creds *c, struct error **errp);
/* dir, endpoint, priority, verify-peer, username, passwordid, sanity-check. */
json_t *tls_creds_get_property(struct object *obj, const char *name,
                               struct error **errp);

#define TLS_CREDS_PROPERTIES \
    { "endpoint", "QCryptoTLSCredsEndpoint", tls_creds_get_property }, \
    { "dir", "string", tls_creds_get_property }, \
    { "verify-peer", "bool", tls_creds_get_property }, \
    { "priority", "string", tls_creds_get_property }

/*
 * Look over the certificate at CERT_PATH (NULL: there is none) and those of
 * the authorities at CA_PATH.  Blocks.
 */
bool tls_sanity_check(const struct tls_creds *c, const char *ca_path,
                      const char *cert_path, struct error **errp);
/* What STATUS (GNUTLS_CERT_...) of a check has against it; static. */
const char *tls_certificate_problem(unsigned status);
