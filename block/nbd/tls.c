/* SPDX-License-Identifier: MIT */
/*
 * TLS of a connection to a server: see tls.h.
 *
 * Threads     The connecting thread up to the end of the handshake, then the
 *             carrying thread alone.  None of the sockets blocks.
 */
#include "block/nbd/tls.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>
#include <gnutls/gnutls.h>
#include "base/lock.h"
#include "base/trace.h"
#include "block/objects/tls-creds.h"

#define INIT_MAGIC UINT64_C(0x4e42444d41474943)
#define OPTION_MAGIC UINT64_C(0x49484156454f5054)
#define REPLY_MAGIC UINT64_C(0x0003e889045565a9)

enum {
    OPT_STARTTLS = 5, REP_ACK = 1,
    FIXED_NEWSTYLE = 1,
    FLAGS_WE_KNOW = 3,
    BUF_BYTES = 128 << 10,
    THREAD_STACK_BYTES = 128 << 10,
    BYE_MS = 200,           /* to bring the last bytes to the server */
};

#define PACKED __attribute__((packed))

struct greeting {
    uint64_t init_magic, option_magic;
    uint16_t flags;
} PACKED;

struct option {
    uint32_t client_flags;
    uint64_t magic;
    uint32_t option, length;
} PACKED;

struct option_reply {
    uint64_t magic;
    uint32_t option, rep, length;
} PACKED;

/* Bytes on their way in one direction. */
struct buffer {
    uint8_t data[BUF_BYTES];
    size_t start, end;
};

struct nbd_client_tls {
    int fd;                     /* owned: to the server */
    int plain_fd;               /* owned: our end of the pair */
    gnutls_session_t session;   /* NULL: not yet */
    struct greeting greeting;   /* as the server sent it */
    pthread_t thread;
    bool running;

    /* The carrying thread. */
    struct buffer in, out;      /* from the server, to the server */
    bool plain_ended;           /* libnbd has closed its end: all is read, */
    bool plain_hung_up;         /* or not yet */
};

static void tls_free(struct nbd_client_tls *t)
{
    if (t->session) {
        gnutls_deinit(t->session);
    }
    if (t->fd >= 0) {
        close(t->fd);
    }
    if (t->plain_fd >= 0) {
        close(t->plain_fd);
    }
    g_free(t);
}

/* ---- before TLS --------------------------------------------------------- */

/* Exactly BYTES.  0 or -errno. */
static int recv_all(int fd, const struct nbd_wait *w, void *buf, size_t bytes)
{
    uint8_t *p = buf;

    while (bytes > 0) {
        ssize_t n = recv(fd, p, bytes, 0);

        if (n == 0) {
            return -ECONNRESET;
        }
        if (n < 0 && errno != EAGAIN && errno != EINTR) {
            return -errno;
        }
        if (n < 0) {
            int ret = nbd_wait_fd(w, fd, POLLIN);

            if (ret < 0) {
                return ret;
            }
            continue;
        }
        p += n;
        bytes -= n;
    }
    return 0;
}

/* Greeting, our flags, STARTTLS, its reply.  0 or -errno. */
static int ask_for_tls(struct nbd_client_tls *t, const struct nbd_wait *w,
                       struct error **errp)
{
    struct option option = {
        .magic = GUINT64_TO_BE(OPTION_MAGIC),
        .option = GUINT32_TO_BE(OPT_STARTTLS),
    };
    struct option_reply reply;
    uint16_t flags;
    int ret = recv_all(t->fd, w, &t->greeting, sizeof(t->greeting));

    if (ret < 0) {
        error_set_errno(errp, -ret, "The NBD server does not greet");
        return ret;
    }
    flags = GUINT16_FROM_BE(t->greeting.flags);
    if (GUINT64_FROM_BE(t->greeting.init_magic) != INIT_MAGIC ||
        GUINT64_FROM_BE(t->greeting.option_magic) != OPTION_MAGIC ||
        !(flags & FIXED_NEWSTYLE)) {
        error_set(errp, "Server does not support STARTTLS");
        return -EPROTO;
    }
    option.client_flags = GUINT32_TO_BE(flags & FLAGS_WE_KNOW);
    if (send(t->fd, &option, sizeof(option), MSG_NOSIGNAL) !=
        sizeof(option)) {
        error_set(errp, "The NBD server does not listen");
        return -ECONNRESET;
    }
    ret = recv_all(t->fd, w, &reply, sizeof(reply));
    if (ret < 0 || GUINT64_FROM_BE(reply.magic) != REPLY_MAGIC ||
        GUINT32_FROM_BE(reply.option) != OPT_STARTTLS) {
        error_set(errp, "The NBD server does not answer STARTTLS");
        return ret < 0 ? ret : -EPROTO;
    }
    if (GUINT32_FROM_BE(reply.rep) != REP_ACK || reply.length != 0) {
        error_set(errp, "Server rejected request for TLS");
        return -EPERM;
    }
    return 0;
}

/* ---- the handshake ------------------------------------------------------ */

/* False and errp: the session cannot be made. */
static bool make_session(struct nbd_client_tls *t,
                         const struct tls_creds *creds, const char *hostname,
                         struct error **errp)
{
    bool check = creds->kind == GNUTLS_CRD_CERTIFICATE && creds->verify_peer;
    int ret;

    if (check && !hostname) {
        error_set(errp, "No hostname for certificate validation");
        return false;
    }
    ret = gnutls_init(&t->session, GNUTLS_CLIENT | GNUTLS_NONBLOCK |
                      GNUTLS_NO_SIGNAL);
    if (ret < 0) {
        t->session = NULL;
    } else {
        ret = gnutls_priority_set(t->session, creds->priorities);
    }
    if (ret >= 0) {
        ret = gnutls_credentials_set(t->session, creds->kind,
                                     creds->handle.any);
    }
    if (ret < 0) {
        error_set(errp, "Cannot make a TLS session: %s", gnutls_strerror(ret));
        return false;
    }
    if (check) {
        gnutls_session_set_verify_cert(t->session, hostname, 0);
        gnutls_server_name_set(t->session, GNUTLS_NAME_DNS, hostname,
                               strlen(hostname));
    }
    gnutls_transport_set_int(t->session, t->fd);
    gnutls_handshake_set_timeout(t->session, 0);        /* ours holds */
    return true;
}

static void set_handshake_error(struct nbd_client_tls *t, int ret,
                                struct error **errp)
{
    gnutls_datum_t text;

    if (ret == GNUTLS_E_CERTIFICATE_VERIFICATION_ERROR &&
        gnutls_certificate_verification_status_print(
            gnutls_session_get_verify_cert_status(t->session), GNUTLS_CRT_X509,
            &text, 0) >= 0) {
        error_set(errp, "The server's certificate is not accepted: %s",
                  (char *)text.data);
        gnutls_free(text.data);
    } else {
        error_set(errp, "TLS handshake failed: %s", gnutls_strerror(ret));
    }
}

static int shake_hands(struct nbd_client_tls *t, const struct nbd_wait *w,
                       struct error **errp)
{
    int ret, waited = 0;

    do {
        ret = gnutls_handshake(t->session);
        if (ret < 0 && gnutls_error_is_fatal(ret)) {
            set_handshake_error(t, ret, errp);
            gnutls_alert_send_appropriate(t->session, ret);
            return -EPROTO;
        }
        if (ret == GNUTLS_E_AGAIN) {
            waited = nbd_wait_fd(w, t->fd,
                                 gnutls_record_get_direction(t->session)
                                 ? POLLOUT : POLLIN);
        }
        if (waited < 0) {
            error_set(errp, "The NBD server does not answer in the TLS "
                      "handshake");
            return waited;
        }
    } while (ret != 0);
    return 0;
}

/* ---- carrying ----------------------------------------------------------- */

/* From the server.  False: it is over. */
static bool pull(struct nbd_client_tls *t)
{
    ssize_t n;

    while (t->in.start == t->in.end) {
        n = gnutls_record_recv(t->session, t->in.data, BUF_BYTES);
        if (n == 0) {
            return false;
        }
        if (n < 0) {
            return n == GNUTLS_E_AGAIN || n == GNUTLS_E_INTERRUPTED ||
                   !gnutls_error_is_fatal(n);
        }
        t->in.start = 0;
        t->in.end = n;
        n = send(t->plain_fd, t->in.data, t->in.end, MSG_NOSIGNAL);
        if (n < 0 && errno != EAGAIN) {
            return false;
        }
        t->in.start += MAX(n, 0);
    }
    n = send(t->plain_fd, t->in.data + t->in.start, t->in.end - t->in.start,
             MSG_NOSIGNAL);
    if (n < 0 && errno != EAGAIN) {
        return false;
    }
    t->in.start += MAX(n, 0);
    return true;
}

/* To the server.  False: it is over. */
static bool push(struct nbd_client_tls *t)
{
    for (;;) {
        ssize_t n;

        if (t->out.start == t->out.end && !t->plain_ended) {
            n = recv(t->plain_fd, t->out.data, BUF_BYTES, 0);
            if (n < 0) {
                return errno == EAGAIN;
            }
            t->plain_ended = n == 0;
            t->out.start = 0;
            t->out.end = n;
        }
        if (t->out.start == t->out.end) {
            return false;
        }
        n = gnutls_record_send(t->session, t->out.data + t->out.start,
                               t->out.end - t->out.start);
        if (n < 0) {
            return n == GNUTLS_E_AGAIN || n == GNUTLS_E_INTERRUPTED;
        }
        t->out.start += n;
    }
}

static void *carry(void *tls)
{
    struct nbd_client_tls *t = tls;

    while (pull(t) && push(t)) {
        bool in_full = t->in.start < t->in.end;
        bool out_full = t->out.start < t->out.end;
        struct pollfd p[] = {
            { .fd = t->fd, .events = (in_full ? 0 : POLLIN) |
                                     (out_full ? POLLOUT : 0) },
            { .fd = t->plain_hung_up ? -1 : t->plain_fd,
              .events = (out_full ? 0 : POLLIN) | (in_full ? POLLOUT : 0) },
        };
        bool ends = t->plain_ended || t->plain_hung_up;

        if (!in_full && gnutls_record_check_pending(t->session) > 0) {
            continue;
        }
        if (poll(p, G_N_ELEMENTS(p), ends ? BYE_MS : -1) == 0) {
            break;              /* the last bytes found no taker */
        }
        t->plain_hung_up |= out_full && (p[1].revents & POLLHUP);
        if ((p[0].revents | p[1].revents) & (POLLERR | POLLNVAL)) {
            break;
        }
    }
    gnutls_bye(t->session, GNUTLS_SHUT_WR);
    shutdown(t->fd, SHUT_RDWR);
    shutdown(t->plain_fd, SHUT_RDWR);
    return NULL;
}

/* The greeting again, for libnbd. */
static bool pretend_greeting(struct nbd_client_tls *t)
{
    return send(t->plain_fd, &t->greeting, sizeof(t->greeting),
                MSG_NOSIGNAL) == sizeof(t->greeting);
}

static void *carry_from_flags(void *tls)
{
    struct nbd_client_tls *t = tls;
    struct nbd_wait w = { .deadline_ns = INT64_MAX };
    uint32_t flags;

    /* They were sent before TLS; here they would be too much. */
    if (recv_all(t->plain_fd, &w, &flags, sizeof(flags)) < 0) {
        shutdown(t->fd, SHUT_RDWR);
        shutdown(t->plain_fd, SHUT_RDWR);
        return NULL;
    }
    return carry(t);
}

static bool start_carrying(struct nbd_client_tls *t, int *plain_fd,
                           struct error **errp)
{
    pthread_attr_t attr;
    int pair[2], ret;

    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0,
                   pair) < 0) {
        error_set_errno(errp, errno, "Cannot make a pair of sockets");
        return false;
    }
    t->plain_fd = pair[0];
    pthread_attr_init(&attr);
    pthread_attr_setstacksize(&attr, THREAD_STACK_BYTES);
    ret = pretend_greeting(t)
          ? pthread_create(&t->thread, &attr, carry_from_flags, t) : EIO;
    pthread_attr_destroy(&attr);
    if (ret != 0) {
        close(pair[1]);
        error_set_errno(errp, ret, "Cannot start a thread for TLS");
        return false;
    }
    t->running = true;
    *plain_fd = pair[1];
    return true;
}

/* ---- life --------------------------------------------------------------- */

struct nbd_client_tls *nbd_client_tls_new(int fd, const struct tls_creds *creds,
                                const char *hostname,
                                const struct nbd_wait *w, int *plain_fd,
                                int *err, struct error **errp)
{
    struct nbd_client_tls *t = g_new0(struct nbd_client_tls, 1);

    t->fd = fd;
    t->plain_fd = -1;
    *err = ask_for_tls(t, w, errp);
    if (*err == 0 && !make_session(t, creds, hostname, errp)) {
        *err = -EINVAL;
    }
    if (*err == 0) {
        *err = shake_hands(t, w, errp);
    }
    if (*err == 0 && !start_carrying(t, plain_fd, errp)) {
        *err = -ENOMEM;
    }
    if (*err < 0) {
        tls_free(t);
        return NULL;
    }
    trace(NBD, "client-tls fd=%d", fd);
    return t;
}

void nbd_client_tls_end(struct nbd_client_tls **tp)
{
    struct nbd_client_tls *t = *tp;

    *tp = NULL;
    if (!t) {
        return;
    }
    if (t->running) {
        pthread_join(t->thread, NULL);
    }
    tls_free(t);
}
