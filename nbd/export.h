/* SPDX-License-Identifier: MIT */
/*
 * Exports: nodes that clients may use, and what connections need of them.
 *
 * Invariants  I1  An export's root, bitmaps and names are constant from
 *                 nbd_export_new() until it is gone; whoever holds a
 *                 reference may use them in any thread.
 *             I2  An export that is closing is found by no client and gets
 *                 no new reference; who drops the last one finishes it.
 *             I3  Connections drop their reference with no request in
 *                 flight, so finishing never waits for I/O.
 * Threads     The list of exports changes with the control lock and
 *             nbd_lock (rank LOCK_NBD_SERVER) both held: either is enough
 *             to look.
 */
#pragma once

#include <stdatomic.h>
#include "base/error.h"
#include "base/lock.h"
#include "block/iothread-claim.h"
#include "block/root.h"
#include "nbd/guest.h"

struct nbd_conn;
struct nbd_server;
struct dirty_bitmap;

/* A dirty bitmap that an export shows as a context. */
struct nbd_bitmap {
    char *context;              /* owned: "qemu:dirty-bitmap:NAME" */
    struct dirty_bitmap *bitmap;/* borrowed; busy, so it stays */
    struct root *root;          /* owned: keeps the bitmap's node; entering
                                   it keeps the bitmap's size as it is */
};

struct nbd_export {
    /* Constant (I1), but that root is NULL while it goes away. */
    char *id, *name;            /* owned */
    char *description;          /* owned, or NULL */
    struct nbd_server *server;  /* borrowed: outlives its exports */
    struct root *root;          /* owned */
    uint64_t serial;            /* never used twice */
    bool writable;
    bool writethrough;          /* every write is as with FUA */
    bool allow_inactive;        /* the node may be inactive: reads alone */
    bool allocation_depth;      /* offer qemu:allocation-depth */
    struct nbd_guest guest;     /* of which device it is, if of one */
    struct iothread_claim claim;    /* listed if it insists; .iothread is
                                   owned */
    struct nbd_bitmap *bitmaps; /* owned */
    size_t n_bitmaps;

    /* Atomic; what clients are told.  The root does not share resizing, so
     * it changes only when the graph puts another node there. */
    _Atomic int64_t length_bytes;

    /* Under nbd_lock. */
    int n_refs;                 /* attached connections, and short looks */
    int n_conns;                /* attached connections */
    bool closing;               /* set once */
    struct nbd_export *next;    /* newest first */
};

/* Rank LOCK_NBD_SERVER: servers' connection lists, exports' list and state. */
extern struct lock nbd_lock;

struct nbd_export_options {
    const char *id, *name, *description;    /* copied; description or NULL */
    struct nbd_server *server;              /* borrowed; NULL is refused */
    struct node *node;                      /* ref taken */
    struct backend *backend;                /* of this device; NULL: none */
    bool writable, writethrough, allocation_depth, allow_inactive;
};

/* ---- control path: control lock held ------------------------------------ */

/* Newest first; NULL starts. */
struct nbd_export *nbd_export_next(const struct nbd_export *e);
struct nbd_export *nbd_export_find_id(const char *id);
struct nbd_export *nbd_export_find_name(const struct nbd_server *server,
                                        const char *name);
/*
 * Make an export, not yet visible to clients.  NULL and errp: permissions
 * conflict, no server, a name is too long or taken.
 */
struct nbd_export *nbd_export_new(const struct nbd_export_options *options,
                                  struct error **errp);
/*
 * Offer BITMAP of NODE with it (before nbd_export_publish()).  Makes it
 * busy.  False and errp: it is busy, inconsistent, or records writes though
 * the export does not write (as QEMU).
 */
bool nbd_export_add_bitmap(struct nbd_export *e, struct node *node,
                           struct dirty_bitmap *bitmap, struct error **errp);
/* It insists on IOTHREAD (copied; NULL: the main loop).  Once. */
void nbd_export_fix_iothread(struct nbd_export *e, const char *iothread);
void nbd_export_publish(struct nbd_export *e);
/* Undo nbd_export_new() of one that was not published. */
void nbd_export_abandon(struct nbd_export *e);
/*
 * Close: clients find it no more, those connected are disconnected.  Gone
 * (with its event) when this returns if nobody was connected, otherwise
 * soon after.  May yield while the node closes.  False, nothing done: it has
 * clients and IF_UNUSED is set, or it is closing already.
 */
bool nbd_export_close(struct nbd_export *e, bool if_unused);
bool nbd_export_is_closing(struct nbd_export *e);
/* Until the export of this serial is gone.  Yields. */
void nbd_export_wait_gone(uint64_t serial);

/* ---- connections: any thread, control lock not held --------------------- */

/* By name as a client asks; a reference, or NULL. */
struct nbd_export *nbd_export_get(struct nbd_server *server, const char *name);
/* All that are open, in order of age, oldest first; a reference each.
 * Owned array, NULL at its end. */
struct nbd_export **nbd_export_get_all(struct nbd_server *server);
/* Drops a reference and nulls *E; may take the control lock (I2). */
void nbd_export_put(struct nbd_export **e);
/* E, of which the caller has a reference, becomes c->export: C will be shut
 * down when E closes.  False: E is closing.  Takes the reference if true. */
bool nbd_export_attach(struct nbd_export *e, struct nbd_conn *c);
/* Undo; drops the reference. */
void nbd_export_detach(struct nbd_conn *c);

/* As C negotiated. */
uint16_t nbd_export_flags(const struct nbd_export *e,
                          const struct nbd_conn *c);
int64_t nbd_export_length(const struct nbd_export *e);
