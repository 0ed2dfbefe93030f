/* SPDX-License-Identifier: MIT */
/*
 * blockdev-mirror and drive-mirror.
 *
 * Order       QEMU's where several things are wrong, but that drive-mirror
 *             makes its target last: who is refused has nothing overwritten.
 */
#include "base/control.h"
#include "block/backend.h"
#include "block/driver.h"
#include "block/snapshot.h"
#include "blockjobs/mirror-replaces.h"
#include "blockjobs/mirror-target.h"
#include "qapi/qapi-commands.h"

enum {
    MIN_GRANULARITY_BYTES = 512,
    MAX_GRANULARITY_BYTES = 64 << 20,
};

/* ---- arguments ---------------------------------------------------------- */

static bool check_granularity(const BlockdevMirror *a, struct error **errp)
{
    uint32_t bytes = a->has_granularity ? a->granularity : 0;

    if (bytes == 0) {
        return true;
    }
    if (bytes < MIN_GRANULARITY_BYTES || bytes > MAX_GRANULARITY_BYTES) {
        error_set(errp, "Parameter 'granularity' expects a value in range "
                  "[512B, 64MB]");
        return false;
    }
    if (bytes & (bytes - 1)) {
        error_set(errp, "Parameter 'granularity' expects a power of 2");
        return false;
    }
    return true;
}

static bool check_numbers(const BlockdevMirror *a, struct error **errp)
{
    if (a->sync == MIRROR_SYNC_MODE_INCREMENTAL ||
        a->sync == MIRROR_SYNC_MODE_BITMAP) {
        error_set(errp, "Sync mode '%s' not supported",
                  MirrorSyncMode_str(a->sync));
        return false;
    }
    if (a->has_buf_size && a->buf_size < 0) {
        error_set(errp, "Invalid parameter 'buf-size'");
        return false;
    }
    return true;
}

static struct job_options job_options_of(const BlockdevMirror *a,
                                         const char *id)
{
    return (struct job_options){
        .id = id,
        .manual_finalize = a->has_auto_finalize && !a->auto_finalize,
        .manual_dismiss = a->has_auto_dismiss && !a->auto_dismiss,
        .speed = a->has_speed ? a->speed : 0,
    };
}

/* All that can be wrong without a target but the job's name and speed. */
static bool check_arguments(const BlockdevMirror *a, struct node *source,
                            struct error **errp)
{
    return check_granularity(a, errp) &&
           node_op_allowed(source, NODE_OP_MIRROR_SOURCE, errp) &&
           (!a->replaces ||
            mirror_replaces_allowed(source, a->replaces, errp)) &&
           check_numbers(a, errp);
}

static BlockdevOnError on_error(bool has, BlockdevOnError given)
{
    return has ? given : BLOCKDEV_ON_ERROR_REPORT;
}

/* What is below a source without backing file is nothing: all is "top" of a
 * new image.  (A node that was there before keeps what it has where the
 * source has nothing: see options_of().) */
static MirrorSyncMode sync_of(const BlockdevMirror *a, struct node *source)
{
    return a->sync == MIRROR_SYNC_MODE_TOP &&
           !node_backing(node_skip_filters(source))
           ? MIRROR_SYNC_MODE_FULL : a->sync;
}

static struct mirror_options options_of(const BlockdevMirror *a,
                                        const char *id,
                                        struct node *source,
                                        struct node *target)
{
    return (struct mirror_options){
        .job = job_options_of(a, id),
        .type = JOB_TYPE_MIRROR,
        .source = source,
        .target = target,
        .sync = a->sync,
        .base = a->sync == MIRROR_SYNC_MODE_TOP
                ? node_backing(node_skip_filters(source)) : NULL,
        .copy_mode = a->has_copy_mode ? a->copy_mode
                                      : MIRROR_COPY_MODE_BACKGROUND,
        .granularity = a->has_granularity ? a->granularity : 0,
        .buf_bytes = a->has_buf_size ? a->buf_size : 0,
        .unmap = true,
        .target_is_zero = a->has_target_is_zero && a->target_is_zero,
        .on_source_error = on_error(a->has_on_source_error,
                                    a->on_source_error),
        .on_target_error = on_error(a->has_on_target_error,
                                    a->on_target_error),
        .filter_node_name = a->filter_node_name,
        .replaces = a->replaces,
        .converge_seconds = a->has_converge ? a->converge : 0,
    };
}

/* ---- blockdev-mirror ---------------------------------------------------- */

bool qmp_blockdev_mirror(const BlockdevMirror *args, struct error **errp)
{
    struct node *source = snapshot_find_root(args->device, errp);
    g_autofree char *id = backend_job_id(args->job_id, args->device);
    struct mirror_options options;
    struct node *target;
    bool ok;

    if (!source) {
        return false;
    }
    target = node_lookup(args->target, args->target, errp);
    if (!target) {
        return false;
    }
    if (!node_op_allowed(target, NODE_OP_MIRROR_TARGET, errp) ||
        !check_arguments(args, source, errp)) {
        return false;
    }
    options = options_of(args, id, source, target);
    node_ref(source);
    node_ref(target);
    ok = mirror_start(&options, errp);
    node_unref(target);
    node_unref(source);
    return ok;
}

/* ---- drive-mirror ------------------------------------------------------- */

/* ARGS as far as blockdev-mirror knows them; the strings stay theirs. */
static BlockdevMirror common_of(const DriveMirror *a)
{
    return (BlockdevMirror){
        .job_id = a->job_id, .device = a->device, .replaces = a->replaces,
        .sync = a->sync,
        .has_speed = a->has_speed, .speed = a->speed,
        .has_granularity = a->has_granularity, .granularity = a->granularity,
        .has_buf_size = a->has_buf_size, .buf_size = a->buf_size,
        .has_on_source_error = a->has_on_source_error,
        .on_source_error = a->on_source_error,
        .has_on_target_error = a->has_on_target_error,
        .on_target_error = a->on_target_error,
        .has_copy_mode = a->has_copy_mode, .copy_mode = a->copy_mode,
        .has_auto_finalize = a->has_auto_finalize,
        .auto_finalize = a->auto_finalize,
        .has_auto_dismiss = a->has_auto_dismiss,
        .auto_dismiss = a->auto_dismiss,
        .has_converge = a->has_converge, .converge = a->converge,
    };
}

/* What has the source below it cannot be put there itself. */
static bool check_new_backing(const DriveMirror *args,
                              const struct node *source, struct error **errp)
{
    bool existing = args->has_mode && args->mode == NEW_IMAGE_MODE_EXISTING;

    if (args->replaces && !existing && args->sync == MIRROR_SYNC_MODE_NONE &&
        node_find(args->replaces) != source) {
        error_set(errp, "With sync mode 'none' a new image has '%s' as backing "
                  "file and cannot replace '%s'", node_name(source),
                  args->replaces);
        return false;
    }
    return true;
}

static bool check_drive_arguments(const DriveMirror *args,
                                  const BlockdevMirror *common,
                                  struct node *source, struct error **errp)
{
    g_autofree char *id = backend_job_id(common->job_id, common->device);
    struct job_options job = job_options_of(common, id);

    if (args->replaces && !args->node_name) {
        error_set(errp, "a node-name must be provided when replacing a named "
                  "node of the graph");
        return false;
    }
    return check_arguments(common, source, errp) &&
           check_new_backing(args, source, errp) &&
           (!args->node_name || node_check_name(args->node_name, errp)) &&
           job_check_options(&job, errp);
}

/* SOURCE is held by the caller: making the target yields. */
static bool start_drive(const DriveMirror *args, const BlockdevMirror *common,
                        struct node *source, struct error **errp)
{
    g_autofree char *id = backend_job_id(common->job_id, common->device);
    enum mirror_backing backing;
    struct mirror_options options;
    struct node *target;
    bool ok;

    target = mirror_target_open(args, sync_of(common, source), source,
                                &backing, errp);
    if (!target) {
        return false;
    }
    /* Others may have changed the graph meanwhile. */
    ok = check_arguments(common, source, errp);
    if (ok) {
        options = options_of(common, id, source, target);
        options.sync = sync_of(common, source);
        options.backing = backing;
        options.unmap = !args->has_unmap || args->unmap;
        ok = mirror_start(&options, errp);
    }
    node_unref(target);
    return ok;
}

bool qmp_drive_mirror(const DriveMirror *args, struct error **errp)
{
    struct node *source = snapshot_find_root(args->device, errp);
    BlockdevMirror common = common_of(args);
    bool ok;

    if (!source || !check_drive_arguments(args, &common, source, errp)) {
        return false;
    }
    node_ref(source);
    ok = start_drive(args, &common, source, errp);
    node_unref(source);
    return ok;
}
