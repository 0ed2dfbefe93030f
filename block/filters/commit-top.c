/* SPDX-License-Identifier: MIT */
/* commit_top: see commit-top.h. */
#include "block/filters/commit-top.h"

#include "base/control.h"
#include "block/driver.h"

static void commit_top_child_perm(struct node *n, const struct child *c,
                                  unsigned perm, unsigned shared,
                                  unsigned *child_perm, unsigned *child_shared)
{
    *child_perm = 0;
    *child_shared = PERM_ALL;
}

/* Nobody opens it by name; it goes by that of what it shows. */
static char *commit_top_name(const struct node *n)
{
    return n->file ? g_strdup(node_filename(n->file->node)) : NULL;
}

static const struct driver driver_commit_top = {
    .name = "commit_top",
    .type = -1,
    .is_filter = true,
    .never_frozen = true,
    .file_child_name = "backing",
    .legacy_name = commit_top_name,
    .child_perm = commit_top_child_perm,
};

struct node *commit_top_insert(struct node *top, const char *name,
                               struct error **errp)
{
    struct node *n = node_new_filter(&driver_commit_top, name, !name, errp);

    control_assert();
    if (!n) {
        return NULL;
    }
    n->read_only = true;
    atomic_store(&n->length_bytes, node_length(top));
    n->limits = top->limits;
    n->cache_direct = top->cache_direct;
    n->cache_no_flush = top->cache_no_flush;
    if (!node_insert_filter(n, top, errp)) {
        node_unref(n);
        return NULL;
    }
    return n;
}
