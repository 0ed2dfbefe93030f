/* SPDX-License-Identifier: MIT */
/*
 * Nodes: for those who use the block graph (commands, jobs, exports).
 * Drivers include block/driver.h, which shows what a node is made of.
 *
 * Threads  Control lock held for all functions here, unless they say
 *          otherwise.  Functions marked "yields" give it up for a while.
 *
 * Lifetime A node lives while it has references: from parents (children and
 *          roots) and, for blockdev-add, from the user.  node_unref() of the
 *          last one takes it out of the graph at once, then closes it (flush,
 *          store bitmaps): yields.
 */
#pragma once

#include "block/types.h"
#include "qapi/qapi-types.h"

/* ---- finding (block/graph.c) -------------------------------------------- */

/* The node called NAME, or NULL.  Borrowed. */
struct node *node_find(const char *name);
/*
 * What a command means with DEVICE or NODE_NAME (either may be NULL): the
 * root node of a device, else the node of that name.  NULL with QEMU's text
 * (`Cannot find device='X' nor node-name='Y'`).  Borrowed.
 */
struct node *node_lookup(const char *device, const char *node_name,
                         struct error **errp);
/* Could a new node be called NAME?  Texts are QEMU's. */
bool node_check_name(const char *name, struct error **errp);
/* All nodes, newest first: for (n = node_next(NULL); n; n = node_next(n)). */
struct node *node_next(const struct node *n);

/* ---- life (block/graph.c, block/open.c) --------------------------------- */

struct node *node_ref(struct node *n);
/* May close the node: yields then.  NULL is fine. */
void node_unref(struct node *n);
/* As node_unref(), never yields: closing goes to a worker. */
void node_unref_later(struct node *n);
/* Wait until every node on its way out is closed (shutdown).  Yields. */
void node_wait_closed(void);

/*
 * Open a node and all its children as blockdev-add does.  Yields while
 * drivers read their files.  OPTIONS is borrowed and copied.  Name missing:
 * one is made (#block123).  Returns a reference that the caller owns; on
 * failure nothing is left behind.
 */
struct node *node_open(const BlockdevOptions *options, struct error **errp);
/* The node that REF names, or a new one as it defines.  Owned reference; a new
 * node lives as long as that.  Yields. */
struct node *node_open_ref(const BlockdevRef *ref, struct error **errp);
/*
 * Open FILENAME (plain path, file:, json:{}) with FORMAT (NULL: probe).
 * As drive-backup's target with mode=existing.  READ_ONLY false asks for
 * writing.  BACKING: NULL: what the header says; otherwise as option; pass
 * an alternate of type null for none.  Yields.
 */
struct node *node_open_filename(const char *filename, const char *format,
                                bool read_only,
                                const BlockdevRefOrNull *backing,
                                struct error **errp);
/* As node_open_filename(), with the backing file its header names, and with the
 * cache and discard modes of LIKE, if there is one.  Yields. */
struct node *node_open_medium(const char *filename, const char *format,
                              bool read_only, const struct node *like,
                              struct error **errp);
/* A file that a job writes, and which may take a node's place. */
struct node_target {
    const char *filename;       /* all borrowed; as node_open_filename() */
    const char *format;         /* NULL: probe */
    const char *node_name;      /* NULL: made up */
    const struct node *like;    /* its cache and discard modes are the new
                                   node's */
};
/* As node_open_filename(): for writing, without a backing node whatever the
 * header says.  Yields. */
struct node *node_open_target(const struct node_target *target,
                              struct error **errp);
/*
 * Open FILENAME (FORMAT NULL: probe) read-only to look at it: without what
 * its header names as backing unless CHAIN is set; FORCE_SHARE: although
 * another program may be writing it.  Yields.
 */
struct node *node_open_to_look(const char *filename, const char *format,
                               bool chain, bool force_share,
                               struct error **errp);
/*
 * A node made by code, not by options: a job's filter.  NAME NULL: made up.
 * No children yet: node_attach_child().  Returns an owned reference.
 * The driver's open is not called; state is zeroed memory of state_size.
 */
struct node *node_new_filter(const struct driver *drv, const char *name,
                             bool implicit, struct error **errp);

/* ---- looking ------------------------------------------------------------ */

const char *node_name(const struct node *n);
const char *node_driver_name(const struct node *n);
/* How the node is reported: exact path or json:{...}.  Borrowed, valid while
 * the control lock is held. */
const char *node_filename(struct node *n);
bool node_is_read_only(const struct node *n);
bool node_is_implicit(const struct node *n);
/* Any thread that keeps the node alive.  Bytes; constant while undrained. */
int64_t node_length(const struct node *n);
/* Cluster or other allocation unit in bytes, 0 if the format has none. */
int64_t node_cluster_bytes(const struct node *n);
/* New clusters of this format read as zeroes and the image is new. */
bool node_reads_zero_when_new(struct node *n);
struct node *node_backing(const struct node *n);        /* COW child or NULL */
struct node *node_filtered(const struct node *n);       /* filtered or NULL */
struct node *node_skip_filters(struct node *n);
struct node *node_skip_implicit_filters(struct node *n);
/* Is OTHER reachable from N going down (or N itself)? */
bool node_reaches(const struct node *n, const struct node *other);

/* ---- changing the graph (block/graph.c); everything concerned drained --- */

/*
 * Make NODE (ref taken) a child of PARENT.  Checks and takes permissions.
 * NULL and errp if they conflict or a cycle would form; nothing changed then.
 */
struct child *node_attach_child(struct node *parent, struct node *node,
                                const char *child_name, unsigned role,
                                struct error **errp);
/* Drops the reference (node_unref_later) and its permissions. */
void node_detach_child(struct node *parent, struct child *child);
/*
 * Let all parents of FROM have TO in its place, except parents inside TO's
 * own subtree (a filter over FROM) and roots with .stay_on_node.  All or
 * nothing.
 */
bool node_replace(struct node *from, struct node *to, struct error **errp);
/* FILTER (from node_new_filter()), not inserted yet, passes everything through
 * to SOURCE: length, limits, modes and flags are SOURCE's. */
void node_filter_look_like(struct node *filter, const struct node *source);
/* Put FILTER (from node_new_filter()) over NODE: attach as child "file" (or
 * as the driver calls it) with ROLE_FILTERED|ROLE_PRIMARY, then replace.  All or nothing. */
bool node_insert_filter(struct node *filter, struct node *node,
                        struct error **errp);
/* Undo: parents of FILTER get its filtered child; FILTER keeps no child.
 * Cannot fail: what was allowed with the filter is without it. */
void node_remove_filter(struct node *filter);

/* What N, a filter, reads as, or else falls back to; NULL: nothing. */
struct node *node_chain_next(const struct node *n);
/* Does C have its options from N, or from a node that has them from N? */
bool node_comes_from(const struct node *c, const struct node *n);
/*
 * N, which has a backing child, gets BACKING (ref taken; below N already) in
 * its place, NULL: none.  N is drained.  *OLD: the one before, an owned
 * reference.  False: nothing has changed.
 */
bool node_set_backing(struct node *n, struct node *backing,
                      struct node **old, struct error **errp);
/* The node of TOP's backing chain (not TOP, no filter) that FILENAME means: as
 * it is reported, or a path to the same file.  Borrowed; NULL: none. */
struct node *node_find_by_filename(struct node *top, const char *filename);

/* Is N TOP, or below it through backing files and filters alone? */
bool node_is_in_chain(const struct node *top, const struct node *n);
/*
 * Nobody may change the links (backing, filtered) from TOP down to BASE, NULL:
 * all the way.  False, with QEMU's text, if one of them is frozen already.
 */
bool node_freeze_chain(struct node *top, struct node *base,
                       struct error **errp);
void node_unfreeze_chain(struct node *top, struct node *base);
/* Drained.  ON: others may change N's backing node, since its owner sees to it
 * that N shows the same all the time; off again cannot fail if nobody does. */
bool node_share_backing(struct node *n, bool on, struct error **errp);

/* ---- in-use marks (block/graph.c) --------------------------------------- */

/* Operations that a running job forbids on nodes of its subtree; the text is
 * QEMU's: "Node 'X' is busy: block device is in use by block job: backup". */
enum node_op {
    NODE_OP_BACKUP_SOURCE, NODE_OP_BACKUP_TARGET, NODE_OP_MIRROR_SOURCE,
    NODE_OP_MIRROR_TARGET, NODE_OP_COMMIT_SOURCE, NODE_OP_COMMIT_TARGET,
    NODE_OP_STREAM, NODE_OP_RESIZE, NODE_OP_SNAPSHOT, NODE_OP_DELETE,
    NODE_OP_CHANGE_BACKING, NODE_OP_REPLACE, NODE_OP__MAX
};
/* OWNER is an opaque key; REASON is copied, printed after "is busy: ". */
void node_block_op(struct node *n, enum node_op op, const void *owner,
                   const char *reason);
void node_block_all_ops(struct node *n, const void *owner, const char *reason);
void node_unblock_op(struct node *n, enum node_op op, const void *owner);
void node_unblock_all_ops(struct node *n, const void *owner);
bool node_op_allowed(const struct node *n, enum node_op op,
                     struct error **errp);

/* ---- data path (block/io.c): any thread with a root's token, no lock ---- */

/*
 * All return 0 or -errno.  offset, bytes >= 0 and within the node (a protocol
 * node may grow by a write).  Only through a root that the caller entered, or
 * from a driver to its children.  BLK_NOWAIT: -EAGAIN, nothing done.
 */
int node_pread(struct node *n, int64_t offset, int64_t bytes, void *buf,
               unsigned flags);
int node_pwrite(struct node *n, int64_t offset, int64_t bytes, const void *buf,
                unsigned flags);
int node_pwrite_zeroes(struct node *n, int64_t offset, int64_t bytes,
                       unsigned flags);
int node_pdiscard(struct node *n, int64_t offset, int64_t bytes);
/*
 * Whole clusters (the last may end with N) that what is below N holds as well,
 * stably: N gives them up, and reads as before.  Dirties no bitmap.  -ENOTSUP:
 * N's driver cannot.
 */
int node_deallocate(struct node *n, int64_t offset, int64_t bytes);
/* Copy from SRC to DST without a buffer; -ENOTSUP: these two cannot, copy it
 * otherwise.  After another error what is in DST is not known. */
int node_copy_range(struct node *src, int64_t src_offset, struct node *dst,
                    int64_t dst_offset, int64_t bytes, unsigned flags);
/* The node's caches and, down the tree, its children's; to stable storage. */
int node_flush(struct node *n);
/* Only a hint: much was written and will be flushed, so the storage had better
 * begin now.  Does not wait for it. */
void node_begin_flush(struct node *n);

/* ---- block status (block/status.c), same rules -------------------------- */

/*
 * State of [offset, offset+st->bytes), st->bytes <= bytes, of this node alone:
 * where a backing child decides, flags lack STATUS_ALLOCATED.  WANT_ZERO: spend
 * time to find zeroes (descend to the file); otherwise allocation only.
 */
int node_block_status(struct node *n, bool want_zero, int64_t offset,
                      int64_t bytes, struct block_status *st);
/*
 * State as the guest sees it: the first layer from N down to but not including
 * BASE (NULL: all) that decides.  Nothing decides above BASE: flags lack
 * STATUS_ALLOCATED and, if BASE is NULL, have STATUS_ZERO.
 */
int node_block_status_above(struct node *n, struct node *base, bool want_zero,
                            int64_t offset, int64_t bytes,
                            struct block_status *st);

/* Control lock: requests of N and below that wait for something other than
 * storage (a limit, a reconnect) go on at once, or fail. */
void node_cancel_in_flight(struct node *n);

/* ---- size --------------------------------------------------------------- */

/*
 * Resize (block_resize, job targets).  The caller holds a root with
 * PERM_RESIZE and has N drained.  Yields.  New area reads as zeroes.
 */
bool node_truncate(struct node *n, int64_t length, PreallocMode prealloc,
                   struct error **errp);
