/* SPDX-License-Identifier: MIT */
/* Depth-first commit: what its files share. */
#pragma once

#include "block/root.h"
#include "blockjobs/commit-priv.h"

struct bits;

/* A layer that is to go away. */
struct depth_layer {
    /* Set at the start, constant until it leaves. */
    struct node *node;          /* ref; NULL: it has left the chain */
    struct root *root;          /* borrowed: the job's */
    bool was_read_only;
    int64_t cluster_bytes;
    int64_t length;             /* what is looked at; may be more than it has
                                   where the base must read as zeroes */

    /* Job thread.  Owned; clusters that are still to be seen to: */
    struct bits *whole;         /* all of the cluster is the base's to get */
    struct bits *parts;         /* some of it, or it is to be compared */
    struct bits *kept;          /* some of it is hidden: stays allocated */
};

struct depth_job {
    struct job job;
    /* Set by commit_depth_start(), then constant until clean(). */
    struct node *active, *top;  /* refs */
    struct node *filter;        /* ref; NULL: not inserted */
    struct commit_base base;
    struct root *base_root;     /* borrowed: the job's */
    bool top_marked;            /* as invalidated, when it began */
    bool frozen;
    char *backing_file;         /* owned, or NULL */
    bool mask_protocol;
    BlockdevOnError on_error;
    struct commit_end *end;     /* owned; while a layer leaves */

    /* Lowest first.  Layers below CURRENT have left. */
    struct depth_layer *layers; /* owned */
    int n_layers;
    int current;                /* control lock, or the job's thread */
};

/* ---- commit-depth-layer.c: job thread ----------------------------------- */

/* Find what the base is to get from each layer.  0, -ECANCELED, -errno. */
int depth_scan(struct depth_job *dj);
/* Move it down, and free in L, which is writable, what the base then has. */
int depth_drain_layer(struct depth_job *dj, struct depth_layer *l);
void depth_layer_free_bits(struct depth_layer *l);

/* ---- commit-depth-piece.c: any thread, as a request --------------------- */

enum depth_piece {
    DEPTH_BELOW,                /* the layer has nothing there */
    DEPTH_HIDDEN,               /* it has, but the next layer decides */
    DEPTH_OURS,                 /* the base is to get it */
};

/* What [offset, +*bytes) of L is, for *BYTES that get less; or -errno. */
int depth_look(const struct depth_job *dj, const struct depth_layer *l,
               int64_t offset, int64_t *bytes);
/* What of [offset, +bytes) is L's to give, and not in the base already, to the
 * base.  *IS_READ: it is the layer that failed.  0 or -errno. */
int depth_move(const struct depth_job *dj, const struct depth_layer *l,
               int64_t offset, int64_t bytes, bool *is_read);

/* ---- commit-depth-leave.c ----------------------------------------------- */

/* Job thread: L may be written from now on. */
bool depth_open_layer(struct depth_job *dj, struct depth_layer *l,
                      struct error **errp);
/* Job thread: L, which is not the last, is drained; it leaves the chain.
 * 0, -ECANCELED or -errno. */
int depth_leave(struct depth_job *dj, struct depth_layer *l,
                struct error **errp);
/* Control lock; yields: as it was found.  Drops its reference. */
void depth_close_layer(struct depth_layer *l);
/* Control lock; yields: can N be written at all?  It is as it was after. */
bool depth_try_layer(struct node *n, struct error **errp);

/* N and NEXT are layers: is N the backing file of NEXT alone? */
bool depth_check_overlays(const struct node *n, const struct node *next,
                          struct error **errp);

/* A test may let the server die here (job-kill.h). */
void depth_kill_point(const struct depth_job *dj, const char *point);
