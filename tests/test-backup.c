/* SPDX-License-Identifier: MIT */
/*
 * Backup with the real graph, files below and a guest that writes: order of
 * events, the point in time, bitmaps, errors and their policies, cancel.
 */
#include <errno.h>
#include <fcntl.h>
#include <glib/gstdio.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>
#include "base/control.h"
#include "base/pool.h"
#include "bitmaps/dirty-bitmap.h"
#include "block/drivers.h"
#include "block/root.h"
#include "blockjobs/backup.h"
#include "blockjobs/job.h"
#include "qapi/qapi-commands.h"
#include "qapi/qapi-events.h"

enum { CLUSTER = 64 * 1024, N_CLUSTERS = 64,
       LENGTH = N_CLUSTERS * CLUSTER - CLUSTER + 512 };

static GString *log_text;       /* control lock */
static char *dir;
static struct node *source, *target;
static struct root *guest;
static uint8_t *model;          /* what the source is to read as */

static void log_event(QAPIEvent id, json_t *object)
{
    json_t *data = json_object_get(object, "data");
    const char *status = json_string_value(json_object_get(data, "status"));
    const char *error = json_string_value(json_object_get(data, "error"));

    if (status) {
        g_string_append_printf(log_text, "%s ", status);
    } else {
        g_string_append_printf(log_text, "%s%s%s ", QAPIEvent_str(id),
                               error ? "=" : "", error ? error : "");
    }
    json_decref(object);
}

static char *path_of(const char *name)
{
    return g_strdup_printf("%s/%s", dir, name);
}

static struct node *open_node(const char *name)
{
    g_autoptr(BlockdevOptions) o = BlockdevOptions_new0();
    g_autofree char *path = path_of(name);
    AUTO_ERROR(err);
    struct node *n;

    o->driver = BLOCKDEV_DRIVER_FILE;
    o->node_name = g_strdup(name);
    o->u.file.filename = g_strdup(path);
    n = node_open(o, &err);
    g_assert_nonnull(n);
    return n;
}

static void make_file(const char *name, const void *content)
{
    g_autofree char *path = path_of(name);

    g_assert_true(g_file_set_contents(path, content, LENGTH, NULL));
}

/* Control lock held from here to teardown(). */
static void setup(void)
{
    struct root_options options = {
        .name = "root", .perm = PERM_CONSISTENT_READ | PERM_WRITE,
        .shared = PERM_ALL,
    };
    g_autoptr(GRand) rnd = g_rand_new_with_seed(7);
    g_autofree uint8_t *junk = g_malloc(LENGTH);

    dir = g_dir_make_tmp("test-backup-XXXXXX", NULL);
    model = g_malloc0(LENGTH);
    for (int i = 0; i < LENGTH; i++) {
        if (i / CLUSTER % 5 != 3) {
            model[i] = g_rand_int(rnd);
        }
    }
    memset(junk, 0xee, LENGTH);
    make_file("src", model);
    make_file("dst", junk);
    log_text = g_string_new(NULL);
    qapi_event_set_emit(log_event);
    control_lock();
    source = open_node("src");
    target = open_node("dst");
    guest = root_new(source, &options, NULL);
    g_assert_nonnull(guest);
}

static void teardown(void)
{
    static const char *const names[] = { "src", "dst" };

    g_assert_null(job_next(NULL));
    g_assert_true(root_node(guest) == source);  /* the filter is gone */
    root_free(&guest);
    node_unref(source);
    node_unref(target);
    node_wait_closed();
    g_assert_null(node_next(NULL));
    control_unlock();
    for (size_t i = 0; i < G_N_ELEMENTS(names); i++) {
        g_autofree char *path = path_of(names[i]);
        g_unlink(path);
    }
    g_rmdir(dir);
    g_free(dir);
    g_free(model);
    g_string_free(log_text, TRUE);
}

static void assert_target(const uint8_t *expected)
{
    g_autofree char *path = path_of("dst");
    g_autofree char *content = NULL;
    gsize size;

    g_assert_true(g_file_get_contents(path, &content, &size, NULL));
    g_assert_cmpint(size, ==, LENGTH);
    g_assert_cmpmem(content, LENGTH, expected, LENGTH);
}

static BlockdevBackup *backup_args(MirrorSyncMode sync)
{
    BlockdevBackup *a = BlockdevBackup_new0();

    a->job_id = g_strdup("j");
    a->device = g_strdup("src");
    a->target = g_strdup("dst");
    a->sync = sync;
    return a;
}

static void wait_gone(void)
{
    while (job_find("j")) {
        control_wait();
    }
}

static void wait_error(void)
{
    while (!strstr(log_text->str, "BLOCK_JOB_ERROR")) {
        CONTROL_YIELD {
            g_usleep(1000);
        }
    }
}

static void wait_progress(int64_t bytes)
{
    while (__atomic_load_n(&job_find("j")->progress_current,
                           __ATOMIC_RELAXED) < bytes) {
        CONTROL_YIELD {
            g_usleep(1000);
        }
    }
}

static void wait_status(JobStatus status)
{
    while (job_find("j")->status != status) {
        control_wait();
    }
}

static void guest_write(int64_t offset, int64_t bytes, int value)
{
    g_autofree uint8_t *buf = g_malloc(bytes);
    int ret = 0;

    memset(buf, value, bytes);
    CONTROL_YIELD {
        ret = root_pwrite(guest, offset, bytes, buf, 0);
    }
    g_assert_cmpint(ret, ==, 0);
    memset(model + offset, value, bytes);
}

/* ---- order of events, arguments ----------------------------------------- */

#define SUCCESS_LOG "created running paused running waiting pending " \
                    "BLOCK_JOB_COMPLETED concluded null "

static void test_events(void)
{
    g_autoptr(BlockdevBackup) a = backup_args(MIRROR_SYNC_MODE_FULL);

    setup();
    a->has_speed = true;
    a->speed = 1 << 30;
    g_assert_true(qmp_blockdev_backup(a, NULL));
    g_assert_true(g_str_has_prefix(log_text->str,
                                   "created running paused running "));
    wait_gone();
    g_assert_cmpstr(log_text->str, ==, SUCCESS_LOG);
    assert_target(model);
    teardown();
}

static void refused(BlockdevBackup *a, const char *text)
{
    AUTO_ERROR(err);

    g_assert_false(qmp_blockdev_backup(a, &err));
    g_assert_cmpstr(error_text(err), ==, text);
    g_assert_null(job_next(NULL));
    g_assert_true(root_node(guest) == source);
    BlockdevBackup_free(a);
}

static void test_refused(void)
{
    BlockdevBackup *a;

    setup();
    a = backup_args(MIRROR_SYNC_MODE_FULL);
    g_free(g_steal_pointer(&a->job_id));
    refused(a, "Invalid job ID ''");
    a = backup_args(MIRROR_SYNC_MODE_FULL);
    a->target[0] = 'x';
    refused(a, "Cannot find device='xst' nor node-name='xst'");
    a = backup_args(MIRROR_SYNC_MODE_FULL);
    strcpy(a->target, "src");
    refused(a, "Source and target cannot be the same");
    a = backup_args(MIRROR_SYNC_MODE_INCREMENTAL);
    refused(a, "must provide a valid bitmap name for 'incremental' sync mode");
    a = backup_args(MIRROR_SYNC_MODE_INCREMENTAL);
    a->bitmap = g_strdup("b");
    refused(a, "Bitmap 'b' could not be found");
    a = backup_args(MIRROR_SYNC_MODE_FULL);
    a->has_compress = a->compress = true;
    refused(a, "Compression is not supported for this drive ");
    a = backup_args(MIRROR_SYNC_MODE_FULL);
    a->filter_node_name = g_strdup("dst");
    refused(a, "Could not create node: Duplicate nodes with "
            "node-name='dst'");
    g_assert_cmpstr(log_text->str, ==, "");
    teardown();
}

/* ---- the point in time -------------------------------------------------- */

static int guest_stop;          /* atomic */

static void *guest_thread(void *arg)
{
    g_autoptr(GRand) rnd = g_rand_new_with_seed(GPOINTER_TO_INT(arg));
    uint8_t buf[20000];

    while (!__atomic_load_n(&guest_stop, __ATOMIC_RELAXED)) {
        int64_t offset = g_rand_int_range(rnd, 0, LENGTH);
        int64_t bytes = g_rand_int_range(rnd, 1, sizeof(buf));
        int kind = g_rand_int_range(rnd, 0, 8);
        bytes = MIN(bytes, LENGTH - offset);
        memset(buf, g_rand_int(rnd), bytes);
        g_assert_cmpint(kind == 0 ? root_pwrite_zeroes(guest, offset, bytes, 0)
                        : kind == 1 ? root_pdiscard(guest, offset, bytes)
                        : root_pwrite(guest, offset, bytes, buf, 0), ==, 0);
    }
    return NULL;
}

static void test_point_in_time(void)
{
    enum { N = 2, ROUNDS = 5 };
    g_autoptr(BlockdevBackup) a = backup_args(MIRROR_SYNC_MODE_FULL);
    pthread_t threads[N];

    a->filter_node_name = g_strdup("filter");
    for (int round = 0; round < ROUNDS; round++) {
        struct node *nodes[2];
        struct drain *drain;
        struct backup *b;

        setup();
        guest_stop = 0;
        for (int i = 0; i < N; i++) {
            pthread_create(&threads[i], NULL, guest_thread,
                           GINT_TO_POINTER(i + round * N));
        }
        CONTROL_YIELD {
            g_usleep(2000);
        }
        b = backup_new_blockdev(a, NULL);
        nodes[0] = backup_source(b);
        nodes[1] = backup_target(b);
        drain = drain_begin(nodes, 2);
        /* Nobody writes now: this is the point in time. */
        g_assert_cmpint(node_pread(source, 0, LENGTH, model, 0), ==, 0);
        g_assert_true(backup_prepare(b, NULL, NULL));
        backup_start(&b);
        drain_end(&drain);
        g_assert_nonnull(node_find("filter"));
        wait_gone();
        g_assert_null(node_find("filter"));
        __atomic_store_n(&guest_stop, 1, __ATOMIC_RELAXED);
        CONTROL_YIELD {
            for (int i = 0; i < N; i++) {
                pthread_join(threads[i], NULL);
            }
        }
        assert_target(model);
        teardown();
    }
}

static void test_none(void)
{
    g_autoptr(BlockdevBackup) a = backup_args(MIRROR_SYNC_MODE_NONE);
    g_autofree uint8_t *expected = g_malloc(LENGTH);

    setup();
    memset(expected, 0xee, LENGTH);
    memcpy(expected + 2 * CLUSTER, model + 2 * CLUSTER, 2 * CLUSTER);
    g_assert_true(qmp_blockdev_backup(a, NULL));
    guest_write(3 * CLUSTER - 5, 10, 0x11);
    guest_write(2 * CLUSTER, 512, 0x12);
    g_assert_cmpint(job_find("j")->progress_current, ==, 2 * CLUSTER);
    g_assert_true(qmp_job_cancel(&(JobCancelArgs){ .id = (char *)"j" },
                                 NULL));
    wait_gone();
    g_assert_true(g_str_has_suffix(log_text->str, "aborting "
                                   "BLOCK_JOB_CANCELLED concluded null "));
    assert_target(expected);
    teardown();
}

/* ---- undo: as if nothing had happened ----------------------------------- */

static void test_undo(void)
{
    g_autoptr(BlockdevBackup) a = backup_args(MIRROR_SYNC_MODE_INCREMENTAL);
    struct dirty_bitmap *bm;
    struct node *nodes[2];
    struct drain *drain;
    struct backup *b;

    setup();
    bm = dirty_bitmap_new(source->bitmaps, "b", CLUSTER, LENGTH, NULL);
    guest_write(CLUSTER, 1, 1);
    a->bitmap = g_strdup("b");
    b = backup_new_blockdev(a, NULL);
    nodes[0] = backup_source(b);
    nodes[1] = backup_target(b);
    drain = drain_begin(nodes, 2);
    g_assert_true(backup_prepare(b, NULL, NULL));
    g_assert_true(dirty_bitmap_busy(bm));
    backup_undo(&b);
    drain_end(&drain);
    g_assert_cmpstr(log_text->str, ==,
                    "created aborting concluded null ");
    g_assert_false(dirty_bitmap_busy(bm));
    g_assert_cmpint(dirty_bitmap_count(bm), ==, CLUSTER);
    guest_write(5 * CLUSTER, 1, 1);
    g_assert_cmpint(dirty_bitmap_count(bm), ==, 2 * CLUSTER);
    teardown();
}

/* ---- bitmaps ------------------------------------------------------------ */

/* S = clusters 1 and 3; N = cluster 5, written while the job runs. */
static int64_t run_with_bitmap(BitmapSyncMode mode, bool cancel)
{
    g_autoptr(BlockdevBackup) a = backup_args(MIRROR_SYNC_MODE_BITMAP);
    struct dirty_bitmap *bm;
    int64_t result = 0;

    setup();
    bm = dirty_bitmap_new(source->bitmaps, "b", 4096, LENGTH, NULL);
    guest_write(CLUSTER + 7, 1, 1);
    guest_write(3 * CLUSTER, 1, 1);
    g_assert_cmpint(dirty_bitmap_count(bm), ==, 8192);
    a->bitmap = g_strdup("b");
    a->has_bitmap_mode = true;
    a->bitmap_mode = mode;
    a->has_speed = true;
    a->speed = 1;               /* the first copy goes through */
    g_assert_true(qmp_blockdev_backup(a, NULL));
    g_assert_cmpint(job_find("j")->progress_total, ==, 2 * CLUSTER);
    wait_progress(CLUSTER);
    g_assert_true(dirty_bitmap_busy(bm));
    guest_write(5 * CLUSTER, 1, 1);
    if (cancel) {
        g_assert_true(qmp_job_cancel(&(JobCancelArgs){ .id = (char *)"j" },
                                     NULL));
    } else {
        g_assert_true(qmp_block_job_set_speed(&(BlockJobSetSpeedArgs){
            .device = (char *)"j", .speed = 0 }, NULL));
    }
    wait_gone();
    g_assert_false(dirty_bitmap_busy(bm));
    for (int i = 0; i < 8; i++) {
        if (bits_count(dirty_bitmap_bits(bm), i * (CLUSTER / 4096),
                       CLUSTER / 4096) > 0) {
            result |= 1 << i;
        }
    }
    teardown();
    return result;
}

static void test_bitmap_modes(void)
{
    enum { S1 = 1 << 1, S3 = 1 << 3, N = 1 << 5 };

    g_assert_cmphex(run_with_bitmap(BITMAP_SYNC_MODE_ON_SUCCESS, false), ==,
                    N);
    g_assert_cmphex(run_with_bitmap(BITMAP_SYNC_MODE_ON_SUCCESS, true), ==,
                    S1 | S3 | N);
    g_assert_cmphex(run_with_bitmap(BITMAP_SYNC_MODE_NEVER, false), ==,
                    S1 | S3 | N);
    g_assert_cmphex(run_with_bitmap(BITMAP_SYNC_MODE_NEVER, true), ==,
                    S1 | S3 | N);
    g_assert_cmphex(run_with_bitmap(BITMAP_SYNC_MODE_ALWAYS, false), ==, N);
    g_assert_cmphex(run_with_bitmap(BITMAP_SYNC_MODE_ALWAYS, true), ==,
                    S3 | N);
}

/* ---- errors ------------------------------------------------------------- */

/* Writes behind BYTES of any file fail with EFBIG, until it is RLIM_INFINITY. */
static void limit_files(rlim_t bytes)
{
    struct rlimit limit;

    signal(SIGXFSZ, SIG_IGN);
    g_assert_cmpint(getrlimit(RLIMIT_FSIZE, &limit), ==, 0);
    limit.rlim_cur = bytes == RLIM_INFINITY ? limit.rlim_max : bytes;
    g_assert_cmpint(setrlimit(RLIMIT_FSIZE, &limit), ==, 0);
}

static void test_error_report(void)
{
    g_autoptr(BlockdevBackup) a = backup_args(MIRROR_SYNC_MODE_FULL);

    setup();
    limit_files(20 * CLUSTER);
    g_assert_true(qmp_blockdev_backup(a, NULL));
    wait_gone();
    limit_files(RLIM_INFINITY);
    g_assert_cmpstr(log_text->str, ==, "created running paused running "
                    "BLOCK_JOB_ERROR aborting BLOCK_JOB_COMPLETED="
                    "File too large concluded null ");
    teardown();
}

static void test_error_stop(void)
{
    g_autoptr(BlockdevBackup) a = backup_args(MIRROR_SYNC_MODE_FULL);

    setup();
    limit_files(20 * CLUSTER);
    a->has_on_target_error = true;
    a->on_target_error = BLOCKDEV_ON_ERROR_STOP;
    g_assert_true(qmp_blockdev_backup(a, NULL));
    wait_error();
    wait_status(JOB_STATUS_PAUSED);
    g_assert_cmpint(job_find("j")->iostatus, ==,
                    BLOCK_DEVICE_IO_STATUS_FAILED);
    limit_files(RLIM_INFINITY);
    g_assert_true(qmp_block_job_resume(&(BlockJobResumeArgs){
        .device = (char *)"j" }, NULL));
    wait_gone();
    g_assert_true(g_str_has_suffix(log_text->str, "BLOCK_JOB_COMPLETED "
                                   "concluded null "));
    assert_target(model);
    teardown();
}

static void test_error_ignore(void)
{
    g_autoptr(BlockdevBackup) a = backup_args(MIRROR_SYNC_MODE_FULL);

    setup();
    limit_files(20 * CLUSTER);
    a->has_on_target_error = true;
    a->on_target_error = BLOCKDEV_ON_ERROR_IGNORE;
    g_assert_true(qmp_blockdev_backup(a, NULL));
    wait_error();
    limit_files(RLIM_INFINITY);
    wait_gone();
    assert_target(model);
    teardown();
}

/* A guest's write must not go on when its copy cannot be made... */
static void test_cbw_error(void)
{
    g_autoptr(BlockdevBackup) a = backup_args(MIRROR_SYNC_MODE_NONE);
    uint8_t byte = 0x55;
    int ret = 0;

    setup();
    limit_files(20 * CLUSTER);
    g_assert_true(qmp_blockdev_backup(a, NULL));
    CONTROL_YIELD {
        ret = root_pwrite(guest, 40 * CLUSTER, 1, &byte, 0);
    }
    g_assert_cmpint(ret, ==, -EFBIG);
    limit_files(RLIM_INFINITY);
    guest_write(40 * CLUSTER, 1, 0x55);
    g_assert_true(qmp_job_cancel(&(JobCancelArgs){ .id = (char *)"j" },
                                 NULL));
    wait_gone();
    teardown();
}

/* ... unless the user prefers a broken backup. */
static void test_cbw_break_snapshot(void)
{
    g_autoptr(BlockdevBackup) a = backup_args(MIRROR_SYNC_MODE_FULL);
    uint8_t byte = 0x55;
    int ret = 0;

    setup();
    a->has_on_cbw_error = true;
    a->on_cbw_error = ON_CBW_ERROR_BREAK_SNAPSHOT;
    a->has_speed = true;
    a->speed = 1;
    g_assert_true(qmp_blockdev_backup(a, NULL));
    wait_progress(16 * CLUSTER);    /* the first copy, then it sleeps */
    limit_files(CLUSTER);
    CONTROL_YIELD {
        /* The write itself is below the limit, the copy of its unit not. */
        ret = root_pwrite(guest, 40 * CLUSTER, 1, &byte, 0);
    }
    g_assert_cmpint(ret, ==, -EFBIG);   /* the limit is for both files */
    limit_files(RLIM_INFINITY);
    g_assert_true(qmp_block_job_set_speed(&(BlockJobSetSpeedArgs){
        .device = (char *)"j", .speed = 0 }, NULL));
    wait_gone();
    g_assert_nonnull(strstr(log_text->str,
                            "BLOCK_JOB_COMPLETED=File too large"));
    teardown();
}

/* ---- pause, speed, cancel ----------------------------------------------- */

static void test_pause(void)
{
    g_autoptr(BlockdevBackup) a = backup_args(MIRROR_SYNC_MODE_FULL);
    int64_t offset;

    setup();
    a->has_speed = true;
    a->speed = CLUSTER;
    a->x_perf = BackupPerf_new0();
    a->x_perf->has_max_chunk = true;
    a->x_perf->max_chunk = CLUSTER;
    g_assert_true(qmp_blockdev_backup(a, NULL));
    g_assert_true(qmp_job_pause(&(JobPauseArgs){ .id = (char *)"j" }, NULL));
    wait_status(JOB_STATUS_PAUSED);
    offset = job_find("j")->progress_current;
    g_assert_cmpint(offset, <=, CLUSTER);
    CONTROL_YIELD {
        g_usleep(50000);
    }
    g_assert_cmpint(job_find("j")->progress_current, ==, offset);
    /* Drained and let go while paused: it stays so. */
    {
        struct drain *drain = drain_begin(&source, 1);
        drain_end(&drain);
    }
    g_assert_cmpint(job_find("j")->status, ==, JOB_STATUS_PAUSED);
    g_assert_true(qmp_job_resume(&(JobResumeArgs){ .id = (char *)"j" },
                                 NULL));
    g_assert_true(qmp_block_job_set_speed(&(BlockJobSetSpeedArgs){
        .device = (char *)"j", .speed = 0 }, NULL));
    wait_gone();
    assert_target(model);
    teardown();
}

static void test_cancel_prompt(void)
{
    g_autoptr(BlockdevBackup) a = backup_args(MIRROR_SYNC_MODE_FULL);
    int64_t start;

    setup();
    a->has_speed = true;
    a->speed = 1;
    g_assert_true(qmp_blockdev_backup(a, NULL));
    CONTROL_YIELD {
        g_usleep(20000);
    }
    start = clock_ns();
    g_assert_true(qmp_job_cancel(&(JobCancelArgs){ .id = (char *)"j" },
                                 NULL));
    wait_gone();
    g_assert_cmpint(clock_ns() - start, <, 1000000000);
    g_assert_true(g_str_has_suffix(log_text->str, "aborting "
                                   "BLOCK_JOB_CANCELLED concluded null "));
    teardown();
}

int main(int argc, char **argv)
{
    int ret;

    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/backup/events", test_events);
    g_test_add_func("/backup/refused", test_refused);
    g_test_add_func("/backup/point-in-time", test_point_in_time);
    g_test_add_func("/backup/none", test_none);
    g_test_add_func("/backup/undo", test_undo);
    g_test_add_func("/backup/bitmap-modes", test_bitmap_modes);
    g_test_add_func("/backup/error-report", test_error_report);
    g_test_add_func("/backup/error-stop", test_error_stop);
    g_test_add_func("/backup/error-ignore", test_error_ignore);
    g_test_add_func("/backup/cbw-error", test_cbw_error);
    g_test_add_func("/backup/cbw-break-snapshot", test_cbw_break_snapshot);
    g_test_add_func("/backup/pause", test_pause);
    g_test_add_func("/backup/cancel-prompt", test_cancel_prompt);
    ret = g_test_run();
    pool_shutdown();
    return ret;
}
