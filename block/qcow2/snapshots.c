/* SPDX-License-Identifier: MIT */
/*
 * Internal snapshots: their table.
 *
 * Their clusters have refcounts above one, so that writes go elsewhere
 * (l2.c).  Every number is checked here, nothing of an entry is used later
 * without.  What an entry has that we do not know is kept.
 */
#include <errno.h>
#include <inttypes.h>
#include "block/qcow2/qcow2.h"

enum { FIXED_BYTES = 40, EXTRA_BYTES = 24 };

static void snapshot_clear(void *p)
{
    struct qcow2_snapshot *sn = p;

    g_free(sn->id);
    g_free(sn->name);
    g_free(sn->more);
}

static int read_table(struct qcow2 *s, int64_t offset, int64_t bytes,
                      void *buf, struct error **errp)
{
    int64_t length = node_length(qcow2_file(s));
    int ret = -EIO;

    if (bytes <= length && offset <= length - bytes) {
        ret = qcow2_file_pread(s, offset, bytes, buf, 0);
    }
    if (ret < 0) {
        error_set_errno(errp, -ret, "Failed to read snapshot table");
    }
    return ret;
}

static void decode_fixed(const uint8_t *buf, struct qcow2_snapshot *sn)
{
    sn->l1_offset = load_be64(buf);
    sn->l1_entries = load_be32(buf + 8);
    sn->date_sec = load_be32(buf + 16);
    sn->date_nsec = load_be32(buf + 20);
    sn->vm_clock_nsec = load_be64(buf + 24);
    sn->vm_state_bytes = load_be32(buf + 32);
}

static void decode_extra(const uint8_t *extra, uint32_t bytes,
                         struct qcow2_snapshot *sn)
{
    if (bytes >= 8) {
        sn->vm_state_bytes = load_be64(extra);
    }
    if (bytes >= 16) {
        sn->disk_bytes = load_be64(extra + 8);
    }
    if (bytes >= 24) {
        sn->icount = load_be64(extra + 16);
        sn->has_icount = sn->icount != UINT64_MAX;
    }
    if (bytes > EXTRA_BYTES) {
        sn->more_bytes = bytes - EXTRA_BYTES;
        sn->more = g_memdup2(extra + EXTRA_BYTES, sn->more_bytes);
    }
}

static bool check_l1(const struct qcow2 *s, const struct qcow2_snapshot *sn,
                     struct error **errp)
{
    if (sn->l1_entries > QCOW2_MAX_L1_BYTES / 8) {
        error_set(errp, "Snapshot L1 table too large");
        return false;
    }
    if (sn->l1_offset > INT64_MAX / 2 ||
        (sn->l1_offset & (s->cluster_bytes - 1))) {
        error_set(errp, "Snapshot L1 table offset invalid");
        return false;
    }
    return true;
}

/* One entry at *OFFSET, which goes to the next. */
static int read_one(struct qcow2 *s, int64_t *offset,
                    struct qcow2_snapshot *sn, struct error **errp)
{
    uint8_t fixed[FIXED_BYTES];
    g_autofree uint8_t *rest = NULL;
    uint32_t id_bytes, name_bytes, extra_bytes, rest_bytes;
    int ret = read_table(s, *offset, FIXED_BYTES, fixed, errp);

    if (ret < 0) {
        return ret;
    }
    decode_fixed(fixed, sn);
    sn->disk_bytes = s->hdr.size;
    id_bytes = load_be16(fixed + 12);
    name_bytes = load_be16(fixed + 14);
    extra_bytes = load_be32(fixed + 36);
    if (extra_bytes > QCOW2_MAX_EXTRA_BYTES) {
        error_set(errp, "Too much extra metadata in snapshot table entry");
        return -EFBIG;
    }
    rest_bytes = extra_bytes + id_bytes + name_bytes;
    rest = g_try_malloc0(rest_bytes + 1);
    if (!rest) {
        error_set_errno(errp, ENOMEM, "Failed to read snapshot table");
        return -ENOMEM;
    }
    ret = read_table(s, *offset + FIXED_BYTES, rest_bytes, rest, errp);
    if (ret < 0) {
        return ret;
    }
    decode_extra(rest, extra_bytes, sn);
    sn->id = g_strndup((char *)rest + extra_bytes, id_bytes);
    sn->name = g_strndup((char *)rest + extra_bytes + id_bytes, name_bytes);
    *offset += (FIXED_BYTES + (int64_t)rest_bytes + 7) & ~INT64_C(7);
    return check_l1(s, sn, errp) ? 0 : -EINVAL;
}

GArray *qcow2_snapshots_new(void)
{
    GArray *all = g_array_new(FALSE, TRUE, sizeof(struct qcow2_snapshot));

    g_array_set_clear_func(all, snapshot_clear);
    return all;
}

int qcow2_snapshots_read(struct qcow2 *s, struct error **errp)
{
    int64_t offset = s->hdr.snapshots_offset;

    if (s->hdr.n_snapshots == 0) {
        return 0;
    }
    s->snapshots = qcow2_snapshots_new();
    for (uint32_t i = 0; i < s->hdr.n_snapshots; i++) {
        struct qcow2_snapshot sn = { 0 };
        int ret = read_one(s, &offset, &sn, errp);
        g_array_append_val(s->snapshots, sn);
        if (ret < 0) {
            return ret;
        }
        s->snapshot_table_bytes = offset - s->hdr.snapshots_offset;
        if (s->snapshot_table_bytes > QCOW2_MAX_SNAPSHOT_TABLE_BYTES) {
            error_set(errp, "Snapshot table is too big");
            return -EFBIG;
        }
    }
    return 0;
}

int qcow2_snapshot_read_l1(struct qcow2 *s, const struct qcow2_snapshot *sn,
                           uint64_t **out)
{
    int64_t bytes = sn->l1_entries * INT64_C(8);
    uint64_t *l1 = g_try_malloc0(MAX(bytes, 8));
    int ret = l1 ? qcow2_file_pread(s, sn->l1_offset, bytes, l1, 0) : -ENOMEM;

    if (ret < 0) {
        g_free(l1);
        return ret;
    }
    for (uint32_t i = 0; i < sn->l1_entries; i++) {
        l1[i] = be64toh(l1[i]);
    }
    *out = l1;
    return 0;
}

int qcow2_note_inactive(struct qcow2 *s)
{
    if (!(s->opt.overlap & QCOW2_OL_INACTIVE_L2)) {
        return 0;
    }
    for (guint i = 0; s->snapshots && i < s->snapshots->len; i++) {
        const struct qcow2_snapshot *sn =
            &g_array_index(s->snapshots, struct qcow2_snapshot, i);
        g_autofree uint64_t *l1 = NULL;
        int ret = qcow2_snapshot_read_l1(s, sn, &l1);
        if (ret < 0) {
            return ret;
        }
        LOCK_GUARD(&s->lock);
        for (uint32_t k = 0; k < sn->l1_entries; k++) {
            uint64_t table = l1[k] & QCOW2_OFFSET_MASK;
            if (!(table & (s->cluster_bytes - 1))) {
                qcow2_cluster_set_add(s->tables, table,
                                      QCOW2_SET_INACTIVE_L2);
            }
        }
    }
    return 0;
}

void qcow2_snapshot_encode(const struct qcow2_snapshot *sn, GByteArray *out)
{
    static const uint8_t zeroes[8];
    uint8_t buf[FIXED_BYTES + EXTRA_BYTES] = { 0 };
    size_t id_bytes = strlen(sn->id), name_bytes = strlen(sn->name);

    store_be64(buf, sn->l1_offset);
    store_be32(buf + 8, sn->l1_entries);
    store_be16(buf + 12, id_bytes);
    store_be16(buf + 14, name_bytes);
    store_be32(buf + 16, sn->date_sec);
    store_be32(buf + 20, sn->date_nsec);
    store_be64(buf + 24, sn->vm_clock_nsec);
    store_be32(buf + 32, sn->vm_state_bytes <= UINT32_MAX ? sn->vm_state_bytes
                                                          : 0);
    store_be32(buf + 36, EXTRA_BYTES + sn->more_bytes);
    store_be64(buf + 40, sn->vm_state_bytes);
    store_be64(buf + 48, sn->disk_bytes);
    store_be64(buf + 56, sn->has_icount ? sn->icount : UINT64_MAX);
    g_byte_array_append(out, buf, sizeof(buf));
    g_byte_array_append(out, sn->more, sn->more_bytes);
    g_byte_array_append(out, (const uint8_t *)sn->id, id_bytes);
    g_byte_array_append(out, (const uint8_t *)sn->name, name_bytes);
    g_byte_array_append(out, zeroes, -out->len & 7);
}

void qcow2_snapshots_free(struct qcow2 *s)
{
    if (s->snapshots) {
        g_array_free(s->snapshots, TRUE);
        s->snapshots = NULL;
    }
}
