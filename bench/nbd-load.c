/* SPDX-License-Identifier: MIT */
/*
 * NBD load: keeps DEPTH random requests of one size in flight on one
 * connection for some seconds and prints how many were answered per second.
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
    struct nbd_wire_request r = {
        .magic = GUINT32_TO_BE(NBD_REQUEST_MAGIC),
        .cmd = GUINT16_TO_BE(l->write ? NBD_CMD_WRITE : NBD_CMD_READ),
        .length = GUINT32_TO_BE(l->block_bytes),
    };

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
        l->n_done++;
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
        l->n_done++;
    }
    return n;
}

/* Take what has come, ask for as many again. */
static void turn(struct load *l)
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
    for (; before < l->n_done; before++) {
        add_request(l);
    }
    send_all(l->fd, l->out, l->out_len);
    l->out_len = 0;
}

int main(int argc, char **argv)
{
    struct sockaddr_un address = { .sun_family = AF_UNIX };
    struct load l = { .random = 88172645463325252u };
    int64_t begin_ns, end_ns;

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
    for (int i = 0; i < l.depth; i++) {
        add_request(&l);
    }
    begin_ns = clock_ns();
    end_ns = begin_ns + (int64_t)(atof(argv[6]) * 1e9);
    send_all(l.fd, l.out, l.out_len);
    l.out_len = 0;
    while (clock_ns() < end_ns) {
        turn(&l);
    }
    printf("%.0f\n", l.n_done / ((clock_ns() - begin_ns) / 1e9));
    return 0;
}
