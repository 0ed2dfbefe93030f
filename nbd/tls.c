/* SPDX-License-Identifier: MIT */
/* TLS on a connection: see tls.h. */
#include "nbd/tls.h"

#include <errno.h>
#include <string.h>
#include <gnutls/x509.h>
#include "base/control.h"
#include "base/trace.h"
#include "block/objects/authz.h"
#include "block/objects/tls-creds.h"
#include "nbd/server.h"

enum {
    IN_BYTES = 128 << 10,
    /* Goes to the socket when it has so much. */
    OUT_BYTES = 128 << 10,
    RECORD_BYTES = 16 << 10,    /* what TLS allows; the client may say less */
    GOODBYE_NS = 500 * 1000 * 1000,
};

struct nbd_tls {
    /* Under lock (I1). */
    struct lock lock;           /* LOCK_LEAF */
    gnutls_session_t session;
    GByteArray *out;

    /* The connection's thread (I2). */
    bool ready;                 /* the client is who it should be */
    uint8_t *in;                /* IN_BYTES */
    size_t in_start, in_end;
    size_t in_asked;            /* in_start when it asked for more */

    /* Who may write to the socket (I3). */
    GByteArray *sending;        /* taken from .out */
    uint8_t *gather;            /* RECORD_BYTES: small pieces become one */
};

/* ---- what gnutls calls, lock held --------------------------------------- */

static ssize_t pull(gnutls_transport_ptr_t ptr, void *buf, size_t bytes)
{
    struct nbd_tls *t = ptr;
    size_t n = MIN(bytes, t->in_end - t->in_start);

    if (n == 0) {
        gnutls_transport_set_errno(t->session, EAGAIN);
        return -1;
    }
    memcpy(buf, t->in + t->in_start, n);
    t->in_start += n;
    return n;
}

static int pull_timeout(gnutls_transport_ptr_t ptr, unsigned ms)
{
    struct nbd_tls *t = ptr;

    return t->in_end > t->in_start;
}

static ssize_t push(gnutls_transport_ptr_t ptr, const giovec_t *iov, int n_iov)
{
    struct nbd_tls *t = ptr;
    ssize_t n = 0;

    for (int i = 0; i < n_iov; i++) {
        g_byte_array_append(t->out, iov[i].iov_base, iov[i].iov_len);
        n += iov[i].iov_len;
    }
    return n;
}

/* ---- the socket --------------------------------------------------------- */

/* Send what gnutls has made. */
static bool flush(struct nbd_conn *c)
{
    struct nbd_tls *t = c->tls;
    GByteArray *full;
    struct iovec iov;
    bool ok = true;

    lock_acquire(&t->lock);
    full = t->out;
    t->out = t->sending;
    t->sending = full;
    lock_release(&t->lock);
    if (full->len > 0) {
        iov = (struct iovec){ full->data, full->len };
        ok = nbd_conn_send_raw(c, &iov, 1);
        g_byte_array_set_size(full, 0);
    }
    return ok;
}

/* Have more for gnutls, which has said GNUTLS_E_AGAIN.  As recv(). */
static ssize_t fill(struct nbd_conn *c, bool wait)
{
    struct nbd_tls *t = c->tls;
    ssize_t n = t->in_end - t->in_start;

    if (n > 0 && t->in_start != t->in_asked) {
        t->in_asked = t->in_start;
        return n;       /* it only had a record that is not for us */
    }
    if (n > 0) {
        errno = EIO;    /* it does not take it */
        return -1;
    }
    n = nbd_conn_recv_raw(c, t->in, IN_BYTES, wait);
    t->in_start = 0;
    t->in_end = MAX(n, 0);
    t->in_asked = SIZE_MAX;
    return n;
}

/* ---- handshake ---------------------------------------------------------- */

static bool session_new(struct nbd_tls *t, const struct tls_creds *creds)
{
    if (gnutls_init(&t->session, GNUTLS_SERVER) < 0) {
        t->session = NULL;
        return false;
    }
    if (gnutls_priority_set(t->session, creds->priorities) < 0 ||
        gnutls_credentials_set(t->session, creds->kind,
                               creds->handle.any) < 0) {
        return false;
    }
    gnutls_certificate_server_set_request(
        t->session, creds->verify_peer ? GNUTLS_CERT_REQUIRE
                                       : GNUTLS_CERT_IGNORE);
    gnutls_transport_set_ptr(t->session, t);
    gnutls_transport_set_pull_function(t->session, pull);
    gnutls_transport_set_pull_timeout_function(t->session, pull_timeout);
    gnutls_transport_set_vec_push_function(t->session, push);
    gnutls_handshake_set_timeout(t->session, 0);    /* ours holds */
    return true;
}

/* One step; 0 when it is done. */
static int handshake_step(struct nbd_tls *t)
{
    int ret;

    LOCK_GUARD(&t->lock);
    ret = gnutls_handshake(t->session);
    if (ret < 0 && gnutls_error_is_fatal(ret)) {
        gnutls_alert_send_appropriate(t->session, ret);
    }
    return ret;
}

static bool handshake(struct nbd_conn *c)
{
    int ret;

    do {
        ret = handshake_step(c->tls);
        if (!flush(c)) {
            return false;
        }
        if (ret < 0 && gnutls_error_is_fatal(ret)) {
            trace(NBD, "tls-failed fd=%d error=%s", c->fd,
                  gnutls_strerror(ret));
            return false;
        }
        if (ret == GNUTLS_E_AGAIN && fill(c, true) <= 0) {
            trace(NBD, "tls-failed fd=%d error=gone", c->fd);
            return false;
        }
    } while (ret != 0);
    return true;
}

/* ---- who is it ---------------------------------------------------------- */

static char *certificate_name(gnutls_session_t session)
{
    unsigned n = 0;
    const gnutls_datum_t *chain = gnutls_certificate_get_peers(session, &n);
    gnutls_x509_crt_t cert;
    gnutls_datum_t dn = { 0 };
    char *name = NULL;

    if (n == 0 || gnutls_x509_crt_init(&cert) < 0) {
        return NULL;
    }
    if (gnutls_x509_crt_import(cert, &chain[0], GNUTLS_X509_FMT_DER) == 0 &&
        gnutls_x509_crt_get_dn2(cert, &dn) == 0) {
        name = g_strndup((char *)dn.data, dn.size);
        gnutls_free(dn.data);
    }
    gnutls_x509_crt_deinit(cert);
    return name;
}

/* What the client calls itself, and has shown to be; owned.  NULL and *ALERT:
 * it has not. */
static char *client_identity(const struct nbd_tls *t,
                             const struct tls_creds *creds,
                             gnutls_alert_description_t *alert)
{
    unsigned status = 0;

    *alert = GNUTLS_A_BAD_CERTIFICATE;
    switch (creds->kind) {
    case GNUTLS_CRD_CERTIFICATE:
        if (!creds->verify_peer) {
            return g_strdup("");
        }
        if (gnutls_certificate_verify_peers2(t->session, &status) < 0 ||
            status != 0) {
            trace(NBD, "tls-refused error=%s",
                  tls_certificate_problem(status));
            return NULL;
        }
        return certificate_name(t->session);
    case GNUTLS_CRD_PSK:
        return g_strdup(gnutls_psk_server_get_username(t->session));
    default:
        return g_strdup("");
    }
}

static bool authorized(const struct nbd_conn *c, const char *identity)
{
    const char *authz = c->server->tls_authz;
    bool allowed;
    AUTO_ERROR(err);

    if (!authz) {
        return true;
    }
    CONTROL_GUARD();
    allowed = authz_allows(authz, identity, &err);
    if (!allowed) {
        trace(NBD, "tls-refused fd=%d error=%s", c->fd, error_text(err));
    }
    return allowed;
}

static bool client_welcome(struct nbd_conn *c)
{
    struct nbd_tls *t = c->tls;
    gnutls_alert_description_t alert;
    g_autofree char *identity = NULL;

    lock_acquire(&t->lock);
    identity = client_identity(t, c->server->tls_creds, &alert);
    lock_release(&t->lock);
    if (identity && authorized(c, identity)) {
        trace(NBD, "tls-ready fd=%d identity=%s", c->fd, identity);
        return true;
    }
    lock_acquire(&t->lock);
    gnutls_alert_send(t->session, GNUTLS_AL_FATAL,
                      identity ? GNUTLS_A_ACCESS_DENIED : alert);
    lock_release(&t->lock);
    flush(c);
    return false;
}

bool nbd_tls_start(struct nbd_conn *c)
{
    struct nbd_tls *t = g_new0(struct nbd_tls, 1);

    lock_init(&t->lock, "nbd-tls", LOCK_LEAF);
    t->out = g_byte_array_new();
    t->sending = g_byte_array_new();
    t->in = g_malloc(IN_BYTES);
    t->gather = g_malloc(RECORD_BYTES);
    c->tls = t;
    if (!session_new(t, c->server->tls_creds)) {
        trace(NBD, "tls-failed fd=%d error=session", c->fd);
        return false;
    }
    t->ready = handshake(c) && client_welcome(c);
    return t->ready;
}

/* ---- bytes -------------------------------------------------------------- */

ssize_t nbd_tls_recv(struct nbd_conn *c, void *buf, size_t bytes, bool wait)
{
    struct nbd_tls *t = c->tls;

    for (;;) {
        ssize_t n;

        lock_acquire(&t->lock);
        n = gnutls_record_recv(t->session, buf, bytes);
        lock_release(&t->lock);
        if (n >= 0) {
            return n;
        }
        if (n == GNUTLS_E_AGAIN) {
            n = fill(c, wait);
            if (n <= 0) {
                return n;
            }
        } else if (n != GNUTLS_E_WARNING_ALERT_RECEIVED &&
                   n != GNUTLS_E_INTERRUPTED) {
            /* Among them GNUTLS_E_REHANDSHAKE: there is none here. */
            trace(NBD, "tls-broken fd=%d error=%s", c->fd,
                  gnutls_strerror(n));
            errno = EIO;
            return -1;
        }
    }
}

/* Where a sender stands in its pieces. */
struct cursor {
    const struct iovec *iov;
    int n_iov;
    size_t done;                /* of the first */
};

/* The next record's content: up to BYTES, as it lies there, or small pieces
 * gathered. */
static size_t next_record(struct cursor *at, uint8_t *gather, size_t bytes,
                          const uint8_t **data)
{
    size_t n = 0;

    *data = gather;
    while (at->n_iov > 0 && n < bytes) {
        const uint8_t *p = (uint8_t *)at->iov->iov_base + at->done;
        size_t left = at->iov->iov_len - at->done;
        size_t take = MIN(left, bytes - n);

        if (n == 0 && take == bytes) {
            *data = p;
        } else {
            memcpy(gather + n, p, take);
        }
        n += take;
        at->done += take;
        if (take == left) {
            at->iov++;
            at->n_iov--;
            at->done = 0;
        }
    }
    return n;
}

/* False: the session is broken. */
static bool send_record(struct nbd_tls *t, const uint8_t *data, size_t bytes,
                        bool *full)
{
    LOCK_GUARD(&t->lock);
    while (bytes > 0) {
        ssize_t n = gnutls_record_send(t->session, data, bytes);

        if (n <= 0) {
            trace(NBD, "tls-broken error=%s", gnutls_strerror(n));
            return false;
        }
        data += n;
        bytes -= n;
    }
    *full = t->out->len >= OUT_BYTES;
    return true;
}

bool nbd_tls_send(struct nbd_conn *c, const struct iovec *iov, int n_iov)
{
    struct nbd_tls *t = c->tls;
    struct cursor at = { iov, n_iov };
    const uint8_t *data;
    size_t n;

    while ((n = next_record(&at, t->gather, RECORD_BYTES, &data)) > 0) {
        bool full;

        if (!send_record(t, data, n, &full) || (full && !flush(c))) {
            return false;
        }
    }
    return flush(c);
}

void nbd_tls_end(struct nbd_conn *c)
{
    struct nbd_tls *t = c->tls;

    if (!t) {
        return;
    }
    if (t->ready && !c->broken) {
        /* Best effort: who does not read does not hold us up. */
        c->deadline_ns = clock_ns() + GOODBYE_NS;
        lock_acquire(&t->lock);
        gnutls_bye(t->session, GNUTLS_SHUT_WR);
        lock_release(&t->lock);
        flush(c);
    }
    if (t->session) {
        gnutls_deinit(t->session);
    }
    g_byte_array_unref(t->out);
    g_byte_array_unref(t->sending);
    g_free(t->in);
    g_free(t->gather);
    lock_deinit(&t->lock);
    g_free(t);
    c->tls = NULL;
}
