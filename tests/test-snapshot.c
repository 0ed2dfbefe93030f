/* SPDX-License-Identifier: MIT */
/*
 * Snapshots of real images, while threads write: what is below, what is
 * above, what an undo leaves, and commands at the same time.
 */
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>
#include "base/pool.h"
#include "block/graph-priv.h"
#include "block/snapshot.h"
#include "qapi/qapi-commands.h"
#include "qcow2-util.h"

enum {
    LENGTH = 4 << 20, N_WRITERS = 4, BLOCK = 4096, N_ROUNDS = 12,
    STRIDE = LENGTH / N_WRITERS,
};

/* ---- helpers ------------------------------------------------------------ */

static void open_image(struct image *im, const char *file, const char *name)
{
    g_autofree char *path = test_path(file);
    g_autofree char *options = g_strdup_printf("'node-name': '%s', "
                                               "'backing': null", name);

    g_assert_true(image_create(path, LENGTH, "", NULL));
    image_open_ok(im, path, options);
    /* A guest, not the owner of all there is. */
    g_assert_true(root_set_perm(im->root, PERM_CONSISTENT_READ | PERM_WRITE,
                                PERM_ALL, NULL));
}

static char *error_of(struct error **err)
{
    char *text = g_strdup(error_text(*err));

    g_assert_nonnull(*err);
    error_free(g_steal_pointer(err));
    return text;
}

static char *graph_text(void)
{
    XDbgBlockGraph *graph = qmp_x_debug_query_block_graph(NULL);
    json_t *o = XDbgBlockGraph_to_json(graph);
    char *text = json_dumps(o, JSON_SORT_KEYS), *copy = g_strdup(text);

    free(text);
    json_decref(o);
    XDbgBlockGraph_free(graph);
    return copy;
}

/* ---- a guest: every write is newer than the one before ------------------ */

static struct root *guest;      /* borrowed */
static _Atomic bool stop;
static _Atomic uint64_t begun[N_WRITERS], done[N_WRITERS];

static void *writer(void *opaque)
{
    size_t me = GPOINTER_TO_SIZE(opaque);
    uint64_t block[BLOCK / sizeof(uint64_t)] = { 0 }, back[2];

    for (uint64_t i = 1; !atomic_load(&stop); i++) {
        atomic_store(&begun[me], i);
        block[0] = block[BLOCK / sizeof(uint64_t) - 1] = i;
        g_assert_cmpint(root_pwrite(guest, me * STRIDE, BLOCK, block, 0), ==,
                        0);
        atomic_store(&done[me], i);
        g_assert_cmpint(root_pread(guest, me * STRIDE, sizeof(back), back,
                                   0), ==, 0);
        g_assert_cmpuint(back[0], ==, i);
    }
    return NULL;
}

static void start_writers(pthread_t *threads, struct root *r)
{
    guest = r;
    atomic_store(&stop, false);
    for (size_t i = 0; i < N_WRITERS; i++) {
        atomic_store(&begun[i], 0);
        atomic_store(&done[i], 0);
        g_assert_cmpint(pthread_create(&threads[i], NULL, writer,
                                       GSIZE_TO_POINTER(i)), ==, 0);
    }
}

static void stop_writers(pthread_t *threads)
{
    atomic_store(&stop, true);
    CONTROL_YIELD {
        for (size_t i = 0; i < N_WRITERS; i++) {
            pthread_join(threads[i], NULL);
        }
    }
}

/* What N holds lies between the counters before and after its moment. */
static void check_moment(struct node *n, const uint64_t *before,
                         const uint64_t *after)
{
    struct root_options options = {
        .name = "root", .perm = PERM_CONSISTENT_READ, .shared = PERM_ALL,
    };
    struct root *r = root_new(n, &options, NULL);

    g_assert_nonnull(r);
    for (size_t i = 0; i < N_WRITERS; i++) {
        uint64_t block[BLOCK / sizeof(uint64_t)];

        CONTROL_YIELD {
            g_assert_cmpint(root_pread(r, i * STRIDE, BLOCK, block, 0), ==,
                            0);
        }
        g_assert_cmpuint(block[0], >=, before[i]);
        g_assert_cmpuint(block[0], <=, after[i]);
        g_assert_cmpuint(block[BLOCK / sizeof(uint64_t) - 1], ==, block[0]);
    }
    root_free(&r);
}

static void get_counters(_Atomic uint64_t *from, uint64_t *to)
{
    for (size_t i = 0; i < N_WRITERS; i++) {
        to[i] = atomic_load(&from[i]);
    }
}

static bool take_sync(const char *node, const char *name, struct error **errp)
{
    g_autofree char *file = g_strdup_printf("%s.qcow2", name);
    g_autofree char *path = test_path(file);
    BlockdevSnapshotSync args = {
        .node_name = (char *)node, .snapshot_node_name = (char *)name,
        .snapshot_file = path,
    };

    return qmp_blockdev_snapshot_sync(&args, errp);
}

/* ---- under load --------------------------------------------------------- */

static void test_load(void)
{
    uint64_t before[N_ROUNDS][N_WRITERS], after[N_ROUNDS][N_WRITERS];
    g_autofree char *below = g_strdup("base");
    pthread_t threads[N_WRITERS];
    struct image im;

    CONTROL_GUARD();
    open_image(&im, "base.qcow2", "base");
    start_writers(threads, im.root);
    for (int i = 0; i < N_ROUNDS; i++) {
        g_autofree char *name = g_strdup_printf("s%d", i);

        CONTROL_YIELD {
            g_usleep(10000);
        }
        get_counters(done, before[i]);
        g_assert_true(take_sync(below, name, NULL));
        get_counters(begun, after[i]);
        g_assert_cmpstr(node_name(root_node(im.root)), ==, name);
        g_free(below);
        below = g_steal_pointer(&name);
    }
    stop_writers(threads);
    for (int i = 0; i < N_ROUNDS; i++) {
        g_autofree char *name = i ? g_strdup_printf("s%d", i - 1)
                                  : g_strdup("base");
        struct node *n = node_find(name);

        g_assert_nonnull(n);
        g_assert_true(node_is_read_only(n));
        check_moment(n, before[i], after[i]);
    }
    get_counters(done, before[0]);
    check_moment(root_node(im.root), before[0], before[0]);
    image_close(&im);
}

/* ---- undo --------------------------------------------------------------- */

static void abort_one(const char *node, const char *overlay)
{
    BlockdevSnapshot args = { .node = (char *)node,
                              .overlay = (char *)overlay };
    g_autoptr(GPtrArray) nodes = g_ptr_array_new();
    struct snapshot *s = snapshot_new(&args, NULL), *other;
    struct drain *d;
    AUTO_ERROR(err);
    g_autofree char *text = NULL;

    g_assert_nonnull(s);
    other = snapshot_new(&args, &err);  /* I1 of snapshot.c */
    g_assert_null(other);
    text = error_of(&err);
    g_assert_nonnull(strstr(text, "is busy"));
    snapshot_add_nodes(s, nodes);
    d = drain_begin((struct node **)nodes->pdata, nodes->len);
    g_assert_true(snapshot_prepare(s, NULL));
    g_assert_true(node_backing(node_find(overlay)) == node_find(node));
    snapshot_undo(s);
    drain_end(&d);
    snapshot_free(s);
}

static void test_undo(void)
{
    struct image im, ov;
    pthread_t threads[N_WRITERS];
    g_autofree char *before = NULL;

    CONTROL_GUARD();
    open_image(&im, "n.qcow2", "n");
    open_image(&ov, "o.qcow2", "o");
    /* The overlay may have a writer of its own; it stays where it is. */
    g_assert_true(root_set_perm(ov.root, PERM_WRITE, PERM_ALL, NULL));
    before = graph_text();
    start_writers(threads, im.root);
    for (int i = 0; i < 50; i++) {
        g_autofree char *now = NULL;

        abort_one("n", "o");
        g_assert_true(root_node(im.root) == im.node);
        g_assert_true(root_node(ov.root) == ov.node);
        now = graph_text();
        g_assert_cmpstr(now, ==, before);
        g_assert_false(node_is_read_only(im.node));
    }
    stop_writers(threads);
    image_close(&ov);
    image_close(&im);
}

/* ---- refused ------------------------------------------------------------ */

static void refused(const char *node, const char *overlay, const char *wanted)
{
    BlockdevSnapshot args = { .node = (char *)node,
                              .overlay = (char *)overlay };
    g_autofree char *before = graph_text(), *text = NULL, *after = NULL;
    AUTO_ERROR(err);

    g_assert_false(qmp_blockdev_snapshot(&args, &err));
    text = error_of(&err);
    g_assert_cmpstr(text, ==, wanted);
    after = graph_text();
    g_assert_cmpstr(before, ==, after);
}

static void test_refused(void)
{
    int owner = 0;
    struct image im, ov;

    CONTROL_GUARD();
    open_image(&im, "n.qcow2", "n");
    open_image(&ov, "o.qcow2", "o");
    refused("n", "o", "The overlay is already in use");
    root_free(&ov.root);
    refused("o", "o", "Making 'o' a backing child of 'o' would create a "
            "cycle");
    node_block_all_ops(im.node, &owner, "block device is in use by block "
                       "job: mirror");
    refused("n", "o", "Node 'n' is busy: block device is in use by block "
            "job: mirror");
    node_unblock_all_ops(im.node, &owner);
    node_unref(ov.node);
    image_close(&im);
}

/* ---- two clients -------------------------------------------------------- */

static _Atomic int n_taken;

static void *taker(void *opaque)
{
    for (int i = 0; i < 8; i++) {
        g_autofree char *name = g_strdup_printf("%s%d", (char *)opaque, i);
        AUTO_ERROR(err);

        CONTROL_GUARD();
        if (take_sync(node_name(root_node(guest)), name, &err)) {
            atomic_fetch_add(&n_taken, 1);
        } else {
            g_assert_nonnull(strstr(error_text(err), "is busy"));
        }
    }
    return NULL;
}

/* Two at a time of whatever is on top: one is told that it is busy. */
static void test_clients(void)
{
    pthread_t threads[N_WRITERS], a, b;
    struct node *n;
    struct image im;
    int depth = 0;

    CONTROL_GUARD();
    open_image(&im, "base.qcow2", "base");
    start_writers(threads, im.root);
    pthread_create(&a, NULL, taker, (void *)"a");
    pthread_create(&b, NULL, taker, (void *)"b");
    CONTROL_YIELD {
        pthread_join(a, NULL);
        pthread_join(b, NULL);
    }
    stop_writers(threads);
    for (n = root_node(im.root); node_backing(n); n = node_backing(n)) {
        depth++;
    }
    g_assert_true(n == im.node);
    g_assert_cmpint(depth, ==, atomic_load(&n_taken));
    g_assert_cmpint(depth, >=, 1);
    image_close(&im);
}

/* ---- internal ----------------------------------------------------------- */

static void *internal_taker(void *opaque)
{
    for (int i = 0; i < 6; i++) {
        g_autofree char *name = g_strdup_printf("%s%d", (char *)opaque, i);
        BlockdevSnapshotInternal args = { .device = (char *)"n",
                                          .name = name };
        BlockdevSnapshotDeleteInternalSyncArgs del = {
            .device = (char *)"n", .name = name,
        };

        CONTROL_GUARD();
        g_assert_true(qmp_blockdev_snapshot_internal_sync(&args, NULL));
        if (i % 2) {
            g_autoptr(SnapshotInfo) info =
                qmp_blockdev_snapshot_delete_internal_sync(&del, NULL);

            g_assert_nonnull(info);
            g_assert_cmpstr(info->name, ==, name);
        }
    }
    return NULL;
}

/* Two clients and writers; the image must check clean. */
static void test_internal(void)
{
    g_autofree char *path = test_path("n.qcow2");
    pthread_t threads[N_WRITERS], a, b;
    SnapshotInfoList *list = NULL;
    struct image im;

    control_lock();
    open_image(&im, "n.qcow2", "n");
    start_writers(threads, im.root);
    pthread_create(&a, NULL, internal_taker, (void *)"a");
    pthread_create(&b, NULL, internal_taker, (void *)"b");
    CONTROL_YIELD {
        pthread_join(a, NULL);
        pthread_join(b, NULL);
    }
    stop_writers(threads);
    CONTROL_YIELD {
        list = im.node->driver->snapshot_list(im.node);
    }
    g_assert_cmpuint(list->n, ==, 6);
    SnapshotInfoList_free(list);
    image_close(&im);
    control_unlock();
    image_check(path);
}

static FILE *tap;

static void print_tap(const char *text)
{
    fputs(text, tap);
    fflush(tap);
}

/* What the code under test prints ("Formatting ...") is no TAP. */
static void part_outputs(void)
{
    tap = fdopen(dup(STDOUT_FILENO), "w");
    dup2(STDERR_FILENO, STDOUT_FILENO);
    g_set_print_handler(print_tap);
}

int main(int argc, char **argv)
{
    int ret;

    part_outputs();
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/snapshot/load", test_load);
    g_test_add_func("/snapshot/undo", test_undo);
    g_test_add_func("/snapshot/refused", test_refused);
    g_test_add_func("/snapshot/clients", test_clients);
    g_test_add_func("/snapshot/internal", test_internal);
    ret = g_test_run();
    pool_shutdown();
    return ret;
}
