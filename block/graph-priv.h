/* SPDX-License-Identifier: MIT */
/*
 * What the files of the graph share: graph.c, links.c, perm.c, root.c,
 * drain.c, open.c.  Control lock held for all.
 */
#pragma once

#include "block/driver.h"
#include "block/root.h"

/* ---- graph_change: links and permissions, all or nothing (links.c) ------ */

/*
 * Steps take effect at once and are logged; graph_change_finish() computes
 * the permissions that follow, asks the drivers, and keeps everything or
 * undoes everything, order of the lists included.  Nobody yields meanwhile.
 */
struct graph_change;

struct graph_change *graph_change_begin(void);
/* CHILD (parent or root set, not linked) gets NODE; a reference is taken.
 * Its perm and shared are computed if it has a parent, else are as set. */
void graph_change_link(struct graph_change *gc, struct child *child,
                       struct node *node);
/* Out of both lists; a parent's child is freed when the change is kept, a
 * root's is the root's.  Of a frozen link this, and a move, make
 * graph_change_finish() fail. */
void graph_change_unlink(struct graph_change *gc, struct child *child);
void graph_change_move(struct graph_change *gc, struct child *child,
                       struct node *to);
void graph_change_perm(struct graph_change *gc, struct child *child,
                       unsigned perm, unsigned shared);
/* N is inactive from now on, or no more; roots on it hold what they may. */
void graph_change_inactive(struct graph_change *gc, struct node *n, bool on);
/* N's way to use its children has changed (read_only). */
void graph_change_touch(struct graph_change *gc, struct node *n);
/*
 * The end of GC either way.  DROPPED (may be NULL): receives the references
 * that links had before (struct node *, owned by the caller now); NULL: they
 * are dropped by node_unref_later().
 */
bool graph_change_finish(struct graph_change *gc, GPtrArray *dropped,
                         struct error **errp);
/* Would GC be kept?  It ends here, undone. */
bool graph_change_check(struct graph_change *gc, struct error **errp);
/* The end of GC without a look: all steps are undone. */
void graph_change_cancel(struct graph_change *gc);
/* As graph_change_finish(), for changes that only give permissions up: what
 * a driver refuses then is reported and overruled. */
void graph_change_finish_nofail(struct graph_change *gc, GPtrArray *dropped);

/* For perm.c: note old values, so that they can be put back. */
void graph_change_log_child_perm(struct graph_change *gc, struct child *c);
void graph_change_log_node_perm(struct graph_change *gc, struct node *n);

/* ---- perm.c ------------------------------------------------------------- */

/*
 * Two phases: perm_check() computes from the TOUCHED nodes downwards, looks
 * for conflicts and asks the drivers; nodes seen are added to SEEN.  Then
 * perm_commit() or, after perm_check() returned false, nothing but the undo
 * of the log.  FORCE: driver and conflicts cannot refuse.
 */
bool perm_check(struct graph_change *gc, const GPtrArray *touched,
                GPtrArray *seen, bool force, struct error **errp);
void perm_commit(const GPtrArray *seen);
/* After perm_check() returned true: the drivers forget it. */
void perm_abort(const GPtrArray *seen);
/* Text for a child: "node 'X'", "block device 'ID'"...; owned. */
char *perm_describe_parent(const struct child *c);

/* ---- links (attach.c) ---------------------------------------------------- */

/* A child of PARENT, not linked yet. */
struct child *child_new(struct node *parent, const char *name, unsigned role);
/* N's child NAME or NULL. */
struct child *child_find(const struct node *n, const char *name);
/* Would C, whose node is to be replaced, stay?  MARK is on all below what it
 * is replaced by. */
bool child_stays(const struct child *c, uint64_t mark);

/* ---- traversal (graph.c) ------------------------------------------------ */

/* A new mark: nodes with n->mark == it were seen. */
uint64_t graph_new_mark(void);
/* Mark everything reachable from N going down, N included. */
void graph_mark_below(struct node *n, uint64_t mark);

/* Links have changed: names of nodes may have, too (node-filename.c). */
void node_filenames_changed(void);

/* ---- life (graph.c) ----------------------------------------------------- */

/*
 * A node that exists but is not published: its name is taken, nobody finds
 * it.  NAME NULL: made up.  One reference, the caller's.
 */
struct node *node_new(const struct driver *drv, const char *name,
                      struct error **errp);
/* In two steps; without a name a node may not be linked. */
struct node *node_new_nameless(const struct driver *drv);
bool node_take_name(struct node *n, const char *name, struct error **errp);
/* The node that has NAME though it is not published, or NULL.  Borrowed. */
struct node *node_find_hidden(const char *name);
/* Into the list of all nodes, newest. */
void node_publish(struct node *n);
/* Work on N itself, in yields: one thing at a time (yields until that is so),
 * and drains wait for it. */
void node_work_begin(struct node *n);
void node_work_end(struct node *n);

/* ---- roots and drains --------------------------------------------------- */

enum { GATE_CLOSED = 1, GATE_REQUEST = 2 };

struct drain_hurry {
    struct root *root;          /* borrowed, or NULL: NODE */
    struct node *node;          /* borrowed */
    struct drain_hurry *next;
};

struct root {
    /*
     * Atomic: requests in flight times GATE_REQUEST, and GATE_CLOSED.  Alone
     * on its cache line: every request writes it twice.
     */
    _Atomic uint64_t gate __attribute__((aligned(64)));
    /* Atomic copies for requests; change with the link, see below. */
    _Atomic unsigned perm __attribute__((aligned(64)));
    _Atomic int n_drains;       /* drains that hold the gate closed (I3) */

    /* Constant. */
    const struct root_ops *ops;
    void *opaque;
    bool no_gate, stay_on_node;
    unsigned shared;            /* control lock; see root_perm_on() */
    struct block_stats *stats;  /* owned; NULL: not counted */
    uint64_t serial;            /* ascending in order of creation */

    /* Control lock; link.node changes only while the root is quiet. */
    struct child link;
    bool freeing;               /* gate closed for good by root_free() */
    struct drain_hurry hurry;   /* .root: root_hurry() was called */

    struct lock lock;           /* rank LOCK_ROOT: waiters at the gate */
    struct cond opened;
};

/* May R's node be inactive with R on it? */
bool root_may_be_inactive(const struct root *r);
/* What R's link is to hold and share on N: all that R wants, but nothing where
 * N is inactive and R lives with that. */
void root_perm_on(const struct root *r, const struct node *n, unsigned *perm,
                  unsigned *shared);
/* For who is listed among the roots. */
uint64_t root_new_serial(void);
/* Requests in flight, or the owner says it is still at work? */
bool root_is_busy(const struct root *r);
/* As root_p*() check: 0 or -errno.  In flight on R. */
int root_check_range(const struct root *r, int64_t offset, int64_t bytes);
int root_check_write(const struct root *r, int64_t offset, int64_t bytes,
                     unsigned flags);
/* One more, one fewer drain. */
void root_close_gate(struct root *r);
void root_open_gate(struct root *r);

/* Are there active drains with a node at or below N (or of all nodes)? */
bool drain_covers(struct node *n);
/* The graph has changed: close roots that are above drained nodes now. */
void drain_graph_changed(void);
/* N was published: drains of all nodes include it. */
void drain_node_added(struct node *n);
/* R goes away: no drain knows it any more. */
void drain_root_removed(struct root *r);

/* N may have drained_begin: it is told from when it is opened until it is
 * removed (no harm if it never was). */
void drain_hook_add(struct node *n);
void drain_hook_remove(struct node *n);
/* Requests below something are waited for without a drain: nothing may hold
 * them back.  Owned by the caller, who sets ROOT or NODE. */
void drain_hurry_begin(struct drain_hurry *h);
void drain_hurry_end(struct drain_hurry *h);
