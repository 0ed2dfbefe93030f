/* SPDX-License-Identifier: MIT */
/* What -drive puts on an image: see drive-snapshot.h. */
#include "server/machine/drive-snapshot.h"

#include <errno.h>
#include <stdlib.h>
#include <unistd.h>
#include "base/control.h"
#include "block/driver.h"

/* An empty file; owned, NULL: none could be made. */
static char *make_file(struct error **errp)
{
    const char *directory = getenv("TMPDIR");
    char *path = g_strconcat(directory ? directory : "/var/tmp",
                             "/blockjobd.XXXXXX", NULL);
    int fd = mkstemp(path);

    if (fd < 0) {
        error_set_errno(errp, errno, "Could not get temporary filename");
        g_free(path);
        return NULL;
    }
    close(fd);
    return path;
}

static BlockdevRef *ref_to_file(const char *path)
{
    BlockdevRef *ref = BlockdevRef_new0();

    ref->type = QAPI_TYPE_OBJECT;
    ref->u.definition = BlockdevOptions_new0();
    ref->u.definition->driver = BLOCKDEV_DRIVER_FILE;
    ref->u.definition->u.file.filename = g_strdup(path);
    return ref;
}

static bool create(const char *path, int64_t length_bytes,
                   struct error **errp)
{
    g_autoptr(BlockdevCreateOptions) o = BlockdevCreateOptions_new0();

    o->driver = BLOCKDEV_DRIVER_QCOW2;
    o->u.qcow2.file = ref_to_file(path);
    o->u.qcow2.size = (length_bytes + 511) & ~INT64_C(511);
    return driver_find("qcow2")->create(o, errp);
}

static struct node *open_overlay(const char *path, struct node *base,
                                 bool read_only, struct error **errp)
{
    g_autoptr(BlockdevOptions) o = BlockdevOptions_new0();
    BlockdevRefOrNull *backing = BlockdevRefOrNull_new0();

    backing->type = QAPI_TYPE_STRING;
    backing->u.reference = g_strdup(node_name(base));
    o->driver = BLOCKDEV_DRIVER_QCOW2;
    o->u.qcow2.file = ref_to_file(path);
    o->u.qcow2.backing = backing;
    o->has_read_only = true;
    o->read_only = read_only;
    o->cache = BlockdevCacheOptions_new0();
    o->cache->has_no_flush = o->cache->no_flush = true;
    return node_open(o, errp);
}

struct node *drive_snapshot_over(struct node *base, bool read_only,
                                 struct error **errp)
{
    g_autofree char *path = make_file(errp);
    struct node *n = NULL;

    control_assert();
    if (path) {
        n = create(path, node_length(base), errp)
            ? open_overlay(path, base, read_only, errp) : NULL;
        unlink(path);
    }
    node_unref(base);
    return n;
}
