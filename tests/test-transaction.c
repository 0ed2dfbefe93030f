/* SPDX-License-Identifier: MIT */
/*
 * QMP transaction with the real graph, files and jobs: all or nothing, one
 * point in time over several disks, errors, grouped completion, and clients
 * that do it at the same time.
 */
#include <fcntl.h>
#include <glib/gstdio.h>
#include <pthread.h>
#include <string.h>
#include <unistd.h>
#include "base/control.h"
#include "base/pool.h"
#include "bitmaps/dirty-bitmap.h"
#include "block/bitmap.h"
#include "block/driver.h"
#include "block/root.h"
#include "blockjobs/job.h"
#include "qapi/qapi-commands.h"
#include "qapi/qapi-events.h"
#include "qapi/qapi-visit.h"

enum { LENGTH = 4 << 20, GRANULARITY = 65536, N_DISKS = 2 };

static GString *log_text;       /* control lock */
static char *dir;
static struct node *disks[N_DISKS], *targets[N_DISKS];
static struct root *guests[N_DISKS];

static void log_event(QAPIEvent id, json_t *object)
{
    json_t *data = json_object_get(object, "data");
    const char *status = json_string_value(json_object_get(data, "status"));
    const char *job = json_string_value(json_object_get(data, "id"));

    if (status) {
        g_string_append_printf(log_text, "%s:%s ", job, status);
    } else {
        g_string_append_printf(log_text, "%s ", QAPIEvent_str(id));
    }
    json_decref(object);
}

static struct node *open_file(const char *name)
{
    g_autoptr(BlockdevOptions) o = BlockdevOptions_new0();
    g_autofree char *path = g_build_filename(dir, name, NULL);
    struct node *n;
    int fd = open(path, O_RDWR | O_CREAT, 0600);

    g_assert_cmpint(fd, >=, 0);
    g_assert_cmpint(ftruncate(fd, LENGTH), ==, 0);
    close(fd);
    o->driver = BLOCKDEV_DRIVER_FILE;
    o->node_name = g_strdup(name);
    o->u.file.filename = g_strdup(path);
    n = node_open(o, NULL);
    g_assert_nonnull(n);
    return n;
}

/* Control lock held from here to teardown(). */
static void setup(void)
{
    struct root_options options = {
        .name = "root", .perm = PERM_CONSISTENT_READ | PERM_WRITE,
        .shared = PERM_ALL,
    };

    dir = g_dir_make_tmp("test-transaction-XXXXXX", NULL);
    log_text = g_string_new(NULL);
    qapi_event_set_emit(log_event);
    control_lock();
    for (int i = 0; i < N_DISKS; i++) {
        g_autofree char *disk = g_strdup_printf("d%d", i);
        g_autofree char *target = g_strdup_printf("t%d", i);

        disks[i] = open_file(disk);
        targets[i] = open_file(target);
        guests[i] = root_new(disks[i], &options, NULL);
        g_assert_nonnull(guests[i]);
    }
}

static void teardown(void)
{
    for (int i = 0; i < N_DISKS; i++) {
        root_free(&guests[i]);
        node_unref(disks[i]);
        node_unref(targets[i]);
    }
    node_wait_closed();
    g_assert_null(node_next(NULL));
    g_assert_null(job_next(NULL));
    control_unlock();
    for (int i = 0; i < N_DISKS; i++) {
        g_autofree char *disk = g_strdup_printf("%s/d%d", dir, i);
        g_autofree char *target = g_strdup_printf("%s/t%d", dir, i);

        g_unlink(disk);
        g_unlink(target);
    }
    g_rmdir(dir);
    g_free(dir);
    g_string_free(log_text, TRUE);
}

/* ---- running one -------------------------------------------------------- */

/* "type node name arg; type ..." as TransactionActions; short for the JSON. */
static void append_action(json_t *actions, const char *text)
{
    g_auto(GStrv) w = g_strsplit(text, " ", -1);
    json_t *data;

    if (strcmp(w[0], "abort") == 0) {
        data = json_object();
    } else if (strcmp(w[0], "blockdev-backup") == 0) {
        data = json_pack("{s:s, s:s, s:s, s:s}", "device", w[1], "job-id",
                         w[1], "target", w[2], "sync", w[3]);
        if (w[4]) {
            json_object_set_new(data, "bitmap", json_string(w[4]));
        }
    } else {
        data = json_pack("{s:s, s:s}", "node", w[1],
                         strcmp(w[0], "block-dirty-bitmap-merge") == 0
                         ? "target" : "name", w[2]);
        if (strcmp(w[0], "block-dirty-bitmap-merge") == 0) {
            json_object_set_new(data, "bitmaps", json_pack(
                "[{s:s, s:s}]", "node", w[3], "name", w[4]));
        }
    }
    json_array_append_new(actions, json_pack("{s:s, s:o}", "type", w[0],
                                             "data", data));
}

static TransactionArgs *args_of(const char *text, bool grouped)
{
    g_auto(GStrv) lines = g_strsplit(text, "; ", -1);
    json_t *actions = json_array(), *json;
    TransactionArgs *args;
    AUTO_ERROR(err);

    for (char **line = lines; *line; line++) {
        append_action(actions, *line);
    }
    json = json_pack("{s:o}", "actions", actions);
    if (grouped) {
        json_object_set_new(json, "properties", json_pack(
            "{s:s}", "completion-mode", "grouped"));
    }
    args = TransactionArgs_from_json(json, &err);
    g_assert_cmpstr(err ? error_text(err) : NULL, ==, NULL);
    json_decref(json);
    return args;
}

static void run_mode(const char *text, bool grouped, const char *error)
{
    g_autoptr(TransactionArgs) args = args_of(text, grouped);
    AUTO_ERROR(err);
    bool ok = qmp_transaction(args, &err);

    g_assert_cmpstr(err ? error_text(err) : NULL, ==, error);
    g_assert_cmpint(ok, ==, !error);
}

static void run(const char *text, const char *error)
{
    run_mode(text, false, error);
}

static struct dirty_bitmap *find(int disk, const char *name)
{
    return dirty_bitmap_find(disks[disk]->bitmaps, name);
}

/* What query-block would say, and the bits. */
static char *state_of(int disk)
{
    GString *s = g_string_new(NULL);

    for (struct dirty_bitmap *bm = dirty_bitmap_next(disks[disk]->bitmaps,
                                                     NULL);
         bm; bm = dirty_bitmap_next(disks[disk]->bitmaps, bm)) {
        const struct bits *bits = dirty_bitmap_bits(bm);
        int64_t size = bits_size(bits);

        g_string_append_printf(s, "%s%s%s(", dirty_bitmap_name(bm),
                               dirty_bitmap_enabled(bm) ? "" : "-",
                               dirty_bitmap_busy(bm) ? "!" : "");
        for (int64_t i = bits_next_set(bits, 0, size); i < size;
             i = bits_next_set(bits, i + 1, size)) {
            g_string_append_printf(s, "%d ", (int)i);
        }
        g_string_append(s, ") ");
    }
    return g_string_free(s, FALSE);
}

static void assert_state(int disk, const char *expected)
{
    g_autofree char *state = state_of(disk);

    g_assert_cmpstr(state, ==, expected);
}

static void guest_write(int disk, int granule)
{
    uint8_t buf[512] = { 1 };
    int ret = 0;

    CONTROL_YIELD {
        ret = root_pwrite(guests[disk], (int64_t)granule * GRANULARITY,
                          sizeof(buf), buf, 0);
    }
    g_assert_cmpint(ret, ==, 0);
}

/* ---- bitmaps ------------------------------------------------------------ */

/* On d0: a(1 2) enabled, b-(3) disabled. */
static void setup_bitmaps(void)
{
    setup();
    run("block-dirty-bitmap-add d0 a; block-dirty-bitmap-add d0 b", NULL);
    dirty_bitmap_mark(find(0, "a"), 1 * GRANULARITY, 2 * GRANULARITY);
    dirty_bitmap_mark(find(0, "b"), 3 * GRANULARITY, 1);
    dirty_bitmap_set_enabled(find(0, "b"), false);
    assert_state(0, "b-(3 ) a(1 2 ) ");
}

#define ALL_CHANGES \
    "block-dirty-bitmap-add d0 c; " \
    "block-dirty-bitmap-merge d0 c d0 a; " \
    "block-dirty-bitmap-clear d0 a; " \
    "block-dirty-bitmap-merge d0 c d0 b; " \
    "block-dirty-bitmap-enable d0 b; " \
    "block-dirty-bitmap-disable d0 a; " \
    "block-dirty-bitmap-merge d0 a d0 c; " \
    "block-dirty-bitmap-clear d0 b; " \
    "block-dirty-bitmap-merge d0 b d0 a; " \
    "block-dirty-bitmap-remove d0 a"

static void test_all_done(void)
{
    setup_bitmaps();
    run(ALL_CHANGES, NULL);
    assert_state(0, "c(1 2 3 ) b(1 2 3 ) ");
    teardown();
}

static void test_all_undone(void)
{
    setup_bitmaps();
    run(ALL_CHANGES "; abort", "Transaction aborted using Abort action");
    assert_state(0, "b-(3 ) a(1 2 ) ");
    run("block-dirty-bitmap-clear d0 a; block-dirty-bitmap-clear d0 nope",
        "Dirty bitmap 'nope' not found");
    assert_state(0, "b-(3 ) a(1 2 ) ");
    guest_write(0, 9);
    assert_state(0, "b-(3 ) a(1 2 9 ) ");           /* it still records */
    teardown();
}

static void test_errors(void)
{
    setup_bitmaps();
    /* I1: the first that fails, though abort fails sooner. */
    run("block-dirty-bitmap-add d0 a; abort", "Bitmap already exists: a");
    run("abort; block-dirty-bitmap-add d0 a",
        "Transaction aborted using Abort action");
    run("block-dirty-bitmap-add nope a",
        "Cannot find device='nope' nor node-name='nope'");
    run("block-dirty-bitmap-clear nope a", "Node 'nope' not found");
    run("block-dirty-bitmap-merge d0 a nope b", "Node 'nope' not found");
    run("block-dirty-bitmap-remove d0 a; block-dirty-bitmap-clear d0 a",
        "Bitmap 'a' is currently in use by another operation and cannot be"
        " used");
    run("block-dirty-bitmap-remove d0 a; block-dirty-bitmap-add d0 a",
        "Bitmap already exists: a");
    run("blockdev-backup d0 nope full; block-dirty-bitmap-add d0 z",
        "Cannot find device='nope' nor node-name='nope'");
    run("blockdev-backup d0 t0 incremental nope",
        "Bitmap 'nope' could not be found");
    assert_state(0, "b-(3 ) a(1 2 ) ");
    g_assert_null(job_next(NULL));
    teardown();
}

static void test_empty(void)
{
    TransactionActionList none = { 0 };
    TransactionArgs args = { .actions = &none };

    setup();
    g_assert_true(qmp_transaction(&args, NULL));
    teardown();
}

static void test_grouped_refused(void)
{
    setup();
    run_mode("block-dirty-bitmap-add d0 a", true,
             "Action 'block-dirty-bitmap-add' does not support Transaction"
             " property completion-mode = grouped");
    run_mode("abort", true, "Transaction aborted using Abort action");
    teardown();
}

/* ---- with jobs ---------------------------------------------------------- */

static void wait_jobs(void)
{
    while (job_next(NULL)) {
        control_wait();
    }
}

/* A job is prepared, then undone: the bitmap is as before, no job is left. */
static void test_backup_undone(void)
{
    setup_bitmaps();
    run("block-dirty-bitmap-clear d0 b; blockdev-backup d0 t0 incremental a; "
        "block-dirty-bitmap-add d1 x; abort",
        "Transaction aborted using Abort action");
    assert_state(0, "b-(3 ) a(1 2 ) ");
    assert_state(1, "");
    g_assert_null(job_next(NULL));
    g_assert_true(root_node(guests[0]) == disks[0]);
    teardown();
}

/* What libvirt sends for an incremental backup with a new checkpoint. */
static void test_libvirt_incremental(void)
{
    setup();
    run("block-dirty-bitmap-add d0 ck1", NULL);
    guest_write(0, 5);
    guest_write(0, 7);
    run("block-dirty-bitmap-add d0 ck2; block-dirty-bitmap-add d0 tmp; "
        "block-dirty-bitmap-disable d0 tmp; "
        "block-dirty-bitmap-merge d0 tmp d0 ck1; "
        "blockdev-backup d0 t0 incremental tmp", NULL);
    wait_jobs();
    g_assert_nonnull(strstr(log_text->str, "BLOCK_JOB_COMPLETED "));
    guest_write(0, 8);
    assert_state(0, "tmp-() ck2(8 ) ck1(5 7 8 ) ");
    run("block-dirty-bitmap-remove d0 tmp", NULL);
    assert_state(0, "ck2(8 ) ck1(5 7 8 ) ");
    teardown();
}

static void test_grouped_jobs(void)
{
    setup();
    run_mode("blockdev-backup d0 t0 full; blockdev-backup d1 t1 full", true,
             NULL);
    wait_jobs();
    g_assert_null(strstr(log_text->str, "CANCELLED"));
    g_assert_nonnull(strstr(log_text->str, "d0:null"));
    g_assert_nonnull(strstr(log_text->str, "d1:null"));
    teardown();
}

/* ---- one point in time -------------------------------------------------- */

enum { N_GUESTS = 3, ROUNDS = 6 };

static int guest_stop;          /* atomic */
static uint64_t guest_done[N_GUESTS];   /* atomic: rounds */

/* Count up on disk 0, then on disk 1, each guest in a place of its own. */
static void *guest_thread(void *arg)
{
    uint64_t *done = &guest_done[GPOINTER_TO_INT(arg)];
    int64_t offset = (GPOINTER_TO_INT(arg) + 1) * INT64_C(300000);
    uint64_t n = 0;

    while (!__atomic_load_n(&guest_stop, __ATOMIC_RELAXED)) {
        n++;
        for (int i = 0; i < N_DISKS; i++) {
            g_assert_cmpint(root_pwrite(guests[i], offset, sizeof(n), &n, 0),
                            ==, 0);
        }
        __atomic_store_n(done, n, __ATOMIC_RELAXED);
    }
    return NULL;
}

/* All guests are in full swing. */
static void wait_guests(void)
{
    for (int g = 0; g < N_GUESTS; g++) {
        while (__atomic_load_n(&guest_done[g], __ATOMIC_RELAXED) < 5) {
            g_usleep(100);
        }
    }
}

static uint64_t number_at(struct node *n, int guest)
{
    uint64_t v = 0;

    g_assert_cmpint(node_pread(n, (guest + 1) * INT64_C(300000), sizeof(v), &v,
                               0), ==, 0);
    return v;
}

/* Where disk and target differ, the bitmap must be dirty. */
static void assert_covers(int i)
{
    g_autofree uint8_t *a = g_malloc(GRANULARITY), *b = g_malloc(GRANULARITY);

    for (int64_t at = 0; at < LENGTH; at += GRANULARITY) {
        g_assert_cmpint(node_pread(disks[i], at, GRANULARITY, a, 0), ==, 0);
        g_assert_cmpint(node_pread(targets[i], at, GRANULARITY, b, 0), ==, 0);
        if (memcmp(a, b, GRANULARITY) != 0) {
            g_assert_true(bits_test(dirty_bitmap_bits(find(i, "since")),
                                    at / GRANULARITY));
        }
    }
}

/*
 * Both targets show the same moment: of each guest, disk 1 is not ahead, and
 * at most one behind; and the bitmap made at that moment has all since.
 */
static void test_point_in_time(void)
{
    pthread_t threads[N_GUESTS];

    for (int round = 0; round < ROUNDS; round++) {
        setup();
        __atomic_store_n(&guest_stop, 0, __ATOMIC_RELAXED);
        for (int g = 0; g < N_GUESTS; g++) {
            __atomic_store_n(&guest_done[g], 0, __ATOMIC_RELAXED);
            pthread_create(&threads[g], NULL, guest_thread,
                           GINT_TO_POINTER(g));
        }
        CONTROL_YIELD {
            wait_guests();
        }
        run("block-dirty-bitmap-add d0 since; blockdev-backup d0 t0 full; "
            "blockdev-backup d1 t1 full; block-dirty-bitmap-add d1 since",
            NULL);
        wait_jobs();
        __atomic_store_n(&guest_stop, 1, __ATOMIC_RELAXED);
        CONTROL_YIELD {
            for (int g = 0; g < N_GUESTS; g++) {
                pthread_join(threads[g], NULL);
            }
        }
        for (int g = 0; g < N_GUESTS; g++) {
            uint64_t n0 = number_at(targets[0], g);
            uint64_t n1 = number_at(targets[1], g);

            g_assert_cmpuint(n0, >, 0);
            g_assert_cmpuint(n1, <=, n0);
            g_assert_cmpuint(n0, <=, n1 + 1);
        }
        assert_covers(0);
        assert_covers(1);
        teardown();
    }
}

/* ---- several clients ---------------------------------------------------- */

/*
 * Each moves the set of both bitmaps to and fro in one transaction; whoever
 * looks sees it whole in one of them.  Some are aborted.
 */
static void *client_thread(void *arg)
{
    int me = GPOINTER_TO_INT(arg);

    CONTROL_GUARD();
    for (int i = 0; i < 60; i++) {
        bool there = (i + me) % 2;
        g_autofree char *text = g_strdup_printf(
            "block-dirty-bitmap-merge d%d s d%d s; "
            "block-dirty-bitmap-clear d%d s%s",
            there, !there, !there, i % 3 ? "" : "; abort");

        run(text, i % 3 ? NULL : "Transaction aborted using Abort action");
    }
    return NULL;
}

static void test_clients(void)
{
    enum { N = 4 };
    pthread_t threads[N];
    int64_t count;

    setup();
    run("block-dirty-bitmap-add d0 s; block-dirty-bitmap-add d1 s", NULL);
    dirty_bitmap_mark(find(0, "s"), 0, 10 * GRANULARITY);
    CONTROL_YIELD {
        for (int i = 0; i < N; i++) {
            pthread_create(&threads[i], NULL, client_thread,
                           GINT_TO_POINTER(i));
        }
        for (int i = 0; i < N; i++) {
            pthread_join(threads[i], NULL);
        }
    }
    count = dirty_bitmap_count(find(0, "s")) +
            dirty_bitmap_count(find(1, "s"));
    g_assert_cmpint(count, ==, 10 * GRANULARITY);
    teardown();
}

int main(int argc, char **argv)
{
    int ret;

    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/transaction/all-done", test_all_done);
    g_test_add_func("/transaction/all-undone", test_all_undone);
    g_test_add_func("/transaction/errors", test_errors);
    g_test_add_func("/transaction/empty", test_empty);
    g_test_add_func("/transaction/grouped-refused", test_grouped_refused);
    g_test_add_func("/transaction/backup-undone", test_backup_undone);
    g_test_add_func("/transaction/libvirt-incremental",
                    test_libvirt_incremental);
    g_test_add_func("/transaction/grouped-jobs", test_grouped_jobs);
    g_test_add_func("/transaction/point-in-time", test_point_in_time);
    g_test_add_func("/transaction/clients", test_clients);
    ret = g_test_run();
    pool_shutdown();
    return ret;
}
