/* SPDX-License-Identifier: MIT */
/*
 * An export of a device: its clients are the device's guest.
 *
 * What belongs to the device applies to their requests: its limits, its
 * statistics, its cache mode, and what the user has said to do when one
 * fails.  The export goes when the medium does.
 *
 * Cost     An export of a node, or of a device without limits: a look at a
 *          pointer and a flag for each request.
 */
#pragma once

#include "block/backend.h"

struct nbd_export;
struct nbd_work;

struct nbd_guest {
    struct backend *backend;    /* owned; NULL: the export is a node's.
                                   Constant while there are clients */
    struct backend_watcher watcher;
    bool let_go;                /* the device's limits, because of us */
};

/* Control lock held.  E is new: it is an export of B. */
void nbd_guest_init(struct nbd_export *e, struct backend *b);
/* E closes: no request is held back any more. */
void nbd_guest_hurry(struct nbd_export *e);
/* May yield. */
void nbd_guest_deinit(struct nbd_export *e);

/* ---- requests: any thread, no lock -------------------------------------- */

/* Must a request wait for its turn?  Then it is a work. */
static inline bool nbd_guest_is_limited(const struct nbd_guest *g)
{
    return G_UNLIKELY(g->backend) && backend_is_limited(g->backend);
}

static inline bool nbd_guest_writethrough(const struct nbd_guest *g)
{
    return G_UNLIKELY(g->backend) && backend_writethrough(g->backend);
}

static inline struct block_stats *nbd_guest_stats(const struct nbd_guest *g)
{
    return g->backend ? backend_stats(g->backend) : NULL;
}

/* A request of the client failed; would the device make it again? */
bool nbd_guest_has_policy(const struct nbd_guest *g);
/* Wait until W may go. */
void nbd_guest_wait_for_turn(struct nbd_work *w);
/*
 * W failed with *RET, as the device has it: true: make it again (the user
 * said cont); false: it ends with *RET, which is 0 if errors are ignored.
 */
bool nbd_guest_failed(struct nbd_work *w, int *ret);
