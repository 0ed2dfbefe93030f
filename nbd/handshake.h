/* SPDX-License-Identifier: MIT */
/* What the files of the handshake share: one option, its parts, replies. */
#pragma once

#include "nbd/conn.h"

/* An option as received; pos is what was parsed. */
struct nbd_option {
    uint32_t option, length;
    const uint8_t *data;        /* borrowed */
    size_t pos;
};

enum nbd_next {
    NBD_NEXT_OPTION,            /* the haggling goes on */
    NBD_NEXT_TLS,               /* the client starts TLS */
    NBD_NEXT_TRANSMISSION,      /* c->export is set */
    NBD_NEXT_CLOSE,             /* hang up */
};

/* The next number; false at the end of the option. */
bool nbd_option_get16(struct nbd_option *o, uint16_t *value);
bool nbd_option_get32(struct nbd_option *o, uint32_t *value);
/* A length and that many bytes of text; owned.  NULL: too short, longer than
 * NBD_MAX_STRING, or with a NUL. */
char *nbd_option_get_string(struct nbd_option *o);

/* Add a reply to c->replies. */
void nbd_option_reply(struct nbd_conn *c, const struct nbd_option *o,
                      uint32_t rep, const struct iovec *payload,
                      int n_payload);
/* Add a reply and say that the haggling goes on. */
enum nbd_next nbd_option_ack(struct nbd_conn *c, const struct nbd_option *o);
enum nbd_next nbd_option_refuse(struct nbd_conn *c, const struct nbd_option *o,
                                uint32_t rep, const char *fmt, ...)
    G_GNUC_PRINTF(4, 5);
enum nbd_next nbd_option_refuse_length(struct nbd_conn *c,
                                       const struct nbd_option *o);
enum nbd_next nbd_option_refuse_export(struct nbd_conn *c,
                                       const struct nbd_option *o,
                                       const char *name);

/* contexts.c */
enum nbd_next nbd_option_list_contexts(struct nbd_conn *c,
                                       struct nbd_option *o);
enum nbd_next nbd_option_set_contexts(struct nbd_conn *c,
                                      struct nbd_option *o);
