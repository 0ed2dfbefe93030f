/* SPDX-License-Identifier: MIT */
/*
 * qcow2: inactivate and activate (block/inactive.h).
 *
 * Inactivate  As at close: bitmaps are stored, then all metadata is written
 *             and stable.  The tables stay for those who read; nothing in
 *             them is dirty, and `writable` is off: nothing will be.  The
 *             bitmaps of the file leave the node's list.
 * Activate    As at open, into a second struct qcow2: header, tables,
 *             snapshots and bitmaps are read as they are now.
 * Invariants  I1  The node's state is complete whenever the control lock is
 *                 free: the old one until the new one is read, then that.
 *                 The node is drained and no worker is left, so that nobody
 *                 uses the old one when it goes.
 */
#include <errno.h>
#include "base/control.h"
#include "bitmaps/dirty-bitmap.h"
#include "block/qcow2/bitmaps-priv.h"

/* ---- bitmaps ------------------------------------------------------------ */

/* None of those that the file has, or is to have, is in use. */
static bool bitmaps_are_free(struct qcow2 *s, struct error **errp)
{
    const struct dirty_bitmap_list *l = s->node->bitmaps;

    CONTROL_GUARD();
    for (struct dirty_bitmap *bm = dirty_bitmap_next(l, NULL); bm;
         bm = dirty_bitmap_next(l, bm)) {
        if (dirty_bitmap_persistent(bm) &&
            !dirty_bitmap_check(bm, DIRTY_BITMAP_NOT_BUSY, errp)) {
            return false;
        }
    }
    return true;
}

/* The node has them no more; they are in the file. */
static void forget_bitmaps(struct qcow2 *s)
{
    const struct dirty_bitmap_list *l = s->node->bitmaps;
    struct stored_directory *dir;
    struct dirty_bitmap *bm, *next;

    if (!s->bitmaps_state) {
        return;                 /* nothing was loaded */
    }
    dir = qcow2_bitmaps_copy_directory(s);
    CONTROL_GUARD();
    for (bm = dirty_bitmap_next(l, NULL); bm; bm = next) {
        next = dirty_bitmap_next(l, bm);
        if (dirty_bitmap_persistent(bm) &&
            stored_directory_find(dir, dirty_bitmap_name(bm))) {
            dirty_bitmap_free(bm);
        }
    }
    stored_directory_free(dir);
}

/* ---- inactivate --------------------------------------------------------- */

/* The bitmaps are in use after all. */
static void take_bitmaps_back(struct qcow2 *s)
{
    AUTO_ERROR(err);

    if (!qcow2_bitmaps_set_in_use(s, true, &err)) {
        /* A write now would make them wrong, and nobody would know. */
        error_report(err);
        LOCK_GUARD(&s->lock);
        s->corrupt = true;
    }
}

static bool write_all(struct qcow2 *s, struct error **errp)
{
    int ret;

    if (!qcow2_bitmaps_try_store(s, errp)) {
        error_prepend(errp, "Could not store the bitmaps of node '%s': ",
                      node_name(s->node));
        return false;
    }
    lock_acquire(&s->lock);
    ret = qcow2_store_metadata(s);
    lock_release(&s->lock);
    if (ret < 0) {
        error_set_errno(errp, -ret, "Could not write the image's metadata");
        take_bitmaps_back(s);
    }
    return ret == 0;
}

bool qcow2_inactivate(struct node *n, struct error **errp)
{
    struct qcow2 *s = n->state;
    bool corrupt;

    if (!bitmaps_are_free(s, errp)) {
        return false;
    }
    lock_acquire(&s->lock);
    corrupt = s->corrupt;
    lock_release(&s->lock);
    if (s->writable && !corrupt && !write_all(s, errp)) {
        return false;
    }
    qcow2_wait_background(s);
    s->writable = false;
    forget_bitmaps(s);
    return true;
}

/* ---- activate ----------------------------------------------------------- */

/* As at open: of N's file, with nothing read yet. */
static struct qcow2 *start_over(struct node *n, const struct qcow2 *old)
{
    struct qcow2 *s = g_new0(struct qcow2, 1);

    qcow2_init(s, n);
    s->data = old->data;
    s->writable = !n->read_only;
    return s;
}

static void give_up(struct qcow2 *s)
{
    qcow2_wait_background(s);
    forget_bitmaps(s);
    qcow2_free(s);
    g_free(s);
}

/* What the graph knows of the header. */
static void tell_header(struct qcow2 *s)
{
    g_autofree char *format = qcow2_backing_format(s);
    const char *name = s->backing_name && s->backing_name[0]
                       ? s->backing_name : NULL;
    struct node *n = s->node;

    CONTROL_GUARD();
    qcow2_note_invalidated(s);
    if (g_strcmp0(n->header_backing_file, name) != 0 ||
        g_strcmp0(n->header_backing_format, format) != 0) {
        node_set_header_text(n, name, name ? format : NULL);
    }
}

/* Queries look at what there is, under the control lock. */
static void put_in(struct node *n, struct qcow2 *s)
{
    CONTROL_GUARD();
    n->state = s;
}

bool qcow2_activate(struct node *n, struct error **errp)
{
    struct qcow2 *old = n->state, *s = start_over(n, old);

    qcow2_wait_background(old);
    if (qcow2_read_image(s, n->options, errp) < 0) {
        give_up(s);
        error_prepend(errp, "Could not activate node '%s': ", node_name(n));
        return false;
    }
    put_in(n, s);
    qcow2_free(old);
    g_free(old);
    atomic_store(&n->length_bytes, (int64_t)s->hdr.size);
    tell_header(s);
    return true;
}
