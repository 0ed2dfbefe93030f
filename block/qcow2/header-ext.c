/* SPDX-License-Identifier: MIT */
/*
 * Header extensions: a list that keeps what it does not know as it is, in
 * the file's order.
 */
#include <errno.h>
#include <inttypes.h>
#include <string.h>
#include "block/qcow2/qcow2.h"

static void ext_free(gpointer p)
{
    struct qcow2_ext *e = p;

    g_free(e->data);
    g_free(e);
}

GPtrArray *qcow2_exts_new(void)
{
    return g_ptr_array_new_with_free_func(ext_free);
}

static void ext_add(GPtrArray *exts, uint32_t type, const void *data,
                    uint32_t bytes)
{
    struct qcow2_ext *e = g_new0(struct qcow2_ext, 1);

    e->type = type;
    e->bytes = bytes;
    e->data = g_memdup2(data, bytes);
    g_ptr_array_add(exts, e);
}

const struct qcow2_ext *qcow2_ext_find(const GPtrArray *exts, uint32_t type)
{
    for (guint i = 0; i < exts->len; i++) {
        const struct qcow2_ext *e = exts->pdata[i];
        if (e->type == type) {
            return e;
        }
    }
    return NULL;
}

void qcow2_ext_set(GPtrArray *exts, uint32_t type, const void *data,
                   uint32_t bytes)
{
    for (guint i = 0; i < exts->len; i++) {
        struct qcow2_ext *e = exts->pdata[i];
        if (e->type != type) {
            continue;
        }
        if (bytes == 0) {
            g_ptr_array_remove_index(exts, i);
            return;
        }
        g_free(e->data);
        e->data = g_memdup2(data, bytes);
        e->bytes = bytes;
        return;
    }
    if (bytes) {
        ext_add(exts, type, data, bytes);
    }
}

static bool check_ext(const struct qcow2_ext *e, struct error **errp)
{
    switch (e->type) {
    case QCOW2_EXT_BACKING_FORMAT:
        if (e->bytes >= 16) {
            error_set(errp, "ERROR: ext_backing_format: len=%" PRIu32
                      " too large (>=16)", e->bytes);
            return false;
        }
        return true;
    default:
        return true;
    }
}

bool qcow2_exts_decode(GPtrArray *exts, const uint8_t *cluster, size_t start,
                       size_t end, struct error **errp)
{
    while (end - start >= 8) {
        uint32_t type = load_be32(cluster + start);
        uint32_t bytes = load_be32(cluster + start + 4);
        start += 8;
        if (type == QCOW2_EXT_END) {
            return true;
        }
        if (bytes > end - start) {
            error_set(errp, "Header extension too large");
            return false;
        }
        ext_add(exts, type, cluster + start, bytes);
        if (!check_ext(exts->pdata[exts->len - 1], errp)) {
            return false;
        }
        start += MIN(((size_t)bytes + 7) & ~(size_t)7, end - start);
    }
    return true;
}

bool qcow2_ext_bitmaps(const GPtrArray *exts, int64_t cluster_bytes,
                       struct qcow2_bitmaps_ext *out, struct error **errp)
{
    const struct qcow2_ext *e = qcow2_ext_find(exts, QCOW2_EXT_BITMAPS);

    *out = (struct qcow2_bitmaps_ext) { 0 };
    if (!e) {
        return true;
    }
    if (e->bytes != 24) {
        error_set(errp, "bitmaps_ext: Invalid extension length");
        return false;
    }
    out->n_bitmaps = load_be32(e->data);
    out->directory_bytes = load_be64(e->data + 8);
    out->directory_offset = load_be64(e->data + 16);
    if (load_be32(e->data + 4) != 0) {
        error_set(errp, "bitmaps_ext: Reserved field is not zero");
    } else if (out->n_bitmaps == 0) {
        error_set(errp, "found bitmaps extension with zero bitmaps");
    } else if (out->n_bitmaps > 65535) {
        error_set(errp, "bitmaps_ext: image has %" PRIu32 " bitmaps, "
                  "exceeding the QEMU supported maximum of 65535",
                  out->n_bitmaps);
    } else if (out->directory_offset & (cluster_bytes - 1)) {
        error_set(errp, "bitmaps_ext: invalid bitmap directory offset");
    } else if (out->directory_bytes > INT32_MAX ||
               out->directory_offset > INT64_MAX / 2) {
        error_set(errp, "bitmaps_ext: bitmap directory size (%" PRIu64
                  ") exceeds the maximum supported size",
                  out->directory_bytes);
    } else {
        return true;
    }
    *out = (struct qcow2_bitmaps_ext) { 0 };
    return false;
}

void qcow2_exts_encode(const GPtrArray *exts, GByteArray *out)
{
    static const uint8_t end[8];

    for (guint i = 0; i < exts->len; i++) {
        const struct qcow2_ext *e = exts->pdata[i];
        uint8_t head[8];
        store_be32(head, e->type);
        store_be32(head + 4, e->bytes);
        g_byte_array_append(out, head, sizeof(head));
        g_byte_array_append(out, e->data, e->bytes);
        g_byte_array_append(out, end, -e->bytes & 7);
    }
    g_byte_array_append(out, end, sizeof(end));
}

/* ---- names of features ------------------------------------------------- */

static const struct {
    uint8_t type, bit;
    char name[46];
} features[] = {
    { 0, 0, "dirty bit" },
    { 0, 1, "corrupt bit" },
    { 0, 2, "external data file" },
    { 0, 3, "compression type" },
    { 0, 4, "extended L2 entries" },
    { 1, 0, "lazy refcounts" },
    { 2, 0, "bitmaps" },
    { 2, 1, "raw external data" },
};

void qcow2_ext_set_feature_names(GPtrArray *exts)
{
    G_STATIC_ASSERT(sizeof(features[0]) == 48);
    qcow2_ext_set(exts, QCOW2_EXT_FEATURE_NAMES, features, sizeof(features));
}

char *qcow2_feature_names(const GPtrArray *exts, uint64_t unknown)
{
    const struct qcow2_ext *e = qcow2_ext_find(exts, QCOW2_EXT_FEATURE_NAMES);
    GString *text = g_string_new(NULL);

    for (size_t i = 0; e && i + 48 <= e->bytes; i += 48) {
        const uint8_t *entry = e->data + i;
        uint64_t bit = entry[1] < 64 ? UINT64_C(1) << entry[1] : 0;
        if (entry[0] == 0 && (unknown & bit)) {
            g_string_append_printf(text, "%s%.46s", text->len ? ", " : "",
                                   (const char *)entry + 2);
            unknown &= ~bit;
        }
    }
    if (unknown) {
        g_string_append_printf(text, "%sUnknown incompatible feature: %"
                               PRIx64, text->len ? ", " : "", unknown);
    }
    return g_string_free(text, FALSE);
}
