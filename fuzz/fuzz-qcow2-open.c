/* SPDX-License-Identifier: MIT */
/*
 * An image file made of anything: open it, use it, close it.
 *
 * The input is the image.  It lies in memory (memfd) and is opened by the
 * graph as blockdev-add would, first read-only and then for writing.
 */
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>
#include "base/control.h"
#include "block/driver.h"
#include "block/root.h"

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { BUF_BYTES = 256 << 10, IMAGE_MAX_BYTES = 1 << 20 };

static uint8_t buf[BUF_BYTES];

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    struct rlimit limit = { 256 << 20, 256 << 20 };

    /* An entry that points far away must not fill the memory. */
    setrlimit(RLIMIT_FSIZE, &limit);
    return 0;
}

static struct node *open_image(int fd, bool read_only)
{
    g_autoptr(BlockdevOptions) o = BlockdevOptions_new0();
    BlockdevOptions *file = BlockdevOptions_new0();

    file->driver = BLOCKDEV_DRIVER_FILE;
    file->u.file.filename = g_strdup_printf("/proc/self/fd/%d", fd);
    o->driver = BLOCKDEV_DRIVER_QCOW2;
    o->has_read_only = true;
    o->read_only = read_only;
    o->has_discard = true;
    o->discard = BLOCKDEV_DISCARD_OPTIONS_UNMAP;
    o->u.qcow2.file = BlockdevRef_new0();
    o->u.qcow2.file->type = QAPI_TYPE_OBJECT;
    o->u.qcow2.file->u.definition = file;
    o->u.qcow2.backing = BlockdevRefOrNull_new0();
    o->u.qcow2.backing->type = QAPI_TYPE_NULL;
    return node_open(o, NULL);
}

static void use_at(struct root *root, int64_t offset, bool read_only)
{
    int64_t bytes = MIN(root_length(root) - offset, 70000);
    struct block_status st;

    if (bytes <= 0) {
        return;
    }
    root_block_status_above(root, NULL, true, offset, bytes, &st);
    root_pread(root, offset, bytes, buf, BLK_NOWAIT);
    root_pread(root, offset, bytes, buf, 0);
    if (!read_only) {
        root_pwrite(root, offset + bytes / 3, bytes / 2, buf, 0);
        root_pwrite_zeroes(root, offset, bytes, BLK_MAY_UNMAP);
        root_flush(root);
        root_pdiscard(root, offset, bytes);
        root_pwrite(root, offset, bytes / 4, buf, 0);
        root_flush(root);
    }
}

static void use(struct node *n, bool read_only)
{
    struct root_options options = {
        .name = "root",
        .perm = PERM_CONSISTENT_READ |
                (read_only ? 0 : PERM_WRITE | PERM_RESIZE),
        .shared = PERM_ALL,
    };
    struct root *root = root_new(n, &options, NULL);
    int64_t length;

    if (!root) {
        return;
    }
    length = root_length(root);
    ImageInfoSpecific_free(n->driver->specific_info(n, NULL));
    CONTROL_YIELD {
        use_at(root, 0, read_only);
        use_at(root, length / 2, read_only);
        use_at(root, length - 1000, read_only);
    }
    if (!read_only) {
        struct drain *d = drain_begin(&n, 1);
        node_truncate(n, length + (1 << 20) - length % 512,
                      PREALLOC_MODE_OFF, NULL);
        node_truncate(n, length / 1024 * 512, PREALLOC_MODE_OFF, NULL);
        drain_end(&d);
    }
    root_free(&root);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    int fd = memfd_create("image", 0);

    signal(SIGXFSZ, SIG_IGN);   /* the fuzzer has a handler of its own */
    if (fd < 0 || size > IMAGE_MAX_BYTES ||
        write(fd, data, size) != (ssize_t)size) {
        abort();
    }
    CONTROL_GUARD();
    for (int read_only = 1; read_only >= 0; read_only--) {
        struct node *n = open_image(fd, read_only);
        if (n) {
            use(n, read_only);
            node_unref(n);
            node_wait_closed();
        }
    }
    close(fd);
    return 0;
}
