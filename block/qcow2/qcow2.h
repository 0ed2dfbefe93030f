/* SPDX-License-Identifier: MIT */
/*
 * qcow2: what the files of this driver share.  README.md says which is where.
 *
 * Metadata    The L1 table and the refcount table are in memory whole; L2
 *             tables and refcount blocks in slices (table-cache.c).  All of it
 *             changes in memory first and goes to the file in
 *             qcow2_writeback(), as one consistent cut.
 * Invariants  I1  A cluster's data is in the file before an L2 entry (in
 *                 memory even) points to it.
 *             I2  A cut has the refcount of whatever its L1 and L2 entries
 *                 point to, and is written refcounts first.
 *             I3  A reference that was dropped lowers the refcount in memory
 *                 only after the cut without that reference is in the file
 *                 and stable: nobody gets a cluster that the file may still
 *                 point to.
 *             I4  Who reads or writes guest data holds its range in `guest`
 *                 shared; who changes the mapping of clusters holds these
 *                 whole clusters exclusively.  So a cluster found by a
 *                 lookup stays what it is until the hold is released.
 *             I1 to I3: a crash at any moment leaks clusters at worst.
 * Threads     Many at once.  `lock` is given up while a slice is read
 *             (the slice is marked loading; others that need it wait for
 *             `changed`), so what was looked up before a function that may
 *             give the lock up must be looked up again.
 * Order       a hold in `guest`, then `lock`.  A thread has one hold.
 */
#pragma once

#include "block/debug.h"
#include "block/driver.h"
#include "block/qcow2/format.h"

struct qcow2;

/* ---- table-cache.c: slices of tables that lie in the file -------------- */

struct qcow2_table {
    uint8_t *data;              /* owned: slice_bytes, as on disk */
    int64_t offset;             /* in the file; multiple of slice_bytes */
    struct qcow2_table *next;   /* hash chain */
    struct qcow2_table *ring_next, *ring_prev;
    struct qcow2_table *next_dirty;
    bool used;                  /* since the hand last passed */
    bool loading, writing;      /* the lock is given up meanwhile */
    bool dirty;
    bool gone;                  /* dropped while loading or writing */
};

struct qcow2_table_cache {      /* protected by qcow2.lock */
    struct qcow2_table **buckets;
    uint32_t n_buckets;         /* power of two */
    uint32_t slice_bytes, slice_bits;
    uint32_t n, max, n_dirty;   /* slices; n may pass max while dirty */
    struct qcow2_table *hand;
    struct qcow2_table *dirty;
    int64_t cleaned_ns;         /* when unused slices were last dropped */
};

bool qcow2_table_cache_init(struct qcow2_table_cache *c, uint32_t slice_bytes,
                            int64_t max_bytes);
void qcow2_table_cache_deinit(struct qcow2_table_cache *c);
/*
 * The slice at OFFSET, valid until the lock is next given up.  Lock held;
 * given up while it is read unless NOWAIT: -EAGAIN then.  0 or -errno.
 */
int qcow2_table_get(struct qcow2 *s, struct qcow2_table_cache *c,
                    int64_t offset, bool nowait, struct qcow2_table **t);
/* As that, not read but zeroed, and dirty.  Never gives the lock up, except
 * to wait for a writer of an old slice there. */
int qcow2_table_new(struct qcow2 *s, struct qcow2_table_cache *c,
                    int64_t offset, struct qcow2_table **t);
/* What is at OFFSET was just written as zeroes, and nobody has looked at it:
 * it need not be read.  No more than a hint. */
void qcow2_table_add_zero(struct qcow2_table_cache *c, int64_t offset,
                          int64_t bytes);
void qcow2_table_dirty(struct qcow2 *s, struct qcow2_table_cache *c,
                       struct qcow2_table *t);
/* Forget slices in a range that is no table any more. */
void qcow2_table_drop(struct qcow2_table_cache *c, int64_t offset,
                      int64_t bytes);
/* Drop what was not used since this last did something, INTERVAL_NS (0:
 * never) ago or more. */
void qcow2_table_clean(struct qcow2_table_cache *c, int64_t now_ns,
                       int64_t interval_ns);
void qcow2_table_drop_all(struct qcow2_table_cache *c);
/* For writeback.c: a table that was being written is so no more. */
void qcow2_table_written(struct qcow2_table_cache *c, struct qcow2_table *t);

/* ---- the image --------------------------------------------------------- */

struct qcow2_snapshot {
    uint64_t l1_offset;
    uint32_t l1_entries;
    char *id, *name;            /* owned */
    uint32_t date_sec, date_nsec;
    uint64_t vm_clock_nsec;
    uint64_t vm_state_bytes, disk_bytes;
    uint64_t icount;
    bool has_icount;
    uint8_t *more;              /* owned: extra data we do not know */
    uint32_t more_bytes;
};

struct qcow2_ext {              /* one header extension, kept as it is */
    uint32_t type, bytes;
    uint8_t *data;              /* owned */
};

struct qcow2_bitmaps_ext {      /* all zero: no extension */
    uint32_t n_bitmaps;
    uint64_t directory_bytes, directory_offset;
};

/* A reference to clusters that was dropped (I3). */
struct qcow2_free {
    int64_t offset;             /* multiple of cluster_bytes */
    int64_t n;                  /* clusters */
    unsigned flags;             /* QCOW2_FREE_* */
};
enum {
    QCOW2_FREE_TABLE   = 1,     /* was an L2 table: drop its slices */
    QCOW2_FREE_DISCARD = 2,     /* tell the file when it has become free */
};

struct qcow2_options {
    bool lazy_refcounts;
    bool discard_request, discard_snapshot, discard_other;
    bool discard_no_unref, allow_invalidated;
    unsigned overlap;           /* enum qcow2_overlap bits that are checked */
    int64_t l2_cache_bytes, refcount_cache_bytes;
    uint32_t l2_entry_bytes;    /* slice */
    int64_t cache_clean_seconds;
};

struct qcow2 {
    /* Set by open, then constant. */
    struct node *node;          /* borrowed; its state is this */
    uint32_t cluster_bits, l2_bits, refcount_order;
    uint32_t sub_bits, n_subs;  /* subclusters: of a cluster 1, or 32 */
    uint32_t entry_shift;       /* log2 of the bytes of an L2 entry */
    uint32_t refblock_bits;     /* log2 of the entries of a refcount block */
    int64_t cluster_bytes, sub_bytes;
    uint64_t refcount_max;
    struct qcow2_options opt;
    bool writable;
    const struct child *data;   /* external data file, or NULL: in the file */
    bool data_raw;              /* it can be read without us: keep it so */

    struct range_lock guest;    /* I4, guest offsets */

    /* Protected by lock (rank LOCK_QCOW2), never held across I/O. */
    struct lock lock;
    struct cond changed;        /* loading, writing, allocating, ... ended */
    struct qcow2_header hdr;    /* as it is in the file */
    GPtrArray *exts;            /* struct qcow2_ext, in the file's order */
    GByteArray *header_extra;   /* fields behind what we know; owned */
    char *backing_name;         /* as in the header; owned, or NULL */
    uint32_t header_used_bytes; /* what the header wrote or read last */
    bool header_writing;
    struct qcow2_bitmaps_ext bitmaps;   /* as in the file */

    struct qcow2_table_cache l2_cache, ref_cache;
    uint64_t *l1;               /* owned; host order */
    uint32_t l1_entries;
    int64_t l1_offset;          /* differs from hdr: not yet written there */
    uint8_t *l1_dirty;          /* one per L1_CHUNK entries */
    uint64_t *reftable;         /* owned; host order */
    uint32_t reftable_entries;  /* in memory */
    int64_t reftable_offset;    /* differs from hdr: not yet written there */
    int64_t reftable_bytes;     /* whole clusters at that offset; less than
                                   the entries only while it grows */
    int64_t reftable_in_cut;    /* where a write-back is moving it to, or 0 */
    uint8_t *reftable_dirty;
    bool l1_any_dirty, reftable_any_dirty;
    struct qcow2_cluster_set *tables;   /* L2 tables and refcount blocks */

    bool allocating;            /* one allocator at a time, see alloc.c */
    bool reftable_growing;
    int64_t free_cursor;        /* cluster number; none before it is free */
    uint64_t n_released;        /* +1 per cluster that became free */
    int64_t zero_from;          /* offset; nothing was ever written behind */
    int64_t packed_end;         /* behind the last compressed data written, in
                                   a cluster with room; 0: in none */
    GArray *frees;              /* struct qcow2_free */

    bool writing_back;
    uint64_t n_changes;         /* +1 per change of metadata */
    uint64_t n_written;         /* value of n_changes that the file has */
    bool lazy_dirty;            /* the dirty bit is set, by us: refcounts in
                                   the file may be behind */
    bool corrupt;               /* refuse writes */
    bool corrupt_told;
    bool changing;              /* length, snapshots, header: by one at a time,
                                   see qcow2_change_begin() */
    int n_background;           /* workers that use this */

    GArray *snapshots;          /* struct qcow2_snapshot; NULL: none */
    int64_t snapshot_table_bytes;

    void *bitmaps_state;        /* bitmaps.c's own; NULL at first */
};

enum { QCOW2_TABLE_CHUNK = 512 };   /* entries per dirty mark of L1, reftable */

static inline struct node *qcow2_file(const struct qcow2 *s)
{
    return s->node->file->node;
}

/* What blkdebug below the image may stop or fail.  No lock held. */
#define QCOW2_DEBUG(s, event_) NODE_DEBUG((s)->node, event_)
/* As that where the lock is held: it is given up if there is a blkdebug. */
#define QCOW2_DEBUG_LOCKED(s, event_) \
    do { \
        if (NODE_DEBUG_ACTIVE()) { \
            lock_release(&(s)->lock); \
            QCOW2_DEBUG(s, event_); \
            lock_acquire(&(s)->lock); \
        } \
    } while (0)

/* Where guest data is. */
static inline struct node *qcow2_data(const struct qcow2 *s)
{
    return s->data ? s->data->node : qcow2_file(s);
}

static inline int64_t qcow2_cluster_start(const struct qcow2 *s, int64_t o)
{
    return o & -s->cluster_bytes;
}

static inline int64_t qcow2_cluster_end(const struct qcow2 *s, int64_t o)
{
    return (o + s->cluster_bytes - 1) & -s->cluster_bytes;
}

/* ---- header.c, header-ext.c -------------------------------------------- */

/* Decode the fixed part from 112 bytes and check it by itself. */
bool qcow2_header_decode(struct qcow2_header *h, const uint8_t *buf,
                         struct error **errp);
/* Append the header to OUT; EXTRA (may be NULL) follows what we know. */
void qcow2_header_encode(const struct qcow2_header *h,
                         const GByteArray *extra, GByteArray *out);
/* All that stands in the first cluster: header, extensions, backing name.
 * Sets h->backing_offset and backing_bytes. */
GByteArray *qcow2_header_compose(struct qcow2_header *h,
                                 const GByteArray *extra,
                                 const GPtrArray *exts,
                                 const char *backing_name);
/* Write hdr, extensions and backing name.  Lock held, given up meanwhile;
 * changes of others made meanwhile are in the file too at return, or are
 * written by them.  0 or -errno, -ENOSPC: does not fit the first cluster. */
int qcow2_header_write(struct qcow2 *s);
/* Set or clear a bit of hdr.incompatible and write the header.  Lock held. */
int qcow2_header_set_incompatible(struct qcow2 *s, uint64_t bit, bool on);

/* Extensions from START to END of the first cluster; the known ones are
 * checked. */
bool qcow2_exts_decode(GPtrArray *exts, const uint8_t *cluster, size_t start,
                       size_t end, struct error **errp);
const struct qcow2_ext *qcow2_ext_find(const GPtrArray *exts, uint32_t type);
/* The bitmaps extension, all zero if there is none or it is damaged (false
 * and errp then); that does not keep an image from opening. */
bool qcow2_ext_bitmaps(const GPtrArray *exts, int64_t cluster_bytes,
                       struct qcow2_bitmaps_ext *out, struct error **errp);
/* Replace or add; BYTES 0: remove. */
void qcow2_ext_set(GPtrArray *exts, uint32_t type, const void *data,
                   uint32_t bytes);
GPtrArray *qcow2_exts_new(void);
/* The table that names our features. */
void qcow2_ext_set_feature_names(GPtrArray *exts);
/* Append all and the end mark to OUT. */
void qcow2_exts_encode(const GPtrArray *exts, GByteArray *out);
/* Owned text "name, name" of the incompatible features UNKNOWN. */
char *qcow2_feature_names(const GPtrArray *exts, uint64_t unknown);

/* ---- cluster-set.c: which clusters are tables -------------------------- */

enum {
    QCOW2_SET_L2 = 1, QCOW2_SET_REFBLOCK = 2,
    QCOW2_SET_INACTIVE_L2 = 4,  /* noted only if it is to be checked */
};
struct qcow2_cluster_set *qcow2_cluster_set_new(void);
void qcow2_cluster_set_free(struct qcow2_cluster_set *set);
void qcow2_cluster_set_add(struct qcow2_cluster_set *set, int64_t offset,
                           unsigned kind);
void qcow2_cluster_set_remove(struct qcow2_cluster_set *set, int64_t offset,
                              unsigned kind);
unsigned qcow2_cluster_set_test(const struct qcow2_cluster_set *set,
                                int64_t offset);

/* ---- corrupt.c --------------------------------------------------------- */

enum qcow2_overlap {
    QCOW2_OL_HEADER = 1 << 0, QCOW2_OL_ACTIVE_L1 = 1 << 1,
    QCOW2_OL_ACTIVE_L2 = 1 << 2, QCOW2_OL_REFBLOCK = 1 << 3,
    QCOW2_OL_REFTABLE = 1 << 4, QCOW2_OL_SNAPSHOTS = 1 << 5,
    QCOW2_OL_INACTIVE_L1 = 1 << 6, QCOW2_OL_INACTIVE_L2 = 1 << 7,
    QCOW2_OL_BITMAPS = 1 << 8,
    QCOW2_OL_CONSTANT = QCOW2_OL_HEADER | QCOW2_OL_ACTIVE_L1 |
                        QCOW2_OL_REFTABLE | QCOW2_OL_SNAPSHOTS |
                        QCOW2_OL_BITMAPS,
    QCOW2_OL_CACHED = QCOW2_OL_CONSTANT | QCOW2_OL_ACTIVE_L2 |
                      QCOW2_OL_REFBLOCK | QCOW2_OL_INACTIVE_L1,
    QCOW2_OL_ALL = QCOW2_OL_CACHED | QCOW2_OL_INACTIVE_L2,
};
/*
 * The image is found to be damaged: tell (event, stderr), mark it and refuse
 * writes from now on if it was open for writing.  OFFSET, BYTES < 0: unknown.
 * Lock held, not given up.  Returns -EIO.
 */
int qcow2_corrupt(struct qcow2 *s, int64_t offset, int64_t bytes,
                  const char *fmt, ...) G_GNUC_PRINTF(4, 5);
/*
 * About to write [offset, +bytes): -EIO, and the image is marked corrupt, if
 * it overlaps metadata other than IGNORE (QCOW2_OL_*).  Lock held.
 */
int qcow2_check_overlap(struct qcow2 *s, unsigned ignore, int64_t offset,
                        int64_t bytes);
/* Just looks: one of the areas WHICH that it overlaps, or 0.  Lock held. */
unsigned qcow2_find_overlap(const struct qcow2 *s, unsigned which,
                            int64_t offset, int64_t bytes);

/* ---- refcount.c -------------------------------------------------------- */

uint64_t qcow2_refcount_load(const uint8_t *table, uint64_t i, uint32_t order);
void qcow2_refcount_store(uint8_t *table, uint64_t i, uint32_t order,
                          uint64_t value);
/* Lock held, may be given up.  CLUSTER is a number, not an offset. */
int qcow2_refcount_get(struct qcow2 *s, int64_t cluster, uint64_t *count);
/* Set N clusters from CLUSTER; their blocks exist. */
int qcow2_refcount_set(struct qcow2 *s, int64_t cluster, int64_t n,
                       uint64_t count);
/* Lower by one each, in memory, now: for what the file never pointed to. */
int qcow2_refcount_release(struct qcow2 *s, int64_t offset, int64_t n);
/* Slice with the entry of CLUSTER, its index, and how many entries from there
 * the slice has.  -ENOENT: no such block, all are 0. */
int qcow2_refcount_slice(struct qcow2 *s, int64_t cluster,
                         struct qcow2_table **t, uint64_t *index,
                         int64_t *n_left);
/* A reference in a table was dropped (I3).  Lock held, not given up. */
void qcow2_free_later(struct qcow2 *s, int64_t offset, int64_t n,
                      unsigned flags);
/* writeback.c: the references in FREES are gone from the file.  Lock held,
 * given up.  Does what it can; clusters it cannot lower leak. */
void qcow2_free_now(struct qcow2 *s, GArray *frees);

/* ---- alloc.c ----------------------------------------------------------- */

/*
 * Allocate up to N contiguous clusters (EXACT: N or none), refcount 1.  Lock
 * held, may be given up.  *START is an offset; returns how many, or -errno.
 * *FRESH (may be NULL): nothing was ever written there, it reads as zeroes.
 */
int64_t qcow2_alloc_run(struct qcow2 *s, int64_t n, bool exact,
                        int64_t *start, bool *fresh);
/*
 * A place for BYTES (less than a cluster) of compressed data, in a cluster
 * that others may share; one reference to that cluster is the caller's.  Lock
 * held, may be given up.  The offset, or -errno.
 */
int64_t qcow2_alloc_packed(struct qcow2 *s, int64_t bytes);
/*
 * Before references and refcounts in the file differ, in an image with lazy
 * refcounts: set the dirty bit there.  Lock held, given up the first time.
 */
int qcow2_lazy_begin(struct qcow2 *s);
/* For check.c: the refcount block of CLUSTER exists or is made at PLACE or
 * behind; no cluster there is in use.  Lock held, given up. */
int qcow2_alloc_refblock_for(struct qcow2 *s, int64_t cluster, int64_t place);

/*
 * For bitmaps.c and others that keep whole clusters: contiguous clusters for
 * BYTES.  No lock held.  The offset, or -errno.  Write what is to be there,
 * then qcow2_meta_flush(), then point to it.
 */
int64_t qcow2_alloc_bytes(struct qcow2 *s, int64_t bytes);
/* The file no more points to the clusters of [offset, +bytes) (a header or
 * directory without them was written): lower their refcounts.  No lock. */
void qcow2_free_bytes(struct qcow2 *s, int64_t offset, int64_t bytes);

/* ---- writeback.c ------------------------------------------------------- */

/* Write all changed metadata; lock held, given up.  Returns when everything
 * changed before the call is in the file.  0 or -errno. */
int qcow2_writeback(struct qcow2 *s);
/* As that until nothing is left, frees and refcounts that were lazy too.
 * Lock held, given up. */
int qcow2_writeback_all(struct qcow2 *s);
/* Write back if much is dirty; lock held, given up. */
int qcow2_writeback_some(struct qcow2 *s);
/* No lock held: metadata written and the file flushed. */
int qcow2_meta_flush(struct qcow2 *s);

/* Read or write the file child; reads behind its end are zeroes.  No lock. */
int qcow2_file_pread(struct qcow2 *s, int64_t offset, int64_t bytes,
                     void *buf, unsigned flags);
int qcow2_file_pwrite(struct qcow2 *s, int64_t offset, int64_t bytes,
                      const void *buf, unsigned flags);

/* ---- l2.c -------------------------------------------------------------- */

enum qcow2_type {
    QCOW2_UNALLOCATED,
    QCOW2_UNALLOC_HELD,         /* reads as that, but has a place here */
    QCOW2_ZERO_PLAIN,
    QCOW2_ZERO_ALLOC,           /* reads zeroes, but has a place here */
    QCOW2_NORMAL,
    QCOW2_TYPE_COMPRESSED,
};

struct qcow2_map {
    enum qcow2_type type;
    bool copied;                /* its place is ours alone: may be written */
    int64_t bytes;              /* of one type, contiguous in the file */
    int64_t host;               /* place of the first byte, if it has one */
    uint64_t entry;             /* the first L2 entry */
};

/* Mapping of [offset, +bytes), as long as it is of one kind.  Lock held, may
 * be given up unless NOWAIT.  0, -EAGAIN, -errno. */
int qcow2_lookup(struct qcow2 *s, int64_t offset, int64_t bytes, bool nowait,
                 struct qcow2_map *map);
/* As that, and the L2 table (which is made or copied if need be) may be
 * changed: qcow2_l2_set() follows.  The run ends with the slice. */
int qcow2_lookup_for_write(struct qcow2 *s, int64_t offset, int64_t bytes,
                           struct qcow2_map *map);

/* Lock held, may be given up; the table exists.  How many of N clusters from
 * OFFSET, of its slice, have no place that may be written. */
int qcow2_l2_count_new(struct qcow2 *s, int64_t offset, int64_t n,
                       int64_t *count);
/* Must all of this cluster be written when it gets a new place?  1, 0 (its
 * other subclusters read from elsewhere), -errno. */
int qcow2_l2_has_data(struct qcow2 *s, int64_t offset);

enum qcow2_l2_op {
    QCOW2_L2_LINK,              /* data at HOST and what follows it */
    QCOW2_L2_RESERVE,           /* a place there; reads as before */
    QCOW2_L2_COMPRESS,          /* HOST is the whole descriptor */
    QCOW2_L2_ZERO,              /* reads zeroes, keeps its cluster */
    QCOW2_L2_ZERO_FREE,         /* reads zeroes, gives its cluster up */
    QCOW2_L2_UNMAP,             /* unallocated */
};
struct qcow2_l2_change {
    enum qcow2_l2_op op;
    int64_t host;               /* LINK, RESERVE: for the first cluster */
    unsigned free_flags;        /* for old clusters, which are freed later */
};
/*
 * Change [offset, +bytes), whole subclusters of one slice.  Lock held, may be
 * given up before anything is changed.  0 or -errno: nothing changed;
 * -ENOTSUP: a part of a compressed cluster.
 */
int qcow2_l2_set(struct qcow2 *s, int64_t offset, int64_t bytes,
                 const struct qcow2_l2_change *c);
/* Of the first word of an entry, without subclusters. */
enum qcow2_type qcow2_entry_type(const struct qcow2 *s, uint64_t entry);
/* Where a compressed cluster's data is. */
void qcow2_compressed_extent(const struct qcow2 *s, uint64_t entry,
                             int64_t *offset, int64_t *bytes);
/* Clusters from OFFSET to the end of its slice of the L2 table. */
int64_t qcow2_l2_slice_left(const struct qcow2 *s, int64_t offset);
void qcow2_l1_dirty(struct qcow2 *s, uint32_t index);
void qcow2_reftable_dirty(struct qcow2 *s, uint32_t index);

/* ---- the data path: see struct driver ---------------------------------- */

int qcow2_pread(struct node *n, int64_t offset, int64_t bytes, void *buf,
                unsigned flags);
/* As qcow2_pread() for who holds the range in `guest`. */
int qcow2_read_held(struct qcow2 *s, int64_t offset, int64_t bytes,
                    uint8_t *buf, unsigned flags);
/* Does [offset, +bytes), of one mapping, read as zeroes for sure? */
bool qcow2_map_reads_zero(struct qcow2 *s, const struct qcow2_map *map,
                          int64_t offset);
int qcow2_read_compressed(struct qcow2 *s, uint64_t entry, int64_t in_cluster,
                          int64_t bytes, uint8_t *buf);
int qcow2_pwrite(struct node *n, int64_t offset, int64_t bytes,
                 const void *buf, unsigned flags);
/* Whole clusters (the last may end with the disk), compressed. */
int qcow2_pwrite_compressed(struct qcow2 *s, int64_t offset, int64_t bytes,
                            const uint8_t *buf);
int qcow2_pwrite_zeroes(struct node *n, int64_t offset, int64_t bytes,
                        unsigned flags);
int qcow2_pdiscard(struct node *n, int64_t offset, int64_t bytes);
int qcow2_deallocate(struct node *n, int64_t offset, int64_t bytes);
/* Unmap all clusters of [offset, +bytes), multiples of clusters; drained. */
int qcow2_unmap(struct qcow2 *s, int64_t offset, int64_t bytes);
int qcow2_flush_to_os(struct node *n);
int qcow2_block_status(struct node *n, bool want_zero, int64_t offset,
                       int64_t bytes, struct block_status *st);

#include "block/qcow2/control.h"
