/* SPDX-License-Identifier: MIT */
/* Block status: extents of the negotiated contexts. */
#pragma once

#include "nbd/replies.h"

/*
 * Is PAYLOAD (a length, then ids of contexts) what the extended form of the
 * request may say: each id once, of a context that was negotiated?
 */
bool nbd_status_filter_valid(const struct nbd_conn *c, const uint8_t *payload,
                             size_t bytes);
/* Make W's reply: one chunk for each context (that w->buf has the
 * id of, if the request has a payload).  0 or -errno. */
int nbd_work_block_status(struct nbd_work *w);
