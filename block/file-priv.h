/* SPDX-License-Identifier: MIT */
/* What the files of the file driver share. */
#pragma once

#include <sys/types.h>
#include "block/drivers.h"

/*
 * What is known of data and holes: the last run of each kind.
 *
 * Invariants  I1  A run is used only while the generation it was found in is
 *                 the node's: holes vanish by writes, data by zero writes and
 *                 discards.  The generation is read before the file is asked,
 *                 so that what happens meanwhile makes the answer old.
 */
struct file_holes {
    /* Protected by lock (rank LOCK_FILE). */
    struct lock lock;
    int64_t data_start, data_end;
    uint64_t data_generation;       /* of punched */
    int64_t hole_start, hole_end;
    uint64_t hole_generation;       /* of node->write_generation */
    /* Atomic. */
    _Atomic uint64_t punched;       /* +1 per zero write, discard, shrink */
};

struct file_state {
    /* Set by open, then constant.  What fd stands for is exchanged in place
     * (dup3), so that requests need no lock to use it. */
    int fd;
    int lock_fd;            /* carries the image locks; -1: locking=off */

    /* Under the control lock; direct and dynamic change only while drained. */
    bool direct;            /* O_DIRECT */
    bool dynamic;           /* auto-read-only: writable only while needed */
    bool writable;          /* fd is O_RDWR */
    int new_fd;             /* between check_perm and set_perm, or -1 */
    unsigned perm, shared;  /* what the locks say */

    /* Atomic. */
    bool no_nowait;         /* the file system knows no RWF_NOWAIT */
    bool no_dsync, no_zero_range, no_punch_hole, no_fallocate, no_seek_hole;
    int flush_error;        /* pages were lost: no flush is true any more */
    _Atomic uint64_t n_discards_ok, n_discards_failed, discarded_bytes;

    struct file_holes holes;
};

/* What a driver wants its file to be. */
struct file_kind {
    const char *what;               /* "a regular file" */
    bool (*is_it)(mode_t mode);
    int64_t (*length)(int fd);      /* bytes, or -errno */
};

/* file.c: life and permissions, for every driver with a struct file_state;
 * see struct driver */
const BlockdevOptionsFile *file_options(const BlockdevOptions *options);
int file_open_kind(struct node *n, const BlockdevOptions *options,
                   const struct file_kind *kind, struct error **errp);
void file_close(struct node *n);
void file_refresh_limits(struct node *n);
/* It is LENGTH (or -errno) long now; for driver->activate. */
bool file_read_again(struct node *n, int64_t length, struct error **errp);
bool file_check_perm(struct node *n, unsigned perm, unsigned shared,
                     struct error **errp);
void file_set_perm(struct node *n, unsigned perm, unsigned shared);
void file_abort_perm(struct node *n);
int64_t file_allocated_bytes(struct node *n);
BlockStatsSpecific *file_specific_stats(struct node *n);
/* For query-blockstats; returns RET. */
int file_count_discard(struct file_state *s, int64_t bytes, int ret);
extern const char *const file_strong_options[];
/* For who writes in whatever way the file must be open for writing. */
enum { FILE_PERM_ANY_WRITE = PERM_WRITE | PERM_WRITE_UNCHANGED | PERM_RESIZE };

/* file-open.c.  All descriptors of these go with file_close_fd(). */
/* As open(); -1 with errno and a text. */
int file_open_path(const char *path, int flags, struct error **errp);
/* The same file as FD again, even if it has another name or none by now. */
int file_open_same(int fd, const char *path, int flags, struct error **errp);
/* The same file, for reading, to carry its locks. */
int file_open_for_locks(int fd, const char *path, struct error **errp);
/* Was it passed to us (/dev/fdset/)?  Its locks then outlive our
 * descriptors. */
bool file_is_passed(const char *path);
int file_close_fd(int fd);

/* file-reopen.c: see struct driver */
extern const char *const file_reopen_options[];
bool file_reopen_prepare(struct node_reopen *r, struct error **errp);
bool file_reopen_activate(struct node_reopen *r, struct error **errp);
void file_reopen_commit(struct node_reopen *r);
void file_reopen_abort(struct node_reopen *r);

/* file-holes.c */
void file_holes_init(struct file_holes *h);
void file_holes_deinit(struct file_holes *h);
/* Behind everything that makes data a hole. */
void file_holes_punched(struct file_holes *h);
int file_block_status(struct node *n, bool want_zero, int64_t offset,
                      int64_t bytes, struct block_status *st);

/* file-io.c: data path of the driver, see struct driver */
int file_pread(struct node *n, int64_t offset, int64_t bytes, void *buf,
               unsigned flags);
int file_pwrite(struct node *n, int64_t offset, int64_t bytes, const void *buf,
                unsigned flags);
int file_pwrite_zeroes(struct node *n, int64_t offset, int64_t bytes,
                       unsigned flags);
int file_pdiscard(struct node *n, int64_t offset, int64_t bytes);
int file_flush_to_disk(struct node *n);
void file_begin_flush(struct node *n);
int file_copy_range(struct node *src, int64_t src_offset, struct node *dst,
                    int64_t dst_offset, int64_t bytes, unsigned flags);

/* file-create.c */
int file_truncate(struct node *n, int64_t length, bool exact,
                  PreallocMode prealloc, struct error **errp);
bool file_create(const BlockdevCreateOptions *options, struct error **errp);
