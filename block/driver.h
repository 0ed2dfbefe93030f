/* SPDX-License-Identifier: MIT */
/*
 * For drivers and the generic layer: what a node is made of, and what a
 * driver provides.  Users of the graph include block/node.h instead.
 *
 * The generic layer (block/io.c) has checked every argument before it calls
 * a driver: the range is inside the node, aligned to limits.request_alignment,
 * not longer than max_transfer; flags are among supported_*_flags.  A driver
 * may be called by many threads at once and does its own locking.
 */
#pragma once

#include <stdatomic.h>
#include "base/error.h"
#include "base/lock.h"
#include "block/node.h"
#include "block/range-lock.h"

struct dirty_bitmap_list;
struct node_reopen;

/* Why an image is not to be used on its own any more: a commit has changed
 * what is below it (blockjobs/commit-mark.h).  What an overlay shows of it is
 * right. */
struct invalidated {
    char *job_id;               /* owned; "": a job without */
    int64_t seconds;            /* when: of the epoch */
};

/* A link from a parent (node or root) down to a node. */
struct child {
    /* Constant. */
    const char *name;           /* static or interned: "file", "backing" */
    unsigned role;              /* ROLE_* */
    struct node *parent;        /* borrowed; NULL if the parent is a root */
    struct root *root;          /* borrowed; NULL if the parent is a node */

    /* Under the control lock; changes only while drained. */
    struct node *node;          /* owned reference */
    unsigned perm, shared;      /* PERM_*: what the parent holds and shares;
                                   a flush reads perm, atomically */
    struct child *next_sibling; /* in parent->children */
    struct child *next_parent;  /* in node->parents */
    struct child *prev_sibling, *prev_parent;
    bool frozen;                /* a job counts on it: node_freeze_chain() */
    bool sole_writer;           /* no other link of the node may write it,
                                   though what is below may be written */
    bool shares_all;            /* node_share_backing() */
};

/* Options that a node has from its parent or by default, not by its own. */
enum {
    INHERITED_READ_ONLY      = 1 << 0, INHERITED_AUTO_READ_ONLY = 1 << 1,
    INHERITED_FORCE_SHARE    = 1 << 2, INHERITED_DIRECT         = 1 << 3,
    INHERITED_NO_FLUSH       = 1 << 4, INHERITED_DISCARD        = 1 << 5,
    INHERITED_ACTIVE         = 1 << 6,
};

struct node {
    /* Set while it is made, then constant. */
    const struct driver *driver;
    char *name;                 /* owned */
    void *state;                /* owned: driver->state_size zeroed bytes */
    bool implicit;              /* a job's filter without filter-node-name */
    uint64_t id;                /* unique for ever */

    /* Under the control lock; what requests look at (children) changes only
     * while the node is drained. */
    BlockdevOptions *options;   /* owned; NULL for a job's filter */
    unsigned inherited;         /* INHERITED_*: which of them are not its own */
    uint64_t inherits_from;     /* id of the node in whose options it was
                                   defined; 0: none */
    int n_refs;
    bool monitor_owned;         /* made by blockdev-add */
    bool closing;               /* out of the graph, being closed */
    uint64_t serial;            /* ascending in order of publication; 0: not
                                   yet published, being opened */
    struct child *children;     /* "file", the others in order of attachment */
    struct child *parents;      /* newest first */
    struct child *file;         /* child that is PRIMARY, or NULL */
    struct child *backing;      /* child that is COW, or NULL */
    unsigned perm, shared;      /* union / intersection over parents */
    bool read_only;             /* as opened; auto-read-only may fall back */
    bool auto_read_only;        /* may fall back to read_only when opened, and
                                   open for writing only while a user writes */
    bool force_share;
    bool inactive;              /* another program may change it: inactive.h;
                                   changes only while drained, so that a
                                   request may look */
    char *filename;             /* owned; exact path, "" if there is none */
    char *json_filename;        /* owned cache of node_filename(), or NULL */
    uint64_t filename_generation;   /* of the graph that it was made for */
    char *header_backing_file;  /* owned; what the header names, or NULL */
    char *header_backing_format;/* owned, or NULL */
    GSList *op_blockers[NODE_OP__MAX];
    char *auto_backing_file;    /* owned; header_backing_file as it was last
                                   resolved: what "not overridden" means */
    struct node *newer, *older; /* list of all nodes */

    /* Private to block/graph.c, links.c, perm.c, drain.c, open.c. */
    struct open_session *opening;   /* borrowed; not published yet */
    bool probed;                /* the format was guessed: raw guards its
                                   first sector */
    int height;                 /* longest way down to a leaf */
    bool opened;                /* driver->open() is through, close() due */
    bool del_waits;             /* blockdev-del waits for other references */
    struct invalidated *invalidated;    /* owned, or NULL; by driver->open */
    bool use_anyway;            /* being opened below an overlay, or to be
                                   looked at: invalidated or not */
    bool invalidated_allowed;   /* its options say that it may be read on its
                                   own */
    bool content_kept;          /* open for writing by a job that changes only
                                   where things are: bitmaps stay true */
    int n_busy;                 /* opener or closer at work in a yield */
    uint64_t mark;              /* of the traversal that saw it last */
    struct node *walk_next;     /* stack of a traversal; queue of closers */
    bool perm_queued, perm_seen;
    struct node *next_hooked;   /* those whose driver has drained_begin */
    bool drain_told;            /* by driver->drained_begin() */
    bool turning_read_only;     /* by the change that is being checked */
    unsigned driver_perm, driver_shared; /* last told by set_perm() */

    /* Written by open/truncate/growing writes; read by any thread. */
    _Atomic int64_t length_bytes;
    _Atomic uint64_t write_generation; /* +1 per write; flush skips if clean */
    _Atomic uint64_t flushed_generation;
    _Atomic int64_t wr_highest_offset;
    _Atomic uint64_t write_threshold;   /* block/write-threshold.h; 0: none */
    _Atomic int n_in_flight;    /* node_inc_in_flight() */

    /* Set by open and by the generic layer after it; constant undrained. */
    struct block_limits limits;
    unsigned supported_write_flags;     /* BLK_FUA ... */
    unsigned supported_zero_flags;      /* BLK_FUA | BLK_MAY_UNMAP ... */
    bool detect_zeroes, detect_zeroes_unmap;
    bool discard_unmap;                 /* discard=unmap: pass discards on */
    bool copy_on_read;                  /* block/node-cor.h */
    bool cache_direct, cache_no_flush;

    struct range_lock serialising;      /* block/io.c: read-modify-write */
    int n_holders;                      /* block/io-hold.h; changes only while
                                           drained */
    struct dirty_bitmap_list *bitmaps;  /* owned; made with the node */
};

/* What driver->check() tells while it looks. */
struct image_check_ops {
    void (*problem)(void *opaque, const char *text);
};

struct driver {
    const char *name;           /* "qcow2": BlockdevDriver's spelling */
    BlockdevDriver type;        /* key of BlockdevOptions; -1: filters made
                                   by jobs only */
    size_t state_size;
    bool is_format;             /* qcow2, raw: has a "file", may be probed */
    bool is_filter;             /* reads as its ROLE_FILTERED child */
    bool is_protocol;           /* file, null-co: no children, may grow */
    bool supports_backing;
    bool supports_bitmaps;      /* persistent ones */
    bool may_grow;              /* takes writes past its end, or -ENOSPC */
    bool keeps_length;          /* truncate() may leave it longer than asked */
    bool flushes_children;      /* flush_to_disk() does */
    bool listed_first;          /* before its children, not behind "file" */
    bool never_frozen;          /* a job's filter, which goes when the job
                                   ends: no other may count on links to it */
    /* Options without which a file name is not the whole story, NULL-
     * terminated; NULL: none.  "file" and "backing" are no part of it. */
    const char *const *strong_options;

    /* -- control path: no control lock held (the opener yielded), the node is
     * not in use yet, or drained, or out of the graph ---------------------- */

    /* 0..100: how sure is the format that BUF starts an image of it? */
    int (*probe)(const uint8_t *buf, size_t len, const char *filename);
    /*
     * The member of OPTIONS (of this driver) that names the primary child;
     * NULL: it has none.  The generic layer attaches it first, under
     * file_child_name (NULL: "file") and as file_role(OPTIONS) says (NULL:
     * filters as ROLE_FILTERED|ROLE_PRIMARY, others as ROLE_IMAGE).
     */
    BlockdevRef **(*file_option)(BlockdevOptions *options);
    const char *file_child_name;
    unsigned (*file_role)(const BlockdevOptions *options);
    /* The member that names the backing node, attached after open. */
    BlockdevRefOrNull **(*backing_option)(BlockdevOptions *options);
    /* Attach the other children named in OPTIONS: control lock HELD, may
     * yield.  NULL: none. */
    bool (*open_children)(struct node *n, const BlockdevOptions *options,
                          struct error **errp);
    /* Read the header, set length_bytes, limits, header_backing_*, load
     * bitmaps.  0 or -errno with errp.  On failure frees all it made except
     * node.state itself. */
    int (*open)(struct node *n, const BlockdevOptions *options,
                struct error **errp);
    /* Children are attached still.  Flushes what it must; errors go to
     * stderr by error_report(), they cannot stop it. */
    void (*close)(struct node *n);
    /* The name that opens N again all by itself, owned; NULL: there is none,
     * json: it is.  Control lock held; the nodes below have their names. */
    char *(*legacy_name)(const struct node *n);
    /* After open and after children change.  Default: from file child. */
    void (*refresh_limits)(struct node *n);

    /* -- permissions: control lock held, must not yield ------------------- */

    /* What N needs of CHILD given what N's parents hold and share.  NULL:
     * generic rules by role. */
    void (*child_perm)(struct node *n, const struct child *c, unsigned perm,
                       unsigned shared, unsigned *child_perm,
                       unsigned *child_shared);
    /* About to have PERM/SHARED: take locks, reopen files; may fail. */
    bool (*check_perm)(struct node *n, unsigned perm, unsigned shared,
                       struct error **errp);
    void (*set_perm)(struct node *n, unsigned perm, unsigned shared);
    void (*abort_perm)(struct node *n);

    /* -- data path: see node.h; NULL: passed on to the file/filtered child for
     * filters, else -ENOTSUP ----------------------------------------------- */
    int (*pread)(struct node *n, int64_t offset, int64_t bytes, void *buf,
                 unsigned flags);
    int (*pwrite)(struct node *n, int64_t offset, int64_t bytes,
                  const void *buf, unsigned flags);
    /* -ENOTSUP: the generic layer writes buffers of zeroes. */
    int (*pwrite_zeroes)(struct node *n, int64_t offset, int64_t bytes,
                         unsigned flags);
    int (*pdiscard)(struct node *n, int64_t offset, int64_t bytes);
    /* Write cached metadata down to the children. */
    int (*flush_to_os)(struct node *n);
    /* Make this node's own storage stable (fdatasync).  Children follow by
     * the generic layer. */
    int (*flush_to_disk)(struct node *n);
    /* A flush will come: let the storage begin with it.  May be NULL. */
    void (*begin_flush)(struct node *n);
    /* One state for st->bytes; NULL: all DATA|ALLOCATED mapped 1:1 for
     * protocols, passed on for filters. */
    int (*block_status)(struct node *n, bool want_zero, int64_t offset,
                        int64_t bytes, struct block_status *st);
    /*
     * Give up what this layer holds of [offset, offset + bytes), multiples of
     * cluster_bytes() (the last may end with the node): what is below, which
     * holds the same stably, decides from now on; in the file at any time up
     * to the next flush.  NULL: it cannot.
     */
    int (*deallocate)(struct node *n, int64_t offset, int64_t bytes);
    /* In-kernel copy; both nodes of this driver.  -ENOTSUP: caller copies. */
    int (*copy_range)(struct node *src, int64_t src_offset, struct node *dst,
                      int64_t dst_offset, int64_t bytes, unsigned flags);

    /* Requests of this node that wait for something other than storage (a
     * limit, a reconnect) are to go on at once, or to fail: somebody wants
     * to get rid of them.  Told of all nodes below the one meant.
     * Control lock held; must not yield. */
    void (*cancel_in_flight)(struct node *n);
    /*
     * Something that reaches N is waited for (a drain holds a root closed,
     * a root or a node goes away) / no longer: between the two nothing may
     * be held back (a throttle lets go).  Told once each, begin first; not
     * before open and not from close on.  Control lock held; must not yield.
     */
    void (*drained_begin)(struct node *n);
    void (*drained_end)(struct node *n);

    /* -- size and information --------------------------------------------- */
    int (*truncate)(struct node *n, int64_t length, bool exact,
                    PreallocMode prealloc, struct error **errp); /* drained */
    /* "file" was resized by somebody else (drained): follow, or not (NULL).
     * Filters follow without. */
    void (*child_resized)(struct node *n);
    int64_t (*allocated_bytes)(struct node *n);  /* st_blocks; -errno */
    int64_t (*cluster_bytes)(const struct node *n);
    bool (*reads_zero_when_new)(struct node *n);
    /* Owned; NULL if the format has nothing to say. */
    ImageInfoSpecific *(*specific_info)(struct node *n, struct error **errp);
    /* What query-blockstats shows of this driver alone; owned. */
    BlockStatsSpecific *(*specific_stats)(struct node *n);
    /* Members of query-block's image that only the format knows. */
    void (*image_info)(struct node *n, ImageInfo *info);

    /* -- internal snapshots: N drained, no control lock ------------------- */
    /* Make one called NAME of what N holds now (ID made up). */
    bool (*snapshot_create)(struct node *n, const char *name,
                            struct error **errp);
    /* Those of N, oldest first; owned.  NULL: this image cannot have any. */
    SnapshotInfoList *(*snapshot_list)(struct node *n);
    /* Delete the one with ID and NAME (either may be NULL).  The deleted
     * one in *INFO, owned. */
    bool (*snapshot_delete)(struct node *n, const char *id, const char *name,
                            SnapshotInfo **info, struct error **errp);
    /* Rewrite what the header names as backing; N writable and drained, no
     * control lock.  NULL file: none.  0 or -errno. */
    int (*change_backing_file)(struct node *n, const char *file,
                               const char *format, struct error **errp);
    /* Write into the file, durably, that it is invalidated (NULL: that it is
     * not); N writable and drained, no control lock.  0 or -errno. */
    int (*mark_invalidated)(struct node *n, const struct invalidated *why,
                            struct error **errp);
    /* x-blockdev-amend: N drained, no control lock, in a job's thread. */
    bool (*amend)(struct node *n, const BlockdevAmendOptions *options,
                  bool force, struct error **errp);

    /* Look for leaks and corruptions; nothing is written.  N is read-only and
     * used by nobody else; no control lock.  False and errp: the check itself
     * failed.  RESULT has filename and format set. */
    bool (*check)(struct node *n, ImageCheck *result,
                  const struct image_check_ops *ops, void *opaque,
                  struct error **errp);

    /* -- blockdev-reopen: see block/reopen.h ------------------------------ */
    /*
     * Members of the driver's own options that may change or be left out,
     * NULL-terminated; NULL: none.  Others must be given as they were (the
     * generic layer compares); children have rules of their own.
     */
    const char *const *reopen_options;
    /*
     * All that can fail, with no visible effect: check R->options (complete:
     * what was not said has its default), do what the new ones need (open the
     * file a second time, read tables), keep it in R->driver_state.  Links
     * are as they were; R->file will be the primary child.  The node is
     * drained; no control lock.  NULL: the driver cannot be reopened; a
     * filter with nothing of its own to do has node_reopen_nothing().
     */
    bool (*reopen_prepare)(struct node_reopen *r, struct error **errp);
    /*
     * Optional.  Links, permissions and generic options are the new ones and
     * all below was activated: what can fail only now (write to a file that
     * could not be written before).  No control lock.
     */
    bool (*reopen_activate)(struct node_reopen *r, struct error **errp);
    /* Take it into use / throw it away and undo what activate did (links are
     * the old ones again).  No control lock; cannot fail.  May be NULL. */
    void (*reopen_commit)(struct node_reopen *r);
    void (*reopen_abort)(struct node_reopen *r);

    /* -- handing over: see block/inactive.h ------------------------------- */
    /*
     * N, which is drained and was flushed, is to be inactive: write what is
     * in memory alone, forget what the next owner may change (bitmaps of the
     * file).  Reads go on.  No control lock.  False and errp: N goes on as
     * before.  NULL: nothing to do.
     */
    bool (*inactivate)(struct node *n, struct error **errp);
    /*
     * N, drained, is active again and has its permissions; what is below has
     * been activated.  Nothing that was read from the file is true any more:
     * read it again, set length_bytes.  Also the way back when another node
     * could not be inactivated.  No control lock.  False and errp: N is as it
     * was.  NULL: nothing to do.
     */
    bool (*activate)(struct node *n, struct error **errp);

    /* -- creation (blockdev-create): control lock HELD, yields ------------ */
    bool (*create)(const BlockdevCreateOptions *options, struct error **errp);

    /* -- x-blockdev-change: N drained, control lock held, must not yield ---- */
    bool (*add_child)(struct node *n, struct node *child,
                      struct error **errp);
    bool (*del_child)(struct node *n, struct child *child,
                      struct error **errp);

    /* -- persistent bitmaps ----------------------------------------------- */
    /* Could a bitmap of NAME and GRANULARITY be stored here?  Control lock
     * held, does not yield. */
    bool (*bitmap_can_store)(struct node *n, const char *name,
                             uint32_t granularity, struct error **errp);
    /* Remove a stored bitmap from the file.  No control lock. */
    bool (*bitmap_remove_stored)(struct node *n, const char *name,
                                 struct error **errp);
    /* Bitmaps of its own, without a name, that queries show after those of
     * users.  Control lock held, does not yield. */
    void (*add_bitmaps_info)(struct node *n, BlockDirtyInfoList *list);
};

/* ---- registry (block/driver.c) ------------------------------------------ */

extern const struct driver *const block_drivers[];  /* NULL-terminated */
const struct driver *driver_find(const char *name);
const struct driver *driver_by_type(BlockdevDriver type);

/* ---- for drivers' open_children (block/open.c): control lock, yields ---- */

/* Open or find REF and attach it to N as CHILD_NAME; read_only, cache and
 * discard flags are inherited where REF does not say. */
struct child *node_open_child(struct node *n, const BlockdevRef *ref,
                              const char *child_name, unsigned role,
                              struct error **errp);

/* ---- for block/io.c and drivers ----------------------------------------- */

/* Control lock: compute N's limits again and those of all above it. */
void node_refresh_limits(struct node *n);
/* Control lock: the header of N names FILE (NULL: none) as backing now, and
 * that is what N's backing child is. */
void node_set_header_backing(struct node *n, const char *file,
                             const char *format);
/* Control lock: the same, but whether that is what N's backing child is is not
 * known. */
void node_set_header_text(struct node *n, const char *file,
                          const char *format);
/* Control lock: N, which is drained, is LENGTH long now; bitmaps, filters and
 * raw above follow.  False: a bitmap could not. */
bool node_length_changed(struct node *n, int64_t length, struct error **errp);
/* Control lock: what is below N may have grown by writes that did not come
 * through N: N, a filter or raw, follows before it is used above.  False: a
 * bitmap could not. */
bool node_refresh_length(struct node *n, struct error **errp);
/* Control lock: N has a new length or another child: tell the roots on it. */
void node_notify_resized(struct node *n);

/*
 * For drivers: N, a child, gets LENGTH as driver->truncate has it; filters on
 * the way follow.  Nobody else writes or resizes N meanwhile.
 */
int node_truncate_child(struct node *n, int64_t length, bool exact,
                        PreallocMode prealloc, struct error **errp);

/*
 * Any thread: N goes on working below although the request that started it
 * has left its root; a drain waits for that, too.  inc: while a request is in
 * flight; after dec the caller must not use what is below.
 */
void node_inc_in_flight(struct node *n);
void node_dec_in_flight(struct node *n);

/*
 * Control lock; yields: N, writable and drained, is invalidated by job JOB_ID
 * now.  False: it is not marked.
 */
bool node_mark_invalidated(struct node *n, const char *job_id,
                           struct error **errp);
/* Control lock: somebody is to read N, as it is or through filters.  False: it
 * is invalidated, and its options do not allow that. */
bool node_check_invalidated(struct node *n, struct error **errp);
/* N->invalidated as an error. */
void node_refuse_invalidated(const struct node *n, struct error **errp);
bool node_unmark_invalidated(struct node *n, struct error **errp);
void invalidated_free(struct invalidated *why);

/* Any thread: note that N is LENGTH long now (grows by a write). */
void node_grow_length(struct node *n, int64_t length);
