/* SPDX-License-Identifier: MIT */
/* The client side of one export: see client.h. */
#include "block/nbd/client.h"

#include <errno.h>
#include <string.h>
#include "base/control.h"
#include "base/pool.h"
#include "base/trace.h"
#include "block/cancel.h"
#include "block/nbd/address.h"
#include "block/nbd/tls.h"
#include "block/objects/tls-creds.h"

#define SECOND_NS (INT64_C(1000) * 1000 * 1000)
#define LOOK_NS (SECOND_NS / 5)         /* was the thread asked to stop? */

enum {
    MAX_LINKS = 4,
    /* Calls on every connection before another one is made. */
    BUSY_CALLS = 2,
    /* One attempt, from the name to the end of the handshake. */
    ATTEMPT_SECONDS = 10,
    RETRY_MIN_MS = 50,
    RETRY_MAX_MS = 1000,
    /* What a server gets to answer in once somebody cancels. */
    GRACE_MS = 2000,
    /* After an extra connection was refused, none is tried so long. */
    EXTRA_PAUSE_SECONDS = 60,
};

struct slot {
    struct nbd_link *link;      /* owned, NULL: free */
    int n_users;
};

struct nbd_client {
    /* Constant. */
    const SocketAddress *server;    /* owned copy */
    char *export, *context, *where; /* owned */
    struct tls_creds *tls_creds;    /* in use until close; NULL: no TLS */
    char *tls_hostname;             /* owned: of the certificate, or NULL */
    int64_t reconnect_ns;
    struct nbd_info info;           /* I3 */

    /* Protected by lock (LOCK_NBD_CLIENT). */
    struct lock lock;
    struct cond cond;               /* any of these changed */
    struct slot slots[MAX_LINKS];
    int n_refs;                     /* the user's, and the attempt's (I1) */
    bool connecting;                /* I1 */
    bool closed;
    int64_t wait_until_ns;          /* calls wait for a connection until then*/
    int64_t extra_after_ns;         /* no extra connection before */
    uint64_t n_cancels;
    int64_t hurry_until_ns;         /* after a cancel nobody waits before */
};

/* ---- connecting --------------------------------------------------------- */

static bool client_closed(void *client)
{
    struct nbd_client *c = client;

    LOCK_GUARD(&c->lock);
    return c->closed;
}

/* One attempt.  NULL and errp; *ERR the errno. */
static struct nbd_link *connect_once(struct nbd_client *c,
                                     struct nbd_info *info, int *err,
                                     struct error **errp)
{
    struct nbd_link_options options = {
        .export = c->export, .context = c->context,
    };
    struct nbd_wait w = {
        .deadline_ns = clock_ns() + ATTEMPT_SECONDS * SECOND_NS,
        .given_up = client_closed, .opaque = c,
    };
    int fd = nbd_address_connect(c->server, &w, errp);

    if (fd < 0) {
        *err = fd;
        return NULL;
    }
    if (c->tls_creds) {
        options.tls = nbd_client_tls_new(fd, c->tls_creds, c->tls_hostname, &w,
                                         &fd, err, errp);
        if (!options.tls) {
            return NULL;
        }
    }
    return nbd_link_new(fd, &options, &w, info, err, errp);
}

static bool same_export(const struct nbd_info *a, const struct nbd_info *b)
{
    return a->length == b->length && a->read_only == b->read_only &&
           a->min_bytes == b->min_bytes && a->max_bytes >= b->max_bytes &&
           a->can_flush == b->can_flush && a->can_fua == b->can_fua &&
           a->can_trim == b->can_trim && a->can_zero == b->can_zero &&
           a->can_fast_zero == b->can_fast_zero &&
           a->can_status == b->can_status;
}

/* As connect_once(), and the export is still the same (I3). */
static struct nbd_link *connect_again(struct nbd_client *c)
{
    AUTO_ERROR(err);
    struct nbd_info info;
    int ret = 0;
    struct nbd_link *l = connect_once(c, &info, &ret, &err);

    if (l && !same_export(&info, &c->info)) {
        error_set(&err, "The export is not what it was");
        nbd_link_free(&l);
    }
    if (l) {
        trace(NBD, "client-connected server=%s", c->where);
    } else {
        trace(NBD, "client-connect-failed server=%s error=%s", c->where,
              error_text(err));
    }
    return l;
}

static void client_unref(struct nbd_client *c)
{
    bool last;

    lock_acquire(&c->lock);
    last = --c->n_refs == 0;
    lock_release(&c->lock);
    if (last) {
        SocketAddress_free((SocketAddress *)c->server);
        g_free(c->export);
        g_free(c->context);
        g_free(c->where);
        g_free(c->tls_hostname);
        cond_deinit(&c->cond);
        lock_deinit(&c->lock);
        g_free(c);
    }
}

/* lock held. */
static struct slot *find_slot(struct nbd_client *c, bool in_use)
{
    for (int i = 0; i < MAX_LINKS; i++) {
        if (in_use == (c->slots[i].link != NULL)) {
            return &c->slots[i];
        }
    }
    return NULL;
}

/* Does anybody still want a connection that is not there?  lock held. */
static bool is_wanted(const struct nbd_client *c)
{
    return !c->closed && !cancel_waits_asked() &&
           clock_ns() < c->wait_until_ns;
}

/* The worker of I1: until it has a connection or nobody waits for one. */
static void connect_task(void *client)
{
    struct nbd_client *c = client;
    int pause_ms = RETRY_MIN_MS;
    struct nbd_link *l;
    struct slot *free_slot;

    for (;;) {
        l = connect_again(c);
        lock_acquire(&c->lock);
        if (l || !is_wanted(c)) {
            break;
        }
        cond_wait_until(&c->cond, &c->lock,
                        clock_ns() + pause_ms * INT64_C(1000000));
        lock_release(&c->lock);
        pause_ms = MIN(2 * pause_ms, RETRY_MAX_MS);
    }
    free_slot = find_slot(c, false);
    if (l && free_slot && !c->closed) {
        free_slot->link = g_steal_pointer(&l);
        c->wait_until_ns = 0;
    } else {
        c->extra_after_ns = clock_ns() + EXTRA_PAUSE_SECONDS * SECOND_NS;
    }
    c->connecting = false;
    cond_broadcast(&c->cond);
    lock_release(&c->lock);
    nbd_link_free(&l);
    client_unref(c);
}

/* lock held. */
static void start_connecting(struct nbd_client *c)
{
    if (!c->connecting && !c->closed) {
        c->connecting = true;
        c->n_refs++;
        pool_submit(connect_task, c);
    }
}

/* ---- choosing a connection ---------------------------------------------- */

/* The least busy one that lives, or NULL.  lock held. */
static struct slot *best_slot(struct nbd_client *c)
{
    struct slot *best = NULL;

    for (struct slot *s = c->slots; s < c->slots + MAX_LINKS; s++) {
        if (s->link && !nbd_link_is_dead(s->link) &&
            (!best || s->n_users < best->n_users)) {
            best = s;
        }
    }
    return best;
}

/* Is the last one gone?  Then calls wait from now on (I2).  lock held. */
static void note_lost(struct nbd_client *c)
{
    int64_t now = clock_ns();

    if (c->wait_until_ns == 0 && !best_slot(c)) {
        c->wait_until_ns = now < c->hurry_until_ns ? now
                                                   : now + c->reconnect_ns;
    }
}

/* lock held. */
static void maybe_one_more(struct nbd_client *c, const struct slot *best)
{
    if (best->n_users >= BUSY_CALLS && c->info.can_multi_conn &&
        c->server->type != SOCKET_ADDRESS_TYPE_FD && !c->connecting &&
        find_slot(c, false) && clock_ns() >= c->extra_after_ns) {
        start_connecting(c);
    }
}

/* What one call has to keep in mind from one try to the next. */
struct patience {
    uint64_t n_cancels;         /* I2 */
    int64_t until_ns;           /* INT64_MAX: nothing lost yet */
};

/* A connection to use, or NULL: none, and none will be waited for (I2). */
static struct slot *take_slot(struct nbd_client *c, struct patience *p)
{
    LOCK_GUARD(&c->lock);
    for (;;) {
        struct slot *s = best_slot(c);
        int64_t until_ns = 0;

        if (p->n_cancels == UINT64_MAX) {
            p->n_cancels = c->n_cancels;
        }
        if (s && p->n_cancels == c->n_cancels) {
            maybe_one_more(c, s);
            s->n_users++;
            return s;
        }
        if (!s) {
            note_lost(c);
            start_connecting(c);
            until_ns = MIN(c->wait_until_ns, p->until_ns);
        }
        if (p->n_cancels != c->n_cancels || cancel_waits_asked() ||
            cancel_asked() || clock_ns() >= until_ns) {
            return NULL;
        }
        if (cancel_possible()) {
            until_ns = MIN(until_ns, clock_ns() + LOOK_NS);
        }
        cond_wait_until(&c->cond, &c->lock, until_ns);
    }
}

/* Done with S; a dead connection goes with its last user. */
static void put_slot(struct nbd_client *c, struct slot *s)
{
    struct nbd_link *gone = NULL;

    lock_acquire(&c->lock);
    s->n_users--;
    if (nbd_link_is_dead(s->link)) {
        note_lost(c);
        if (s->n_users == 0) {
            gone = g_steal_pointer(&s->link);
        }
    }
    lock_release(&c->lock);
    nbd_link_free(&gone);
}

/* ---- calls -------------------------------------------------------------- */

int nbd_client_call(struct nbd_client *c, struct nbd_call *call,
                    int64_t max_ns)
{
    struct patience p = { .n_cancels = UINT64_MAX, .until_ns = INT64_MAX };
    struct slot *s;
    int ret;

    while ((s = take_slot(c, &p))) {
        ret = nbd_link_call(s->link, call, max_ns);
        put_slot(c, s);
        if (ret != -ENOTCONN) {
            return ret;
        }
        if (c->reconnect_ns == 0 || max_ns > 0) {
            break;
        }
        p.until_ns = MIN(p.until_ns, clock_ns() + c->reconnect_ns);
    }
    return -EIO;
}

void nbd_client_cancel(struct nbd_client *c)
{
    int64_t now = clock_ns();

    LOCK_GUARD(&c->lock);
    c->n_cancels++;
    c->wait_until_ns = MIN(c->wait_until_ns, now);
    c->hurry_until_ns = now + 2 * GRACE_MS * INT64_C(1000000);
    for (struct slot *s = c->slots; s < c->slots + MAX_LINKS; s++) {
        if (s->link) {
            nbd_link_hurry(s->link, GRACE_MS * INT64_C(1000000));
        }
    }
    cond_broadcast(&c->cond);
}

/* ---- life --------------------------------------------------------------- */

const struct nbd_info *nbd_client_info(const struct nbd_client *c)
{
    return &c->info;
}

/* Until open_timeout; at least once. */
static struct nbd_link *connect_first(struct nbd_client *c,
                                      uint32_t open_timeout, int *err,
                                      struct error **errp)
{
    int64_t end_ns = clock_ns() + open_timeout * SECOND_NS;
    struct nbd_wait pause = { .deadline_ns = 0 };
    struct nbd_link *l;

    for (;;) {
        AUTO_ERROR(failure);

        l = connect_once(c, &c->info, err, &failure);
        if (l) {
            return l;
        }
        pause.deadline_ns = clock_ns() + RETRY_MIN_MS * INT64_C(4000000);
        if (pause.deadline_ns >= end_ns || *err == -ECANCELED) {
            error_propagate(errp, g_steal_pointer(&failure));
            return NULL;
        }
        nbd_wait_fd(&pause, -1, 0);
    }
}

/* TLS as OPTIONS say. */
static bool get_tls(struct nbd_client *c,
                    const struct nbd_client_options *options,
                    struct error **errp)
{
    const SocketAddress *a = c->server;

    if (!options->tls_creds) {
        return true;
    }
    c->tls_hostname = g_strdup(options->tls_hostname);
    if (!c->tls_hostname && a->type == SOCKET_ADDRESS_TYPE_INET) {
        c->tls_hostname = g_strdup(a->u.inet.host);
    }
    CONTROL_GUARD();
    c->tls_creds = tls_creds_get(options->tls_creds,
                                 Q_CRYPTO_TLS_CREDS_ENDPOINT_CLIENT, errp);
    return c->tls_creds != NULL;
}

static void put_tls(struct nbd_client *c)
{
    if (c->tls_creds) {
        CONTROL_GUARD();
        object_put(&c->tls_creds->base);
    }
}

struct nbd_client *nbd_client_new(const struct nbd_client_options *options,
                                  int *err, struct error **errp)
{
    struct nbd_client *c = g_new0(struct nbd_client, 1);

    lock_init(&c->lock, "nbd-client", LOCK_NBD_CLIENT);
    cond_init(&c->cond);
    c->n_refs = 1;
    c->server = SocketAddress_clone(options->server);
    c->export = g_strdup(options->export);
    c->context = g_strdup(options->context);
    c->where = nbd_address_describe(c->server);
    c->reconnect_ns = options->reconnect_delay * SECOND_NS;
    if (!get_tls(c, options, errp)) {
        *err = -EINVAL;
        client_unref(c);
        return NULL;
    }
    c->slots[0].link = connect_first(c, options->open_timeout, err, errp);
    if (!c->slots[0].link) {
        put_tls(c);
        client_unref(c);
        return NULL;
    }
    return c;
}

void nbd_client_close(struct nbd_client **cp)
{
    struct nbd_client *c = *cp;
    struct nbd_link *links[MAX_LINKS];

    *cp = NULL;
    lock_acquire(&c->lock);
    c->closed = true;
    for (int i = 0; i < MAX_LINKS; i++) {
        g_assert(c->slots[i].n_users == 0);
        links[i] = g_steal_pointer(&c->slots[i].link);
    }
    cond_broadcast(&c->cond);
    while (c->tls_creds && c->connecting) {     /* it uses them */
        cond_wait(&c->cond, &c->lock);
    }
    lock_release(&c->lock);
    for (int i = 0; i < MAX_LINKS; i++) {
        nbd_link_free(&links[i]);
    }
    put_tls(c);
    client_unref(c);
}
