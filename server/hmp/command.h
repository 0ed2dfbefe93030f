/* SPDX-License-Identifier: MIT */
/*
 * HMP inside: what a command is, and what its words have become.
 *
 * A command is an entry of a table (table.c): its names, what it takes, how
 * help calls that, and a function.  The function fills the arguments of a QMP
 * command and calls it: no logic twice.
 */
#pragma once

#include "server/hmp/args.h"
#include "server/hmp/hmp.h"

struct hmp_command {
    const char *name;           /* "quit|q" */
    const char *synopsis;       /* of the arguments, for help; "" if none */
    const char *help;
    /* In order; ends with a key of NULL.  NULL: none. */
    const struct hmp_param *params;
    void (*run)(struct hmp *m, const struct hmp_args *a);
    const struct hmp_command *sub;      /* info: what comes after it */
};

/* Sorted by name; the last one's name is NULL. */
extern const struct hmp_command hmp_commands[];
extern const struct hmp_command hmp_info_commands[];

/* One of TABLE that is called NAME, of LEN bytes; NULL: none. */
const struct hmp_command *hmp_command_find(const struct hmp_command *table,
                                           const char *name, size_t len);
/* Why there is no "info NAME", which QEMU has: owned; NULL: nor has QEMU. */
char *hmp_info_reason(const char *name);
/* Its name without the other ones: owned. */
char *hmp_command_first_name(const struct hmp_command *c);

/* help, info without more. */
void hmp_help(struct hmp *m, const struct hmp_args *a);
void hmp_help_info(struct hmp *m);

typedef void hmp_fn(struct hmp *m, const struct hmp_args *a);

/* block.c */
hmp_fn hmp_block_resize, hmp_block_set_io_throttle, hmp_snapshot_blkdev,
    hmp_snapshot_blkdev_internal, hmp_snapshot_delete_blkdev_internal;
/* commit.c */
hmp_fn hmp_commit;
/* devices.c */
hmp_fn hmp_closefd, hmp_device_add, hmp_device_del, hmp_getfd,
    hmp_info_qtree, hmp_object_add, hmp_object_del, hmp_qom_get,
    hmp_qom_list, hmp_qom_set;
/* drives.c */
hmp_fn hmp_change, hmp_drive_add, hmp_drive_del, hmp_eject;
/* info-*.c */
hmp_fn hmp_info_block, hmp_info_blockstats, hmp_info_snapshots;
/* jobs.c */
hmp_fn hmp_block_job_cancel, hmp_block_job_complete, hmp_block_job_pause,
    hmp_block_job_resume, hmp_block_job_set_speed, hmp_block_stream,
    hmp_drive_backup, hmp_drive_mirror, hmp_info_block_jobs;
/* machine.c */
hmp_fn hmp_cont, hmp_info_chardev, hmp_info_iothreads, hmp_info_kvm,
    hmp_info_name, hmp_info_nothing, hmp_info_status, hmp_info_uuid,
    hmp_info_version, hmp_print, hmp_quit, hmp_stop, hmp_system_powerdown,
    hmp_system_reset, hmp_system_wakeup;
/* nbd.c */
hmp_fn hmp_nbd_server_add, hmp_nbd_server_remove, hmp_nbd_server_start,
    hmp_nbd_server_stop;
/* qemu-io-command.c */
hmp_fn hmp_qemu_io;
