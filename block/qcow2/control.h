/* SPDX-License-Identifier: MIT */
/* qcow2's control path: what a command, an open or a close calls.  Included
 * by qcow2.h. */
#pragma once

bool qcow2_open_children(struct node *n, const BlockdevOptions *options,
                         struct error **errp);
int qcow2_open(struct node *n, const BlockdevOptions *options,
               struct error **errp);
void qcow2_close(struct node *n);
/* What OPTIONS (complete) mean for the image S. */
bool qcow2_options_read(const struct qcow2 *s, const BlockdevOptions *options,
                        struct qcow2_options *opt, struct error **errp);
int qcow2_truncate(struct node *n, int64_t length, bool exact,
                   PreallocMode prealloc, struct error **errp);
bool qcow2_create(const BlockdevCreateOptions *options, struct error **errp);
ImageInfoSpecific *qcow2_specific_info(struct node *n, struct error **errp);
void qcow2_image_info(struct node *n, ImageInfo *info);

/* The file child gets another length.  No lock. */
bool qcow2_file_truncate(struct qcow2 *s, int64_t length, PreallocMode mode,
                         struct error **errp);

/* open.c, for reopen.c: before the first write, no lock held: mend the
 * refcounts of a dirty image; clear what we do not keep true. */
int qcow2_make_clean(struct qcow2 *s, struct error **errp);
int qcow2_clear_autoclear(struct qcow2 *s, struct error **errp);
/* open.c: all that is in memory goes to the file; refcounts are right there
 * then, and the dirty bit is clear.  Lock held, given up meanwhile. */
int qcow2_store_metadata(struct qcow2 *s);
/*
 * open.c, for handover.c: read and check the image, into an S that has its
 * node, data, writable and synchronisation alone; if it is writable, make it
 * ready to be written.  0 or -errno with errp: free what there is then.
 */
int qcow2_read_image(struct qcow2 *s, const BlockdevOptions *options,
                     struct error **errp);
/* S is zeroed: its node and its synchronisation. */
void qcow2_init(struct qcow2 *s, struct node *n);
/* What is in S, when no worker uses it any more. */
void qcow2_free(struct qcow2 *s);
/* What the header says of a backing format; owned, or NULL. */
char *qcow2_backing_format(const struct qcow2 *s);
/* Until no worker uses the image.  No lock held. */
void qcow2_wait_background(struct qcow2 *s);

/* reopen.c: struct driver's functions. */
bool qcow2_reopen_prepare(struct node_reopen *r, struct error **errp);
bool qcow2_reopen_activate(struct node_reopen *r, struct error **errp);
void qcow2_reopen_commit(struct node_reopen *r);
void qcow2_reopen_abort(struct node_reopen *r);

/* handover.c: struct driver's functions. */
bool qcow2_inactivate(struct node *n, struct error **errp);
bool qcow2_activate(struct node *n, struct error **errp);

/* open.c: s->tables anew, from the L1 and the refcount table. */
void qcow2_note_tables(struct qcow2 *s);

/* snapshots.c: read the table into s->snapshots.  0 or -errno with errp. */
int qcow2_snapshots_read(struct qcow2 *s, struct error **errp);
GArray *qcow2_snapshots_new(void);
void qcow2_snapshots_free(struct qcow2 *s);
/* The L1 table of SN, host order; owned.  0 or -errno.  No lock. */
int qcow2_snapshot_read_l1(struct qcow2 *s, const struct qcow2_snapshot *sn,
                           uint64_t **l1);
/* Put the snapshots' L2 tables in s->tables if the options say that they are
 * to be checked.  0 or -errno.  No lock, drained. */
int qcow2_note_inactive(struct qcow2 *s);
/* One entry as in the file, padded, to OUT. */
void qcow2_snapshot_encode(const struct qcow2_snapshot *sn, GByteArray *out);
SnapshotInfo *qcow2_snapshot_info(const struct qcow2_snapshot *sn);

/*
 * snapshot-change.c: commands that change the image as a whole (length,
 * snapshots, header) follow each other; two of them may be inside drained
 * sections at once.  No lock held; begin blocks.
 */
void qcow2_change_begin(struct qcow2 *s);
void qcow2_change_end(struct qcow2 *s);

/* snapshot-change.c: struct driver's functions. */
bool qcow2_snapshot_create(struct node *n, const char *name,
                           struct error **errp);
SnapshotInfoList *qcow2_snapshot_list(struct node *n);
bool qcow2_snapshot_delete(struct node *n, const char *id, const char *name,
                           SnapshotInfo **info, struct error **errp);

/* amend.c: struct driver's functions. */
int qcow2_change_backing_file(struct node *n, const char *file,
                              const char *format, struct error **errp);
/* amend.c: the header extension TYPE, durably; BYTES 0: none.  Between
 * qcow2_change_begin() and _end(), no lock.  0 or -errno. */
int qcow2_change_ext(struct qcow2 *s, uint32_t type, const void *data,
                     uint32_t bytes);
bool qcow2_amend(struct node *n, const BlockdevAmendOptions *options,
                 bool force, struct error **errp);

/*
 * invalidated.c.  At open, before anything is written: take the mark to
 * n->invalidated; refuse a marked image that is opened to be used on its own,
 * unless the options allow it.  0 or -errno with errp.
 */
int qcow2_check_invalidated(struct qcow2 *s, const BlockdevOptions *options,
                            struct error **errp);
/* n->invalidated anew, as the header that was read says. */
void qcow2_note_invalidated(struct qcow2 *s);
/* struct driver's function. */
int qcow2_mark_invalidated(struct node *n, const struct invalidated *why,
                           struct error **errp);

/* check.c: compute all refcounts from the tables and mend the stored ones.
 * Image not in use, no lock held. */
int qcow2_rebuild_refcounts(struct qcow2 *s, struct error **errp);

/* verify.c: struct driver's check. */
bool qcow2_check(struct node *n, ImageCheck *result,
                 const struct image_check_ops *ops, void *opaque,
                 struct error **errp);

/* ---- bitmaps.c: the bitmaps extension (control path, no lock held) ----- */

/*
 * At open, when all else is read.  s->bitmaps is what the extension says (all
 * zero: none); s->hdr.autoclear has QCOW2_AUTOCLEAR_BITMAPS as in the file.
 * False with errp only where the image must not open.
 */
bool qcow2_bitmaps_load(struct qcow2 *s, struct error **errp);
/* At close of a writable image, before the last write-back: store the
 * persistent bitmaps.  Errors are reported, by error_report(). */
void qcow2_bitmaps_store(struct qcow2 *s);
/* As that, for an image that will be read-only but stays open.  False and
 * errp: they are as they were. */
bool qcow2_bitmaps_try_store(struct qcow2 *s, struct error **errp);
/* Mark those we track as in use in the file, or as not in use any more. */
bool qcow2_bitmaps_set_in_use(struct qcow2 *s, bool in_use,
                              struct error **errp);
/* Those that the file has cannot change in memory, or can again. */
void qcow2_bitmaps_set_readonly(struct qcow2 *s, bool readonly);
/* Free bitmaps_state. */
void qcow2_bitmaps_close(struct qcow2 *s);
/* May the image get another length now?  Before any change. */
bool qcow2_bitmaps_can_resize(struct qcow2 *s, int64_t length,
                              struct error **errp);
/* Call FN for every extent that the extension's directory, tables and data
 * occupy in the file (for check.c). */
int qcow2_bitmaps_each_extent(struct qcow2 *s,
                              int (*fn)(void *opaque, int64_t offset,
                                        int64_t bytes),
                              void *opaque, struct error **errp);
/* For query-block's format-specific "bitmaps": owned, NULL if there are
 * none; false with errp if they cannot be read. */
bool qcow2_bitmaps_info(struct qcow2 *s, Qcow2BitmapInfoList **list,
                        struct error **errp);
/* struct driver's functions. */
bool qcow2_bitmap_can_store(struct node *n, const char *name,
                            uint32_t granularity, struct error **errp);
bool qcow2_bitmap_remove_stored(struct node *n, const char *name,
                                struct error **errp);

/*
 * Header.c, for bitmaps.c: write the extension EXT (NULL or all zero:
 * removed), and the autoclear bit 0 set or clear.  Metadata and file are
 * flushed before and after.  No lock held.
 */
bool qcow2_set_bitmaps_ext(struct qcow2 *s, const struct qcow2_bitmaps_ext *ext,
                           bool autoclear_set, struct error **errp);
