/* SPDX-License-Identifier: MIT */
/*
 * The external data file: found before the image is opened.
 *
 * An option names it, or else the header does (a name seen from the image's
 * directory).  Guest data is in it at the guest's own offsets; the image has
 * the tables only.
 */
#include <errno.h>
#include "base/control.h"
#include "block/filename.h"
#include "block/qcow2/qcow2.h"

/* The header's extensions, NULL if the image has no data file (or is broken,
 * which open says better). */
static GPtrArray *read_extensions(struct node *file)
{
    uint8_t buf[QCOW2_HEADER_OUR_BYTES];
    g_autofree uint8_t *cluster = NULL;
    struct qcow2_header h;
    GPtrArray *exts;
    size_t end;

    if (node_pread(file, 0, sizeof(buf), buf, 0) < 0 ||
        !qcow2_header_decode(&h, buf, NULL) ||
        !(h.incompatible & QCOW2_INCOMPAT_DATA_FILE)) {
        return NULL;
    }
    end = UINT64_C(1) << h.cluster_bits;
    cluster = g_try_malloc(end);
    if (!cluster || node_pread(file, 0, end, cluster, 0) < 0) {
        return NULL;
    }
    if (h.backing_offset) {
        end = h.backing_offset;
    }
    exts = qcow2_exts_new();
    qcow2_exts_decode(exts, cluster, h.header_bytes, end, NULL);
    return exts;
}

/* What the header names, or NULL and errp. */
static BlockdevRef *ref_from_header(struct node *n, const GPtrArray *exts,
                                    struct error **errp)
{
    const struct qcow2_ext *e = qcow2_ext_find(exts, QCOW2_EXT_DATA_FILE);
    g_autofree char *name = NULL, *path = NULL;
    BlockdevOptions *options;
    BlockdevRef *ref;

    if (!e || e->bytes == 0) {
        error_set(errp, "'data-file' is required for this image");
        return NULL;
    }
    name = g_strndup((const char *)e->data, e->bytes);
    path = filename_resolve(n->file->node->filename, name);
    options = filename_protocol_options(path, errp);
    if (!options) {
        return NULL;
    }
    ref = BlockdevRef_new0();
    ref->type = QAPI_TYPE_OBJECT;
    ref->u.definition = options;
    return ref;
}

bool qcow2_open_children(struct node *n, const BlockdevOptions *options,
                         struct error **errp)
{
    const BlockdevRef *given = options->u.qcow2.data_file;
    g_autoptr(BlockdevRef) named = NULL;
    GPtrArray *exts = NULL;
    bool ok = true;

    CONTROL_YIELD {
        exts = read_extensions(n->file->node);
    }
    if (!exts) {
        return true;
    }
    if (!given) {
        given = named = ref_from_header(n, exts, errp);
        ok = named != NULL;
    }
    g_ptr_array_free(exts, TRUE);
    return ok && node_open_child(n, given, "data-file", ROLE_DATA, errp);
}
