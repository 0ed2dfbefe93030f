/* SPDX-License-Identifier: MIT */
/* HMP's commands for block jobs. */
#include "server/hmp/command.h"

#include <inttypes.h>
#include "qapi/qapi-commands.h"

/* Arguments are borrowed; QMP's functions copy what they keep. */
static char *text(const struct hmp_args *a, const char *key)
{
    return (char *)hmp_arg_text(a, key);
}

void hmp_block_job_set_speed(struct hmp *m, const struct hmp_args *a)
{
    const BlockJobSetSpeedArgs args = {
        .device = text(a, "device"), .speed = hmp_arg_number(a, "speed"),
    };
    struct error *err = NULL;

    qmp_block_job_set_speed(&args, &err);
    hmp_error(m, err);
}

void hmp_block_job_cancel(struct hmp *m, const struct hmp_args *a)
{
    const BlockJobCancelArgs args = {
        .device = text(a, "device"),
        .has_force = true, .force = hmp_arg_flag(a, "force"),
    };
    struct error *err = NULL;

    qmp_block_job_cancel(&args, &err);
    hmp_error(m, err);
}

void hmp_block_job_pause(struct hmp *m, const struct hmp_args *a)
{
    const BlockJobPauseArgs args = { .device = text(a, "device") };
    struct error *err = NULL;

    qmp_block_job_pause(&args, &err);
    hmp_error(m, err);
}

void hmp_block_job_resume(struct hmp *m, const struct hmp_args *a)
{
    const BlockJobResumeArgs args = { .device = text(a, "device") };
    struct error *err = NULL;

    qmp_block_job_resume(&args, &err);
    hmp_error(m, err);
}

void hmp_block_job_complete(struct hmp *m, const struct hmp_args *a)
{
    const BlockJobCompleteArgs args = { .device = text(a, "device") };
    struct error *err = NULL;

    qmp_block_job_complete(&args, &err);
    hmp_error(m, err);
}

void hmp_block_stream(struct hmp *m, const struct hmp_args *a)
{
    const BlockStreamArgs args = {
        .device = text(a, "device"), .base = text(a, "base"),
        .has_speed = hmp_arg_given(a, "speed"),
        .speed = hmp_arg_number(a, "speed"),
    };
    struct error *err = NULL;

    qmp_block_stream(&args, &err);
    hmp_error(m, err);
}

static NewImageMode image_mode(const struct hmp_args *a)
{
    return hmp_arg_flag(a, "reuse") ? NEW_IMAGE_MODE_EXISTING
        : NEW_IMAGE_MODE_ABSOLUTE_PATHS;
}

static MirrorSyncMode sync_mode(const struct hmp_args *a)
{
    return hmp_arg_flag(a, "full") ? MIRROR_SYNC_MODE_FULL
        : MIRROR_SYNC_MODE_TOP;
}

void hmp_drive_mirror(struct hmp *m, const struct hmp_args *a)
{
    const DriveMirror args = {
        .device = text(a, "device"), .target = text(a, "target"),
        .format = text(a, "format"), .sync = sync_mode(a),
        .has_mode = true, .mode = image_mode(a),
        .has_unmap = true, .unmap = true,
    };
    struct error *err = NULL;

    qmp_drive_mirror(&args, &err);
    hmp_error(m, err);
}

void hmp_drive_backup(struct hmp *m, const struct hmp_args *a)
{
    const DriveBackup args = {
        .device = text(a, "device"), .target = text(a, "target"),
        .format = text(a, "format"), .sync = sync_mode(a),
        .has_mode = true, .mode = image_mode(a),
        .has_compress = true, .compress = hmp_arg_flag(a, "compress"),
    };
    struct error *err = NULL;

    qmp_drive_backup(&args, &err);
    hmp_error(m, err);
}

void hmp_info_block_jobs(struct hmp *m, const struct hmp_args *a)
{
    const QueryBlockJobsArgs args = { 0 };
    struct error *err = NULL;
    g_autoptr(BlockJobInfoList) list = qmp_query_block_jobs(&args, &err);

    hmp_error(m, err);
    if (list && list->n == 0) {
        hmp_printf(m, "No active jobs\n");
    }
    for (size_t i = 0; list && i < list->n; i++) {
        const BlockJobInfo *j = list->v[i];

        hmp_printf(m, "Type %s, device %s: Completed %" PRId64 " of %" PRId64
                   " bytes, speed limit %" PRId64 " bytes/s\n",
                   JobType_str(j->type), j->device, j->offset, j->len,
                   j->speed);
    }
}
