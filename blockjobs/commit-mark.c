/* SPDX-License-Identifier: MIT */
/* Invalidated layers: see commit-mark.h. */
#include "blockjobs/commit-mark.h"

#include "base/control.h"
#include "block/driver.h"
#include "block/reopen.h"
#include "block/root.h"

/* Of [offset, end) of N, the first piece: *BYTES, and whether what is above
 * N, up to TOP, decides it and N does not. */
static int piece_changes(struct node *top, struct node *n, int64_t offset,
                         int64_t end, int64_t *bytes)
{
    struct block_status st;
    int ret = node_block_status(n, false, offset, end - offset, &st);

    if (ret < 0) {
        return ret;
    }
    *bytes = st.bytes;
    if (st.bytes == 0) {
        *bytes = end - offset;
        return 0;
    }
    if (st.flags & STATUS_ALLOCATED) {
        return 0;
    }
    if (offset >= node_length(top)) {
        return 1;               /* what is below reads as zeroes from now on */
    }
    ret = node_block_status_above(top, n, false, offset, st.bytes, &st);
    *bytes = MIN(*bytes, st.bytes);
    return ret < 0 ? ret : (st.flags & STATUS_ALLOCATED) != 0;
}

int commit_would_change(struct node *top, struct node *n, int64_t offset,
                        int64_t end)
{
    int64_t bytes;
    int ret = 0;

    end = MIN(end, node_length(n));
    while (offset < end && ret == 0) {
        ret = piece_changes(top, n, offset, end, &bytes);
        offset += bytes;
    }
    return ret;
}

bool commit_mark_one(struct node *n, const char *job_id, struct error **errp)
{
    return n->invalidated || node_mark_invalidated(n, job_id, errp);
}

/* ---- layers that are read-only ------------------------------------------ */

static bool change_drained(struct node *n, const char *job_id,
                           struct error **errp)
{
    struct drain *drain = drain_begin(&n, 1);
    bool ok = job_id ? node_mark_invalidated(n, job_id, errp)
                     : node_unmark_invalidated(n, errp);

    drain_end(&drain);
    return ok;
}

/* Mark, or (JOB_ID NULL) unmark N, which may be read-only. */
static bool change_layer(struct node *n, const char *job_id,
                         struct error **errp)
{
    bool was_read_only = n->read_only, kept = n->content_kept, ok = true;
    AUTO_ERROR(err);

    n->content_kept = was_read_only || kept;
    if (was_read_only) {
        ok = node_set_read_only(n, false, errp);
    }
    ok = ok && change_drained(n, job_id, errp);
    if (was_read_only && !node_set_read_only(n, true, &err)) {
        error_prepend(&err, "Node '%s' stays writable: ", node_name(n));
        error_report(err);
    }
    n->content_kept = kept;
    return ok;
}

static bool mark_layer(struct node *n, const char *job_id,
                       struct error **errp)
{
    return n->invalidated || change_layer(n, job_id ? job_id : "", errp);
}

/* N, below TOP.  ALL: whatever it would change. */
static bool mark_below(struct node *top, struct node *n, const char *job_id,
                       bool all, struct error **errp)
{
    int ret = all;
    bool ok = true;

    node_ref(n);
    if (!all) {
        CONTROL_YIELD {
            ret = commit_would_change(top, n, 0, INT64_MAX);
        }
    }
    if (ret != 0) {             /* an error may mean anything */
        ok = mark_layer(n, job_id, errp);
    }
    if (!ok) {
        error_prepend(errp, "Layer '%s' will not be known to be "
                      "invalidated: ", node_name(n));
    }
    node_unref(n);
    return ok;
}

static bool mark_layers(struct node *top, struct node *base,
                        const char *job_id, bool all, struct error **errp)
{
    bool ok = true;

    control_assert();
    for (struct node *n = top; n && n != base; n = node_chain_next(n)) {
        if (n != top && !n->driver->is_filter &&
            !mark_below(top, n, job_id, all, ok ? errp : NULL)) {
            ok = false;
        }
    }
    return ok;
}

bool commit_mark_layers(struct node *top, struct node *base,
                        const char *job_id, struct error **errp)
{
    return mark_layers(top, base, job_id, false, errp);
}

/* ---- marks that go ------------------------------------------------------ */

GPtrArray *commit_unmarked(struct node *top, struct node *base)
{
    GPtrArray *list = g_ptr_array_new();

    control_assert();
    for (struct node *n = top; n && n != base; n = node_chain_next(n)) {
        if (!n->invalidated) {
            g_ptr_array_add(list, node_ref(n));
        }
    }
    return list;
}

void commit_mark_hold(GPtrArray *unmarked)
{
    control_assert();
    for (guint i = unmarked->len; i-- > 0; ) {
        struct node *n = unmarked->pdata[i];

        if (!node_op_allowed(n, NODE_OP_COMMIT_TARGET, NULL)) {
            g_ptr_array_remove_index_fast(unmarked, i);
            node_unref_later(n);
            continue;
        }
        node_block_all_ops(n, unmarked,
                           "block device is in use by block job: commit");
    }
}

void commit_mark_done(GPtrArray *unmarked, bool written)
{
    control_assert();
    if (!unmarked) {
        return;
    }
    for (guint i = 0; i < unmarked->len; i++) {
        struct node *n = unmarked->pdata[i];
        AUTO_ERROR(err);
        if (!written && n->invalidated && !change_layer(n, NULL, &err)) {
            error_report(err);
        }
        node_unblock_all_ops(n, unmarked);
        node_unref(n);
    }
    g_ptr_array_free(unmarked, TRUE);
}

void commit_unmark_base(struct node *base)
{
    struct node *n = node_skip_filters(base);
    AUTO_ERROR(err);

    control_assert();
    if (n && !node_unmark_invalidated(n, &err)) {
        error_report(err);
    }
}

/* ---- below a layer that is written -------------------------------------- */

GPtrArray *commit_mark_active(struct node *active, struct node *base,
                              const char *job_id)
{
    GPtrArray *before = commit_unmarked(active, base);
    struct node *top = node_skip_filters(active);
    AUTO_ERROR(err);

    if (!node_freeze_chain(top, base, &err)) {
        error_free(g_steal_pointer(&err));
        return before;          /* the job will say so, and not start */
    }
    if (!mark_layers(top, base, job_id, true, &err)) {
        error_report(err);
    }
    node_unfreeze_chain(top, base);
    return before;
}
