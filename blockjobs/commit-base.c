/* SPDX-License-Identifier: MIT */
/* Commit: the base is made writable and large enough, and read-only again. */
#include "base/control.h"
#include "block/driver.h"
#include "block/reopen.h"
#include "blockjobs/commit-priv.h"

bool commit_base_open(struct commit_base *b, struct node *node,
                      struct error **errp)
{
    control_assert();
    b->node = node_ref(node);
    b->was_read_only = node->read_only;
    b->old_length = node_length(node);
    if (node->read_only && !node_set_read_only(node, false, errp)) {
        node_unref(g_steal_pointer(&b->node));
        return false;
    }
    return true;
}

void commit_base_close(struct commit_base *b)
{
    struct node *node = g_steal_pointer(&b->node);
    AUTO_ERROR(err);

    control_assert();
    if (!node) {
        return;
    }
    if (b->was_read_only && !node_set_read_only(node, true, &err)) {
        error_prepend(&err, "Base node '%s' stays writable: ",
                      node_name(node));
        error_report(err);
    }
    node_unref(node);
}

bool commit_base_grow(struct commit_base *b, int64_t length,
                      struct error **errp)
{
    control_assert();
    return node_length(b->node) >= length ||
           node_truncate(b->node, length, PREALLOC_MODE_OFF, errp);
}
