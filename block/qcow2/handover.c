/* SPDX-License-Identifier: MIT */
/*
 * qcow2: inactivate and activate (block/inactive.h).
 *
 * Inactivate  As at close: bitmaps are stored, then all metadata is written
 *             and stable.  The tables stay for those who read; nothing in
 *             them is dirty, and `writable` is off: nothing will be.  The
 *             bitmaps of the file leave the node's list.
 * Activate    As at open, into a second set of tables: header, tables,
 *             snapshots and bitmaps are read as they are now.  The old ones
 *             are kept until that has succeeded.
 * Invariants  I1  What is not content (node, data file, locks) is never
 *                 copied to another address while somebody could use it: the
 *                 node is drained and no worker is left.
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

/* S has nothing but what lives as long as the node (I1). */
static void start_over(struct qcow2 *s, const struct qcow2 *old)
{
    *s = (struct qcow2) {
        .node = old->node, .data = old->data,
        .lock = old->lock, .changed = old->changed, .guest = old->guest,
    };
}

static void go_back(struct qcow2 *s, struct qcow2 *old)
{
    qcow2_wait_background(s);
    forget_bitmaps(s);
    qcow2_free_image(s);
    old->lock = s->lock;
    old->changed = s->changed;
    old->guest = s->guest;
    *s = *old;
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

bool qcow2_activate(struct node *n, struct error **errp)
{
    struct qcow2 *s = n->state, old;

    qcow2_wait_background(s);
    old = *s;
    start_over(s, &old);
    s->writable = !n->read_only;
    if (qcow2_read_image(s, n->options, errp) < 0) {
        go_back(s, &old);
        error_prepend(errp, "Could not activate node '%s': ", node_name(n));
        return false;
    }
    qcow2_free_image(&old);
    atomic_store(&n->length_bytes, (int64_t)s->hdr.size);
    tell_header(s);
    return true;
}
