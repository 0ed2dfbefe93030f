/* SPDX-License-Identifier: MIT */
/*
 * For tests of nbd/: a block layer in memory with knobs, in the place of
 * block/, and a client that says what the test wants.
 */
#pragma once

#include "block/driver.h"
#include "block/root.h"
#include "nbd/export.h"
#include "nbd/protocol.h"
#include "nbd/server.h"

/* ---- nodes -------------------------------------------------------------- */

struct fake_node {
    struct node node;           /* first */
    uint8_t *data;              /* written atomically, byte by byte */
    int64_t hole_offset, hole_bytes;    /* status says zero here */
    struct fake_node *backing;  /* for depth: below the hole */

    /* Knobs; atomic. */
    bool would_block;           /* BLK_NOWAIT gives -EAGAIN */
    int fail;                   /* < 0: every request fails with it */
    int delay_us;               /* every request that may wait */
    int nowait_delay_us;        /* those that should not, do */

    /* Counters; atomic. */
    int n_reads, n_nowait, n_writes, n_flushes, n_fua, n_zeroes, n_unmap,
        n_trims, n_no_fallback;
};

/* Known to node_lookup(), filled with its pattern; BYTES long. */
struct fake_node *fake_node_new(const char *name, int64_t bytes);
void fake_node_free(struct fake_node *n);
uint8_t fake_pattern(int64_t offset);
/* Close or open the gate of every root on N. */
void fake_drain(struct fake_node *n, bool closed);
/* Roots that are still there. */
int fake_n_roots(void);
/* Exports with requests under way go after nbd_server_stop(), not in it. */
void fake_wait_no_roots(void);

/* ---- a server ----------------------------------------------------------- */

/* Listens on a unix socket in a directory of its own. */
struct fake_server {
    char *dir, *path;
    struct nbd_server *server;
};
void fake_server_start(struct fake_server *s, int max_connections,
                       int handshake_seconds);
void fake_server_stop(struct fake_server *s);
/* Export N under NAME (also the id). */
struct nbd_export *fake_export(struct fake_server *s, struct fake_node *n,
                               const char *name, bool writable);

/* ---- a client ----------------------------------------------------------- */

struct peer {
    int fd;
    bool structured;
    uint16_t flags;             /* transmission flags */
    int64_t size;
    uint64_t last_cookie;
};

/* All wait at most 10 s. */
void peer_connect(struct peer *p, const char *path);
void peer_close(struct peer *p);
void peer_send(struct peer *p, const void *data, size_t bytes);
void peer_recv(struct peer *p, void *data, size_t bytes);
/* The server closes (what it still says is thrown away). */
void peer_expect_closed(struct peer *p);
/* Greeting and client flags. */
void peer_hello(struct peer *p, uint32_t flags);
void peer_send_option(struct peer *p, uint32_t option, const void *data,
                      uint32_t length);
/* One reply: its type; payload (owned, NUL added) and length if wanted. */
uint32_t peer_reply(struct peer *p, uint32_t option, char **payload,
                    uint32_t *length);
/* Send, expect one reply of type REP without looking at its payload. */
void peer_option(struct peer *p, uint32_t option, const void *data,
                 uint32_t length, uint32_t rep);
/* Connect, negotiate, GO: in transmission. */
void peer_go(struct peer *p, const char *path, const char *export,
             bool structured);
/* Payload of INFO and GO (no info asked for), and of the contexts' options;
 * appended to G. */
void peer_put_string(GByteArray *g, const char *text);
void peer_put32(GByteArray *g, uint32_t v);
void peer_put16(GByteArray *g, uint16_t v);

struct peer_request {
    uint16_t cmd, flags;
    uint64_t offset;
    uint32_t length;
    const void *payload;        /* LENGTH bytes, or NULL: send none */
};
/* Returns its cookie. */
uint64_t peer_request(struct peer *p, const struct peer_request *r);
/* The reply to COOKIE, which must be next: 0 or the NBD error.  READ_BUF
 * takes the data of a read of LENGTH bytes from OFFSET; may be NULL. */
uint32_t peer_result(struct peer *p, uint64_t cookie,
                     const struct peer_request *r, void *read_buf);
/* peer_request() and peer_result(). */
uint32_t peer_call(struct peer *p, const struct peer_request *r,
                   void *read_buf);
/* Number of hole chunks in the last reply. */
extern int peer_n_holes;
