/* SPDX-License-Identifier: MIT */
/*
 * Looking certificates over before they are used: what would make every
 * handshake fail is said when the object is made, and said clearly.
 */
#include <errno.h>
#include <string.h>
#include <time.h>
#include <gnutls/x509.h>
#include "block/objects/read-file.h"
#include "block/objects/tls-creds.h"

enum { MAX_PEM_BYTES = 16 << 20 };

enum role { ROLE_AUTHORITY, ROLE_SERVER, ROLE_CLIENT };

static const char *const role_names[] = { "CA", "server", "client" };

/* Certificates of one file. */
struct certs {
    gnutls_x509_crt_t *list;    /* gnutls_free() */
    unsigned n;
};

static void certs_clear(struct certs *certs)
{
    for (unsigned i = 0; i < certs->n; i++) {
        gnutls_x509_crt_deinit(certs->list[i]);
    }
    gnutls_free(certs->list);
}

/* 0, or an error of gnutls, or GNUTLS_E_FILE_ERROR and errp. */
static int certs_load(struct certs *certs, const char *path,
                      struct error **errp)
{
    g_autofree char *text = NULL;
    gnutls_datum_t data;
    size_t bytes;

    text = object_read_file(path, MAX_PEM_BYTES, &bytes, errp);
    if (!text) {
        return GNUTLS_E_FILE_ERROR;
    }
    data = (gnutls_datum_t){ (uint8_t *)text, bytes };
    return gnutls_x509_crt_list_import2(&certs->list, &certs->n, &data,
                                        GNUTLS_X509_FMT_PEM, 0);
}

/* ---- one certificate ---------------------------------------------------- */

static bool check_times(gnutls_x509_crt_t cert, const char *path,
                        enum role role, struct error **errp)
{
    time_t now = time(NULL);

    if (gnutls_x509_crt_get_expiration_time(cert) < now) {
        error_set(errp, "The %s certificate %s has expired", role_names[role],
                  path);
        return false;
    }
    if (gnutls_x509_crt_get_activation_time(cert) > now) {
        error_set(errp, "The %s certificate %s is not yet active",
                  role_names[role], path);
        return false;
    }
    return true;
}

static bool check_constraints(gnutls_x509_crt_t cert, const char *path,
                              enum role role, struct error **errp)
{
    int ret = gnutls_x509_crt_get_basic_constraints(cert, NULL, NULL, NULL);

    if (ret > 0 && role != ROLE_AUTHORITY) {
        error_set(errp, "The certificate %s basic constraints show a CA, but "
                  "we need one for a %s", path, role_names[role]);
        return false;
    }
    if (ret == 0 && role == ROLE_AUTHORITY) {
        error_set(errp, "The certificate %s basic constraints do not show a "
                  "CA", path);
        return false;
    }
    if (ret == GNUTLS_E_REQUESTED_DATA_NOT_AVAILABLE) {
        if (role != ROLE_AUTHORITY) {
            return true;
        }
        error_set(errp, "The certificate %s is missing basic constraints for "
                  "a CA", path);
        return false;
    }
    if (ret < 0) {
        error_set(errp, "Unable to query certificate %s basic constraints: %s",
                  path, gnutls_strerror(ret));
    }
    return ret >= 0;
}

/* Only what is marked critical counts. */
static bool check_usage(gnutls_x509_crt_t cert, const char *path,
                        enum role role, struct error **errp)
{
    unsigned usage = 0, critical = 0;
    unsigned wanted = role == ROLE_AUTHORITY ? GNUTLS_KEY_KEY_CERT_SIGN
        : GNUTLS_KEY_DIGITAL_SIGNATURE;
    int ret = gnutls_x509_crt_get_key_usage(cert, &usage, &critical);

    if (ret == GNUTLS_E_REQUESTED_DATA_NOT_AVAILABLE) {
        return true;
    }
    if (ret < 0) {
        error_set(errp, "Unable to query certificate %s key usage: %s", path,
                  gnutls_strerror(ret));
        return false;
    }
    if (critical && !(usage & wanted)) {
        error_set(errp, "Certificate %s usage does not permit %s", path,
                  role == ROLE_AUTHORITY ? "certificate signing"
                                         : "digital signature");
        return false;
    }
    return true;
}

static bool check_purpose(gnutls_x509_crt_t cert, const char *path,
                          enum role role, struct error **errp)
{
    const char *wanted = role == ROLE_SERVER ? GNUTLS_KP_TLS_WWW_SERVER
        : GNUTLS_KP_TLS_WWW_CLIENT;
    bool any_critical = false;

    for (unsigned i = 0; role != ROLE_AUTHORITY; i++) {
        char oid[256];
        size_t size = sizeof(oid);
        unsigned critical = 0;
        int ret = gnutls_x509_crt_get_key_purpose_oid(cert, i, oid, &size,
                                                      &critical);

        if (ret == GNUTLS_E_REQUESTED_DATA_NOT_AVAILABLE) {
            break;
        }
        if (ret < 0) {
            error_set(errp, "Unable to query certificate %s key purpose: %s",
                      path, gnutls_strerror(ret));
            return false;
        }
        if (!strcmp(oid, wanted) || !strcmp(oid, GNUTLS_KP_ANY)) {
            return true;
        }
        any_critical |= critical;
    }
    if (any_critical) {
        error_set(errp, "Certificate %s purpose does not allow use with a TLS "
                  "%s", path, role_names[role]);
    }
    return !any_critical;
}

static bool check_cert(gnutls_x509_crt_t cert, const char *path,
                       enum role role, struct error **errp)
{
    return check_times(cert, path, role, errp) &&
        check_constraints(cert, path, role, errp) &&
        check_usage(cert, path, role, errp) &&
        check_purpose(cert, path, role, errp);
}

/* ---- all of them -------------------------------------------------------- */

const char *tls_certificate_problem(unsigned status)
{
    static const struct {
        unsigned bit;
        const char *text;
    } problems[] = {
        { GNUTLS_CERT_SIGNER_NOT_FOUND,
          "The certificate hasn't got a known issuer" },
        { GNUTLS_CERT_REVOKED, "The certificate has been revoked" },
        { GNUTLS_CERT_EXPIRED, "The certificate has expired" },
        { GNUTLS_CERT_NOT_ACTIVATED, "The certificate is not yet activated" },
        { GNUTLS_CERT_INSECURE_ALGORITHM,
          "The certificate uses an insecure algorithm" },
    };

    for (size_t i = 0; i < G_N_ELEMENTS(problems); i++) {
        if (status & problems[i].bit) {
            return problems[i].text;
        }
    }
    return "Invalid certificate";
}

/* CHAIN, ours first, must lead to one of AUTHORITIES. */
static bool check_chain(const struct certs *chain, const char *path,
                        const struct certs *authorities, const char *ca_path,
                        struct error **errp)
{
    unsigned status = 0;
    int ret = gnutls_x509_crt_list_verify(chain->list, chain->n,
                                          authorities->list, authorities->n,
                                          NULL, 0, 0, &status);

    if (ret < 0 || status != 0) {
        error_set(errp, "Our own certificate %s failed validation against %s: "
                  "%s", path, ca_path, ret < 0 ? gnutls_strerror(ret)
                  : tls_certificate_problem(status));
        return false;
    }
    return true;
}

static bool check_authorities(const struct certs *authorities,
                              const char *path, struct error **errp)
{
    for (unsigned i = 0; i < authorities->n; i++) {
        if (!check_cert(authorities->list[i], path, ROLE_AUTHORITY, errp)) {
            return false;
        }
    }
    return true;
}

/* Ours is the first; those behind it are of authorities in between. */
static bool check_own(const struct tls_creds *c, const char *path,
                      const struct certs *authorities, const char *ca_path,
                      struct error **errp)
{
    enum role role = tls_creds_is_server(c) ? ROLE_SERVER : ROLE_CLIENT;
    struct certs chain = { 0 };
    bool ok = true;
    AUTO_ERROR(err);
    int ret = certs_load(&chain, path, &err);

    if (ret < 0) {
        error_set(errp, "Unable to import %s certificate %s: %s",
                  role_names[role], path,
                  err ? error_text(err) : gnutls_strerror(ret));
        return false;
    }
    for (unsigned i = 0; i < chain.n && ok; i++) {
        ok = check_cert(chain.list[i], path, i > 0 ? ROLE_AUTHORITY : role,
                        errp);
    }
    ok = ok && check_chain(&chain, path, authorities, ca_path, errp);
    certs_clear(&chain);
    return ok;
}

bool tls_sanity_check(const struct tls_creds *c, const char *ca_path,
                      const char *cert_path, struct error **errp)
{
    struct certs authorities = { 0 };
    bool ok;

    if (certs_load(&authorities, ca_path, NULL) < 0) {
        error_set(errp, "Unable to import CA certificate list %s", ca_path);
        return false;
    }
    ok = check_authorities(&authorities, ca_path, errp) &&
        (!cert_path ||
         check_own(c, cert_path, &authorities, ca_path, errp));
    certs_clear(&authorities);
    return ok;
}
