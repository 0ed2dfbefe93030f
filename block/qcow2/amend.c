/* SPDX-License-Identifier: MIT */
/*
 * Changing what the header says: the backing file, the version, lazy
 * refcounts.
 *
 * Each is one write of the first cluster; if that fails, what was in memory
 * is put back and written again.
 */
#include <errno.h>
#include "block/qcow2/qcow2.h"

/* What a failed change goes back to. */
struct saved {
    struct qcow2_header hdr;
    char *backing_name;         /* owned */
    GPtrArray *exts;            /* owned */
};

static GPtrArray *copy_exts(const GPtrArray *exts)
{
    GPtrArray *copy = qcow2_exts_new();

    for (guint i = 0; i < exts->len; i++) {
        const struct qcow2_ext *e = exts->pdata[i];
        struct qcow2_ext *c = g_new0(struct qcow2_ext, 1);
        c->type = e->type;
        c->bytes = e->bytes;
        c->data = g_memdup2(e->data, e->bytes);
        g_ptr_array_add(copy, c);
    }
    return copy;
}

static void save(const struct qcow2 *s, struct saved *old)
{
    *old = (struct saved) {
        .hdr = s->hdr,
        .backing_name = g_strdup(s->backing_name),
        .exts = copy_exts(s->exts),
    };
}

/* Lock held, given up: write the header; if that fails, all is as OLD says,
 * which is used up. */
static int write_or_restore(struct qcow2 *s, struct saved *old)
{
    int ret = qcow2_header_write(s);

    if (ret == 0) {
        lock_release(&s->lock);
        ret = node_flush(qcow2_file(s));
        lock_acquire(&s->lock);
    }
    if (ret < 0) {
        s->hdr = old->hdr;
        g_free(s->backing_name);
        s->backing_name = g_steal_pointer(&old->backing_name);
        g_ptr_array_free(s->exts, TRUE);
        s->exts = g_steal_pointer(&old->exts);
        qcow2_header_write(s);
    }
    g_free(old->backing_name);
    if (old->exts) {
        g_ptr_array_free(old->exts, TRUE);
    }
    return ret;
}

/* ---- backing file ------------------------------------------------------ */

static int check_backing(const struct qcow2 *s, const char *file,
                         const char *format)
{
    if ((format && *format && !file) || (file && !*file)) {
        return -EINVAL;
    }
    if (file && s->data_raw) {
        return -EINVAL;         /* the data file shows all there is */
    }
    if (file && strlen(file) > QCOW2_MAX_BACKING_NAME) {
        return -EINVAL;
    }
    if (format && strlen(format) > 15) {
        return -EINVAL;         /* the extension has no more room */
    }
    return s->corrupt ? -EIO : s->writable ? 0 : -EACCES;
}

static int change_backing_file(struct qcow2 *s, const char *file,
                               const char *format, struct error **errp)
{
    struct saved old;
    int ret;

    LOCK_GUARD(&s->lock);
    ret = check_backing(s, file, format);
    if (ret == 0) {
        save(s, &old);
        g_free(s->backing_name);
        s->backing_name = g_strdup(file);
        qcow2_ext_set(s->exts, QCOW2_EXT_BACKING_FORMAT, format,
                      format ? strlen(format) : 0);
        ret = write_or_restore(s, &old);
    }
    if (ret < 0) {
        error_set(errp, "%s", error_errno_text(-ret));
    }
    return ret;
}

int qcow2_change_backing_file(struct node *n, const char *file,
                              const char *format, struct error **errp)
{
    struct qcow2 *s = n->state;
    int ret;

    qcow2_change_begin(s);
    ret = change_backing_file(s, file, format, errp);
    qcow2_change_end(s);
    return ret;
}

/* ---- one extension ----------------------------------------------------- */

int qcow2_change_ext(struct qcow2 *s, uint32_t type, const void *data,
                     uint32_t bytes)
{
    struct saved old;

    LOCK_GUARD(&s->lock);
    if (s->corrupt || !s->writable) {
        return s->corrupt ? -EIO : -EACCES;
    }
    save(s, &old);
    qcow2_ext_set(s->exts, type, data, bytes);
    return write_or_restore(s, &old);
}

/* ---- amend ------------------------------------------------------------- */

static bool check_amend(const struct qcow2 *s,
                        const BlockdevAmendOptionsQcow2 *o,
                        struct error **errp)
{
    uint32_t version = !o->has_version ? s->hdr.version
                     : o->version == BLOCKDEV_QCOW2_VERSION_V2 ? 2 : 3;

    if (o->encrypt) {
        error_set(errp, "image is not encrypted, can't amend");
    } else if (version < s->hdr.version) {
        error_set(errp, "Changing the version of a qcow2 image to v2 is not "
                  "supported");
    } else if (o->has_lazy_refcounts && o->lazy_refcounts && version < 3) {
        error_set(errp, "Lazy refcounts only supported with compatibility "
                  "level 1.1 and above (use compat=1.1 or greater)");
    } else {
        return true;
    }
    return false;
}

/* Lock held. */
static void upgrade(struct qcow2 *s)
{
    if (s->hdr.version >= 3) {
        return;
    }
    s->hdr.version = 3;
    s->hdr.header_bytes = QCOW2_HEADER_OUR_BYTES;
    if (s->cluster_bytes >= 4096) {
        qcow2_ext_set_feature_names(s->exts);
    }
}

static int amend(struct qcow2 *s, const BlockdevAmendOptionsQcow2 *o)
{
    bool lazy = s->opt.lazy_refcounts;
    struct saved old;
    int ret = qcow2_store_metadata(s);

    if (ret < 0) {
        return ret;
    }
    save(s, &old);
    if (o->has_version && o->version == BLOCKDEV_QCOW2_VERSION_V3) {
        upgrade(s);
    }
    if (o->has_lazy_refcounts) {
        s->hdr.compatible &= ~QCOW2_COMPAT_LAZY_REFCOUNTS;
        s->hdr.compatible |= o->lazy_refcounts ? QCOW2_COMPAT_LAZY_REFCOUNTS
                                               : 0;
        lazy = o->lazy_refcounts;
    }
    ret = write_or_restore(s, &old);
    if (ret == 0) {
        s->opt.lazy_refcounts = lazy;
    }
    return ret;
}

static bool check_and_amend(struct qcow2 *s,
                            const BlockdevAmendOptionsQcow2 *o,
                            struct error **errp)
{
    int ret = 0;

    LOCK_GUARD(&s->lock);
    if (!check_amend(s, o, errp)) {
        return false;
    }
    if (!o->has_version && !o->has_lazy_refcounts) {
        return true;            /* nothing was asked for */
    }
    if (!s->writable) {
        ret = -EACCES;
    } else {
        ret = s->corrupt ? -EIO : amend(s, o);
    }
    if (ret < 0) {
        error_set_errno(errp, -ret, "Could not write the qcow2 header");
    }
    return ret == 0;
}

bool qcow2_amend(struct node *n, const BlockdevAmendOptions *options,
                 bool force, struct error **errp)
{
    struct qcow2 *s = n->state;
    bool ok;

    qcow2_change_begin(s);
    ok = check_and_amend(s, &options->u.qcow2, errp);
    qcow2_change_end(s);
    return ok;
}
