/* SPDX-License-Identifier: MIT */
/* Backup: what its files share. */
#pragma once

#include "blockjobs/backup.h"

struct backup_job;
struct dirty_bitmap;

struct backup {
    BackupCommon *common;       /* owned */
    struct node *source;        /* ref */
    struct node *target;        /* ref */

    /* Set by backup_check(). */
    bool use_bitmap_bits;       /* sync=bitmap: they say what is copied */
    struct dirty_bitmap *bitmap;/* borrowed from the source, or NULL */
    BitmapSyncMode bitmap_mode; /* if bitmap */
    int64_t cluster_bytes;

    /* Set by backup_prepare(). */
    struct backup_job *job;     /* borrowed: it belongs to the job list */
};

/* Takes the references.  Owned. */
struct backup *backup_new(const BackupCommon *common, struct node *source,
                          struct node *target);
/* backup-args.c: are the arguments sensible for what is there now? */
bool backup_check(struct backup *b, struct error **errp);
