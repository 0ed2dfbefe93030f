/* SPDX-License-Identifier: MIT */
/* Image locks of the file driver: among ourselves and with QEMU's tools. */
#include <fcntl.h>
#include <glib/gstdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include "base/error.h"
#include "bitmaps/dirty-bitmap.h"
#include "block/file-locks.h"
#include "block/file-priv.h"

static char *path;

static void make_file(void)
{
    int fd;

    path = g_strdup_printf("%s/test-file-locks-%d-%u", g_get_tmp_dir(),
                           getpid(), g_random_int());
    fd = open(path, O_RDWR | O_CREAT | O_EXCL, 0600);
    g_assert_cmpint(fd, >=, 0);
    g_assert_cmpint(ftruncate(fd, 1 << 20), ==, 0);
    close(fd);
}

static void drop_file(void)
{
    g_unlink(path);
    g_free(path);
}

static void node_open_file(struct node *n, bool auto_read_only)
{
    BlockdevOptions options = {
        .driver = BLOCKDEV_DRIVER_FILE, .u.file.filename = path,
        .has_auto_read_only = auto_read_only,
        .auto_read_only = auto_read_only,
    };
    AUTO_ERROR(err);

    memset(n, 0, sizeof(*n));
    n->driver = &driver_file;
    n->name = (char *)"n";
    n->state = g_malloc0(driver_file.state_size);
    n->bitmaps = dirty_bitmap_list_new();
    range_lock_init(&n->serialising, "test");
    g_assert_cmpint(driver_file.open(n, &options, &err), ==, 0);
}

static void node_close_file(struct node *n)
{
    driver_file.close(n);
    range_lock_deinit(&n->serialising);
    dirty_bitmap_list_free(n->bitmaps);
    g_free(n->filename);
    g_free(n->state);
}

static bool take(struct node *n, unsigned perm, unsigned shared,
                 struct error **errp)
{
    if (!driver_file.check_perm(n, perm, shared, errp)) {
        return false;
    }
    driver_file.set_perm(n, perm, shared);
    return true;
}

/* Is BYTE free for an exclusive lock, seen from a stranger? */
static bool byte_free(int byte)
{
    struct flock fl = { .l_type = F_WRLCK, .l_start = byte, .l_len = 1 };
    int fd = open(path, O_RDWR);

    g_assert_cmpint(fcntl(fd, F_OFD_GETLK, &fl), ==, 0);
    close(fd);
    return fl.l_type == F_UNLCK;
}

static void assert_bytes(unsigned perm, unsigned unshared)
{
    for (int b = 0; b < 4; b++) {
        g_assert_cmpint(byte_free(100 + b), ==, !(perm & (1u << b)));
        g_assert_cmpint(byte_free(200 + b), ==, !(unshared & (1u << b)));
    }
}

/* Every pair of permission sets: conflict exactly where the rule says so,
 * and a refusal leaves the locks as they were. */
static void test_matrix(void)
{
    struct node a, b;

    make_file();
    node_open_file(&a, false);
    node_open_file(&b, false);
    assert_bytes(0, 0);
    for (unsigned pa = 0; pa <= PERM_ALL; pa++) {
        for (unsigned sa = 0; sa <= PERM_ALL; sa++) {
            g_assert_true(take(&a, pa, sa, NULL));
            assert_bytes(pa, PERM_ALL & ~sa);
            for (unsigned pb = 0; pb <= PERM_ALL; pb += 3) {
                for (unsigned sb = 0; sb <= PERM_ALL; sb += 5) {
                    bool allowed = !(pa & ~sb) && !(pb & ~sa);
                    g_assert_cmpint(take(&b, pb, sb, NULL), ==, allowed);
                    if (!allowed) {
                        assert_bytes(pa, PERM_ALL & ~sa);
                    } else {
                        g_assert_true(take(&b, 0, PERM_ALL, NULL));
                    }
                }
            }
        }
    }
    node_close_file(&a);
    assert_bytes(0, 0);
    node_close_file(&b);
    drop_file();
}

static void test_messages(void)
{
    struct node a, b;
    g_autofree char *hint = NULL;
    AUTO_ERROR(err);
    AUTO_ERROR(err2);

    make_file();
    hint = g_strdup_printf("Is another process using the image [%s]?\n", path);
    node_open_file(&a, false);
    node_open_file(&b, false);
    g_assert_true(take(&a, PERM_CONSISTENT_READ | PERM_WRITE,
                       PERM_CONSISTENT_READ, NULL));
    g_assert_false(take(&b, PERM_WRITE_UNCHANGED, PERM_ALL, &err));
    g_assert_cmpstr(error_text(err), ==,
                    "Failed to get \"write unchanged\" lock");
    g_assert_cmpstr(error_hint(err), ==, hint);
    g_assert_false(take(&b, PERM_CONSISTENT_READ,
                        PERM_ALL & ~PERM_CONSISTENT_READ, &err2));
    g_assert_cmpstr(error_text(err2), ==,
                    "Failed to get shared \"consistent read\" lock");
    node_close_file(&b);
    node_close_file(&a);
    drop_file();
}

/* Two phases: check takes, abort gives back, also when both changed. */
static void test_abort(void)
{
    struct node a;

    make_file();
    node_open_file(&a, false);
    g_assert_true(take(&a, PERM_CONSISTENT_READ, PERM_ALL, NULL));
    g_assert_true(driver_file.check_perm(&a, PERM_WRITE, 0, NULL));
    assert_bytes(PERM_CONSISTENT_READ | PERM_WRITE, PERM_ALL);
    driver_file.abort_perm(&a);
    assert_bytes(PERM_CONSISTENT_READ, 0);
    /* The file goes away: to give locks back is not fatal. */
    g_unlink(path);
    g_assert_true(take(&a, 0, PERM_ALL, NULL));
    node_close_file(&a);
    drop_file();
}

static int fd_mode(struct node *n)
{
    struct file_state *s = n->state;

    return fcntl(s->fd, F_GETFL) & O_ACCMODE;
}

static void test_auto_read_only(void)
{
    struct node a;
    char buf[512] = { 1 };

    make_file();
    node_open_file(&a, true);
    g_assert_cmpint(fd_mode(&a), ==, O_RDONLY);
    g_assert_true(take(&a, PERM_CONSISTENT_READ, PERM_ALL, NULL));
    g_assert_cmpint(fd_mode(&a), ==, O_RDONLY);
    /* Given up again before it happened. */
    g_assert_true(driver_file.check_perm(&a, PERM_WRITE, PERM_ALL, NULL));
    driver_file.abort_perm(&a);
    g_assert_cmpint(fd_mode(&a), ==, O_RDONLY);
    /* Its name is taken by another file: the node stays with its own. */
    g_assert_true(take(&a, PERM_WRITE, PERM_ALL, NULL));
    g_assert_cmpint(fd_mode(&a), ==, O_RDWR);
    assert_bytes(PERM_WRITE, 0);
    g_assert_cmpint(node_pwrite(&a, 0, 512, buf, 0), ==, 0);
    g_assert_true(take(&a, PERM_CONSISTENT_READ, PERM_ALL, NULL));
    g_assert_cmpint(fd_mode(&a), ==, O_RDONLY);
    assert_bytes(PERM_CONSISTENT_READ, 0);
    node_close_file(&a);
    drop_file();
}

/* ---- QEMU's tools as oracles -------------------------------------------- */

/* Exit status of PROGRAM's run; its stderr goes to *TEXT. */
static int run_tool(char **text, const char *program, ...)
{
    g_autoptr(GPtrArray) argv = g_ptr_array_new();
    int status = -1;
    const char *arg;
    va_list ap;

    g_ptr_array_add(argv, (char *)program);
    va_start(ap, program);
    while ((arg = va_arg(ap, const char *))) {
        g_ptr_array_add(argv, (char *)arg);
    }
    va_end(ap);
    g_ptr_array_add(argv, NULL);
    g_assert_true(g_spawn_sync(NULL, (char **)argv->pdata, NULL,
                               G_SPAWN_SEARCH_PATH |
                               G_SPAWN_STDOUT_TO_DEV_NULL, NULL, NULL, NULL,
                               text, &status, NULL));
    return status;
}

static void test_qemu_tools(void)
{
    g_autofree char *tool = g_find_program_in_path("qemu-img");
    g_autofree char *text = NULL, *text2 = NULL;
    struct node a;

    if (!tool) {
        g_test_skip("qemu-img is not installed");
        return;
    }
    make_file();
    node_open_file(&a, false);
    /* A guest's disk: shares nothing that changes it. */
    g_assert_true(take(&a, PERM_CONSISTENT_READ | PERM_WRITE,
                       PERM_CONSISTENT_READ | PERM_WRITE_UNCHANGED, NULL));
    g_assert_cmpint(run_tool(&text, "qemu-img", "resize", "-f", "raw", path,
                             "2M", NULL), !=, 0);
    g_assert_nonnull(strstr(text, "Failed to get \"write\" lock"));
    /* Somebody else's private file. */
    g_assert_true(take(&a, PERM_CONSISTENT_READ | PERM_WRITE, 0, NULL));
    g_assert_cmpint(run_tool(&text2, "qemu-io", "-r", "-f", "raw", "-c",
                             "read 0 512", path, NULL), !=, 0);
    g_assert_nonnull(strstr(text2, "Failed to get \"consistent read\" lock"));
    g_assert_cmpint(run_tool(NULL, "qemu-img", "info", "-U", "-f", "raw", path,
                             NULL), ==, 0);
    /* A reader. */
    g_assert_true(take(&a, PERM_CONSISTENT_READ, PERM_ALL, NULL));
    g_assert_cmpint(run_tool(NULL, "qemu-io", "-r", "-f", "raw", "-c",
                             "read 0 512", path, NULL), ==, 0);
    g_assert_cmpint(run_tool(NULL, "qemu-img", "resize", "-f", "raw", path,
                             "2M", NULL), ==, 0);
    node_close_file(&a);
    drop_file();
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/file-locks/matrix", test_matrix);
    g_test_add_func("/file-locks/messages", test_messages);
    g_test_add_func("/file-locks/abort", test_abort);
    g_test_add_func("/file-locks/auto-read-only", test_auto_read_only);
    g_test_add_func("/file-locks/qemu-tools", test_qemu_tools);
    return g_test_run();
}
