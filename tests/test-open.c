/* SPDX-License-Identifier: MIT */
/*
 * Opening: blockdev-add and what can be wrong with it, backing chains, file
 * names, probing, what queries show.  Real files in a temporary folder.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>
#include <glib/gstdio.h>
#include "base/control.h"
#include "base/error.h"
#include "base/pool.h"
#include "block/drivers.h"
#include "block/filename.h"
#include "block/graph-priv.h"
#include "block/query.h"
#include "qapi/qapi-commands.h"
#include "qapi/qapi-visit.h"

/* ---- helpers ------------------------------------------------------------ */

static BlockdevOptions *options(const char *json)
{
    json_t *o = json_loads(json, 0, NULL);
    struct error *err = NULL;
    BlockdevOptions *result;

    g_assert_nonnull(o);
    result = BlockdevOptions_from_json(o, &err);
    if (!result) {
        g_error("%s: %s", json, error_text(err));
    }
    json_decref(o);
    return result;
}

/* NULL, or the text of the error (to be freed). */
static char *try_add(const char *json)
{
    g_autoptr(BlockdevOptions) o = options(json);
    AUTO_ERROR(err);
    bool ok = qmp_blockdev_add(o, &err);

    g_assert(ok == !err);
    return ok ? NULL : g_strdup(error_text(err));
}

static void add(const char *json)
{
    g_autofree char *text = try_add(json);

    if (text) {
        g_error("%s: %s", json, text);
    }
}

static char *try_del(const char *name)
{
    BlockdevDelArgs args = { .node_name = (char *)name };
    AUTO_ERROR(err);

    return qmp_blockdev_del(&args, &err) ? NULL : g_strdup(error_text(err));
}

static void del(const char *name)
{
    g_autofree char *text = try_del(name);

    g_assert_cmpstr(text, ==, NULL);
}

static int count_nodes(void)
{
    int count = 0;

    for (struct node *n = node_next(NULL); n; n = node_next(n)) {
        count++;
    }
    return count;
}

static void expect_refused(const char *json, const char *want)
{
    int before = count_nodes();
    g_autofree char *text = try_add(json);

    g_assert_cmpstr(text, ==, want);
    g_assert_cmpint(count_nodes(), ==, before);
}

static void make_qcow2(const char *file, const char *backing)
{
    g_autofree char *json = g_strdup_printf(
        "{\"driver\": \"qcow2\", \"size\": 1048576, \"file\": {\"driver\": "
        "\"file\", \"filename\": \"%s\"}}", file);
    json_t *o = json_loads(json, 0, NULL);
    g_autoptr(BlockdevCreateOptions) create = NULL;
    AUTO_ERROR(err);

    if (backing) {
        json_object_set_new(o, "backing-file", json_string(backing));
        json_object_set_new(o, "backing-fmt", json_string("qcow2"));
    }
    g_assert_true(g_file_set_contents(file, "", 0, NULL));
    create = BlockdevCreateOptions_from_json(o, &err);
    if (!create || !driver_qcow2.create(create, &err)) {
        g_error("%s: %s", json, error_text(err));
    }
    json_decref(o);
}

static void make_raw(const char *file, off_t length)
{
    int fd = open(file, O_CREAT | O_TRUNC | O_RDWR, 0644);

    g_assert_cmpint(ftruncate(fd, length), ==, 0);
    close(fd);
}

/* Make the format name in a header's extension another one. */
static void patch_file(const char *file, const char *from, const char *to)
{
    g_autofree char *data = NULL;
    gsize len;
    char *at;

    g_assert_true(g_file_get_contents(file, &data, &len, NULL));
    at = memmem(data, len, from, strlen(from) + 1);
    g_assert_nonnull(at);
    memcpy(at, to, strlen(to));
    g_assert_true(g_file_set_contents(file, data, len, NULL));
}

/* ---- refusals ----------------------------------------------------------- */

static void test_refusals(void)
{
    static const struct { const char *json, *text; } bad[] = {
        { "{'driver': 'null-co'}",
          "'node-name' must be specified for the root node" },
        { "{'driver': 'null-co', 'node-name': 'a', 'size': -1}",
          "Parameter 'size' expects a non-negative number below 2^64" },
        { "{'driver': 'null-co', 'node-name': 'a', 'size': "
          "9223372036854775807}",
          "Could not refresh total sector count: File too large" },
        { "{'driver': 'null-co', 'node-name': 'a', 'force-share': true}",
          "force-share=on can only be used with read-only images" },
        { "{'driver': 'null-co', 'node-name': 'a', 'detect-zeroes': 'unmap'}",
          "setting detect-zeroes to unmap is not allowed without setting "
          "discard operation to unmap" },
        { "{'driver': 'raw', 'node-name': 'a', 'file': 'nope'}",
          "Cannot find device='nope' nor node-name='nope'" },
        { "{'driver': 'raw', 'node-name': 'a', 'file': 'a'}",
          "Cannot find device='a' nor node-name='a'" },
        { "{'driver': 'raw', 'node-name': 'a', 'file': {'driver': 'null-co', "
          "'node-name': 'a'}}", "Duplicate nodes with node-name='a'" },
        { "{'driver': 'raw', 'node-name': 'a', 'file': {'driver': 'file', "
          "'filename': 'nope'}}",
          "Could not open 'nope': No such file or directory" },
        { "{'driver': 'raw', 'node-name': 'a', 'offset': 2000, 'file': "
          "{'driver': 'null-co', 'size': 1024}}",
          "Offset (2000) cannot be greater than size of the containing file "
          "(1024)" },
        { "{'driver': 'raw', 'node-name': 'a', 'offset': 512, 'size': 1024, "
          "'file': {'driver': 'null-co', 'size': 1024}}",
          "The sum of offset (512) and size (1024) has to be smaller or equal "
          "to the  actual size of the containing file (1024)" },
        { "{'driver': 'raw', 'node-name': 'a', 'size': 100, 'file': "
          "{'driver': 'null-co'}}",
          "Specified size is not multiple of 512" },
        { "{'driver': 'raw', 'node-name': 'a', 'offset': -1, 'file': "
          "{'driver': 'null-co'}}",
          "Parameter 'offset' expects a non-negative number below 2^64" },
        { "{'driver': 'qcow2', 'node-name': 'a', 'file': {'driver': "
          "'null-co'}}", "Image is not in qcow2 format" },
    };

    CONTROL_GUARD();
    for (size_t i = 0; i < G_N_ELEMENTS(bad); i++) {
        g_autofree char *json = g_strdelimit(g_strdup(bad[i].json), "'", '"');

        expect_refused(json, bad[i].text);
    }
    g_assert_null(node_next(NULL));
}

static void test_del(void)
{
    g_autofree char *none = NULL, *owned = NULL, *used = NULL, *root = NULL;
    struct root_options o = { .name = "root", .shared = PERM_ALL };
    struct root *r;

    CONTROL_GUARD();
    none = try_del("x");
    g_assert_cmpstr(none, ==, "Failed to find node with node-name='x'");
    add("{\"driver\": \"null-co\", \"node-name\": \"n\"}");
    add("{\"driver\": \"raw\", \"node-name\": \"r\", \"file\": \"n\"}");
    add("{\"driver\": \"raw\", \"node-name\": \"q\", \"file\": {\"driver\": "
        "\"null-co\", \"node-name\": \"inner\"}}");
    used = try_del("n");
    g_assert_cmpstr(used, ==, "Block device n is in use");
    owned = try_del("inner");
    g_assert_cmpstr(owned, ==, "Node inner is not owned by the monitor");
    r = root_new(node_find("q"), &o, NULL);
    root = try_del("q");
    g_assert_cmpstr(root, ==, "Node q is in use");
    root_free(&r);
    del("q");
    g_assert_null(node_find("inner"));
    del("r");
    del("n");
    g_assert_null(node_next(NULL));
}

static void *end_drain_later(void *opaque)
{
    CONTROL_GUARD();
    CONTROL_YIELD {
        g_usleep(20000);
    }
    drain_end(opaque);
    return NULL;
}

/* Deleted while a drain holds it: the name is free when the reply comes. */
static void test_del_while_drained(void)
{
    struct drain *d;
    struct node *n;
    pthread_t t;

    CONTROL_GUARD();
    add("{\"driver\": \"null-co\", \"node-name\": \"n\"}");
    n = node_find("n");
    d = drain_begin(&n, 1);
    pthread_create(&t, NULL, end_drain_later, &d);
    del("n");
    g_assert_null(node_find("n"));
    add("{\"driver\": \"null-co\", \"node-name\": \"n\"}");
    del("n");
    CONTROL_YIELD {
        pthread_join(t, NULL);
    }
}

/* ---- chains ------------------------------------------------------------- */

static void check_chain(const char *const *names)
{
    struct node *n = node_find("top");

    for (; *names; names++, n = node_backing(n)) {
        g_assert_nonnull(n);
        g_assert_cmpstr(node_filename(n), ==, *names);
    }
    g_assert_null(n);
}

static void test_chain(void)
{
    static const char *const names[] = {
        "d/top.qcow2", "d/mid.qcow2", "d/base.qcow2", NULL
    };
    BlockDeviceInfo *info;

    CONTROL_GUARD();
    g_mkdir("d", 0755);
    make_qcow2("d/base.qcow2", NULL);
    make_qcow2("d/mid.qcow2", "base.qcow2");
    make_qcow2("d/top.qcow2", "mid.qcow2");
    add("{\"driver\": \"qcow2\", \"node-name\": \"top\", \"cache\": "
        "{\"direct\": false, \"no-flush\": true}, \"file\": {\"driver\": "
        "\"file\", \"filename\": \"d/top.qcow2\", \"node-name\": \"f\"}}");
    check_chain(names);
    g_assert_cmpint(count_nodes(), ==, 6);
    /* Newest first: file, top, then the chain. */
    g_assert(node_find("f")->serial + 1 == node_find("top")->serial);
    g_assert_cmpstr(node_driver_name(node_next(NULL)), ==, "qcow2");
    g_assert_false(node_is_read_only(node_find("f")));
    g_assert_true(node_is_read_only(node_next(NULL)));
    g_assert_true(node_next(NULL)->cache_no_flush);
    info = node_device_info(node_find("top"), false);
    g_assert_cmpint(info->backing_file_depth, ==, 2);
    g_assert_cmpstr(info->backing_file, ==, "d/mid.qcow2");
    g_assert_cmpstr(info->image->backing_filename, ==, "mid.qcow2");
    g_assert_cmpstr(info->image->full_backing_filename, ==, "d/mid.qcow2");
    g_assert_cmpstr(info->image->backing_image->backing_image->filename, ==,
                    "d/base.qcow2");
    BlockDeviceInfo_free(info);
    info = node_device_info(node_find("top"), true);
    g_assert_cmpint(info->backing_file_depth, ==, 0);
    g_assert_null(info->image->backing_image);
    BlockDeviceInfo_free(info);
    del("top");
    g_assert_null(node_next(NULL));
}

static void expect_name(const char *json, const char *want)
{
    add(json);
    g_assert_cmpstr(node_filename(node_find("t")), ==, want);
    del("t");
    g_assert_null(node_next(NULL));
}

#define QCOW2_T "{\"driver\": \"qcow2\", \"node-name\": \"t\", \"file\": " \
    "{\"driver\": \"file\", \"filename\": \"d/mid.qcow2\"}"

static void test_names(void)
{
    CONTROL_GUARD();
    expect_name(QCOW2_T "}", "d/mid.qcow2");
    expect_name(QCOW2_T ", \"backing\": null}",
                "json:{\"backing\": null, \"driver\": \"qcow2\", \"file\": "
                "{\"driver\": \"file\", \"filename\": \"d/mid.qcow2\"}}");
    expect_name(QCOW2_T ", \"backing\": {\"driver\": \"null-co\", \"size\": "
                "512}}",
                "json:{\"backing\": {\"driver\": \"null-co\", \"size\": 512}, "
                "\"driver\": \"qcow2\", \"file\": {\"driver\": \"file\", "
                "\"filename\": \"d/mid.qcow2\"}}");
    expect_name("{\"driver\": \"null-co\", \"node-name\": \"t\"}",
                "null-co://");
    expect_name("{\"driver\": \"raw\", \"node-name\": \"t\", \"offset\": 512, "
                "\"file\": {\"driver\": \"null-co\"}}",
                "json:{\"offset\": 512, \"driver\": \"raw\", \"file\": "
                "{\"driver\": \"null-co\"}}");
    expect_name("{\"driver\": \"raw\", \"node-name\": \"t\", \"file\": "
                "{\"driver\": \"null-co\"}}", "null-co://");
}

static void test_bad_chains(void)
{
    CONTROL_GUARD();
    make_qcow2("d/self.qcow2", "self.qcow2");
    make_qcow2("d/c1.qcow2", "./../d/c2.qcow2");
    make_qcow2("d/c2.qcow2", "c1.qcow2");
    make_qcow2("d/gone.qcow2", "nope.qcow2");
    make_qcow2("d/proto.qcow2", "fat:x");
    make_qcow2("d/fmt.qcow2", "base.qcow2");
    patch_file("d/fmt.qcow2", "qcow2", "bogus");
#define OPEN(f) "{\"driver\": \"qcow2\", \"node-name\": \"t\", " \
    "\"read-only\": true, \"file\": {\"driver\": \"file\", " \
    "\"filename\": \"d/" f "\"}}"
    expect_refused(OPEN("self.qcow2"), "Could not open backing file: Backing "
                   "file 'd/self.qcow2' creates an infinite loop");
    expect_refused(OPEN("c1.qcow2"), "Could not open backing file: Could not "
                   "open backing file: Backing file 'd/./../d/c1.qcow2' "
                   "creates an infinite loop");
    expect_refused(OPEN("gone.qcow2"), "Could not open backing file: Could "
                   "not open 'd/nope.qcow2': No such file or directory");
    expect_refused(OPEN("proto.qcow2"), "Could not open backing file: Unknown "
                   "protocol 'fat'");
    expect_refused(OPEN("fmt.qcow2"), "Could not open backing file: Unknown "
                   "driver 'bogus'");
    g_assert_null(node_next(NULL));
}

static struct root *deep_root;
static _Atomic int deep_result = 1;

/* In a worker of the pool: its stack is small. */
static void read_deep(void *opaque)
{
    struct block_status st;
    uint8_t buf[512];
    int ret = root_pread(deep_root, 4096, sizeof(buf), buf, 0);

    if (ret == 0) {
        ret = root_block_status_above(deep_root, NULL, true, 0, 65536, &st);
    }
    atomic_store(&deep_result, ret);
}

/* A chain that no file is in twice and that is too long all the same. */
static void test_long_chain(void)
{
    struct root_options o = {
        .name = "root", .perm = PERM_CONSISTENT_READ, .shared = PERM_ALL,
    };
    g_autofree char *text = NULL;

    CONTROL_GUARD();
    g_mkdir("d", 0755);
    make_qcow2("d/l0.qcow2", NULL);
    for (int i = 1; i <= 505; i++) {
        g_autofree char *name = g_strdup_printf("d/l%d.qcow2", i);
        g_autofree char *base = g_strdup_printf("l%d.qcow2", i - 1);

        make_qcow2(name, base);
    }
    text = try_add("{\"driver\": \"qcow2\", \"node-name\": \"t\", \"file\": "
                   "{\"driver\": \"file\", \"filename\": \"d/l505.qcow2\"}}");
    g_assert_nonnull(text);
    g_assert_true(g_str_has_suffix(text, "Block nodes are stacked too deeply "
                                   "(more than 500)"));
    g_assert_null(node_next(NULL));
    add("{\"driver\": \"qcow2\", \"node-name\": \"t\", \"file\": "
        "{\"driver\": \"file\", \"filename\": \"d/l498.qcow2\"}}");
    g_assert_cmpint(count_nodes(), ==, 998);
    node_filename(node_find("t"));
    deep_root = root_new(node_find("t"), &o, NULL);
    pool_submit(read_deep, NULL);
    while (atomic_load(&deep_result) == 1) {
        g_usleep(1000);
    }
    g_assert_cmpint(atomic_load(&deep_result), ==, 0);
    root_free(&deep_root);
    del("t");
}

/* ---- by file name ------------------------------------------------------- */

static void expect_open(const char *filename, const char *format,
                        const char *driver, const char *error)
{
    AUTO_ERROR(err);
    struct node *n = node_open_filename(filename, format, true, NULL, &err);

    g_assert_cmpstr(err ? error_text(err) : NULL, ==, error);
    if (n) {
        g_assert_cmpstr(node_driver_name(n), ==, driver);
        node_unref(n);
    }
    g_assert_null(node_next(NULL));
}

static void test_open_filename(void)
{
    g_autofree char *deep = NULL;
    GString *s = g_string_new("json:");

    CONTROL_GUARD();
    make_raw("r.raw", 1 << 20);
    make_raw("a:b.raw", 512);
    expect_open("r.raw", NULL, "raw", NULL);
    expect_open("r.raw", "raw", "raw", NULL);
    expect_open("r.raw", "qcow2", NULL, "Image is not in qcow2 format");
    expect_open("r.raw", "vmdk", NULL, "Unknown driver 'vmdk'");
    expect_open("r.raw", "file", "file", NULL);
    expect_open("file:r.raw", NULL, "raw", NULL);
    expect_open("file:a:b.raw", NULL, "raw", NULL);
    expect_open("./a:b.raw", NULL, "raw", NULL);
    expect_open("a:b.raw", NULL, NULL, "Unknown protocol 'a'");
    expect_open("d/top.qcow2", NULL, "qcow2", NULL);
    expect_open("null-co://", "raw", "raw", NULL);
    expect_open("null-co://x", "raw", NULL, "The only allowed filename for "
                "this driver is 'null-co://'");
    expect_open("json:{\"driver\": \"raw\", \"file.driver\": \"file\", "
                "\"file.filename\": \"r.raw\"}", NULL, "raw", NULL);
    expect_open("json:{\"file\": {\"driver\": \"file\", \"filename\": "
                "\"d/base.qcow2\"}}", NULL, "qcow2", NULL);
    expect_open("json:{\"driver\": \"file\", \"filename\": \"d/base.qcow2\"}",
                "qcow2", "qcow2", NULL);
    expect_open("json:{\"driver\": \"raw\", \"file\": 1, \"file.driver\": 2}",
                NULL, NULL, "'file' is given as a value and with members in a "
                "json: file name");
    expect_open("json:[]", NULL, NULL, "Invalid JSON object given");
    for (int i = 0; i < 5000; i++) {
        g_string_append(s, "{\"backing\":");
    }
    deep = g_string_free(s, FALSE);
    expect_open(deep, NULL, NULL, "Could not parse the JSON options: nested "
                "too deeply");
}

/* A guessed raw image must not become something else by a write. */
static void test_guessed_raw(void)
{
    static const uint8_t qcow2_head[512] = { 'Q', 'F', 'I', 0xfb, 0, 0, 0, 3 };
    struct root_options o = {
        .name = "root", .perm = PERM_WRITE, .shared = PERM_ALL,
    };
    uint8_t zeroes[512] = { 0 };
    struct node *n;
    struct root *r;

    CONTROL_GUARD();
    n = node_open_filename("r.raw", NULL, false, NULL, NULL);
    g_assert_nonnull(n);
    r = root_new(n, &o, NULL);
    g_assert_cmpint(root_pwrite(r, 0, 512, qcow2_head, 0), ==, -EPERM);
    g_assert_cmpint(root_pwrite(r, 0, 4, qcow2_head, 0), ==, 0);
    g_assert_cmpint(root_pwrite(r, 4, 4, qcow2_head + 4, 0), ==, -EPERM);
    g_assert_cmpint(root_pwrite(r, 0, 512, zeroes, 0), ==, 0);
    g_assert_cmpint(root_pwrite(r, 512, 512, qcow2_head, 0), ==, 0);
    root_free(&r);
    node_unref(n);
}

/* ---- resize, windows ---------------------------------------------------- */

static bool resize(const char *name, int64_t size, struct error **errp)
{
    BlockResizeArgs args = { .node_name = (char *)name, .size = size };

    return qmp_block_resize(&args, errp);
}

static void test_resize(void)
{
    struct error *err = NULL;
    struct node *n;

    CONTROL_GUARD();
    add("{\"driver\": \"raw\", \"node-name\": \"r\", \"file\": {\"driver\": "
        "\"file\", \"filename\": \"r.raw\", \"node-name\": \"f\"}}");
    n = node_find("r");
    g_assert_true(resize("r", 3 << 20, NULL));
    g_assert_cmpint(node_length(n), ==, 3 << 20);
    g_assert_cmpint(node_length(node_find("f")), ==, 3 << 20);
    g_assert_false(resize("r", -1, &err));
    g_assert_cmpstr(error_text(err), ==, "Parameter 'size' expects a >0 size");
    g_clear_pointer(&err, error_free);
    node_block_op(n, NODE_OP_RESIZE, &err, "test");
    g_assert_false(resize("r", 512, &err));
    g_assert_cmpstr(error_text(err), ==, "Node 'r' is busy: test");
    g_clear_pointer(&err, error_free);
    node_unblock_op(n, NODE_OP_RESIZE, &err);
    g_assert_true(resize("r", 1 << 20, NULL));
    del("r");
}

static void test_window(void)
{
    struct root_options o = {
        .name = "root", .perm = PERM_WRITE | PERM_CONSISTENT_READ,
        .shared = PERM_ALL,
    };
    struct root *whole, *window;
    uint8_t buf[512], back[512];

    CONTROL_GUARD();
    make_raw("w.raw", 1 << 20);
    add("{\"driver\": \"file\", \"node-name\": \"f\", \"filename\": "
        "\"w.raw\"}");
    add("{\"driver\": \"raw\", \"node-name\": \"w\", \"offset\": 65536, "
        "\"size\": 65536, \"file\": \"f\"}");
    whole = root_new(node_find("f"), &o, NULL);
    window = root_new(node_find("w"), &o, NULL);
    memset(buf, 0x5a, sizeof(buf));
    g_assert_cmpint(root_pwrite(window, 65024, 512, buf, 0), ==, 0);
    g_assert_cmpint(root_pwrite(window, 65536, 512, buf, 0), ==, -EIO);
    /* A format in the window that wants to grow gets no space. */
    g_assert_cmpint(node_pwrite(node_find("w"), 65536, 512, buf, 0), ==,
                    -ENOSPC);
    g_assert_cmpint(root_pread(whole, 65536 + 65024, 512, back, 0), ==, 0);
    g_assert_cmpmem(buf, 512, back, 512);
    g_assert_cmpint(root_pread(whole, 131072, 512, back, 0), ==, 0);
    g_assert_true(back[0] == 0);
    root_free(&window);
    root_free(&whole);
    del("w");
    del("f");
}

/* ---- main --------------------------------------------------------------- */

int main(int argc, char **argv)
{
    g_autofree char *dir = g_dir_make_tmp("test-open-XXXXXX", NULL);
    g_autofree char *clean = g_strdup_printf("rm -rf '%s'", dir);
    struct rlimit files;
    int ret;

    g_test_init(&argc, &argv, NULL);
    g_assert_cmpint(chdir(dir), ==, 0);
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;    /* /open/long-chain */
    setrlimit(RLIMIT_NOFILE, &files);
    g_test_add_func("/open/refusals", test_refusals);
    g_test_add_func("/open/del", test_del);
    g_test_add_func("/open/del-while-drained", test_del_while_drained);
    g_test_add_func("/open/chain", test_chain);
    g_test_add_func("/open/names", test_names);
    g_test_add_func("/open/bad-chains", test_bad_chains);
    g_test_add_func("/open/filename", test_open_filename);
    g_test_add_func("/open/guessed-raw", test_guessed_raw);
    g_test_add_func("/open/resize", test_resize);
    g_test_add_func("/open/window", test_window);
    g_test_add_func("/open/long-chain", test_long_chain);
    ret = g_test_run();
    pool_shutdown();
    return system(clean) == 0 ? ret : 1;
}
