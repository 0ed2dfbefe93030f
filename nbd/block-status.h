/* SPDX-License-Identifier: MIT */
/* Block status: extents of the negotiated contexts. */
#pragma once

#include "nbd/replies.h"

/* Make W's reply: one chunk for each context.  0 or -errno. */
int nbd_block_status(struct nbd_work *w);
