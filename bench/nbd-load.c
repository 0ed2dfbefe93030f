/* SPDX-License-Identifier: MIT */
/*
 * NBD load: keeps DEPTH random requests of one size in flight on one
 * connection for some seconds.  Prints how many were answered per second, and
 * the median, the 99th percentile and the longest of what they took, in
 * microseconds.
 *
 *   nbd-load SOCKET EXPORT read|write DEPTH BYTES SECONDS
 *
 * A client that costs little, so that the server is what is measured.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>
#include "base/lock.h"
#include "nbd/protocol.h"

enum { BUF_BYTES = 1 << 20, MAX_BLOCK_BYTES = 256 << 10, MAX_DEPTH = 256 };

struct load {
    int fd;
    uint64_t n_blocks;
    bool write;
    int depth;
    uint32_t block_bytes;
    uint64_t random;            /* xorshift state */
    uint8_t *out;               /* requests to be sent */
    size_t out_len;
    uint8_t *in;
    size_t in_len;
    uint64_t n_done;
    int free_slots[MAX_DEPTH];  /* cookies of requests: a slot each */
    int n_free;
    int64_t begun_ns[MAX_DEPTH];
    GArray *taken_ns;           /* int64_t each */
};

static void die(const char *what)
{
    fprintf(stderr, "nbd-load: %s: %s\n", what, strerror(errno));
    exit(1);
}

static void send_all(int fd, const void *data, size_t bytes)
{
    while (bytes > 0) {
        ssize_t n = send(fd, data, bytes, MSG_NOSIGNAL);

        if (n <= 0) {
            die("send");
        }
        data = (const char *)data + n;
        bytes -= n;
    }
}

static void recv_all(int fd, void *data, size_t bytes)
{
    if (bytes > 0 && recv(fd, data, bytes, MSG_WAITALL) != (ssize_t)bytes) {
        die("recv");
    }
}

/* ---- handshake ---------------------------------------------------------- */

static void send_option(int fd, uint32_t option, const void *data, size_t bytes)
{
    struct nbd_wire_option o = {
        .magic = GUINT64_TO_BE(NBD_OPTION_MAGIC),
        .option = GUINT32_TO_BE(option), .length = GUINT32_TO_BE(bytes),
    };

    send_all(fd, &o, sizeof(o));
    send_all(fd, data, bytes);
}

/* Replies up to the ACK; returns the size if one of them told it. */
static uint64_t recv_replies(int fd)
{
    struct nbd_wire_option_reply r;
    struct nbd_wire_info_export info;
    uint64_t size = 0;
    uint8_t body[65536];

    do {
        recv_all(fd, &r, sizeof(r));
        recv_all(fd, body, GUINT32_FROM_BE(r.length));
        if (r.rep & GUINT32_TO_BE(NBD_REP_ERROR_BIT)) {
            errno = EPROTO;
            die("option");
        }
        if (r.rep == GUINT32_TO_BE(NBD_REP_INFO) &&
            nbd_get16(body) == NBD_INFO_EXPORT) {
            memcpy(&info, body, sizeof(info));
            size = GUINT64_FROM_BE(info.size);
        }
    } while (r.rep != GUINT32_TO_BE(NBD_REP_ACK));
    return size;
}

static uint64_t handshake(int fd, const char *export)
{
    struct nbd_wire_greeting greeting;
    uint32_t flags = GUINT32_TO_BE(NBD_FIXED_NEWSTYLE | NBD_NO_ZEROES);
    uint8_t go[4096] = { 0 };
    size_t length = strlen(export);

    recv_all(fd, &greeting, sizeof(greeting));
    send_all(fd, &flags, sizeof(flags));
    send_option(fd, NBD_OPT_STRUCTURED_REPLY, NULL, 0);
    recv_replies(fd);
    nbd_put32(go, length);
    memcpy(go + 4, export, length);
    send_option(fd, NBD_OPT_GO, go, 4 + length + 2);
    return recv_replies(fd);
}

/* ---- transmission ------------------------------------------------------- */

static void add_request(struct load *l)
{
    int slot = l->free_slots[--l->n_free];
    struct nbd_wire_request r = {
        .magic = GUINT32_TO_BE(NBD_REQUEST_MAGIC),
        .cmd = GUINT16_TO_BE(l->write ? NBD_CMD_WRITE : NBD_CMD_READ),
        .cookie = GUINT64_TO_BE(slot),
        .length = GUINT32_TO_BE(l->block_bytes),
    };

    l->begun_ns[slot] = clock_ns();

    l->random ^= l->random << 13;
    l->random ^= l->random >> 7;
    l->random ^= l->random << 17;
    r.offset = GUINT64_TO_BE(l->random % l->n_blocks * l->block_bytes);
    memcpy(l->out + l->out_len, &r, sizeof(r));
    l->out_len += sizeof(r);
    if (l->write) {
        memset(l->out + l->out_len, (int)l->random, l->block_bytes);
        l->out_len += l->block_bytes;
    }
}

static void request_done(struct load *l, uint64_t slot)
{
    int64_t ns;

    if (slot >= MAX_DEPTH || l->begun_ns[slot] == 0) {
        errno = EPROTO;
        die("cookie");
    }
    ns = clock_ns() - l->begun_ns[slot];
    l->begun_ns[slot] = 0;
    l->free_slots[l->n_free++] = slot;
    g_array_append_val(l->taken_ns, ns);
    l->n_done++;
}

/* Length of the reply at P if all AVAIL bytes of it are there, else 0. */
static size_t reply_length(struct load *l, const uint8_t *p, size_t avail)
{
    struct nbd_wire_chunk chunk;
    size_t n = 0;

    if (avail >= sizeof(struct nbd_wire_simple_reply) &&
        nbd_get32(p) == NBD_SIMPLE_REPLY_MAGIC) {
        if (nbd_get32(p + 4) != 0) {
            errno = EIO;
            die("request");
        }
        request_done(l, nbd_get64(p + 8));
        return sizeof(struct nbd_wire_simple_reply);
    }
    if (avail < sizeof(chunk)) {
        return 0;
    }
    memcpy(&chunk, p, sizeof(chunk));
    n = sizeof(chunk) + GUINT32_FROM_BE(chunk.length);
    if (avail < n) {
        return 0;
    }
    if (GUINT16_FROM_BE(chunk.type) & 0x8000) {
        errno = EIO;
        die("request");
    }
    if (GUINT16_FROM_BE(chunk.flags) & NBD_CHUNK_FLAG_DONE) {
        request_done(l, GUINT64_FROM_BE(chunk.cookie));
    }
    return n;
}

/* Take what has come; MORE: ask for as many again. */
static void turn(struct load *l, bool more)
{
    ssize_t got = recv(l->fd, l->in + l->in_len, BUF_BYTES - l->in_len, 0);
    uint64_t before = l->n_done;
    size_t pos = 0, n;

    if (got <= 0) {
        die("recv");
    }
    l->in_len += got;
    while ((n = reply_length(l, l->in + pos, l->in_len - pos)) > 0) {
        pos += n;
    }
    memmove(l->in, l->in + pos, l->in_len - pos);
    l->in_len -= pos;
    for (; more && before < l->n_done; before++) {
        add_request(l);
    }
    send_all(l->fd, l->out, l->out_len);
    l->out_len = 0;
}

/* ---- report ------------------------------------------------------------- */

static gint compare_ns(gconstpointer a, gconstpointer b)
{
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;

    return (x > y) - (x < y);
}

static double percentile_us(const struct load *l, double part)
{
    guint at = part * (l->taken_ns->len - 1) + 0.5;

    return g_array_index(l->taken_ns, int64_t, at) / 1e3;
}

static void report(struct load *l, double per_second)
{
    if (l->taken_ns->len == 0) {
        printf("0 0 0 0\n");
        return;
    }
    g_array_sort(l->taken_ns, compare_ns);
    printf("%.0f %.1f %.1f %.1f\n", per_second, percentile_us(l, 0.5),
           percentile_us(l, 0.99), percentile_us(l, 1));
}

int main(int argc, char **argv)
{
    struct sockaddr_un address = { .sun_family = AF_UNIX };
    struct load l = { .random = 88172645463325252u };
    int64_t begin_ns, end_ns;
    double per_second;

    if (argc != 7) {
        fprintf(stderr, "usage: nbd-load SOCKET EXPORT read|write DEPTH BYTES "
                "SECONDS\n");
        return 2;
    }
    l.write = strcmp(argv[3], "write") == 0;
    l.depth = CLAMP(atoi(argv[4]), 1, MAX_DEPTH);
    l.block_bytes = CLAMP(atoi(argv[5]), 1, MAX_BLOCK_BYTES);
    l.fd = socket(AF_UNIX, SOCK_STREAM, 0);
    g_strlcpy(address.sun_path, argv[1], sizeof(address.sun_path));
    if (connect(l.fd, (struct sockaddr *)&address, sizeof(address)) < 0) {
        die("connect");
    }
    l.n_blocks = handshake(l.fd, argv[2]) / l.block_bytes;
    l.in = malloc(BUF_BYTES);
    l.out = malloc((size_t)MAX_DEPTH * (MAX_BLOCK_BYTES + 64));
    l.taken_ns = g_array_new(false, false, sizeof(int64_t));
    for (l.n_free = 0; l.n_free < MAX_DEPTH; l.n_free++) {
        l.free_slots[l.n_free] = MAX_DEPTH - 1 - l.n_free;
    }
    for (int i = 0; i < l.depth; i++) {
        add_request(&l);
    }
    begin_ns = clock_ns();
    end_ns = begin_ns + (int64_t)(atof(argv[6]) * 1e9);
    send_all(l.fd, l.out, l.out_len);
    l.out_len = 0;
    while (clock_ns() < end_ns) {
        turn(&l, true);
    }
    per_second = l.n_done / ((clock_ns() - begin_ns) / 1e9);
    /* What takes longest must not go uncounted. */
    while (l.n_free < MAX_DEPTH) {
        turn(&l, false);
    }
    report(&l, per_second);
    g_array_free(l.taken_ns, true);
    return 0;
}
