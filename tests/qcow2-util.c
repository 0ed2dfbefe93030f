/* SPDX-License-Identifier: MIT */
#include "qcow2-util.h"

#include <fcntl.h>
#include <glib/gstdio.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

static char *dir;

static void remove_dir(void)
{
    if (dir) {
        sh("rm -rf '%s'", dir);
    }
}

const char *test_dir(void)
{
    if (!dir) {
        dir = g_dir_make_tmp("qcow2-test-XXXXXX", NULL);
        g_assert_nonnull(dir);
        atexit(remove_dir);
    }
    return dir;
}

char *test_path(const char *name)
{
    return g_build_filename(test_dir(), name, NULL);
}

static char *run(const char *command, int *status)
{
    const char *argv[] = { "/bin/sh", "-c", command, NULL };
    char *out = NULL, *err = NULL, *all;

    g_assert_true(g_spawn_sync(NULL, (char **)argv, NULL, 0, NULL, NULL, &out,
                               &err, status, NULL));
    all = g_strconcat(out, err, NULL);
    g_free(out);
    g_free(err);
    return all;
}

int sh(const char *fmt, ...)
{
    g_autofree char *command = NULL, *out = NULL;
    va_list ap;
    int status;

    va_start(ap, fmt);
    command = g_strdup_vprintf(fmt, ap);
    va_end(ap);
    out = run(command, &status);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

void sh_ok(const char *fmt, ...)
{
    g_autofree char *command = NULL, *out = NULL;
    va_list ap;
    int status;

    va_start(ap, fmt);
    command = g_strdup_vprintf(fmt, ap);
    va_end(ap);
    out = run(command, &status);
    if (status != 0) {
        g_test_message("%s: %s", command, out);
        g_test_fail();
        fprintf(stderr, "%s: %s\n", command, out);
        abort();
    }
}

char *sh_text(const char *fmt, ...)
{
    g_autofree char *command = NULL;
    va_list ap;
    int status;

    va_start(ap, fmt);
    command = g_strdup_vprintf(fmt, ap);
    va_end(ap);
    return run(command, &status);
}

bool have_program(const char *name)
{
    g_autofree char *path = g_find_program_in_path(name);

    return path != NULL;
}

static json_t *parse(const char *text)
{
    g_autofree char *copy = g_strdup(text);
    json_error_t error;
    json_t *json;

    g_strdelimit(copy, "'", '"');
    json = json_loads(copy, 0, &error);
    if (!json) {
        g_error("%s: %s", copy, error.text);
    }
    return json;
}

bool image_open(struct image *im, const char *path, bool read_only,
                const char *options, struct error **errp)
{
    g_autofree char *text = g_strdup_printf(
        "{'driver': 'qcow2', 'read-only': %s, "
        "'file': {'driver': 'file', 'filename': '%s'}%s%s}",
        read_only ? "true" : "false", path, *options ? ", " : "", options);
    json_t *json = parse(text);
    g_autoptr(BlockdevOptions) o = BlockdevOptions_from_json(json, errp);
    struct root_options ro = {
        .name = "root",
        .perm = PERM_CONSISTENT_READ | (read_only ? 0 : PERM_WRITE |
                                        PERM_RESIZE),
        .shared = PERM_ALL,
    };

    json_decref(json);
    im->node = o ? node_open(o, errp) : NULL;
    if (!im->node) {
        return false;
    }
    im->root = root_new(im->node, &ro, errp);
    if (!im->root) {
        node_unref(im->node);
        return false;
    }
    return true;
}

void image_open_ok(struct image *im, const char *path, const char *options)
{
    AUTO_ERROR(err);

    if (!image_open(im, path, false, options, &err)) {
        g_error("%s: %s", path, error_text(err));
    }
}

void image_close(struct image *im)
{
    root_free(&im->root);
    node_unref(im->node);
    im->node = NULL;
    node_wait_closed();
}

int image_truncate(struct image *im, int64_t length, PreallocMode prealloc)
{
    AUTO_ERROR(err);
    struct drain *d = drain_begin(&im->node, 1);
    bool ok = node_truncate(im->node, length, prealloc, &err);

    drain_end(&d);
    if (!ok) {
        g_test_message("truncate: %s", error_text(err));
    }
    return ok ? 0 : -1;
}

bool image_create(const char *path, int64_t size, const char *options,
                  struct error **errp)
{
    g_autofree char *text = g_strdup_printf(
        "{'driver': 'qcow2', 'size': %" G_GINT64_FORMAT ", "
        "'file': {'driver': 'file', 'filename': '%s'}%s%s}",
        size, path, *options ? ", " : "", options);
    json_t *json = parse(text);
    g_autoptr(BlockdevCreateOptions) o =
        BlockdevCreateOptions_from_json(json, errp);
    bool ok;

    json_decref(json);
    if (!o) {
        return false;
    }
    close(open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600));
    ok = o->driver == BLOCKDEV_DRIVER_QCOW2 &&
         driver_by_type(BLOCKDEV_DRIVER_QCOW2)->create(o, errp);
    node_wait_closed();
    return ok;
}

void image_check(const char *path)
{
    sh_ok("qemu-img check -q '%s'", path);
}

void image_compare(const char *path, const void *model, int64_t bytes)
{
    g_autofree char *raw = g_strconcat(path, ".raw", NULL);
    g_autofree char *data = NULL;
    gsize n;

    sh_ok("qemu-img convert -O raw '%s' '%s'", path, raw);
    g_assert_true(g_file_get_contents(raw, &data, &n, NULL));
    g_assert_cmpint(n, ==, bytes);
    if (memcmp(data, model, bytes) != 0) {
        int64_t i = 0;
        while (data[i] == ((const char *)model)[i]) {
            i++;
        }
        g_error("%s differs at %" G_GINT64_FORMAT, path, i);
    }
    g_unlink(raw);
}

void image_reopen_elsewhere(const char *path)
{
    pid_t pid = fork();
    int status;

    if (pid == 0) {
        struct image im;
        control_lock();
        image_open_ok(&im, path, "'lazy-refcounts': false");
        image_close(&im);
        _exit(0);
    }
    g_assert_cmpint(waitpid(pid, &status, 0), ==, pid);
    g_assert_cmpint(status, ==, 0);
}
