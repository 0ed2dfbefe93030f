/* SPDX-License-Identifier: MIT */
/*
 * Making and deleting internal snapshots.
 *
 * A new snapshot gets the L1 table as it is; the active state gets a copy of
 * it.  All that changes does so with one write of the header: shadow.c.
 * What else the file has (bitmaps, extensions) is not touched.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <time.h>
#include "block/qcow2/shadow.h"

enum { MAX_NAME_BYTES = 255 };      /* of QEMU's structures */

void qcow2_change_begin(struct qcow2 *s)
{
    LOCK_GUARD(&s->lock);
    while (s->changing) {
        cond_wait(&s->changed, &s->lock);
    }
    s->changing = true;
}

void qcow2_change_end(struct qcow2 *s)
{
    LOCK_GUARD(&s->lock);
    s->changing = false;
    cond_broadcast(&s->changed);
}

static bool fail(struct error **errp, int ret)
{
    error_set(errp, "%s", error_errno_text(-ret));
    return false;
}

static struct qcow2_snapshot *snapshot_at(const struct qcow2 *s, guint i)
{
    return &g_array_index(s->snapshots, struct qcow2_snapshot, i);
}

static guint n_snapshots(const struct qcow2 *s)
{
    return s->snapshots ? s->snapshots->len : 0;
}

/* The table without the snapshot SKIP, with the snapshot MORE (or NULL). */
static int encode_table(const struct qcow2 *s, guint skip,
                        const struct qcow2_snapshot *more, GByteArray *out)
{
    guint n = n_snapshots(s);

    for (guint i = 0; i < n; i++) {
        if (i != skip) {
            qcow2_snapshot_encode(snapshot_at(s, i), out);
        }
    }
    if (more) {
        qcow2_snapshot_encode(more, out);
        n++;
    }
    return out->len > QCOW2_MAX_SNAPSHOT_TABLE_BYTES ||
           n > QCOW2_MAX_SNAPSHOTS ? -EFBIG : 0;
}

static int check_usable(const struct qcow2 *s)
{
    /* A snapshot would not have the data's place for itself. */
    return s->data ? -ENOTSUP : !s->writable ? -EACCES : s->corrupt ? -EIO : 0;
}

/* ---- create ------------------------------------------------------------ */

/* One more than the largest number in use. */
static char *new_id(const struct qcow2 *s)
{
    uint64_t max = 0;

    for (guint i = 0; i < n_snapshots(s); i++) {
        max = MAX(max, strtoull(snapshot_at(s, i)->id, NULL, 10));
    }
    return g_strdup_printf("%" PRIu64, max + 1);
}

static void describe(struct qcow2 *s, const char *name,
                     struct qcow2_snapshot *sn)
{
    struct timespec now;

    clock_gettime(CLOCK_REALTIME, &now);
    *sn = (struct qcow2_snapshot) {
        .l1_offset = s->l1_offset,
        .l1_entries = s->l1_entries,
        .id = new_id(s),
        .name = g_strdup(name),
        .date_sec = now.tv_sec,
        .date_nsec = now.tv_nsec,
        .disk_bytes = s->hdr.size,
    };
}

static int create(struct qcow2 *s, struct qcow2_shadow *sh,
                  const struct qcow2_snapshot *sn)
{
    g_autoptr(GByteArray) table = g_byte_array_new();
    struct qcow2_shadow_end end = {
        .keep_l1 = true, .snapshots = table, .n_snapshots = n_snapshots(s) + 1,
    };
    int ret = encode_table(s, G_MAXUINT, sn, table);

    if (ret == 0) {
        ret = qcow2_shadow_count_l1(sh, s->l1, s->l1_entries, 1);
    }
    return ret < 0 ? ret : qcow2_shadow_commit(sh, &end);
}

static bool snapshot_create(struct qcow2 *s, const char *name,
                            struct error **errp)
{
    struct qcow2_shadow *sh = NULL;
    struct qcow2_snapshot sn;
    int ret = check_usable(s);

    if (strlen(name) > MAX_NAME_BYTES) {
        error_set(errp, "Snapshot name is too long");
        return false;
    }
    if (ret == 0) {
        ret = qcow2_shadow_new(s, &sh);
    }
    if (ret < 0) {
        return fail(errp, ret);
    }
    describe(s, name, &sn);
    ret = create(s, sh, &sn);
    qcow2_shadow_free(sh);
    if (ret < 0) {
        g_free(sn.id);
        g_free(sn.name);
        return fail(errp, ret);
    }
    lock_acquire(&s->lock);
    s->snapshots = s->snapshots ? s->snapshots : qcow2_snapshots_new();
    g_array_append_val(s->snapshots, sn);
    lock_release(&s->lock);
    qcow2_note_inactive(s);
    return true;
}

bool qcow2_snapshot_create(struct node *n, const char *name,
                           struct error **errp)
{
    struct qcow2 *s = n->state;
    bool ok;

    qcow2_change_begin(s);
    ok = snapshot_create(s, name, errp);
    qcow2_change_end(s);
    return ok;
}

/* ---- delete ------------------------------------------------------------ */

static bool find(const struct qcow2 *s, const char *id, const char *name,
                 guint *index)
{
    for (guint i = 0; i < n_snapshots(s); i++) {
        const struct qcow2_snapshot *sn = snapshot_at(s, i);
        if ((!id || strcmp(sn->id, id) == 0) &&
            (!name || strcmp(sn->name, name) == 0)) {
            *index = i;
            return true;
        }
    }
    return false;
}

static int delete(struct qcow2 *s, struct qcow2_shadow *sh, guint index)
{
    const struct qcow2_snapshot *sn = snapshot_at(s, index);
    g_autoptr(GByteArray) table = g_byte_array_new();
    g_autofree uint64_t *l1 = NULL;
    struct qcow2_shadow_end end = {
        .snapshots = table, .n_snapshots = n_snapshots(s) - 1,
    };
    int ret = encode_table(s, index, NULL, table);

    if (ret == 0) {
        ret = qcow2_snapshot_read_l1(s, sn, &l1);
    }
    if (ret == 0) {
        ret = qcow2_shadow_count_l1(sh, l1, sn->l1_entries, -1);
    }
    if (ret == 0) {
        ret = qcow2_shadow_add(sh, sn->l1_offset, sn->l1_entries * INT64_C(8),
                               -1);
    }
    return ret < 0 ? ret : qcow2_shadow_commit(sh, &end);
}

static bool snapshot_delete(struct qcow2 *s, const char *id,
                            const char *name, SnapshotInfo **info,
                            struct error **errp)
{
    struct qcow2_shadow *sh = NULL;
    guint index;
    int ret = check_usable(s);

    if (ret < 0) {
        return fail(errp, ret);
    }
    if (!find(s, id, name, &index)) {
        error_set(errp, "Can't find the snapshot");
        return false;
    }
    ret = qcow2_shadow_new(s, &sh);
    if (ret == 0) {
        ret = delete(s, sh, index);
    }
    qcow2_shadow_free(sh);
    if (ret < 0) {
        return fail(errp, ret);
    }
    lock_acquire(&s->lock);
    if (info) {
        *info = qcow2_snapshot_info(snapshot_at(s, index));
    }
    g_array_remove_index(s->snapshots, index);
    lock_release(&s->lock);
    qcow2_note_inactive(s);
    return true;
}

bool qcow2_snapshot_delete(struct node *n, const char *id, const char *name,
                           SnapshotInfo **info, struct error **errp)
{
    struct qcow2 *s = n->state;
    bool ok;

    qcow2_change_begin(s);
    ok = snapshot_delete(s, id, name, info, errp);
    qcow2_change_end(s);
    return ok;
}
