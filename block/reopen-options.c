/* SPDX-License-Identifier: MIT */
/*
 * blockdev-reopen: which nodes, and what their options will be.
 *
 * A child that was defined in its parent's options has from it what it does
 * not say itself (read-only, cache, ...).  When the parent gets other ones
 * the child follows, whether the call defines it again or names it; so it is
 * reopened, too.
 */
#include "block/reopen-priv.h"

#include "base/control.h"
#include "base/error.h"
#include "qapi/qapi-visit.h"

/* ---- items -------------------------------------------------------------- */

static struct reopen_item *find_item(struct reopen *x, const struct node *n)
{
    for (guint i = 0; i < x->items->len; i++) {
        struct reopen_item *it = x->items->pdata[i];

        if (it->r.node == n) {
            return it;
        }
    }
    return NULL;
}

struct reopen_item *reopen_add(struct reopen *x, struct node *n,
                               BlockdevOptions *given)
{
    struct reopen_item *it = find_item(x, n);

    if (!it) {
        it = g_new0(struct reopen_item, 1);
        it->r.node = node_ref(n);
        g_ptr_array_add(x->items, it);
    }
    if (given) {
        BlockdevOptions_free(it->given);
        it->given = given;
    }
    return it;
}

static void item_free(struct reopen_item *it, GPtrArray *dropped)
{
    for (int i = 0; i < it->n_links; i++) {
        if (it->links[i].from) {
            g_ptr_array_add(dropped, it->links[i].from);
        }
        if (it->links[i].to) {
            g_ptr_array_add(dropped, it->links[i].to);
        }
    }
    g_ptr_array_add(dropped, it->r.node);
    BlockdevOptions_free(it->r.options);
    BlockdevOptions_free(it->given);
    g_free(it);
}

void reopen_clear(struct reopen *x, GPtrArray *dropped)
{
    for (guint i = 0; i < x->items->len; i++) {
        item_free(x->items->pdata[i], dropped);
    }
    g_ptr_array_free(x->items, TRUE);
    x->items = NULL;
}

/* ---- completing --------------------------------------------------------- */

static struct options_source source_of(const struct reopen_item *it)
{
    const struct reopen_item *above = it->above;

    if (!above) {
        return (struct options_source){ 0 };
    }
    return (struct options_source){
        .exists = true,
        .read_only = above->r.read_only,
        .auto_read_only = above->r.options->auto_read_only,
        .force_share = above->r.force_share,
        .cache_direct = above->r.cache_direct,
        .cache_no_flush = above->r.cache_no_flush,
    };
}

/* GIVEN, or what the node said itself when it was opened. */
static BlockdevOptions *own_options(const struct reopen_item *it)
{
    BlockdevOptions *o;

    if (it->given) {
        return BlockdevOptions_clone(it->given);
    }
    o = BlockdevOptions_clone(it->r.node->options);
    if (it->set_read_only) {
        o->read_only = it->read_only;
    } else {
        options_forget(o, it->r.node->inherited);
    }
    return o;
}

static void take_name(BlockdevOptions *o, const struct node *n)
{
    const char *old = n->options->node_name;

    /* As it was said, or not, when the node was made. */
    if (g_strcmp0(o->node_name, old) != 0) {
        g_free(o->node_name);
        o->node_name = g_strdup(old);
    }
}

static bool check_support(const struct node *n, struct error **errp)
{
    if (!n->driver->reopen_prepare || !n->options) {
        error_set(errp, "Block format '%s' used by node '%s' does not support "
                  "reopening files", n->driver->name, n->name);
        return false;
    }
    return true;
}

static bool complete(struct reopen_item *it, struct error **errp)
{
    struct options_source from = source_of(it);
    struct node_reopen *r = &it->r;
    struct node *n = r->node;

    if (!check_support(n, errp) ||
        (it->given && !reopen_compare(n, it->given, errp))) {
        return false;
    }
    r->options = own_options(it);
    it->inherited = options_inherit(r->options, &from, it->role);
    it->inherited |= it->set_read_only ? n->inherited : 0;
    take_name(r->options, n);
    if (!options_check(r->options, errp)) {
        return false;
    }
    r->read_only = r->options->read_only;
    r->force_share = r->options->force_share;
    r->cache_direct = r->options->cache->direct;
    r->cache_no_flush = r->options->cache->no_flush;
    r->file = n->file ? n->file->node : NULL;
    it->completed = true;
    return true;
}

/* Would reopening IT, which nobody asked for, change nothing? */
static bool is_unchanged(const struct reopen_item *it)
{
    const struct node *n = it->r.node;
    struct options_source from = source_of(it);
    BlockdevOptions *o;
    json_t *a, *b;
    bool same;

    if (!n->options) {
        return true;            /* a job's filter passes nothing down */
    }
    o = own_options(it);
    options_inherit(o, &from, it->role);
    a = BlockdevOptions_to_json(o);
    b = BlockdevOptions_to_json(n->options);
    same = json_equal(a, b) && n->read_only == o->read_only;
    json_decref(a);
    json_decref(b);
    BlockdevOptions_free(o);
    return same;
}

bool reopen_follow(struct reopen *x, struct reopen_item *above,
                   const struct child *c, const BlockdevOptions *given)
{
    struct reopen_item probe = {
        .r.node = c->node, .above = above, .role = c->role,
    };
    struct reopen_item *it = find_item(x, c->node);

    if (!it && !given && above->set_read_only && (c->role & ROLE_COW)) {
        return false;   /* a backing file is read-only whatever is above, or
                           a job has made it writable: it stays so */
    }
    if (!it && !given && is_unchanged(&probe)) {
        return false;
    }
    it = it ? it : reopen_add(x, c->node, NULL);
    if (given && !it->given) {
        it->given = BlockdevOptions_clone(given);
    }
    it->above = above;
    it->role = c->role;
    return true;
}

/* Parents are higher than their children, which have options from them. */
static struct reopen_item *highest_incomplete(const struct reopen *x)
{
    struct reopen_item *best = NULL;

    for (guint i = 0; i < x->items->len; i++) {
        struct reopen_item *it = x->items->pdata[i];

        if (!it->completed &&
            (!best || it->r.node->height > best->r.node->height)) {
            best = it;
        }
    }
    return best;
}

static bool complete_all(struct reopen *x, struct error **errp)
{
    struct reopen_item *it;

    while ((it = highest_incomplete(x))) {
        if (!complete(it, errp) || !reopen_plan_links(x, it, errp)) {
            return false;
        }
    }
    return true;
}

/* ---- from outside ------------------------------------------------------- */

static struct node *named_node(const BlockdevOptions *o, struct error **errp)
{
    struct node *n;

    if (!o->node_name) {
        error_set(errp, "node-name not specified");
        return NULL;
    }
    n = node_find(o->node_name);
    if (!n) {
        error_set(errp, "Failed to find node with node-name='%s'",
                  o->node_name);
    }
    return n;
}

bool reopen_plan(struct reopen *x, const BlockdevOptionsList *list,
                 struct error **errp)
{
    control_assert();
    x->items = g_ptr_array_new();
    for (size_t i = 0; i < list->n; i++) {
        struct node *n = named_node(list->v[i], errp);

        if (!n) {
            return false;
        }
        reopen_add(x, n, BlockdevOptions_clone(list->v[i]));
    }
    return complete_all(x, errp);
}

bool reopen_plan_read_only(struct reopen *x, struct node *n, bool read_only,
                           struct error **errp)
{
    struct reopen_item *it;

    control_assert();
    x->items = g_ptr_array_new();
    it = reopen_add(x, n, NULL);
    it->set_read_only = true;
    it->read_only = read_only;
    return complete_all(x, errp);
}
