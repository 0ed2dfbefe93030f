/* SPDX-License-Identifier: MIT */
/*
 * blkverify: two nodes that must be the same.  All that is written goes to
 * both; all that is read is compared, and a difference ends the process with
 * a line on stderr: what has gone wrong is to be found where it went wrong.
 */
#include "block/drivers.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "base/error.h"

struct blkverify_state {
    struct node *test;          /* borrowed from the child, constant */
};

static struct node *raw_node(const struct node *n)
{
    return n->file->node;
}

static struct node *test_node(const struct node *n)
{
    return ((const struct blkverify_state *)n->state)->test;
}

static BlockdevRef **blkverify_file_option(BlockdevOptions *options)
{
    return &options->u.blkverify.raw;
}

static bool blkverify_open_children(struct node *n,
                                    const BlockdevOptions *options,
                                    struct error **errp)
{
    struct blkverify_state *s = n->state;
    struct child *c = node_open_child(n, options->u.blkverify.test, "test",
                                      ROLE_DATA, errp);

    if (c) {
        s->test = c->node;
    }
    return c;
}

static int blkverify_open(struct node *n, const BlockdevOptions *options,
                          struct error **errp)
{
    atomic_store(&n->length_bytes, node_length(test_node(n)));
    return 0;
}

static void blkverify_refresh_limits(struct node *n)
{
    struct blkverify_state *s = n->state;

    for (const struct child *c = n->children; c; c = c->next_sibling) {
        if (c != n->file) {
            s->test = c->node;      /* it may have been replaced */
        }
    }
    n->limits = (struct block_limits){
        .request_alignment = MAX(raw_node(n)->limits.request_alignment,
                                 s->test->limits.request_alignment),
        .min_mem_alignment = MAX(raw_node(n)->limits.min_mem_alignment,
                                 s->test->limits.min_mem_alignment),
        .opt_mem_alignment = MAX(raw_node(n)->limits.opt_mem_alignment,
                                 s->test->limits.opt_mem_alignment),
    };
    n->supported_write_flags = 0;
    n->supported_zero_flags = 0;
}

/* ---- requests ----------------------------------------------------------- */

static void differ(const char *what, int64_t offset, int64_t bytes,
                   const char *how)
{
    fprintf(stderr, "blkverify: %s offset=%" PRId64 " bytes=%" PRId64 " %s\n",
            what, offset, bytes, how);
    fflush(NULL);
    _exit(EXIT_FAILURE);    /* other threads are at work on what exit() ends */
}

static int compare_results(const char *what, int64_t offset, int64_t bytes,
                           int test_ret, int raw_ret)
{
    g_autofree char *how = NULL;

    if (test_ret != raw_ret) {
        how = g_strdup_printf("return value mismatch %d != %d", test_ret,
                              raw_ret);
        differ(what, offset, bytes, how);
    }
    return test_ret;
}

static void compare_data(int64_t offset, int64_t bytes, const uint8_t *test,
                         const uint8_t *raw)
{
    g_autofree char *how = NULL;
    int64_t at = 0;

    if (memcmp(test, raw, bytes) == 0) {
        return;
    }
    while (test[at] == raw[at]) {
        at++;
    }
    how = g_strdup_printf("contents mismatch at offset %" PRId64,
                          offset + at);
    differ("read", offset, bytes, how);
}

static int blkverify_pread(struct node *n, int64_t offset, int64_t bytes,
                           void *buf, unsigned flags)
{
    g_autofree void *raw_buf = NULL;
    int test_ret, raw_ret;

    if (flags & BLK_NOWAIT) {
        return -EAGAIN;
    }
    raw_buf = g_try_malloc(bytes);
    if (!raw_buf) {
        return -ENOMEM;
    }
    test_ret = node_pread(test_node(n), offset, bytes, buf, flags);
    raw_ret = node_pread(raw_node(n), offset, bytes, raw_buf, flags);
    if (compare_results("read", offset, bytes, test_ret, raw_ret) == 0) {
        compare_data(offset, bytes, buf, raw_buf);
    }
    return test_ret;
}

static int blkverify_pwrite(struct node *n, int64_t offset, int64_t bytes,
                            const void *buf, unsigned flags)
{
    int test_ret, raw_ret;

    if (flags & BLK_NOWAIT) {
        return -EAGAIN;
    }
    test_ret = node_pwrite(test_node(n), offset, bytes, buf, flags);
    raw_ret = node_pwrite(raw_node(n), offset, bytes, buf, flags);
    return compare_results("write", offset, bytes, test_ret, raw_ret);
}

/* As data, so that both have it alike. */
static int blkverify_pwrite_zeroes(struct node *n, int64_t offset,
                                   int64_t bytes, unsigned flags)
{
    return -ENOTSUP;
}

/* What a discarded range reads as may differ: it is not passed on. */
static int blkverify_pdiscard(struct node *n, int64_t offset, int64_t bytes)
{
    return 0;
}

/* The generic layer flushes the other one. */
static int blkverify_flush(struct node *n)
{
    return node_flush(test_node(n));
}

static int blkverify_truncate(struct node *n, int64_t length, bool exact,
                              PreallocMode prealloc, struct error **errp)
{
    error_set(errp, "Image format driver does not support resize");
    return -ENOTSUP;
}

/* blkverify:RAW:TEST */
static char *blkverify_legacy_name(const struct node *n)
{
    const char *raw = raw_node(n)->json_filename;
    const char *test = test_node(n)->json_filename;

    if (g_str_has_prefix(raw, "json:") || g_str_has_prefix(test, "json:") ||
        strchr(raw, ':')) {
        return NULL;
    }
    return g_strdup_printf("blkverify:%s:%s", raw, test);
}

const struct driver driver_blkverify = {
    .name = "blkverify",
    .type = BLOCKDEV_DRIVER_BLKVERIFY,
    .state_size = sizeof(struct blkverify_state),
    .is_filter = true,
    .listed_first = true,
    .file_option = blkverify_file_option,
    .file_child_name = "raw",
    .open_children = blkverify_open_children,
    .open = blkverify_open,
    .refresh_limits = blkverify_refresh_limits,
    .legacy_name = blkverify_legacy_name,
    .pread = blkverify_pread,
    .pwrite = blkverify_pwrite,
    .pwrite_zeroes = blkverify_pwrite_zeroes,
    .pdiscard = blkverify_pdiscard,
    .flush_to_disk = blkverify_flush,
    .truncate = blkverify_truncate,
};
