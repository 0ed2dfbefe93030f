/* SPDX-License-Identifier: MIT */
/* A block layer in memory, and a client: see nbd-fake.h. */
#include "nbd-fake.h"
#include "block/stats.h"

#include <errno.h>
#include <glib/gstdio.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>
#include "base/control.h"
#include "bitmaps/dirty-bitmap.h"
#include "block/inactive.h"
#include "block/objects/object.h"

#define LOAD(x) __atomic_load_n(&(x), __ATOMIC_RELAXED)
#define COUNT(x) __atomic_add_fetch(&(x), 1, __ATOMIC_RELAXED)

/* ---- objects ------------------------------------------------------------ */

const struct object_type *const object_types[OBJECT_TYPE__MAX] = {
    [OBJECT_TYPE_AUTHZ_SIMPLE] = &authz_simple_object_type,
    [OBJECT_TYPE_SECRET] = &secret_object_type,
    [OBJECT_TYPE_TLS_CREDS_ANON] = &tls_creds_anon_object_type,
    [OBJECT_TYPE_TLS_CREDS_PSK] = &tls_creds_psk_object_type,
    [OBJECT_TYPE_TLS_CREDS_X509] = &tls_creds_x509_object_type,
};

/* ---- nodes and roots ---------------------------------------------------- */

struct root {
    struct fake_node *node;
    struct root_options options;
    struct lock lock;
    struct cond cond;
    int in_flight;              /* under lock */
    bool closed;
    struct root *next;
};

static struct fake_node *nodes[16];
static struct root *roots;      /* under the control lock */

uint8_t fake_pattern(int64_t offset)
{
    return (offset >> 9) * 7 + offset * 3 + 1;
}

struct fake_node *fake_node_new(const char *name, int64_t bytes)
{
    struct fake_node *n = g_new0(struct fake_node, 1);
    size_t i = 0;

    n->node.name = g_strdup(name);
    atomic_store(&n->node.length_bytes, bytes);
    n->node.bitmaps = dirty_bitmap_list_new();
    n->data = g_malloc(bytes);
    for (int64_t at = 0; at < bytes; at++) {
        n->data[at] = fake_pattern(at);
    }
    while (nodes[i]) {
        i++;
    }
    g_assert_cmpint(i, <, G_N_ELEMENTS(nodes));
    nodes[i] = n;
    return n;
}

void fake_node_free(struct fake_node *n)
{
    for (size_t i = 0; i < G_N_ELEMENTS(nodes); i++) {
        if (nodes[i] == n) {
            nodes[i] = NULL;
        }
    }
    dirty_bitmap_list_free(n->node.bitmaps);
    g_free(n->node.name);
    g_free(n->data);
    g_free(n);
}

struct node *node_lookup(const char *device, const char *node_name,
                         struct error **errp)
{
    for (size_t i = 0; i < G_N_ELEMENTS(nodes); i++) {
        if (nodes[i] && strcmp(nodes[i]->node.name, node_name) == 0) {
            return &nodes[i]->node;
        }
    }
    error_set(errp, "Cannot find device='%s' nor node-name='%s'",
              device ? device : "", node_name);
    return NULL;
}

const char *node_name(const struct node *n) { return n->name; }
bool node_is_read_only(const struct node *n) { return n->read_only; }
int64_t node_length(const struct node *n)
{
    return atomic_load(&n->length_bytes);
}
struct node *node_filtered(const struct node *n) { return NULL; }
struct node *node_backing(const struct node *n)
{
    const struct fake_node *f = (const struct fake_node *)n;

    return f->backing ? &f->backing->node : NULL;
}
struct node *node_skip_filters(struct node *n) { return n; }

struct root *root_new(struct node *node, const struct root_options *options,
                      struct error **errp)
{
    struct root *r = g_new0(struct root, 1);

    control_assert();
    r->node = (struct fake_node *)node;
    r->options = *options;
    lock_init(&r->lock, "fake-root", LOCK_ROOT);
    cond_init(&r->cond);
    r->next = roots;
    roots = r;
    return r;
}

bool root_set_perm(struct root *r, unsigned perm, unsigned shared,
                   struct error **errp)
{
    r->options.perm = perm;
    r->options.shared = shared;
    return true;
}

void root_hurry(struct root *r)
{
    control_assert();
}

void root_free(struct root **r)
{
    struct root **link = &roots;

    control_assert();
    g_assert_cmpint((*r)->in_flight, ==, 0);
    while (*link != *r) {
        link = &(*link)->next;
    }
    *link = (*r)->next;
    cond_deinit(&(*r)->cond);
    lock_deinit(&(*r)->lock);
    g_free(*r);
    *r = NULL;
}

int fake_n_roots(void)
{
    int n = 0;

    CONTROL_GUARD();
    for (struct root *r = roots; r; r = r->next) {
        n++;
    }
    return n;
}

void fake_wait_no_roots(void)
{
    int64_t deadline = clock_ns() + 30 * INT64_C(1000000000);

    while (fake_n_roots() > 0) {
        g_assert_cmpint(clock_ns(), <, deadline);
        g_usleep(1000);
    }
}

void fake_drain(struct fake_node *n, bool closed)
{
    CONTROL_GUARD();
    for (struct root *r = roots; r; r = r->next) {
        if (r->node == n) {
            LOCK_GUARD(&r->lock);
            r->closed = closed;
            cond_broadcast(&r->cond);
            while (closed && r->in_flight > 0) {
                cond_wait(&r->cond, &r->lock);
            }
        }
    }
}

struct node *root_node(const struct root *r) { return &r->node->node; }

struct block_stats *root_stats(const struct root *r)
{
    return NULL;
}

void block_stats_done(struct block_stats *s, enum block_stats_op op,
                      int64_t bytes, int64_t start_ns, int ret)
{
}

void block_stats_invalid(struct block_stats *s, enum block_stats_op op)
{
}

int64_t root_length(const struct root *r) { return node_length(root_node(r)); }

bool root_try_enter(struct root *r)
{
    LOCK_GUARD(&r->lock);
    if (r->closed) {
        return false;
    }
    r->in_flight++;
    return true;
}

void root_enter(struct root *r)
{
    LOCK_GUARD(&r->lock);
    while (r->closed) {
        cond_wait(&r->cond, &r->lock);
    }
    r->in_flight++;
}

void root_leave(struct root *r)
{
    LOCK_GUARD(&r->lock);
    r->in_flight--;
    cond_broadcast(&r->cond);
}

/* ---- requests ----------------------------------------------------------- */

static int request_begin(struct node *node, int64_t offset, int64_t bytes,
                         unsigned flags)
{
    struct fake_node *n = (struct fake_node *)node;

    g_assert_cmpint(offset, >=, 0);
    g_assert_cmpint(bytes, >=, 0);
    g_assert_cmpint(offset + bytes, <=, node_length(node));
    if (flags & BLK_NOWAIT) {
        COUNT(n->n_nowait);
        if (LOAD(n->would_block)) {
            return -EAGAIN;
        }
        if (LOAD(n->nowait_delay_us)) {
            g_usleep(LOAD(n->nowait_delay_us));
        }
    } else if (LOAD(n->delay_us)) {
        g_usleep(LOAD(n->delay_us));
    }
    return LOAD(n->fail);
}

int node_pread(struct node *node, int64_t offset, int64_t bytes, void *buf,
               unsigned flags)
{
    struct fake_node *n = (struct fake_node *)node;
    int ret = request_begin(node, offset, bytes, flags);

    if (ret < 0) {
        return ret;
    }
    COUNT(n->n_reads);
    for (int64_t i = 0; i < bytes; i++) {
        ((uint8_t *)buf)[i] = LOAD(n->data[offset + i]);
    }
    return 0;
}

static void store(struct fake_node *n, int64_t offset, int64_t bytes,
                  const uint8_t *buf)
{
    for (int64_t i = 0; i < bytes; i++) {
        __atomic_store_n(&n->data[offset + i], buf ? buf[i] : 0,
                         __ATOMIC_RELAXED);
    }
}

int node_pwrite(struct node *node, int64_t offset, int64_t bytes,
                const void *buf, unsigned flags)
{
    struct fake_node *n = (struct fake_node *)node;
    int ret = request_begin(node, offset, bytes, flags);

    if (ret < 0) {
        return ret;
    }
    COUNT(n->n_writes);
    if (flags & BLK_FUA) {
        g_assert_false(flags & BLK_NOWAIT);
        COUNT(n->n_fua);
    }
    store(n, offset, bytes, buf);
    return 0;
}

#define ENTERED(r, call) \
    ({ int ret_; root_enter(r); ret_ = (call); root_leave(r); ret_; })

int root_pread(struct root *r, int64_t offset, int64_t bytes, void *buf,
               unsigned flags)
{
    return ENTERED(r, node_pread(root_node(r), offset, bytes, buf, flags));
}

int root_pwrite(struct root *r, int64_t offset, int64_t bytes, const void *buf,
                unsigned flags)
{
    return ENTERED(r, node_pwrite(root_node(r), offset, bytes, buf, flags));
}

int root_pwrite_zeroes(struct root *r, int64_t offset, int64_t bytes,
                       unsigned flags)
{
    struct fake_node *n = r->node;
    int ret = ENTERED(r, request_begin(root_node(r), offset, bytes, flags));

    if (flags & BLK_NO_FALLBACK) {
        COUNT(n->n_no_fallback);
        return -ENOTSUP;
    }
    COUNT(n->n_zeroes);
    if (flags & BLK_MAY_UNMAP) {
        COUNT(n->n_unmap);
    }
    if (flags & BLK_FUA) {
        COUNT(n->n_fua);
    }
    if (ret == 0) {
        store(n, offset, bytes, NULL);
    }
    return ret;
}

int root_pdiscard(struct root *r, int64_t offset, int64_t bytes)
{
    COUNT(r->node->n_trims);
    return ENTERED(r, request_begin(root_node(r), offset, bytes, 0));
}

int root_flush(struct root *r)
{
    COUNT(r->node->n_flushes);
    return ENTERED(r, request_begin(root_node(r), 0, 0, 0));
}

/* The hole is unallocated: zero, or what the backing node says. */
int node_block_status(struct node *node, bool want_zero, int64_t offset,
                      int64_t bytes, struct block_status *st)
{
    struct fake_node *n = (struct fake_node *)node;
    int64_t end = offset + bytes;
    int64_t hole_end = n->hole_offset + n->hole_bytes;

    *st = (struct block_status){ .flags = STATUS_DATA | STATUS_ALLOCATED };
    if (offset >= n->hole_offset && offset < hole_end) {
        st->flags = n->backing ? 0 : STATUS_ZERO;
        end = MIN(end, hole_end);
    } else if (offset < n->hole_offset) {
        end = MIN(end, n->hole_offset);
    }
    st->bytes = end - offset;
    return LOAD(n->fail);
}

int root_block_status_above(struct root *r, struct node *base, bool want_zero,
                            int64_t offset, int64_t bytes,
                            struct block_status *st)
{
    int ret = ENTERED(r, node_block_status(root_node(r), want_zero, offset,
                                           bytes, st));

    if (!(st->flags & STATUS_ALLOCATED)) {
        st->flags = STATUS_ZERO;
    }
    return ret;
}

/* ---- server ------------------------------------------------------------- */

void fake_server_start(struct fake_server *s, int max_connections,
                       int handshake_seconds)
{
    struct nbd_server_options options = { max_connections, handshake_seconds };
    struct nbd_unix_address address = { 0 };

    s->dir = g_dir_make_tmp("nbd-test-XXXXXX", NULL);
    address.path = s->path = g_build_filename(s->dir, "sock", NULL);
    s->server = nbd_server_new(nbd_listen_unix(&address, NULL), &options, NULL);
    g_assert_nonnull(s->server);
}

void fake_server_stop(struct fake_server *s)
{
    control_lock();
    nbd_server_stop(g_steal_pointer(&s->server));
    control_unlock();
    g_assert_false(g_file_test(s->path, G_FILE_TEST_EXISTS));
    g_assert_cmpint(g_rmdir(s->dir), ==, 0);
    g_free(s->path);
    g_free(s->dir);
}

struct nbd_export *fake_export(struct fake_server *s, struct fake_node *n,
                               const char *name, bool writable)
{
    struct nbd_export_options options = {
        .id = name, .name = name, .server = s->server, .node = &n->node,
        .writable = writable,
    };
    struct nbd_export *e;

    CONTROL_GUARD();
    e = nbd_export_new(&options, NULL);
    g_assert_nonnull(e);
    nbd_export_publish(e);
    return e;
}

/* ---- client ------------------------------------------------------------- */

int peer_n_holes;

void peer_connect(struct peer *p, const char *path)
{
    struct sockaddr_un address = { .sun_family = AF_UNIX };
    struct timeval timeout = { .tv_sec = 10 };

    *p = (struct peer){ .fd = socket(AF_UNIX, SOCK_STREAM, 0) };
    setsockopt(p->fd, SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof(timeout));
    setsockopt(p->fd, SOL_SOCKET, SO_SNDTIMEO, &timeout, sizeof(timeout));
    strcpy(address.sun_path, path);
    g_assert_cmpint(connect(p->fd, (struct sockaddr *)&address,
                            sizeof(address)), ==, 0);
}

void peer_close(struct peer *p)
{
    close(p->fd);
    p->fd = -1;
}

void peer_send(struct peer *p, const void *data, size_t bytes)
{
    while (bytes > 0) {
        ssize_t n = TEMP_FAILURE_RETRY(send(p->fd, data, bytes,
                                            MSG_NOSIGNAL));

        g_assert_cmpint(n, >, 0);
        data = (const char *)data + n;
        bytes -= n;
    }
}

void peer_recv(struct peer *p, void *data, size_t bytes)
{
    while (bytes > 0) {
        ssize_t n = TEMP_FAILURE_RETRY(recv(p->fd, data, bytes, 0));

        g_assert_cmpint(n, >, 0);
        data = (char *)data + n;
        bytes -= n;
    }
}

void peer_expect_closed(struct peer *p)
{
    char buf[4096];
    ssize_t n;

    do {
        n = TEMP_FAILURE_RETRY(recv(p->fd, buf, sizeof(buf), 0));
    } while (n > 0);
    g_assert_true(n == 0 || errno == ECONNRESET);
    peer_close(p);
}

void peer_hello(struct peer *p, uint32_t flags)
{
    struct nbd_wire_greeting g;
    uint32_t flags_be = GUINT32_TO_BE(flags);

    peer_recv(p, &g, sizeof(g));
    g_assert_cmphex(GUINT64_FROM_BE(g.init_magic), ==, NBD_INIT_MAGIC);
    g_assert_cmphex(GUINT64_FROM_BE(g.option_magic), ==, NBD_OPTION_MAGIC);
    g_assert_cmphex(GUINT16_FROM_BE(g.flags), ==, 3);
    peer_send(p, &flags_be, sizeof(flags_be));
}

void peer_send_option(struct peer *p, uint32_t option, const void *data,
                      uint32_t length)
{
    struct nbd_wire_option o = {
        .magic = GUINT64_TO_BE(NBD_OPTION_MAGIC),
        .option = GUINT32_TO_BE(option), .length = GUINT32_TO_BE(length),
    };

    peer_send(p, &o, sizeof(o));
    if (data) {
        peer_send(p, data, length);
    }
}

uint32_t peer_reply(struct peer *p, uint32_t option, char **payload,
                    uint32_t *length)
{
    struct nbd_wire_option_reply r;
    g_autofree char *body = NULL;
    uint32_t n;

    peer_recv(p, &r, sizeof(r));
    g_assert_cmphex(GUINT64_FROM_BE(r.magic), ==, NBD_OPTION_REPLY_MAGIC);
    g_assert_cmpint(GUINT32_FROM_BE(r.option), ==, option);
    n = GUINT32_FROM_BE(r.length);
    body = g_malloc0(n + 1);
    peer_recv(p, body, n);
    if (payload) {
        *payload = g_steal_pointer(&body);
    }
    if (length) {
        *length = n;
    }
    return GUINT32_FROM_BE(r.rep);
}

void peer_option(struct peer *p, uint32_t option, const void *data,
                 uint32_t length, uint32_t rep)
{
    peer_send_option(p, option, data, length);
    g_assert_cmphex(peer_reply(p, option, NULL, NULL), ==, rep);
}

void peer_put32(GByteArray *g, uint32_t v)
{
    v = GUINT32_TO_BE(v);
    g_byte_array_append(g, (void *)&v, sizeof(v));
}

void peer_put16(GByteArray *g, uint16_t v)
{
    v = GUINT16_TO_BE(v);
    g_byte_array_append(g, (void *)&v, sizeof(v));
}

void peer_put_string(GByteArray *g, const char *text)
{
    peer_put32(g, strlen(text));
    g_byte_array_append(g, (void *)text, strlen(text));
}

static void peer_read_info(struct peer *p, const char *payload)
{
    struct nbd_wire_info_export info;

    if (nbd_get16(payload) == NBD_INFO_EXPORT) {
        memcpy(&info, payload, sizeof(info));
        p->size = GUINT64_FROM_BE(info.size);
        p->flags = GUINT16_FROM_BE(info.flags);
    }
}

void peer_go(struct peer *p, const char *path, const char *export,
             bool structured)
{
    g_autoptr(GByteArray) g = g_byte_array_new();
    uint32_t rep;

    if (path) {
        peer_connect(p, path);
        peer_hello(p, 3);
    }
    if (structured && !p->structured) {
        peer_option(p, NBD_OPT_STRUCTURED_REPLY, NULL, 0, NBD_REP_ACK);
        p->structured = true;
    }
    peer_put_string(g, export);
    peer_put16(g, 0);
    peer_send_option(p, NBD_OPT_GO, g->data, g->len);
    do {
        g_autofree char *payload = NULL;

        rep = peer_reply(p, NBD_OPT_GO, &payload, NULL);
        g_assert_cmphex(rep & NBD_REP_ERROR_BIT, ==, 0);
        if (rep == NBD_REP_INFO) {
            peer_read_info(p, payload);
        }
    } while (rep != NBD_REP_ACK);
}

uint64_t peer_request(struct peer *p, const struct peer_request *r)
{
    struct nbd_wire_request wire = {
        .magic = GUINT32_TO_BE(NBD_REQUEST_MAGIC),
        .flags = GUINT16_TO_BE(r->flags), .cmd = GUINT16_TO_BE(r->cmd),
        .cookie = GUINT64_TO_BE(++p->last_cookie),
        .offset = GUINT64_TO_BE(r->offset),
        .length = GUINT32_TO_BE(r->length),
    };

    peer_send(p, &wire, sizeof(wire));
    if (r->payload) {
        peer_send(p, r->payload, r->length);
    }
    return p->last_cookie;
}

/* One chunk: its error or 0. */
static uint32_t peer_chunk(struct peer *p, const struct nbd_wire_chunk *chunk,
                           const struct peer_request *r, uint8_t *read_buf)
{
    uint32_t n = GUINT32_FROM_BE(chunk->length);
    g_autofree uint8_t *body = g_malloc(n + 1);
    uint64_t offset;
    uint32_t bytes;

    peer_recv(p, body, n);
    memcpy(&offset, body, MIN(n, sizeof(offset)));
    offset = GUINT64_FROM_BE(offset);
    switch (GUINT16_FROM_BE(chunk->type)) {
    case NBD_CHUNK_OFFSET_DATA:
        g_assert_cmpuint(offset, >=, r->offset);
        g_assert_cmpuint(offset + n - 8, <=, r->offset + r->length);
        memcpy(read_buf + offset - r->offset, body + 8, n - 8);
        return 0;
    case NBD_CHUNK_OFFSET_HOLE:
        bytes = nbd_get32(body + 8);
        g_assert_cmpuint(n, ==, 12);
        g_assert_cmpuint(offset + bytes, <=, r->offset + r->length);
        memset(read_buf + offset - r->offset, 0, bytes);
        peer_n_holes++;
        return 0;
    case NBD_CHUNK_BLOCK_STATUS:
        /* Caller's buffer takes the chunk with its length before it. */
        bytes = n;
        memcpy(read_buf, &bytes, sizeof(bytes));
        memcpy(read_buf + sizeof(bytes), body, n);
        return 0;
    case NBD_CHUNK_ERROR:
        g_assert_cmpuint(n, ==, 6 + nbd_get16(body + 4));
        return nbd_get32(body);
    default:
        g_assert_cmpuint(n, ==, 0);
        return 0;
    }
}

uint32_t peer_result(struct peer *p, uint64_t cookie,
                     const struct peer_request *r, void *read_buf)
{
    struct nbd_wire_simple_reply simple;
    struct nbd_wire_chunk chunk;
    uint8_t *buf = read_buf;
    uint32_t magic, error = 0;

    peer_n_holes = 0;
    do {
        peer_recv(p, &magic, sizeof(magic));
        if (magic == GUINT32_TO_BE(NBD_SIMPLE_REPLY_MAGIC)) {
            peer_recv(p, &simple.error, sizeof(simple) - sizeof(magic));
            g_assert_cmpuint(GUINT64_FROM_BE(simple.cookie), ==, cookie);
            error = GUINT32_FROM_BE(simple.error);
            g_assert_true(r->cmd != NBD_CMD_READ || !p->structured);
            if (r->cmd == NBD_CMD_READ && !error) {
                peer_recv(p, buf, r->length);
            }
            return error;
        }
        g_assert_true(p->structured);
        g_assert_cmphex(GUINT32_FROM_BE(magic), ==, NBD_CHUNK_MAGIC);
        peer_recv(p, &chunk.flags, sizeof(chunk) - sizeof(magic));
        g_assert_cmpuint(GUINT64_FROM_BE(chunk.cookie), ==, cookie);
        error |= peer_chunk(p, &chunk, r, buf);
        if (GUINT16_FROM_BE(chunk.type) == NBD_CHUNK_BLOCK_STATUS) {
            buf += sizeof(uint32_t) + GUINT32_FROM_BE(chunk.length);
        }
    } while (!(GUINT16_FROM_BE(chunk.flags) & NBD_CHUNK_FLAG_DONE));
    return error;
}

uint32_t peer_call(struct peer *p, const struct peer_request *r,
                   void *read_buf)
{
    return peer_result(p, peer_request(p, r), r, read_buf);
}

/* ---- backends: there are no devices -------------------------------------- */

struct backend *backend_find(const char *name) { return NULL; }
void iothread_claim_add(struct iothread_claim *claim) { }
void iothread_claim_remove(struct iothread_claim *claim) { }
bool iothread_claim_check(const struct node *n, const char *iothread,
                          const struct iothread_claim *own,
                          struct error **errp)
{
    return true;
}
void backend_unref(struct backend *b) { }
struct backend *backend_ref(struct backend *b) { return b; }
void backend_watch(struct backend *b, struct backend_watcher *w) { }
void backend_unwatch(struct backend *b, struct backend_watcher *w) { }
bool backend_is_limited(const struct backend *b) { return false; }
void backend_wait_for_turn(struct backend *b, bool is_write, int64_t bytes) { }
void backend_let_go_begin(struct backend *b) { }
void backend_let_go_end(struct backend *b) { }
bool backend_writethrough(const struct backend *b) { return false; }
struct block_stats *backend_stats(const struct backend *b) { return NULL; }
bool backend_on_error_set(const struct backend *b) { return false; }
BlockErrorAction backend_guest_error(struct backend *b, bool is_read,
                                     int error)
{
    return BLOCK_ERROR_ACTION_REPORT;
}
bool backend_wait_resumed(struct backend *b, bool (*gives_up)(void *opaque),
                          void *opaque)
{
    return false;
}

/* ---- nodes stay, and are active ------------------------------------------ */

struct node *node_ref(struct node *n) { return n; }
void node_unref(struct node *n) { }
bool node_is_inactive(const struct node *n) { return false; }
bool node_activate(struct node *n, struct error **errp) { return true; }
