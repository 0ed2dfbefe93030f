/* SPDX-License-Identifier: MIT */
/*
 * A hostile NBD client, over a disk in memory.  The first byte says where
 * the input starts: bit 0 clear: with the client's flags of the handshake;
 * set: with the first request, everything negotiated, extended headers too if
 * bit 1 is set.  The server may hang up, but must serve the next client.
 */
#include <stdlib.h>
#include <sys/socket.h>
#include "base/control.h"
#include "bitmaps/dirty-bitmap.h"
#include "tests/nbd-fake.h"

enum { DISK_BYTES = 1 << 20 };

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct fake_server server;

/* Leaves no socket behind. */
static void teardown(void)
{
    fake_server_stop(&server);
}

static void setup(void)
{
    struct fake_node *disk = fake_node_new("disk", DISK_BYTES);
    struct nbd_export_options options = {
        .id = "d", .name = "d", .node = &disk->node, .writable = true,
        .allocation_depth = true, .description = "a disk",
    };
    struct nbd_export *e;

    disk->hole_offset = DISK_BYTES / 4;
    disk->hole_bytes = DISK_BYTES / 4;
    fake_server_start(&server, 0, 10);
    CONTROL_GUARD();
    options.server = server.server;
    e = nbd_export_new(&options, NULL);
    nbd_export_add_bitmap(e, &disk->node,
                          dirty_bitmap_new(disk->node.bitmaps, "b", 4096,
                                           DISK_BYTES, NULL), NULL);
    nbd_export_publish(e);
    atexit(teardown);
}

/* Flags, structured or extended replies, both kinds of context, GO. */
static void negotiate(struct peer *p, bool extended)
{
    g_autoptr(GByteArray) g = g_byte_array_new();

    peer_hello(p, 3);
    peer_option(p, extended ? NBD_OPT_EXTENDED_HEADERS
                            : NBD_OPT_STRUCTURED_REPLY, NULL, 0, NBD_REP_ACK);
    p->structured = true;
    peer_put_string(g, "d");
    peer_put32(g, 2);
    peer_put_string(g, "base:allocation");
    peer_put_string(g, "qemu:dirty-bitmap:b");
    peer_send_option(p, NBD_OPT_SET_META_CONTEXT, g->data, g->len);
    while (peer_reply(p, NBD_OPT_SET_META_CONTEXT, NULL, NULL) !=
           NBD_REP_ACK) {
        /* the next context */
    }
    peer_go(p, NULL, "d", true);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct nbd_wire_greeting greeting;
    struct peer p;

    if (size == 0) {
        return 0;
    }
    if (!server.server) {
        setup();
    }
    peer_connect(&p, server.path);
    if (data[0] & 1) {
        negotiate(&p, data[0] & 2);
    } else {
        peer_recv(&p, &greeting, sizeof(greeting));
    }
    /* It may have hung up before all is sent. */
    send(p.fd, data + 1, size - 1, MSG_NOSIGNAL);
    shutdown(p.fd, SHUT_WR);
    peer_expect_closed(&p);
    return 0;
}
